r"""Confidence curves: how far the data lie from each value that a quantity might have.

A curve gives every candidate value a score in units of Student's t: near 0 at the estimate,
positive below it, negative above. The 95% interval is where the score lies within the t quantile.
Means (`mean_curve`) and percentiles (`simlib.stats.tails.percentile_curve`) both have one, so
intervals, differences, ratios, equivalence and p values are made in one way for both
(`simlib.stats.joint`).

Scores are corrected for skewness. What loaded queues measure is skewed: few replicates see the
long busy periods, and an interval that is symmetric around the mean of the others ends too low. The
score is Hall's monotone transform of the t statistic,

.. math:: g(T) = T + \frac{a T^2}{3} + \frac{a^2 T^3}{27} + \frac a6, \qquad a = \hat\gamma/\sqrt n,

with the sample skewness :math:`\hat\gamma`. Without skewness it is T, and the interval Student's.

Of waits the sample skewness is too small a guide (`skewness_of_waits`).

Source: P. Hall, "On the removal of skewness by transformation", *Journal of the Royal Statistical
Society B* 54 (1992), 221-228.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simlib.stats.intervals import Floats, Interval, as_column, empty
from simlib.stats.student import t_quantile

NOT_BOUNDED = "the data do not bound it from above"
_ALIKE = 1e-12
"""Relative errors below this are rounding."""
_RAISED, _USUAL_SKEWNESS, _USUAL_UNITS = 1.5, 1.0, 10.0
"""Chosen on gamma, lognormal and normal samples of 3 to 30, which they cover at 94-97%."""
_SYMMETRIC = 1e-6
"""Skewness below which the inverse transform is taken to first order; it would lose digits."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Scores of the values that a quantity might have."""

    estimate: float
    """NaN without data."""
    value_at: Callable[[Floats], Floats]
    """The value that has a score: decreasing; infinite where the data bound nothing."""
    score_of: Callable[[Floats], Floats]
    """The score of a value: decreasing."""
    units: Floats
    """What each replicate (or batch) adds to the error, for the correlation of two curves."""
    degrees_of_freedom: float
    method: str
    missing: str = ""
    """Why there is no interval; empty if there is one."""
    open_above: str = ""
    """Why the data do not bound it from above; empty if they do."""
    values: Floats | None = None
    """Of a mean: the value of each replicate."""

    def interval(self, level: float = 0.95) -> Interval:
        """Return the interval at a confidence level; its upper end is inf where it is open."""
        if self.missing:
            return empty(self.method, self.missing, self.estimate)
        t = t_quantile(level, self.degrees_of_freedom)
        low, high = (float(end) for end in self.value_at(np.array([t, -t])))
        reason = self.open_above or (NOT_BOUNDED if math.isinf(high) else "")
        if self.open_above:
            high = math.inf
        return Interval(
            min(low, self.estimate), self.estimate, max(high, self.estimate), self.method, reason
        )


def mean_curve(values: ArrayLike, *, unit: str = "replicates", waits: bool = False) -> Curve:
    r"""Return the confidence curve of a mean over replicates.

    Parameters
    ----------
    values : array_like, shape (n,)
        One per replicate (or batch), independent and identically distributed. One that is not
        finite leaves no interval: leaving it out would favour the replicates that fared well.
    unit : str
        What the values are of, for `method` and reasons.
    waits : bool
        Whether they are waits, or grow with waits: then `skewness_of_waits` counts.

    Raises
    ------
    InvalidParameterError
        For values that are not one-dimensional.
    """
    x = as_column(values)
    n = x.size
    method = f"skewness-corrected t over {n} {unit}"
    if n == 0:
        return no_curve(method, f"no {unit}")
    missing = int(np.count_nonzero(~np.isfinite(x)))
    if missing:
        return no_curve(method, f"{missing} of {n} {unit} have no value")
    estimate = float(np.mean(x))
    if n == 1:
        return no_curve(method, f"one of {unit} gives no interval", estimate)
    residuals = x - estimate
    error = float(standard_error(residuals))
    if error <= _ALIKE * abs(estimate):
        return _certain(estimate, x, method)
    skew = float((skewness_of_waits if waits else skewness)(residuals)) / math.sqrt(n)

    def value_at(score: Floats) -> Floats:
        return np.asarray(estimate - error * inverse_transform(score, skew))

    def score_of(value: Floats) -> Floats:
        return transform((estimate - value) / error, skew)

    return Curve(
        estimate,
        value_at,
        score_of,
        residuals,
        n - 1,
        method,
        values=x,
    )


def standard_error(residuals: Floats) -> Floats:
    """Return the standard error of means from what lies around them, along the last axis."""
    n = residuals.shape[-1]
    return np.asarray(np.sqrt(np.sum(residuals**2, axis=-1) / (n - 1) / n))


def score_of_0(values: Floats) -> Floats:
    """Return the scores that `mean_curve` gives the value 0, of many means at once.

    Parameters
    ----------
    values : array, shape (means, n)
    """
    estimate = np.mean(values, axis=-1)
    residuals = values - estimate[..., None]
    error = standard_error(residuals)
    alike = error <= _ALIKE * np.abs(estimate)
    t = estimate / np.where(alike, 1.0, error)
    score = transform(t, skewness(residuals) / math.sqrt(residuals.shape[-1]))
    sure = np.where(estimate == 0, 0.0, np.copysign(np.inf, estimate))
    return np.where(alike, sure, score)


def no_curve(method: str, reason: str, estimate: float = math.nan) -> Curve:
    """Return the curve of a quantity that the data say too little of."""

    def nothing(x: Floats) -> Floats:
        return np.full(np.shape(x), math.nan)

    return Curve(estimate, nothing, nothing, np.empty(0), math.nan, method, missing=reason)


def skewness(around_0: Floats) -> Floats:
    """Return the skewness of residuals along the last axis; 0 where all are 0."""
    square = around_0**2
    second, third = np.mean(square, axis=-1), np.mean(square * around_0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(second > 0, third / second**1.5, 0.0))


def skewness_of_waits(around_0: Floats, weight: float = 1.0) -> Floats:
    """Return the skewness of residuals of waits along the last axis, of which few are a poor guide.

    Means of waits over ten relaxation times have a skewness of 2 to 3, over a hundred still of 1.
    Small samples show less, and the smaller they are the less. So the sample's is raised, and
    drawn to a usual one that counts like some units more.

    Parameters
    ----------
    weight : float
        How much of this is done, 0 to 1: for the mean all of it.
    """
    n, usual = around_0.shape[-1], weight * _USUAL_UNITS
    seen = (1.0 + weight * (_RAISED - 1.0)) * skewness(around_0)
    return np.asarray((n * seen + usual * _USUAL_SKEWNESS) / (n + usual))


def transform(t: Floats, skew: Floats | float) -> Floats:
    """Return Hall's transform of t statistics; `skew` is the sample's over the root of its size."""
    a = np.asarray(skew)
    return np.asarray(t + a * t**2 / 3.0 + a**2 * t**3 / 27.0 + a / 6.0)


def inverse_transform(score: Floats, skew: float) -> Floats:
    """Return the t statistics whose transform is `score`."""
    if abs(skew) < _SYMMETRIC:
        return np.asarray(score - skew / 6.0 - skew * score**2 / 3.0)
    return np.asarray(3.0 / skew * (np.cbrt(1.0 + skew * (score - skew / 6.0)) - 1.0))


def _certain(estimate: float, x: Floats, method: str) -> Curve:
    def value_at(score: Floats) -> Floats:
        return np.full(np.shape(score), estimate)

    def score_of(value: Floats) -> Floats:
        return np.where(value == estimate, 0.0, np.copysign(np.inf, estimate - value))

    none = np.zeros_like(x)
    return Curve(estimate, value_at, score_of, none, x.size - 1, method, values=x)
