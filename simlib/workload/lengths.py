"""Prompt and output lengths in tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.files import read_text

Tokens = NDArray[np.int64]
MAX_TOKENS = 10**9
"""Longest length that a configuration or a file of lengths may ask for, in tokens."""
MAX_FILE_BYTES = 256 * 2**20
"""Largest file of lengths."""


def whole_tokens(real: NDArray[np.float64], min_value: int) -> Tokens:
    """Round real lengths to whole tokens, at least `min_value`."""
    return np.maximum(np.rint(real), min_value).astype(np.int64)


def lognormal(
    n: int, mean: float, sigma: float, min_value: int, rng: np.random.Generator
) -> Tokens:
    """Draw lengths whose logarithm is normal with `mean` and `sigma`, clipped from below.

    The first n draws are the same for every larger n.
    """
    return whole_tokens(np.exp(mean + sigma * rng.standard_normal(n)), min_value)


def exponential(n: int, mean: float, min_value: int, rng: np.random.Generator) -> Tokens:
    """Draw exponential lengths with `mean` tokens, rounded, clipped from below."""
    return whole_tokens(mean * rng.standard_exponential(n), min_value)


def uniform(n: int, low: int, high: int, rng: np.random.Generator) -> Tokens:
    """Draw whole lengths from `low` to `high`, both included, each as likely as the others."""
    # random() and not integers(): one draw per request, so prefixes agree for every n
    return low + (rng.random(n) * (high - low + 1)).astype(np.int64)


def resample(n: int, values: Tokens, rng: np.random.Generator) -> Tokens:
    """Draw with replacement from observed lengths."""
    # random() as in `uniform`
    return values[(rng.random(n) * len(values)).astype(np.int64)]


def read_lengths(path: Path) -> Tokens:
    """Read observed lengths: one whole number >= 1 a line, with or without a header line."""
    lines = read_text(path, "path", MAX_FILE_BYTES).splitlines()
    if lines and lines[0].strip() and not _is_number(lines[0]):
        first, lines = 2, lines[1:]
    else:
        first = 1
    values = []
    for number, line in enumerate(lines, start=first):
        text = line.strip()
        # isdigit() alone accepts superscripts, which int() does not
        digits = text.isascii() and text.isdigit() and len(text) <= 12
        if not (digits and 1 <= int(text) <= MAX_TOKENS):
            raise InvalidParameterError(
                "length", text, f"a whole number >= 1 and <= {MAX_TOKENS}", f"{path}, line {number}"
            )
        values.append(int(text))
    if not values:
        raise InvalidParameterError("lengths", "no values", "at least one number", str(path))
    return np.array(values, dtype=np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Moments:
    """First two moments of a length distribution, in tokens."""

    mean: float
    second: float

    @property
    def variance(self) -> float:
        """Variance in tokens squared."""
        return self.second - self.mean**2


def uniform_moments(low: int, high: int) -> Moments:
    """Return the moments of `uniform`; n whole numbers in a row have variance (n² - 1) / 12."""
    mean = 0.5 * (low + high)
    return Moments(mean, mean**2 + ((high - low + 1) ** 2 - 1) / 12.0)


def lognormal_moments(mean: float, sigma: float, min_value: int) -> Moments:
    """Return the moments of `lognormal` as drawn: rounded, and clipped at `min_value`.

    They are sums over the probabilities of the whole numbers up to the rounded lognormal's
    far tail; above that, the partial expectations of the continuous lognormal,
    E[X^k; X > x] = exp(k mean + k² sigma²/2) Φ((mean + k sigma² - ln x) / sigma).
    """
    if sigma == 0.0:
        value = max(float(np.rint(math.exp(mean))), float(min_value))
        return Moments(value, value * value)
    last = max(int(math.exp(min(mean + 4.0 * sigma, 15.0))), min_value) + 1
    edges = np.arange(min_value, last + 1) + 0.5
    below = np.array([_normal_cdf((math.log(edge) - mean) / sigma) for edge in edges])
    probability = np.diff(below, prepend=0.0)
    values = np.arange(min_value, last + 1, dtype=np.float64)
    moments = []
    for k in (1, 2):
        far = math.exp(k * mean + 0.5 * (k * sigma) ** 2)
        tail = far * _normal_cdf((mean + k * sigma**2 - math.log(edges[-1])) / sigma)
        moments.append(float(np.sum(values**k * probability)) + tail)
    return Moments(*moments)


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
