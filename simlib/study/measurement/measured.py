"""One statistic of a point: its value in each replicate, and the estimate with its interval.

The one place that turns samples into confidence curves: what tables show of a point and what
comparisons say of two come from the same curves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import Floats
from simlib.core.summary import Sample
from simlib.stats.curve import Curve, no_curve
from simlib.stats.estimate import curve_of, units_of
from simlib.stats.intervals import Interval, empty
from simlib.stats.relaxation import RunLength

_LOWER_BOUND = "requests that were not over when the run ended would raise it"


@dataclass(frozen=True, slots=True)
class Measured:
    """One statistic of a point."""

    values: Floats
    """Its value in each replicate, NaN where there is none; shape (replicates,)."""
    interval: Interval
    """The estimate over all replicates; NaN where the data do not support one."""
    lower_bound: bool = False
    """Whether requests that were not over when the run ended would only raise it."""
    requests: str = ""
    """Of a single replicate: which requests have a value, in short; empty if nothing pairs them."""


def measure_metric(
    samples: Sequence[Sample],
    length: RunLength,
    each: Sequence[Mapping[str, float]] | None = None,
) -> dict[str, Measured]:
    """Return what the replicates' samples of a metric say, by statistic.

    Parameters
    ----------
    samples : sequence of Sample
        One per replicate, of one metric.
    length : RunLength
        How long the runs are.
    each : sequence of mappings, optional
        The statistics of each of them, where they are known already.
    """
    if each is None:
        each = [one.statistics() for one in samples]
    bounds = lower_bounds(samples)
    single = digest(samples[0].request_id) if len(samples) == 1 else ""
    share = samples[0].metric.is_share
    return {
        name: Measured(
            np.array([one[name] for one in each]),
            _share(curve) if share else _not_negative(curve.interval()),
            name in bounds,
            single,
        )
        for name, curve in metric_curves(samples, length).items()
    }


def metric_curves(
    samples: Sequence[Sample], length: RunLength, batches: int | None = None
) -> dict[str, Curve]:
    """Return the confidence curve of each statistic of a metric.

    What a request had not reached when its run ended lies beyond every value, for percentiles. A
    statistic that depends on it is a lower bound, and its curve is open above.

    Parameters
    ----------
    samples : sequence of Sample
        One per replicate, of one metric, in order of arrival.
    length : RunLength
        How long the runs are.
    batches : int, optional
        Into how many each is cut; by default what suits their length.
    """
    metric = samples[0].metric
    bounds = lower_bounds(samples)
    lasted = units_of([one.values for one in samples], length, batches=batches)
    units = lasted
    if any(one.open.any() for one in samples):
        values = [np.where(one.open, math.nan, one.values) for one in samples]
        units = units_of(values, length, batches=batches)
    curves = {}
    for statistic in metric.statistics:
        bound = statistic.name in bounds
        of = lasted if bound else units
        curve = curve_of(of, statistic.percent, waits=metric.since_arrival)
        if bound and not curve.missing:
            curve = replace(curve, open_above=_LOWER_BOUND)
        if metric.is_share and curve.open_above:  # short runs flatter it: neither end is sure
            curve = no_curve(curve.method, curve.open_above, curve.estimate)
        curves[statistic.name] = curve
    return curves


def lower_bounds(samples: Sequence[Sample]) -> set[str]:
    """Return the statistics that unfinished requests make lower bounds in some replicate."""
    return {name for one in samples for name in one.lower_bounds()}


def digest(request_id: NDArray[np.int64]) -> str:
    """Return which requests these are, in short; nothing of none."""
    if request_id.size == 0:
        return ""
    return hashlib.blake2b(request_id.tobytes(), digest_size=8).hexdigest()


def reasons(intervals: Mapping[str, Interval]) -> str:
    """Return why statistics are empty, open or doubtful, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for statistic, interval in intervals.items():
        if interval.reason:
            by_reason.setdefault(interval.reason, []).append(statistic)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def interval_columns(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Return estimate, low and high end of each statistic, by column."""
    columns: dict[str, Any] = {}
    for name, interval in intervals.items():
        columns |= interval_ends(name, interval)
    return columns


def interval_ends(name: str, interval: Interval) -> dict[str, float]:
    """Return an estimate and the ends of its interval, by column; NaN for an end that is open."""
    low, high = (end if math.isfinite(end) else math.nan for end in (interval.low, interval.high))
    estimate = interval.estimate if math.isfinite(interval.estimate) else math.nan
    return {name: estimate, f"{name}_low": low, f"{name}_high": high}


def _not_negative(interval: Interval) -> Interval:
    """Return the interval of a time; few and skewed replicates would reach below 0."""
    return replace(interval, low=max(interval.low, 0.0)) if interval.low < 0 else interval


def _share(curve: Curve) -> Interval:
    """Return the interval of a share: what reaches beyond 0 or 1 is cut off.

    Where all replicates (or batches) are alike, as where every request met its SLO, the data say
    nothing of the spread, and there is no interval.
    """
    interval = curve.interval()
    if curve.missing:
        return interval
    if interval.low == interval.high:
        return empty(interval.method, "all replicates (or batches) are alike", interval.estimate)
    return replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0))
