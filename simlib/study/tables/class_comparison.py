"""Paired differences of SLO attainment within a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simlib.stats.compare import PairedComparison, holm, paired, paired_batches
from simlib.study.measurement.classes import ClassedRecords, ClassMeasurement
from simlib.study.tables.comparison import Pair, Side, unfairness


def compare_classes(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return a line per pair and class that has an SLO on both sides, and for all together.

    Verdicts are at a family-wise 5% over these lines: attainment is a question of its own, and
    takes no power from the tests of times.
    """
    lines = []
    for pair in pairs:
        runs = _only_runs(pair)
        candidates = {one.name: one for one in pair.candidate.classes}
        for baseline in pair.baseline.classes:
            candidate = candidates.get(baseline.name)
            if candidate is not None and baseline.has_slo and candidate.has_slo:
                lines.append(_line(pair, baseline, candidate, runs))
    family = holm([line["p_value"] for line in lines])
    for line, rejected, adjusted in zip(lines, family.rejected, family.adjusted_p, strict=True):
        line["p_adjusted"] = float(adjusted)
        line["verdict"] = _verdict(line, bool(rejected))
    return lines


def _only_runs(pair: Pair) -> tuple[ClassedRecords, ClassedRecords] | None:
    """Return both sides' requests where there is one replicate, as pairing is by request then."""
    if pair.replicates > 1:
        return None
    return _only_run(pair.baseline), _only_run(pair.candidate)


def _only_run(side: Side) -> ClassedRecords:
    return ClassedRecords.of(side.load(), side.config, 0)


def _compare(
    pair: Pair,
    baseline: ClassMeasurement,
    candidate: ClassMeasurement,
    runs: tuple[ClassedRecords, ClassedRecords] | None,
) -> PairedComparison:
    if runs is not None:
        (b_ids, b), (c_ids, c) = (
            run.met_of(baseline.name, side.config)
            for run, side in zip(runs, (pair.baseline, pair.candidate), strict=True)
        )
        if np.array_equal(b_ids, c_ids):  # a closed loop sends other requests in the window
            return paired_batches(b, c)
    n = pair.replicates
    return paired(baseline.attained[:n], candidate.attained[:n])


def _line(
    pair: Pair,
    baseline: ClassMeasurement,
    candidate: ClassMeasurement,
    runs: tuple[ClassedRecords, ClassedRecords] | None,
) -> dict[str, Any]:
    outcome = _compare(pair, baseline, candidate, runs)
    difference = outcome.difference
    # what both sides attain alike, such as everything, is no test
    identical = difference.low == difference.high == 0.0
    return {
        **pair.coordinates,
        "baseline": pair.baseline.level,
        "candidate": pair.candidate.level,
        "request_class": baseline.name,
        "baseline_attainment": baseline.attainment.estimate,
        "candidate_attainment": candidate.attainment.estimate,
        "difference": difference.estimate,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value": outcome.p_value if not identical else np.nan,
        "p_adjusted": np.nan,
        "verdict": "",
        "pairs": outcome.n_pairs,
        "method": difference.method,
        "note": difference.reason if not identical else "identical on both sides",
        "baseline_stability": pair.baseline.measured.stability.verdict,
        "candidate_stability": pair.candidate.measured.stability.verdict,
        "unfair": "; ".join(unfairness(pair.baseline.config, pair.candidate.config)),
    }


def _verdict(line: dict[str, Any], rejected: bool) -> str:
    """Say whether the candidate attains more or less, as far as the test tells."""
    if np.isnan(line["difference_low"]):
        return "not tested"
    if not rejected or line["difference"] == 0:
        return "no significant difference"
    return "higher" if line["difference"] > 0 else "lower"
