"""Which part of TTFT explains how much of a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simlib.core.metrics import METRICS
from simlib.core.records import TTFT_PARTS_OF
from simlib.stats.compare import attribution
from simlib.stats.intervals import Interval, empty
from simlib.study.measurement.measured import interval_ends
from simlib.study.tables.pairs import Pair


def attribute_pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return a line per pair and part of TTFT: how much of the mean difference it explains.

    A side's parts are those of its TTFT definition, so the differences sum to that of the mean
    TTFT in comparison.csv. Where a side is unstable, or its runs too short for the interval of a
    mean, they have no interval.
    """
    lines = []
    for pair in pairs:
        n = pair.replicates
        own = [TTFT_PARTS_OF[side.config.ttft_definition] for side in pair.sides]
        names = max(own, key=len)  # where definitions differ, a side has none of the later parts
        parts = [
            {
                part: side.point.part_values(part)[:n] if part in its else np.zeros(n)
                for part in names
            }
            for side, its in zip(pair.sides, own, strict=True)
        ]
        explained = attribution(parts[0], parts[1])
        for part, interval in [*explained.parts.items(), ("total", explained.total)]:
            means = [
                float(np.mean(sum(side.values()) if part == "total" else side[part]))
                for side in parts
            ]
            lines.append(
                {
                    **pair.where(),
                    "part": part,
                    "baseline_s": means[0],
                    "candidate_s": means[1],
                    **interval_ends("difference_s", _supported(interval, pair)),
                    "unfair": pair.unfair,
                }
            )
    return lines


def _supported(interval: Interval, pair: Pair) -> Interval:
    for side in pair.sides:
        reason = side.point.length_for(METRICS["ttft"], side.config).too_short(None)
        if side.point.stability.verdict == "unstable":
            reason = side.point.stability.reason
        if reason:
            return empty(interval.method, reason, interval.estimate)
    return interval
