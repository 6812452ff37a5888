"""A lognormal's parameters: in log space, as drawn from, and in tokens, as people know them."""

from __future__ import annotations

import math

from simlib.errors import InvalidParameterError

P90_OF_STANDARD_NORMAL = 1.2815515655446004


def log_to_real(mu: float, sigma: float) -> tuple[float, float]:
    """Return (mean, std) in tokens of the lognormal with `mu` and `sigma` in log space.

    mean = exp(mu + sigma²/2), std = mean · sqrt(exp(sigma²) - 1); infinite where it overflows.

    Raises
    ------
    InvalidParameterError
        If `mu` is not finite, or `sigma` is negative or not finite.
    """
    if not math.isfinite(mu):
        raise InvalidParameterError("mu", mu, "a finite number")
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise InvalidParameterError("sigma", sigma, ">= 0")
    variance = sigma * sigma
    mean = exp(mu + 0.5 * variance)
    # from sigma² = 40 on the -1 is below rounding, and expm1 would overflow before std does
    std = mean * math.sqrt(math.expm1(variance)) if variance < 40 else exp(mu + variance)
    return mean, std


def real_mean_std_to_log(mean: float, std: float) -> tuple[float, float]:
    """Return (mu, sigma) in log space of the lognormal with this mean and deviation in tokens.

    sigma² = ln(1 + (std/mean)²), mu = ln(mean) - sigma²/2.
    """
    if not (mean > 0 and math.isfinite(mean)):
        raise InvalidParameterError("mean", mean, "> 0 tokens")
    if not (std >= 0 and math.isfinite(std)):
        raise InvalidParameterError("std", std, ">= 0 tokens")
    ratio = std / mean
    variance = math.log1p(ratio * ratio)
    return math.log(mean) - 0.5 * variance, math.sqrt(variance)


def p50_p90_to_log(p50: float, p90: float) -> tuple[float, float]:
    """Return (mu, sigma) in log space of the lognormal with this median and 90th percentile.

    mu = ln(p50), sigma = ln(p90/p50) / z(0.9).
    """
    if not (p50 > 0 and math.isfinite(p50)):
        raise InvalidParameterError("p50", p50, "> 0 tokens")
    if not (p90 >= p50 and math.isfinite(p90)):
        raise InvalidParameterError("p90", p90, f">= p50 ({p50:g}) tokens")
    return math.log(p50), math.log(p90 / p50) / P90_OF_STANDARD_NORMAL


def percentiles(mu: float, sigma: float) -> tuple[float, float]:
    """Return the median and the 90th percentile in tokens; infinite where they overflow."""
    return exp(mu), exp(mu + P90_OF_STANDARD_NORMAL * sigma)


def exp(x: float) -> float:
    """Return the exponential; infinity where it overflows."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
