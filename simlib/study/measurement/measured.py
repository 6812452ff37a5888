"""One statistic of a point: its value in each replicate, and the estimate with its interval.

The only place that chooses how an interval is made: by replicates where there are several, by
batches within the run where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.core.metrics import Statistic
from simlib.core.records import Floats
from simlib.core.summary import Sample
from simlib.stats.intervals import (
    DEFAULT_BATCHES,
    FEWEST_BATCHES,
    Interval,
    batch_means_interval,
    batch_percentile_interval,
    empty,
    mean_interval,
    percentile_interval,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One statistic of a point."""

    values: Floats
    """Its value in each replicate, NaN where there is none; shape (replicates,)."""
    interval: Interval
    """The estimate over all replicates; NaN where the data do not support one."""
    pooled: float | None = None
    """A percentile of all replicates' requests together; None for a mean, or one replicate."""
    lower_bound: bool = False
    """Whether requests that were not over when the run ended would only raise it."""
    batches: Floats | None = None
    """Of a single replicate: its value in each batch of the run; None if they are too short."""
    requests: str = ""
    """Of a single replicate: which requests have a value, in short; empty if nothing pairs them."""


def measure_metric(
    samples: Sequence[Sample], each: Sequence[Mapping[str, float]] | None = None
) -> dict[str, Measured]:
    """Return what the replicates' samples of a metric say, by statistic.

    Parameters
    ----------
    samples : sequence of Sample
        One per replicate, of one metric.
    each : sequence of mappings, optional
        The statistics of each of them, where they are known already.
    """
    metric = samples[0].metric
    if each is None:
        each = [one.statistics() for one in samples]
    bounds = {name for one in samples for name in one.lower_bounds()}
    if len(samples) == 1:
        return {
            one.name: _of_one_run(samples[0], one, each[0][one.name], one.name in bounds)
            for one in metric.statistics
        }
    pooled = metric.of(np.concatenate([one.values for one in samples]))
    known = [int(np.count_nonzero(~one.open)) for one in samples]
    measured = {}
    for statistic in metric.statistics:
        name = statistic.name
        values = np.array([one[name] for one in each])
        around = None if statistic.percent is None or np.isnan(pooled[name]) else pooled[name]
        measured[name] = Measured(
            values,
            interval_over_replicates(statistic, values, known, around),
            around,
            name in bounds,
        )
    return measured


def interval_over_replicates(
    statistic: Statistic, values: Floats, samples: Sequence[int], pooled: float | None
) -> Interval:
    """Return a statistic's interval over replicates, around a percentile's pooled estimate.

    Parameters
    ----------
    samples : sequence of int
        How many values each replicate has.
    """
    if statistic.metric.is_share:
        return _within_0_and_1(mean_interval(values), float(np.mean(values)), "replicates")
    if statistic.percent is None:
        return mean_interval(values)
    return percentile_interval(values, statistic.percent, list(samples), pooled)


def digest(request_id: NDArray[np.int64]) -> str:
    """Return which requests these are, in short."""
    return hashlib.blake2b(request_id.tobytes(), digest_size=8).hexdigest()


def reasons(intervals: Mapping[str, Interval]) -> str:
    """Return why statistics are empty or doubtful, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for statistic, interval in intervals.items():
        if interval.reason:
            by_reason.setdefault(interval.reason, []).append(statistic)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def interval_columns(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Return estimate, low and high end of each statistic, by column."""
    columns = {}
    for name, interval in intervals.items():
        columns[name] = interval.estimate
        columns[f"{name}_low"] = interval.low
        columns[f"{name}_high"] = interval.high
    return columns


def _of_one_run(sample: Sample, statistic: Statistic, value: float, lower_bound: bool) -> Measured:
    values = sample.values
    if len(values) == 0:
        interval = empty("batch means", "no requests in the window")
    elif statistic.percent is not None:
        interval = batch_percentile_interval(values, statistic.percent)
    else:
        interval = batch_means_interval(values)
    if statistic.metric.is_share:
        interval = _within_0_and_1(interval, value, "batches")
    batches = None
    if np.isfinite(interval.low) or interval.reason.startswith(_ALIKE):
        count = DEFAULT_BATCHES if statistic.percent is None else FEWEST_BATCHES
        batches = np.array([statistic.of(part) for part in np.array_split(values, count)])
    return Measured(
        np.array([value]), interval, None, lower_bound, batches, digest(sample.request_id)
    )


_ALIKE = "all "


def _within_0_and_1(interval: Interval, estimate: float, unit: str) -> Interval:
    """Return the interval of a share: what reaches beyond 0 or 1 is cut off.

    Where all replicates (or batches) are alike, as where every request met its SLO, the data say
    nothing of the spread, and there is no interval.
    """
    if np.isnan(interval.low):
        return empty(interval.method, interval.reason, estimate)
    if interval.low == interval.high:
        return empty(interval.method, f"{_ALIKE}{unit} are alike", interval.estimate)
    return replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0))
