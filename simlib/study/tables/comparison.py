"""Paired comparisons within a study: differences, verdicts, their causes, and crossovers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import TTFT_PARTS_OF, Floats, RequestRecords, Status
from simlib.core.summary import pool_gpus
from simlib.stats.compare import (
    PairedComparison,
    attribution,
    crossovers,
    holm,
    paired,
    paired_batch_percentiles,
    paired_batches,
    verdict,
)
from simlib.stats.intervals import Interval
from simlib.study.measurement.classes import ClassMeasurement
from simlib.study.measurement.measure import PointMeasurement, request_values, split_statistic
from simlib.study.measurement.timed import ITL_STATISTICS

ROUNDING_DIGITS = 9
"""Times closer than 1e-9 s are equal: what is left is rounding, and no difference."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison."""

    level: Any
    """Its level of the compared factor."""
    config: SimConfig
    measured: PointMeasurement
    load: Callable[[], RequestRecords]
    """Reads the records of the first replicate again: only single replicates need them."""
    classes: tuple[ClassMeasurement, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Baseline and candidate at one place of the grid."""

    coordinates: dict[str, Any]
    """Level of every other factor."""
    baseline: Side
    candidate: Side

    @property
    def replicates(self) -> int:
        """Replicates that both sides have."""
        return min(len(self.baseline.measured.replicates), len(self.candidate.measured.replicates))


def unfairness(baseline: SimConfig, candidate: SimConfig) -> list[str]:
    """Return how the two sides' hardware differs; empty for equal hardware."""
    found = []
    gpus = [sum(pool_gpus(config).values()) for config in (baseline, candidate)]
    if gpus[0] != gpus[1]:
        found.append(f"GPUs differ: {gpus[0]} against {gpus[1]}")
    if baseline.serving != candidate.serving:
        found.append(f"serving models differ: {baseline.serving} against {candidate.serving}")
    elif baseline.serving == "batching":
        return found + _unfair_batching(baseline, candidate)
    for rate in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        rates = [getattr(config.cluster, rate) for config in (baseline, candidate)]
        if rates[0] != rates[1]:
            found.append(f"{rate} differ: {rates[0]:g} against {rates[1]:g}")
    return found


def _unfair_batching(baseline: SimConfig, candidate: SimConfig) -> list[str]:
    found = []
    kinds = [
        "+".join(sorted({pool.gpu for pool in config.batching.pools.values()}))
        for config in (baseline, candidate)
    ]
    if kinds[0] != kinds[1]:
        found.append(f"GPU types differ: {kinds[0]} against {kinds[1]}")
    if baseline.latency != candidate.latency:
        found.append("latency models differ")
    return found


def compare_pairs(pairs: Sequence[Pair], statistics: Sequence[str]) -> list[dict[str, Any]]:
    """Return a line per pair and statistic, verdicts at a family-wise 5% over all of them."""
    lines: list[dict[str, Any]] = []
    differences: list[Interval] = []
    for pair in pairs:
        records = _records_of_single(pair)
        sides = (pair.baseline.measured, pair.candidate.measured)
        itl = ITL_STATISTICS if all(side.timed is not None for side in sides) else ()
        for statistic in (*statistics, *itl):
            outcome = _compare(pair, statistic, records)
            differences.append(outcome.difference)
            lines.append(_line(pair, statistic, outcome))
    family = holm([line["p_value"] for line in lines])
    for line, difference, rejected, adjusted in zip(
        lines, differences, family.rejected, family.adjusted_p, strict=True
    ):
        line["p_adjusted"] = float(adjusted)
        line["verdict"] = (
            "not tested" if np.isnan(difference.low) else verdict(difference, bool(rejected))
        )
    return lines


def attribute_pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return a line per pair and part of TTFT: how much of the mean difference it explains.

    A side's parts are those of its TTFT definition, so the differences sum to that of the mean
    TTFT in comparison.csv.
    """
    lines = []
    for pair in pairs:
        n = pair.replicates
        sides = (pair.baseline, pair.candidate)
        own = [TTFT_PARTS_OF[side.config.ttft_definition] for side in sides]
        names = max(own, key=len)  # where definitions differ, a side has none of the later parts
        parts = [
            {
                part: side.measured.part_values(part)[:n] if part in its else np.zeros(n)
                for part in names
            }
            for side, its in zip(sides, own, strict=True)
        ]
        explained = attribution(parts[0], parts[1])
        for part, interval in [*explained.parts.items(), ("total", explained.total)]:
            means = [
                float(np.mean(sum(side.values()) if part == "total" else side[part]))
                for side in parts
            ]
            lines.append(
                {
                    **pair.coordinates,
                    "baseline": pair.baseline.level,
                    "candidate": pair.candidate.level,
                    "part": part,
                    "baseline_s": means[0],
                    "candidate_s": means[1],
                    **_interval("difference_s", interval),
                    "unfair": _warning(pair),
                }
            )
    return lines


def crossover_lines(
    pairs: Sequence[Pair], statistics: Sequence[str], x: str
) -> list[dict[str, Any]]:
    """Return where along factor `x` the faster side changes, for each level of the others.

    A line has the crossing with its interval, or a reason why there is none.
    """
    lines: list[dict[str, Any]] = []
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        others = tuple(v for k, v in pair.coordinates.items() if k != x)
        groups.setdefault((pair.candidate.level, *others), []).append(pair)
    for group in groups.values():
        ordered = sorted(group, key=lambda pair: pair.coordinates[x])
        positions = [float(pair.coordinates[x]) for pair in ordered]
        singles = [_records_of_single(pair) for pair in ordered]
        head = {key: value for key, value in ordered[0].coordinates.items() if key != x}
        head |= {"baseline": group[0].baseline.level, "candidate": group[0].candidate.level}
        unfair = "; ".join(dict.fromkeys(filter(None, map(_warning, group))))
        for statistic in statistics:
            differences = [
                _compare(pair, statistic, records).difference
                for pair, records in zip(ordered, singles, strict=True)
            ]
            lines.extend(
                {**head, "statistic": statistic, "along": x, **line, "unfair": unfair}
                for line in _crossings(positions, differences, group[0])
            )
    return lines


def _crossings(
    positions: list[float], differences: list[Interval], pair: Pair
) -> list[dict[str, Any]]:
    nothing = {"crossover": np.nan, "crossover_low": np.nan, "crossover_high": np.nan}
    winner = {-1: str(pair.candidate.level), 0: "none", 1: str(pair.baseline.level)}
    if len(positions) < 2:
        return [{**nothing, "faster_below": "", "faster_above": "", "note": "one value only"}]
    found = crossovers(positions, differences)
    if not found:
        signs = {int(d.low > 0) - int(d.high < 0) for d in differences}
        signs.discard(0)
        always = winner[signs.pop()] if len(signs) == 1 else "none"
        note = "no crossover in the swept range"
        return [{**nothing, "faster_below": always, "faster_above": always, "note": note}]
    return [
        {
            "crossover": crossing.x.estimate,
            "crossover_low": crossing.x.low,
            "crossover_high": crossing.x.high,
            "faster_below": winner[crossing.sign_below],
            "faster_above": winner[crossing.sign_above],
            "note": crossing.x.reason,
        }
        for crossing in found
    ]


def _records_of_single(pair: Pair) -> tuple[RequestRecords, RequestRecords] | None:
    """Return both sides' records where there is one replicate, as pairing is by request then."""
    if pair.replicates > 1:
        return None
    return pair.baseline.load(), pair.candidate.load()


def _compare(
    pair: Pair, statistic: str, single: tuple[RequestRecords, RequestRecords] | None
) -> PairedComparison:
    sides = (pair.baseline, pair.candidate)
    if single is None:
        b, c = (_rounded(side.measured.values(statistic)[: pair.replicates]) for side in sides)
        missing = [side.measured.intervals[statistic] for side in sides]
        if any(np.isnan(interval.estimate) for interval in missing):
            # a percentile that the tables leave empty is not compared either
            b = np.full_like(b, np.nan)
        pooled = [side.measured.pooled.get(statistic) for side in sides]
        same = len({len(side.measured.replicates) for side in sides}) == 1
        if pooled[0] is None or pooled[1] is None or not same:
            return paired(b, c)
        return paired(b, c, (pooled[0], pooled[1]))
    percent, metric = split_statistic(statistic)
    if metric == "itl":  # the two sides' gaps are not of the same tokens: nothing to pair by
        return _unpaired(sides, statistic)
    b, c = (
        _rounded(request_values(records, side.config, metric))
        for records, side in zip(_served_by_both(*single), sides, strict=True)
    )
    if len(b) != len(c):  # a closed loop sends other requests in the window: nothing to pair by
        return _unpaired(sides, statistic)
    if metric == "tpot":
        both = ~(np.isnan(b) | np.isnan(c))
        b, c = b[both], c[both]
    return paired_batches(b, c) if percent is None else paired_batch_percentiles(b, c, percent)


def _unpaired(sides: tuple[Side, Side], statistic: str) -> PairedComparison:
    """Return the difference of two single runs, which has no interval."""
    baseline, candidate = (side.measured.values(statistic)[:1] for side in sides)
    return paired(baseline, candidate)


def _served_by_both(
    baseline: RequestRecords, candidate: RequestRecords
) -> tuple[RequestRecords, RequestRecords]:
    n = min(len(baseline), len(candidate))
    served = (baseline.status[:n] != Status.REJECTED) & (candidate.status[:n] != Status.REJECTED)
    return (
        baseline.select(np.append(served, np.ones(len(baseline) - n, np.bool_))),
        candidate.select(np.append(served, np.ones(len(candidate) - n, np.bool_))),
    )


def _rounded(values: Floats) -> Floats:
    return np.round(values, ROUNDING_DIGITS)


def _line(pair: Pair, statistic: str, outcome: PairedComparison) -> dict[str, Any]:
    baseline, candidate = pair.baseline, pair.candidate
    sides = (("baseline", baseline), ("candidate", candidate))
    line: dict[str, Any] = {
        **pair.coordinates,
        "baseline": baseline.level,
        "candidate": candidate.level,
        "statistic": statistic,
    }
    for name, side in sides:
        line[f"{name}_s"] = side.measured.intervals[statistic].estimate
    line |= _interval("difference_s", outcome.difference)
    line |= _interval("ratio", outcome.ratio)
    # what the model makes equal (TPOT, say) is no test, and takes no room in the family
    identical = outcome.difference.low == outcome.difference.high == 0.0
    line |= {
        "p_value": outcome.p_value if not identical else np.nan,
        "p_adjusted": np.nan,
        "verdict": "",
        "pairing_gain": outcome.variance_ratio,
        "pairs": outcome.n_pairs,
        "method": outcome.difference.method,
        "note": outcome.difference.reason if not identical else "identical on both sides",
    }
    for name, side in sides:
        gpus = sum(pool_gpus(side.config).values())
        line |= {
            f"{name}_stability": side.measured.stability.verdict,
            f"{name}_gpus": gpus,
            f"{name}_throughput_rps_per_gpu": side.measured.mean("throughput_rps") / gpus,
        }
    line["unfair"] = _warning(pair)
    return line


def _warning(pair: Pair) -> str:
    return "; ".join(unfairness(pair.baseline.config, pair.candidate.config))


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {
        name: interval.estimate,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }
