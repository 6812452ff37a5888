"""Student's t: quantiles and p values, without a library that takes longer to import than to use.

The distribution function is a regularized incomplete beta function, here by its continued fraction
(NIST *Digital Library of Mathematical Functions*, 8.17.22, https://dlmf.nist.gov/8.17.E22).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

from simlib.errors import InvalidParameterError

_NORMAL = NormalDist()
_NEARLY_NORMAL = 1e5
"""Degrees of freedom from which on the first terms in their inverse are exact enough."""
_EPSILON = 2.0**-52
_NEAR = 1e-8
_TINY = 1e-300


@lru_cache(maxsize=4096)
def t_quantile(level: float, degrees_of_freedom: float) -> float:
    """Return the two-sided quantile of Student's t: half-width per standard error.

    Parameters
    ----------
    level : float
        Confidence level, > 0 and < 1.
    degrees_of_freedom : float
        Need not be whole; NaN gives NaN, and so does what is not above 0.

    Raises
    ------
    InvalidParameterError
        For a level outside (0, 1).
    """
    check_level(level)
    if not degrees_of_freedom > 0:
        return math.nan
    tail = 1.0 - level  # outside, both sides together
    if tail == 1.0:
        return 0.0
    z = -_NORMAL.inv_cdf(tail / 2.0)
    first = (z**3 + z) / 4.0 / degrees_of_freedom
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0 / degrees_of_freedom**2
    near = z + first + second
    return near if degrees_of_freedom >= _NEARLY_NORMAL else _solve(tail, near, degrees_of_freedom)


def t_p_value(t: float, degrees_of_freedom: float) -> float:
    """Return the two-sided p value of a t statistic."""
    if not degrees_of_freedom > 0 or math.isnan(t):
        return math.nan
    if degrees_of_freedom >= _NEARLY_NORMAL:
        near = 1.0 - 0.25 / degrees_of_freedom
        z = abs(t) * near / math.sqrt(1.0 + t * t / (2.0 * degrees_of_freedom))
        return math.erfc(z / math.sqrt(2.0))
    return _outside(abs(t), degrees_of_freedom)


def check_level(level: float) -> None:
    """Raise InvalidParameterError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise InvalidParameterError("level", level, "> 0 and < 1")


def _solve(tail: float, at: float, freedom: float) -> float:
    """Return the t beyond which, on both sides, lies `tail`: Newton's method on logarithms.

    Against log t, the logarithm of the tail is concave: a step from too small a t ends above the
    solution, and those that follow approach it from there.
    """
    log_constant = math.lgamma((freedom + 1.0) / 2.0) - math.lgamma(freedom / 2.0)
    log_constant -= 0.5 * math.log(freedom * math.pi)
    for _ in range(100):
        outside = _outside(at, freedom)
        density = math.exp(log_constant - (freedom + 1.0) / 2.0 * math.log1p(at * at / freedom))
        step = math.log(outside / tail) * outside / (2.0 * density * at)
        at *= math.exp(step)
        if abs(step) < _NEAR:  # the next one would be its square
            break
    return at


def _outside(t: float, freedom: float) -> float:
    """Return the probability of |T| > t, for t >= 0."""
    square = t * t / freedom
    if math.isinf(square):
        return 0.0
    return _beta(1.0 / (1.0 + square), square / (1.0 + square), freedom / 2.0, 0.5)


def _beta(x: float, rest: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b); `rest` is 1 - x in full."""
    if rest == 0.0 or x == 0.0:
        return float(rest == 0.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta(rest, x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * (math.log(x) if x < 0.5 else math.log1p(-rest)) + b * math.log(rest)
    return math.exp(log_front) / (a * _continued_fraction(x, a, b))


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Return 1 + d1/(1 + d2/(1 + ...)), by Lentz's method in the form of Thompson and Barnett."""
    value, c, d = 1.0, 1.0, 0.0
    for k in range(1, 100_000):
        m = k // 2
        if k % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / (1.0 + term * d or _TINY)
        c = 1.0 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1.0) < _EPSILON:
            break
    return value
