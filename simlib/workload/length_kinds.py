"""Kinds of lengths: how each draws, what it needs and is called, one entry of `LENGTHS` each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.workload import lengths
from simlib.workload.lengths import MAX_TOKENS, Tokens
from simlib.workload.lognormal import log_to_real, percentiles

Spread = tuple[float, float]
"""Mean and standard deviation."""
_EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True, slots=True)
class LengthKind:
    """A distribution of lengths; functions get a section ``prompt_tokens`` or ``output_tokens``."""

    keys: tuple[str, ...]
    """What it reads of that section, `mode` aside."""
    draw: Callable[[Any, int, np.random.Generator], Tokens]
    """Draw so many lengths; the first n are the same for every larger number."""
    spreads: Callable[[Any], tuple[Spread, Spread]]
    """Mean and deviation of the logarithm and of the lengths in tokens, before they are rounded and
    clipped."""
    phrase: Callable[[Any], str]
    """What people call it."""
    check: Callable[[Any], None] = lambda _: None
    """Raise InvalidParameterError for a section that lacks something."""


def _log_spreads(tokens: Any) -> tuple[Spread, Spread]:
    return (tokens.mean, tokens.sigma), log_to_real(tokens.mean, tokens.sigma)


def _log_phrase(tokens: Any) -> str:
    p50, p90 = percentiles(tokens.mean, tokens.sigma)
    return f"p50 {p50:.0f} p90 {p90:.0f}"


def _check_log(tokens: Any) -> None:
    # a product and not a power: ** raises OverflowError where the product is inf
    if tokens.mean + 0.5 * tokens.sigma * tokens.sigma > math.log(MAX_TOKENS):
        allowed = (
            "in log space, with a real mean below 1e9 tokens (for tokens, mode: real_mean_std)"
        )
        raise InvalidParameterError("mean", tokens.mean, allowed)


def _check_fixed(tokens: Any) -> None:
    if tokens.value is None:
        raise InvalidParameterError("value", None, "given in tokens (mode: fixed)")


def _check_uniform(tokens: Any) -> None:
    for name in ("low", "high"):
        if getattr(tokens, name) is None:
            raise InvalidParameterError(name, None, "given in tokens (mode: uniform)")
    if tokens.high < tokens.low:
        raise InvalidParameterError("high", tokens.high, f">= low ({tokens.low}) tokens")


def _uniform_spreads(tokens: Any) -> tuple[Spread, Spread]:
    """Return the moments in log and in real space; the first of the continuous uniform.

    With lengths between a and b, E[ln X] = (b ln b - a ln a) / (b - a) - 1, and E[(ln X)²] is
    (b ln² b - a ln² a) / (b - a) - 2 E[ln X]. Whole lengths from `low` to `high` fill what lies
    half a token beyond both.
    """
    low, high = tokens.low, tokens.high
    whole = lengths.uniform_moments(low, high)
    real = (whole.mean, math.sqrt(whole.variance))
    if low == high:
        return (math.log(low), 0.0), real
    a, b = low - 0.5, high + 0.5
    mean = (b * math.log(b) - a * math.log(a)) / (b - a) - 1.0
    second = (b * math.log(b) ** 2 - a * math.log(a) ** 2) / (b - a) - 2.0 * mean
    return (mean, math.sqrt(max(second - mean**2, 0.0))), real


def _check_exponential(tokens: Any) -> None:
    if not 0 < tokens.mean <= MAX_TOKENS:
        allowed = f"> 0 and <= {MAX_TOKENS} tokens (mode: exponential)"
        raise InvalidParameterError("mean", tokens.mean, allowed)


def _exponential_spreads(tokens: Any) -> tuple[Spread, Spread]:
    # the logarithm of a standard exponential has mean -gamma and variance pi²/6
    log = (math.log(tokens.mean) - _EULER_GAMMA, math.pi / math.sqrt(6.0))
    return log, (tokens.mean, tokens.mean)


def _check_empirical(tokens: Any) -> None:
    if not tokens.path:
        raise InvalidParameterError("path", tokens.path, "a file of lengths (mode: empirical)")


def _empirical_spreads(tokens: Any) -> tuple[Spread, Spread]:
    values = lengths.read_lengths(Path(tokens.path))
    logs = np.log(values)
    return (float(logs.mean()), float(logs.std())), (float(values.mean()), float(values.std()))


LENGTHS: dict[str, LengthKind] = {
    "log": LengthKind(
        keys=("mean", "sigma", "min_value"),
        draw=lambda tokens, n, rng: lengths.lognormal(
            n, tokens.mean, tokens.sigma, tokens.min_value, rng
        ),
        spreads=_log_spreads,
        phrase=_log_phrase,
        check=_check_log,
    ),
    "fixed": LengthKind(
        keys=("value",),
        draw=lambda tokens, n, _: np.full(n, tokens.value, dtype=np.int64),
        spreads=lambda tokens: ((math.log(tokens.value), 0.0), (float(tokens.value), 0.0)),
        phrase=lambda tokens: str(tokens.value),
        check=_check_fixed,
    ),
    "uniform": LengthKind(
        keys=("low", "high"),
        draw=lambda tokens, n, rng: lengths.uniform(n, tokens.low, tokens.high, rng),
        spreads=_uniform_spreads,
        phrase=lambda tokens: f"{tokens.low} to {tokens.high}",
        check=_check_uniform,
    ),
    "exponential": LengthKind(
        keys=("mean", "min_value"),
        draw=lambda tokens, n, rng: lengths.exponential(n, tokens.mean, tokens.min_value, rng),
        spreads=_exponential_spreads,
        phrase=lambda tokens: f"exponential, mean {tokens.mean:.0f}",
        check=_check_exponential,
    ),
    "empirical": LengthKind(
        keys=("path",),
        draw=lambda tokens, n, rng: lengths.resample(
            n, lengths.read_lengths(Path(tokens.path)), rng
        ),
        spreads=_empirical_spreads,
        phrase=lambda tokens: f"of {tokens.path}",
        check=_check_empirical,
    ),
}
"""All kinds by the name that `mode` has."""

if TYPE_CHECKING:
    LengthName = str
else:
    LengthName = Literal[tuple(LENGTHS)]
