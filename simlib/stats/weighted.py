"""Means and percentiles of values that each stand for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import Floats

Counts = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Weighted:
    """Values in the order of events, and how many times each counts; shape (n,)."""

    values: Floats
    weights: Counts
    """Whole numbers >= 1."""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.weights):
            raise InvalidParameterError("weights", len(self.weights), f"{len(self.values)} weights")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def total(self) -> int:
        """The sum of the weights."""
        return int(self.weights.sum())

    def mean(self) -> float:
        """Return the mean; NaN without values."""
        return float(np.average(self.values, weights=self.weights)) if len(self) else float("nan")

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Return what ``numpy.percentile`` does of each value repeated; NaN without values."""
        if not all(0 <= q <= 100 for q in percents):
            raise InvalidParameterError("percents", percents, "in [0, 100]")
        if len(self) == 0:
            return [float("nan")] * len(percents)
        order = np.argsort(self.values, kind="stable")
        values, up_to = self.values[order], np.cumsum(self.weights[order])
        place = np.asarray(percents) / 100.0 * (up_to[-1] - 1)
        lower = np.floor(place)
        low, high = (
            values[np.searchsorted(up_to, at, side="right").clip(max=len(values) - 1)]
            for at in (lower, np.ceil(place))
        )
        return [float(value) for value in low + (place - lower) * (high - low)]
