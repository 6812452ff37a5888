"""Resolved token distributions, in log and in real space, as `simulate` prints them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from simlib.errors import InvalidParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simlib.core.config import TokenDistribution

_EULER_GAMMA = 0.5772156649015329
_P90_OF_STANDARD_NORMAL = 1.2815515655446004


def _log_to_real(mu: float, sigma: float) -> tuple[float, float]:
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
    mean = _exp(mu + 0.5 * variance)
    # from sigma² = 40 on the -1 is below rounding, and expm1 would overflow before std does
    std = mean * math.sqrt(math.expm1(variance)) if variance < 40 else _exp(mu + variance)
    return mean, std


def describe(tokens: TokenDistribution) -> dict[str, Any]:
    """Return a distribution's parameters, and its mean and deviation in both spaces.

    These are of the distribution before lengths are rounded and clipped at min_value.
    """
    log, real = _moments(tokens)
    described: dict[str, Any] = {
        **tokens.essential(),
        "log_space": {"mean": log[0], "sigma": log[1]},
        "real_space": {"mean": real[0], "std": real[1]},
    }
    if tokens.mode == "log":
        described["real_space"] |= {
            "p50": _exp(tokens.mean),
            "p90": _exp(tokens.mean + _P90_OF_STANDARD_NORMAL * tokens.sigma),
        }
    return described


def sampled(tokens: NDArray[Any]) -> dict[str, Any]:
    """Return mean and deviation of the lengths drawn in a run, NaN if there are none."""
    if len(tokens) == 0:
        return {"n": 0, "mean": math.nan, "std": math.nan}
    return {"n": len(tokens), "mean": float(tokens.mean()), "std": float(tokens.std())}


def _moments(tokens: TokenDistribution) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (mean, deviation) in log space and in real space."""
    if tokens.mode == "log":
        return (tokens.mean, tokens.sigma), _log_to_real(tokens.mean, tokens.sigma)
    if tokens.mode == "fixed":
        value = float(tokens.value or 0)
        return (math.log(value), 0.0), (value, 0.0)
    if tokens.mode == "uniform":
        return _uniform_moments(int(tokens.low or 1), int(tokens.high or 1))
    if tokens.mode == "exponential":
        # the logarithm of a standard exponential has mean -gamma and variance pi²/6
        log = (math.log(tokens.mean) - _EULER_GAMMA, math.pi / math.sqrt(6.0))
        return log, (tokens.mean, tokens.mean)
    from pathlib import Path

    import numpy as np

    from simlib.workload.lengths import read_lengths

    values = read_lengths(Path(str(tokens.path)))
    logs = np.log(values)
    return (float(logs.mean()), float(logs.std())), (float(values.mean()), float(values.std()))


def _uniform_moments(low: int, high: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the moments in log and in real space; the first of the continuous uniform.

    With lengths between a and b, E[ln X] = (b ln b - a ln a) / (b - a) - 1, and E[(ln X)²] is
    (b ln² b - a ln² a) / (b - a) - 2 E[ln X]. Whole lengths from `low` to `high` fill what lies
    half a token beyond both.
    """
    from simlib.workload.lengths import uniform_moments

    whole = uniform_moments(low, high)
    real = (whole.mean, math.sqrt(whole.variance))
    if low == high:
        return (math.log(low), 0.0), real
    a, b = low - 0.5, high + 0.5
    mean = (b * math.log(b) - a * math.log(a)) / (b - a) - 1.0
    second = (b * math.log(b) ** 2 - a * math.log(a) ** 2) / (b - a) - 2.0 * mean
    return (mean, math.sqrt(max(second - mean**2, 0.0))), real


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
