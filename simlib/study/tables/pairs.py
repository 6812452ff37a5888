"""Which points of a study are compared with which, and whether that is fair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.records import RequestRecords
from simlib.core.summary import pool_gpus
from simlib.study.measurement.classes import ClassMeasurement
from simlib.study.measurement.measure import PointMeasurement
from simlib.study.tables.kept import Kept


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison."""

    level: Any
    """Its level of the compared factor."""
    config: SimConfig
    point: PointMeasurement
    load: Callable[[], Sequence[RequestRecords]]
    """Reads the records of all replicates again."""
    classes: tuple[ClassMeasurement, ...] = ()
    kept: Kept | None = None
    """Where what was measured of it is kept; None for what is simulated on the spot."""


@dataclass(frozen=True)
class Pair:
    """Baseline and candidate at one place of the grid."""

    coordinates: dict[str, Any]
    """Level of every other factor."""
    baseline: Side
    candidate: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Baseline and candidate."""
        return self.baseline, self.candidate

    @property
    def replicates(self) -> int:
        """Replicates that both sides have."""
        return min(len(side.point.replicates) for side in self.sides)

    @cached_property
    def unfair(self) -> str:
        """How the two sides' hardware differs; empty for equal hardware."""
        return "; ".join(unfairness(self.baseline.config, self.candidate.config))

    @cached_property
    def context(self) -> dict[str, Any]:
        """Stability, GPUs and throughput of both sides, as columns."""
        columns: dict[str, Any] = {}
        for name, side in zip(("baseline", "candidate"), self.sides, strict=True):
            gpus = sum(pool_gpus(side.config).values())
            columns |= {
                f"{name}_stability": side.point.stability.verdict,
                f"{name}_gpus": gpus,
                f"{name}_throughput_rps_per_gpu": side.point.mean("throughput_rps") / gpus,
            }
        return columns

    def where(self) -> dict[str, Any]:
        """Return the first columns of its lines in any table."""
        return {
            **self.coordinates,
            "baseline": self.baseline.level,
            "candidate": self.candidate.level,
        }


def pairs_of(
    factor: str, baseline: Any, sides: Sequence[tuple[Mapping[str, Any], Side]]
) -> Iterator[Pair]:
    """Yield each candidate with the baseline at the same other coordinates.

    A coordinate that does not matter to one side (None) matches every level.

    Parameters
    ----------
    factor, baseline : str, any
        The compared factor, and the level that the others are compared with.
    sides : sequence of (coordinates, Side)
        Every point of the study.
    """
    others = [key for key in sides[0][0] if key != factor]
    bases: dict[tuple[Any, ...], list[Side]] = {}
    for where, side in sides:
        if where[factor] == baseline:
            bases.setdefault(tuple(where[key] for key in others), []).append(side)
    everywhere = any(None in place for place in bases)
    for where, side in sides:
        if where[factor] == baseline:
            continue
        here = tuple(where[key] for key in others)
        # found at once, unless something does not matter to a side and fits any level
        for there in list(bases) if everywhere or None in here else [here]:
            if all(map(_agree, here, there)):
                levels = [a if a is not None else b for a, b in zip(here, there, strict=True)]
                for base in bases.get(there, ()):
                    yield Pair(dict(zip(others, levels, strict=True)), base, side)


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


def _agree(one: Any, other: Any) -> bool:
    return one is None or other is None or one == other
