"""Confidence intervals for what one run, or several replicates of it, measured.

Requests of one run are autocorrelated, so they are never the unit of an interval: replicates are,
or, with a single replicate, long batches of the run. A number that the data cannot support is left
empty (NaN) and says why in ``reason``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from simlib.errors import InvalidParameterError

Floats = NDArray[np.float64]

RESOLUTION = 1e-9
"""Differences below this (a nanosecond, for times in seconds) are rounding."""
SAMPLES_BEYOND = 10
"""A percentile needs this many samples expected beyond it (p99: 1,000 samples)."""
DEFAULT_BATCHES = 10
"""Schmeiser (1982): 10 to 30 batches do; the fewer, the longer and the less correlated they are."""
FEWEST_BATCHES = 5
"""Also the default for percentiles: short batches miss the rare busy periods that make a p99."""
_SAMPLES_PER_BATCH = 10


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


def t_quantile(level: float, degrees_of_freedom: float) -> float:
    """Return the two-sided quantile of Student's t: half-width per standard error."""
    check_level(level)
    return float(special.stdtrit(degrees_of_freedom, 0.5 + level / 2.0))


def t_p_value(t: float, degrees_of_freedom: float) -> float:
    """Return the two-sided p value of a t statistic."""
    return float(2.0 * special.stdtr(degrees_of_freedom, -abs(t)))


def check_level(level: float) -> None:
    """Raise InvalidParameterError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise InvalidParameterError("level", level, "> 0 and < 1")


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


def percentile_interval(
    per_replicate: ArrayLike,
    q: float,
    samples: ArrayLike,
    pooled: float | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the `q`-th percentile over replicates with its t interval.

    With `pooled`, by sectioning: the estimate is the percentile of all replicates' samples
    together, and the spread of the replicates' own percentiles around it gives its standard error.
    Chosen by measurement: in short runs of a busy queue the mean of percentiles is biased (p99 by
    -10%), the pooled one hardly, and covers clearly more often; the jackknife of the pooled one
    (`jackknife_percentile`) covers no better and costs more. Without `pooled`, `mean_interval` of
    the replicates' percentiles.

    Source: S. Asmussen, P. W. Glynn, *Stochastic Simulation* (2007), sec. III.5.

    Parameters
    ----------
    per_replicate : array_like, shape (replicates,)
        The percentile of each replicate.
    q : float
        Percent, 0 < q < 100.
    samples : array_like, shape (replicates,) or scalar
        How many samples each of them was taken from. If the smallest is too small (see
        `enough_for_percentile`) the result is empty.
    pooled : float, optional
        The percentile of all replicates' samples together.
    """
    x = as_column(per_replicate)
    least = int(np.min(np.asarray(samples), initial=np.iinfo(np.int64).max))
    reason = enough_for_percentile(least, q)
    if reason is not None:
        each = " in each replicate" if x.size > 1 else ""
        return empty(f"Student t over {x.size} replicates", reason + each)
    plain = mean_interval(x, level)
    if pooled is None or not np.isfinite(plain.low):
        return plain
    half = t_quantile(level, x.size - 1) * _error_around(float(pooled), x)
    method = f"sectioning over {x.size} replicates"
    return Interval(float(pooled) - half, float(pooled), float(pooled) + half, method)


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
    n = np.arange(x.size, most + 1)
    check_level(level)
    widths = special.stdtrit(n - 1, 0.5 + level / 2.0) * np.std(x, ddof=1) / np.sqrt(n)
    narrow = np.flatnonzero(widths <= relative * abs(float(np.mean(x))))
    return int(n[narrow[0]]) if narrow.size else most


def jackknife_percentile(replicates: list[Floats], q: float, level: float = 0.95) -> Interval:
    """Return the percentile of all replicates' samples together, with its jackknife interval.

    Leaves out one replicate at a time; pseudo-values are treated as a t sample. Its bias is smaller
    than that of a mean of percentiles, at the price of holding every sample.

    Source: R. G. Miller, "The jackknife: a review" (1974), doi:10.1093/biomet/61.1.1.

    Parameters
    ----------
    replicates : list of array, shape (n_i,)
        The samples of each replicate.
    """
    n = len(replicates)
    method = f"jackknife over {n} replicates"
    if n < 2:
        return empty(method, f"needs at least 2 replicates, got {n}")
    pooled = np.concatenate(replicates)
    if not np.all(np.isfinite(pooled)):
        return empty(method, f"{np.count_nonzero(~np.isfinite(pooled))} values are missing")
    reason = enough_for_percentile(pooled.size, q)
    if reason is not None:
        return empty(method, reason)
    whole = float(np.percentile(pooled, q))
    without = [
        np.percentile(np.concatenate([*replicates[:i], *replicates[i + 1 :]]), q) for i in range(n)
    ]
    pseudo = n * whole - (n - 1) * np.asarray(without)
    return _t_interval(float(np.mean(pseudo)), pseudo, level, method)


def enough_for_percentile(n: int, q: float) -> str | None:
    """Return None if `n` samples are enough for the `q`-th percentile, else the reason.

    Enough is `SAMPLES_BEYOND` samples expected on the percentile's rarer side. With fewer it is
    little else than the run's maximum, and its interval fails.
    """
    _check_percent(q)
    needed = math.ceil(round(SAMPLES_BEYOND * 100.0 / min(q, 100.0 - q), 6))
    return None if n >= needed else f"p{q:g} needs at least {needed} samples, got {n}"


def batch_means_interval(
    values: ArrayLike, n_batches: int = DEFAULT_BATCHES, level: float = 0.95
) -> Interval:
    """Return the mean of one run with the t interval over its batch means.

    The run is cut into `n_batches` contiguous batches of (nearly) equal size. Batches much longer
    than the autocorrelation are nearly independent; where their correlation shows that they are
    not, the reason says that the interval may be too narrow.

    Source: B. Schmeiser, "Batch size effects in the analysis of simulation output" (1982),
    doi:10.1287/opre.30.3.556.

    Parameters
    ----------
    values : array_like, shape (n,)
        One value per request, in the order of events. A NaN empties the result.
    n_batches : int
        At least 5.
    """
    x = as_column(values)
    method = _batch_method(x, n_batches, "means")
    refused = _refusal(x, n_batches * _SAMPLES_PER_BATCH, "batch means")
    if refused is not None:
        return empty(method, refused)
    batches = np.array([np.mean(batch) for batch in np.array_split(x, n_batches)])
    return _t_interval(float(np.mean(x)), batches, level, method, correlation_warning(batches))


def batch_percentile_interval(
    values: ArrayLike, q: float, n_batches: int = FEWEST_BATCHES, level: float = 0.95
) -> Interval:
    """Return the percentile of one run with the t interval by sectioning.

    The estimate is the percentile of the whole run; the spread of the batches' percentiles around
    it gives its standard error. In a busy queue it covers less often than it says unless the run is
    very long (the coverage table has numbers), so prefer replicates.

    Source: S. Asmussen, P. W. Glynn, *Stochastic Simulation* (2007), sec. III.5.

    Parameters
    ----------
    values : array_like, shape (n,)
        One value per request, in the order of events. A NaN empties the result.
    q : float
        Percent, 0 < q < 100.
    n_batches : int
        At least 5. If a batch is too small for the percentile (see `enough_for_percentile`) the
        estimate stands without an interval; if the run is, the result is empty.
    """
    x = as_column(values)
    method = _batch_method(x, n_batches, f"p{q:g}")
    reason = enough_for_percentile(x.size, q) or _refusal(x, 1, "percentiles")
    if reason is not None:
        return empty(method, reason)
    estimate = float(np.percentile(x, q))
    reason = enough_for_percentile(x.size // n_batches, q)
    if reason is not None:
        return empty(method, f"{reason} in a batch", estimate)
    batches = np.array([np.percentile(batch, q) for batch in np.array_split(x, n_batches)])
    half = t_quantile(level, n_batches - 1) * _error_around(estimate, batches)
    return Interval(
        estimate - half, estimate, estimate + half, method, correlation_warning(batches)
    )


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


def _error_around(centre: float, sample: Floats) -> float:
    """Return the standard error that the sample's spread around `centre` gives."""
    return math.sqrt(float(np.sum((sample - centre) ** 2)) / (sample.size - 1) / sample.size)


def _refusal(x: Floats, needed: int, what: str) -> str | None:
    if x.size < needed:
        return f"{what} need at least {needed} values, got {x.size}"
    missing = int(np.count_nonzero(~np.isfinite(x)))
    return f"{missing} of {x.size} values are missing" if missing else None


def _batch_method(x: Floats, n_batches: int, of: str) -> str:
    if n_batches < FEWEST_BATCHES:
        raise InvalidParameterError("n_batches", n_batches, f">= {FEWEST_BATCHES}")
    return f"batch {of}, {n_batches} batches of about {x.size // n_batches} in one run"


def correlation_warning(batches: Floats) -> str:
    """Return a warning if the batches are positively correlated (von Neumann's ratio, 1% level)."""
    n = batches.size
    centred = batches - np.mean(batches)
    total = float(centred @ centred)
    if total == 0:
        return ""
    # For independent normal values, 1 - ratio/2 has mean 0 and this variance (von Neumann 1941).
    score = 1.0 - float(np.sum(np.diff(batches) ** 2)) / (2.0 * total)
    if score / math.sqrt((n - 2) / (n * n - 1.0)) <= 2.326:
        return ""
    lag_one = float(centred[:-1] @ centred[1:]) / total
    return f"batches are correlated ({lag_one:.2f}): the interval may be too narrow"


def _check_percent(q: float) -> None:
    if not 0 < q < 100:
        raise InvalidParameterError("q", q, "> 0 and < 100 (percent)")
