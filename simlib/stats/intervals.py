"""An estimate with its interval; how many samples a percentile needs.

A number that the data cannot support is left empty (NaN) and says why in ``reason``. How intervals
of a point are made, from one run or many: `simlib.stats.estimate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simlib.errors import InvalidParameterError
from simlib.stats.student import check_level, t_quantile

Floats = NDArray[np.float64]

RESOLUTION = 1e-9
"""Differences below this (a nanosecond, for times in seconds) are rounding."""
SAMPLES_BEYOND = 10
"""A percentile needs this many samples expected beyond it (p99: 1,000 samples)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the values."""

    low: float
    """Lower end; NaN without an interval, -inf where it is not bounded."""
    estimate: float
    """Point estimate; NaN where the data do not support one."""
    high: float
    method: str
    """How the interval was made, as a table's side file says it."""
    reason: str = ""
    """Why something is missing or doubtful; empty if nothing is."""

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2.0

    @property
    def relative_half_width(self) -> float:
        """Half the length over the absolute estimate; inf for an estimate of 0."""
        return self.half_width / abs(self.estimate) if self.estimate != 0 else math.inf

    def contains(self, value: float) -> bool:
        """Return whether `value` lies within the interval, ends included."""
        return self.low <= value <= self.high


def empty(method: str, reason: str, estimate: float = math.nan) -> Interval:
    """Return an interval that is missing, with the reason."""
    return Interval(math.nan, estimate, math.nan, method, reason)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    r"""Return the mean over replicates with its Student-t interval.

    :math:`\bar x \pm t_{n-1, (1+level)/2}\, s / \sqrt n`, exact for normal values; a replicate's
    mean or percentile is near enough to normal for runs that are long (see the coverage table).

    Parameters
    ----------
    values : array_like, shape (replicates,)
        One value per replicate, independent and identically distributed. A NaN (a replicate that
        has no value) empties the result: leaving it out would favour the replicates that fared
        well.
    level : float
        Confidence level.

    Raises
    ------
    InvalidParameterError
        For a level outside (0, 1), or values that are not one-dimensional.
    """
    check_level(level)
    x = as_column(values)
    method = f"Student t over {x.size} replicates"
    if x.size == 0:
        return empty(method, "no replicates")
    missing = int(np.count_nonzero(~np.isfinite(x)))
    if missing:
        return empty(method, f"{missing} of {x.size} replicates have no value")
    if x.size == 1:
        return empty("one replicate", "one replicate gives no interval", estimate=float(x[0]))
    return _t_interval(float(np.mean(x)), x, level, method)


def replicates_for(values: ArrayLike, relative: float, most: int, level: float = 0.95) -> int:
    """Return how many replicates should make the half-width `relative` times the mean.

    The smallest n, from the number there is to `most`, whose t interval would be that narrow if
    the standard deviation stayed as it is. `most` if none would, or if it cannot be told (fewer
    than two values, a NaN, a mean of 0).

    Parameters
    ----------
    values : array_like, shape (replicates,)
        One value per replicate so far.
    relative : float
        Wanted half-width over the absolute mean, > 0.
    """
    if not relative > 0:
        raise InvalidParameterError("relative", relative, "> 0")
    x = as_column(values)
    most = max(most, x.size)
    if x.size < 2 or not np.all(np.isfinite(x)):
        return most
    wanted, deviation = relative * abs(float(np.mean(x))), float(np.std(x, ddof=1))
    widths = ((n, t_quantile(level, n - 1) / math.sqrt(n)) for n in range(x.size, most + 1))
    return next((n for n, width in widths if width * deviation <= wanted), most)


def enough_for_percentile(n: int, q: float) -> str | None:
    """Return None if `n` samples are enough for the `q`-th percentile, else the reason.

    Enough is `SAMPLES_BEYOND` samples expected on the percentile's rarer side. With fewer it is
    little else than the run's maximum, and its interval fails.
    """
    _check_percent(q)
    needed = math.ceil(round(SAMPLES_BEYOND * 100.0 / min(q, 100.0 - q), 6))
    return None if n >= needed else f"p{q:g} needs at least {needed} samples, got {n}"


def as_column(values: ArrayLike) -> Floats:
    """Return `values` as a float column, or raise InvalidParameterError."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise InvalidParameterError("values", f"shape {x.shape}", "one-dimensional")
    return x


def _t_interval(
    estimate: float, sample: Floats, level: float, method: str, reason: str = ""
) -> Interval:
    error = float(np.std(sample, ddof=1)) / math.sqrt(sample.size)
    half = t_quantile(level, sample.size - 1) * error
    return Interval(estimate - half, estimate, estimate + half, method, reason)


def _check_percent(q: float) -> None:
    if not 0 < q < 100:
        raise InvalidParameterError("q", q, "> 0 and < 100 (percent)")
