"""What the two sides of a pair measured together: differences and ratios of each statistic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from simlib.core.classes import ALL_CLASSES
from simlib.core.metrics import METRICS, TTFT_BY, Metric, Statistic, metrics_of
from simlib.core.summary import Sample, counted_requests, sample
from simlib.serving.timeline import TimedRecords
from simlib.stats.curve import Curve, mean_curve, no_curve
from simlib.stats.family import is_identical
from simlib.stats.joint import Joint, joint
from simlib.study.measurement.classes import ClassedRecords
from simlib.study.measurement.measured import Measured, metric_curves
from simlib.study.measurement.over_time import itl_sample
from simlib.study.tables.pairs import Pair, Side

LEVEL = 0.95
"""Confidence level of the intervals in tables."""
_VALUES_HELD = 20_000_000
"""Values of requests that are held at once, beside those of the pair in hand: a side is compared
more than once."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One statistic on both sides."""

    baseline: float
    """Its estimate there; NaN where the data do not support one."""
    candidate: float
    joint: Joint
    pairs: int
    """Replicates that both sides have, or batches of them."""
    untestable: str = ""
    """Why no difference is tested; empty if one is."""
    note: str = ""
    """What to know about it."""


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """All that tables show of a pair; what is kept of it."""

    statistics: dict[str, Compared]
    """Of all requests, and of timelines, by statistic."""
    classes: dict[str, dict[str, Compared]]
    """Shares of each class that has an SLO, and of all together, by statistic."""


@dataclass(slots=True)
class Comparisons:
    """Compares pairs; holds the samples of the last sides."""

    margin: float
    """Ratios this near 1 count as practically equal."""
    _held: dict[int, tuple[Side, dict[tuple[str, str], list[Sample]]]] = field(default_factory=dict)

    def of(self, pair: Pair) -> ComparedPair:
        """Return what a pair's sides measured together, or what was kept of it if that holds."""
        kept = None
        if pair.baseline.kept and pair.candidate.kept:
            kept = pair.candidate.kept.compared_with(pair.baseline.kept, self.margin)
            known = kept.read(ComparedPair)
            if known is not None:
                return known
        found = ComparedPair(
            {key: one for metric in compared_metrics(pair) for key, one in self._of(pair, metric)},
            {
                name: {k: one for m in metrics_of("classes") for k, one in self._of(pair, m, name)}
                for name in _classes_with_slo(pair)
            },
        )
        if kept is not None:
            kept.write(found)
        return found

    def at_level(self, pair: Pair, statistic: Statistic, level: float) -> Joint:
        """Return a statistic's difference and ratio at another confidence level than 95%."""
        found = dict(self._of(pair, statistic.metric, only=statistic.name, level=level))
        return found[statistic.name].joint

    def _of(
        self, pair: Pair, metric: Metric, of_class: str = "", only: str = "", level: float = LEVEL
    ) -> Iterator[tuple[str, Compared]]:
        sides = [_measured(side, of_class) for side in pair.sides]
        curves: list[dict[str, Curve]] | None = None
        for statistic in metric.statistics:
            name = statistic.name
            if only and name != only:
                continue
            baseline, candidate = (side[name] for side in sides)
            reason = _why_not(pair, _timed_as(metric), baseline, candidate)
            if reason:
                b, c = baseline.interval.estimate, candidate.interval.estimate
                nothing = joint(no_curve("", reason, b), no_curve("", reason, c), self.margin)
                yield name, Compared(b, c, nothing, pair.replicates, reason, reason)
                continue
            both = pair.replicates == 1 and baseline.requests != candidate.requests
            if curves is None:
                curves = self._curves(pair, metric, of_class, served_by_both=both)
            one, other = (side[name] for side in curves)
            found = joint(one, other, self.margin, level)
            note = "of the requests that both sides served" if both else ""
            if is_identical(found):
                note = "identical on both sides"
            yield name, Compared(
                one.estimate, other.estimate, found, one.units.size or pair.replicates, "",
                note or found.difference.reason,
            )  # fmt: skip

    def _curves(
        self, pair: Pair, metric: Metric, of_class: str, *, served_by_both: bool
    ) -> list[dict[str, Curve]]:
        n = pair.replicates
        samples = [self._samples(side, metric, of_class)[:n] for side in pair.sides]
        if served_by_both:
            one, other = (side[0].request_id for side in samples)
            common = np.intersect1d(one, other)
            samples = [[side[0].of(common)] for side in samples]
        lengths = [
            replace(side.point.length_for(_timed_as(metric), side.config), runs=n)
            for side in pair.sides
        ]
        batches = min(length.batches() for length in lengths)
        return [
            metric_curves(side, length, batches)
            for side, length in zip(samples, lengths, strict=True)
        ]

    def _samples(self, side: Side, metric: Metric, of_class: str) -> list[Sample]:
        if id(side) not in self._held:
            while len(self._held) > 1 and self._values_held() > _VALUES_HELD:
                self._held.pop(next(iter(self._held)))
            self._held[id(side)] = side, _all_samples(side)
        return self._held[id(side)][1][metric.name, of_class]

    def _values_held(self) -> int:
        held = (samples for _, kinds in self._held.values() for samples in kinds.values())
        return sum(len(one.values) for samples in held for one in samples)


def compared_metrics(pair: Pair) -> list[Metric]:
    """Return the metrics that both sides of a pair have, in order.

    TTFT by the pair's own definition stands there once, under its short name.
    """
    own = {side.config.ttft_definition for side in pair.sides}
    again = {TTFT_BY[one].name for one in own} if len(own) == 1 else set()
    return [
        metric
        for metric in METRICS.values()
        if metric.source != "classes"
        and metric.name not in again
        and all(metric.statistics[0].name in side.point.measured for side in pair.sides)
    ]


def _classes_with_slo(pair: Pair) -> list[str]:
    candidates = {one.name: one for one in pair.candidate.classes}
    return [
        one.name
        for one in pair.baseline.classes
        if one.has_slo and one.name in candidates and candidates[one.name].has_slo
    ]


def _timed_as(metric: Metric) -> Metric:
    """Return the metric whose queues decide: a share within an SLO is one of TTFT."""
    return METRICS["ttft"] if metric.source == "classes" else metric


def _measured(side: Side, of_class: str) -> Mapping[str, Measured]:
    if not of_class:
        return side.point.measured
    return next(one for one in side.classes if one.name == of_class).measured


def _why_not(pair: Pair, metric: Metric, baseline: Measured, candidate: Measured) -> str:
    """Return why a statistic of a pair is not compared; empty if it is."""
    for one in (baseline, candidate):
        if math.isnan(one.interval.estimate):  # what the tables leave empty is not compared either
            return one.interval.reason
    unstable = [
        str(side.level) for side in pair.sides if side.point.stability.verdict == "unstable"
    ]
    if unstable:
        return f"{' and '.join(unstable)} unstable: the difference grows with the run"
    if baseline.lower_bound or candidate.lower_bound:
        return "only a lower bound is known of a side"
    return _why_not_paired(pair, metric, baseline, candidate) if pair.replicates == 1 else ""


def _why_not_paired(pair: Pair, metric: Metric, baseline: Measured, candidate: Measured) -> str:
    """Return why the batches of two single runs make no pairs; empty if they do."""
    arrived = {side.point.requests for side in pair.sides}
    known = baseline.requests and candidate.requests
    if not known or (baseline.requests != candidate.requests and len(arrived) > 1):
        return "a single run, and not of the same requests: nothing to pair by"
    for side, one in zip(pair.sides, (baseline, candidate), strict=True):
        if side.point.length_for(metric, side.config).batches() == 0:
            return one.interval.reason
    return ""


def _all_samples(side: Side) -> dict[tuple[str, str], list[Sample]]:
    """Return the samples of each replicate, by metric and class; of all requests for no class."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for replicate, records in enumerate(side.load()):
        counted = counted_requests(records, side.config)
        mine = {
            (metric.name, ""): sample(metric, counted, side.config, replicate)
            for metric in metrics_of("requests")
        }
        if isinstance(records, TimedRecords):
            mine["itl", ""] = itl_sample(records, side.config)
        if side.classes:
            runs = ClassedRecords.of(records, side.config, replicate)
            mine |= {
                (metric.name, name): runs.sample(metric, name)
                for metric in metrics_of("classes")
                for name in (*side.config.request_classes, ALL_CLASSES)
            }
        for key, one in mine.items():
            found.setdefault(key, []).append(one)
    return found


def rate_joint(pair: Pair, name: str) -> Joint:
    """Compare a number that each run has one of, such as throughput_rps, run by run."""
    n = pair.replicates
    baseline, candidate = (mean_curve(side.point.values(name)[:n]) for side in pair.sides)
    return joint(baseline, candidate)
