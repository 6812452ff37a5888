"""Means and percentiles of values that each stand for many, and their intervals within one run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import (
    DEFAULT_BATCHES,
    FEWEST_BATCHES,
    Floats,
    Interval,
    correlation_warning,
    empty,
    enough_for_percentile,
    mean_interval,
    percentile_interval,
)

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

    def parts(self, count: int) -> list[Weighted]:
        """Return contiguous parts of about equal weight."""
        up_to = np.cumsum(self.weights)
        cuts = np.searchsorted(up_to, np.arange(1, count) / count * up_to[-1], side="right")
        bounds = [0, *cuts.tolist(), len(self)]
        return [
            Weighted(self.values[low:high], self.weights[low:high])
            for low, high in itertools.pairwise(bounds)
        ]

    @classmethod
    def joined(cls, samples: Sequence[Weighted]) -> Weighted:
        """Return several samples as one."""
        return cls(
            np.concatenate([one.values for one in samples]),
            np.concatenate([one.weights for one in samples]),
        )


def weighted_batch_interval(sample: Weighted, percent: float | None) -> Interval:
    """Return the mean (`percent` None) or a percentile of one run with its interval.

    By batch means, or by sectioning, over contiguous batches of about equal weight, as
    `simlib.stats.intervals.batch_means_interval` and `batch_percentile_interval` do for values of
    equal weight. Values that share a weight are one observation: a percentile needs enough values,
    not enough weight.
    """
    n_batches = DEFAULT_BATCHES if percent is None else FEWEST_BATCHES
    of = "means" if percent is None else f"p{percent:g}"
    method = f"batch {of}, {n_batches} batches of equal weight in one run"
    needed = n_batches if percent is None else 1
    reason = None if percent is None else enough_for_percentile(len(sample), percent)
    if reason is None and len(sample) < needed:
        reason = f"batch means need at least {needed} values, got {len(sample)}"
    if reason is not None:
        return empty(method, reason)
    batches = sample.parts(n_batches)
    if percent is None:
        values = np.array([batch.mean() for batch in batches])
        interval, estimate = mean_interval(values), sample.mean()
    else:
        estimate = sample.percentiles([percent])[0]
        fewest = min(len(batch) for batch in batches)
        reason = enough_for_percentile(fewest, percent)
        if reason is not None:
            return empty(method, f"{reason} in a batch", estimate)
        values = np.array([batch.percentiles([percent])[0] for batch in batches])
        interval = percentile_interval(values, percent, fewest, estimate)
    shift = estimate - interval.estimate  # batches differ in weight by up to one value
    return replace(
        interval,
        low=interval.low + shift,
        estimate=estimate,
        high=interval.high + shift,
        method=method,
        reason=interval.reason or correlation_warning(values),
    )
