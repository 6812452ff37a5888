"""Paired comparisons within a study: differences with their intervals, and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simlib.core.classes import ALL_CLASSES
from simlib.core.metrics import Metric, Statistic, statistics_of
from simlib.core.records import Floats
from simlib.core.summary import Sample, counted_requests, sample
from simlib.stats.compare import PairedComparison, holm, paired
from simlib.stats.intervals import Interval, empty
from simlib.study.measurement.classes import ClassedRecords
from simlib.study.measurement.measured import Measured, measure_metric
from simlib.study.tables.pairs import Pair, Side

NOTHING = 1e-9
"""Times (or shares) that differ by no more are equal: the rest is rounding, and no difference."""


@dataclass(frozen=True, slots=True)
class Test:
    """One statistic compared between the sides of a pair."""

    __test__ = False  # for pytest, which collects classes of this name

    pair: Pair
    statistic: Statistic
    baseline: Measured
    candidate: Measured
    outcome: PairedComparison
    note: str
    """Why there is no test, or what to know about it."""

    @property
    def identical(self) -> bool:
        """Whether the model makes both sides equal (TPOT, say): that is no test."""
        return self.outcome.difference.low == self.outcome.difference.high == 0.0

    @property
    def p_value(self) -> float:
        """The p value of no difference; NaN where that is not tested."""
        return np.nan if self.identical else self.outcome.p_value

    def verdict(self, rejected: bool) -> str:
        """Say what was found, given whether "no difference" was rejected in its family."""
        difference = self.outcome.difference
        if np.isnan(difference.low):
            return "not tested"
        if not rejected or abs(difference.estimate) <= NOTHING:
            return "no significant difference"
        return self.statistic.metric.outcome(difference.estimate)


def compare_pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the lines of comparison.csv: one per pair and statistic, verdicts family-wise at 5%.

    Latencies of requests, and inter-token latency where both sides have timelines.
    """
    tests = [
        compare(pair, statistic)
        for pair in pairs
        for statistic in (*statistics_of("requests"), *statistics_of("timeline"))
        if all(statistic.name in side.point.measured for side in pair.sides)
    ]
    return [{**_line(test), **found} for test, found in zip(tests, _family(tests), strict=True)]


def compare_classes(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the lines of class_comparison.csv: one per pair, share and class with an SLO.

    Also for all classes together. Shares such as SLO attainment are a question of their own: their
    family takes no power from the tests of times.
    """
    found = []
    for pair in pairs:
        candidates = {one.name: one for one in pair.candidate.classes}
        for one in pair.baseline.classes:
            other = candidates.get(one.name)
            if other is not None and one.has_slo and other.has_slo:
                found += [
                    (one.name, compare(pair, statistic, one.name))
                    for statistic in statistics_of("classes")
                ]
    family = _family([test for _, test in found])
    return [
        {**_class_line(name, test), **verdict}
        for (name, test), verdict in zip(found, family, strict=True)
    ]


def compare(pair: Pair, statistic: Statistic, of_class: str | None = None) -> Test:
    """Compare a statistic of all requests, or of a class."""
    baseline, candidate = (_measured(side, statistic, of_class) for side in pair.sides)
    reason = _why_not(pair, baseline, candidate)
    if reason:
        estimate = candidate.interval.estimate - baseline.interval.estimate
        outcome = _none(reason, estimate, pair.replicates)
        return Test(pair, statistic, baseline, candidate, outcome, reason)
    note = ""
    if pair.replicates > 1:
        outcome = compare_replicates(baseline, candidate)
    else:
        if baseline.requests != candidate.requests and _same_requests(pair):
            # one side rejected some, say: what both served is compared
            baseline, candidate = _served_by_both(pair, statistic, of_class)
            note = "of the requests that both sides served"
        outcome = compare_single_runs(baseline, candidate)
    test = Test(pair, statistic, baseline, candidate, outcome, note or outcome.difference.reason)
    return replace(test, note="identical on both sides") if test.identical else test


def compare_replicates(baseline: Measured, candidate: Measured) -> PairedComparison:
    """Compare replicate by replicate; percentiles around their pooled estimates."""
    n = min(len(baseline.values), len(candidate.values))
    b, c = baseline.values[:n], candidate.values[:n]
    if (
        baseline.pooled is None
        or candidate.pooled is None
        or len(baseline.values) != len(candidate.values)
    ):
        return paired(b, _without_noise(b, c))
    around = np.array([baseline.pooled]), np.array([candidate.pooled])
    centres = (baseline.pooled, float(_without_noise(*around)[0]))
    return paired(b, _without_noise(b, c), centres)


def compare_single_runs(baseline: Measured, candidate: Measured) -> PairedComparison:
    """Compare two runs of the same requests by their batches, around the runs' own estimates."""
    estimates = np.array([baseline.interval.estimate]), np.array([candidate.interval.estimate])
    b, c = float(estimates[0][0]), float(_without_noise(*estimates)[0])
    if not baseline.requests or baseline.requests != candidate.requests:
        return _none("a single run, and not of the same requests: nothing to pair by", c - b)
    if baseline.batches is None or candidate.batches is None:
        reason = baseline.interval.reason or candidate.interval.reason
        return _none(reason, c - b)
    batches = baseline.batches, _without_noise(baseline.batches, candidate.batches)
    return paired(*batches, (b, c), of="batches in one run")


def compare_rate(pair: Pair, name: str) -> PairedComparison:
    """Compare a number that each run has one of, such as throughput_rps, run by run."""
    n = pair.replicates
    baseline, candidate = (side.point.values(name)[:n] for side in pair.sides)
    return paired(baseline, _without_noise(baseline, candidate))


def _without_noise(baseline: Floats, candidate: Floats) -> Floats:
    return np.where(np.abs(candidate - baseline) <= NOTHING, baseline, candidate)


def _why_not(pair: Pair, baseline: Measured, candidate: Measured) -> str:
    """Return why a statistic of a pair is not compared; empty if it is."""
    for one in (baseline, candidate):
        if np.isnan(one.interval.estimate):  # what the tables leave empty is not compared either
            return one.interval.reason
    unstable = [
        str(side.level) for side in pair.sides if side.point.stability.verdict == "unstable"
    ]
    if unstable:
        return f"{' and '.join(unstable)} unstable: the difference grows with the run"
    if baseline.lower_bound or candidate.lower_bound:
        return "only a lower bound is known of a side"
    return ""


def _none(reason: str, difference: float, pairs: int = 1) -> PairedComparison:
    return PairedComparison(empty("", reason, difference), empty("", reason), np.nan, np.nan, pairs)


def _measured(side: Side, statistic: Statistic, of_class: str | None) -> Measured:
    if of_class is None:
        return side.point.measured[statistic.name]
    return next(one for one in side.classes if one.name == of_class).measured[statistic.name]


def _same_requests(pair: Pair) -> bool:
    """Return whether the same requests arrived in both windows; not so in a closed loop, say."""
    return pair.baseline.point.requests == pair.candidate.point.requests != ""


def _served_by_both(
    pair: Pair, statistic: Statistic, of_class: str | None
) -> tuple[Measured, Measured]:
    one, other = (_sample(side, statistic.metric, of_class) for side in pair.sides)
    common = np.intersect1d(one.request_id, other.request_id)
    b, c = (measure_metric([each.of(common)])[statistic.name] for each in (one, other))
    return b, c


def _sample(side: Side, metric: Metric, of_class: str | None) -> Sample:
    records = side.load()
    if of_class is not None or metric.source == "classes":
        runs = ClassedRecords.of(records, side.config, 0)
        return runs.sample(metric, of_class or ALL_CLASSES)
    return sample(metric, counted_requests(records, side.config), side.config, 0)


def _family(tests: Sequence[Test]) -> list[dict[str, Any]]:
    """Return adjusted p values and verdicts of tests that are read together."""
    family = holm([test.p_value for test in tests])
    return [
        {"p_adjusted": float(adjusted), "verdict": test.verdict(bool(rejected))}
        for test, rejected, adjusted in zip(tests, family.rejected, family.adjusted_p, strict=True)
    ]


def _line(test: Test) -> dict[str, Any]:
    outcome = test.outcome
    return {
        **test.pair.where(),
        "statistic": test.statistic.name,
        "baseline_s": test.baseline.interval.estimate,
        "candidate_s": test.candidate.interval.estimate,
        **interval_ends("difference_s", outcome.difference),
        **interval_ends("ratio", outcome.ratio),
        "p_value": test.p_value,
        "p_adjusted": np.nan,
        "verdict": "",
        "pairing_gain": outcome.variance_ratio if not test.identical else np.nan,
        "pairs": outcome.n_pairs,
        "method": outcome.difference.method,
        "note": test.note,
        **test.pair.context,
        "unfair": test.pair.unfair,
    }


def _class_line(of_class: str, test: Test) -> dict[str, Any]:
    difference = test.outcome.difference
    return {
        **test.pair.where(),
        "request_class": of_class,
        "statistic": test.statistic.name,
        "baseline_attainment": test.baseline.interval.estimate,
        "candidate_attainment": test.candidate.interval.estimate,
        **interval_ends("difference", difference),
        "p_value": test.p_value,
        "p_adjusted": np.nan,
        "verdict": "",
        "pairs": test.outcome.n_pairs,
        "method": difference.method,
        "note": test.note,
        "baseline_stability": test.pair.baseline.point.stability.verdict,
        "candidate_stability": test.pair.candidate.point.stability.verdict,
        "unfair": test.pair.unfair,
    }


def interval_ends(name: str, interval: Interval) -> dict[str, float]:
    """Return an estimate and the ends of its interval, by column."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
