"""Monotone cubics: a smooth curve through values that has no extremum between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import Floats, as_column


def monotone_cubic(x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Floats:
    """Return the values at `at` of piecewise cubics through (x, y) that are monotone where y is.

    Slopes within are weighted harmonic means of the secants' on both sides, and 0 at an extremum;
    at the ends they are those of a parabola through three values, limited.

    Source: F. N. Fritsch, J. Butland, "A method for constructing local monotone piecewise cubic
    interpolants" (1984), doi:10.1137/0905021.

    Parameters
    ----------
    x : array_like, shape (n,), n >= 2
        Strictly increasing.
    y : array_like, shape (n,)
        Finite values.
    at : array_like, shape (m,)
        Places from ``x[0]`` to ``x[-1]``.

    Raises
    ------
    InvalidParameterError
        If x and y differ in length, or are fewer than two.
    """
    x, y, at = as_column(x), as_column(y), as_column(at)
    if x.size < 2 or y.size != x.size:
        raise InvalidParameterError("y", f"{y.size} values", f"as many as x, {x.size}, and >= 2")
    h = np.diff(x)
    secant = np.diff(y) / h
    slope = _slopes(h, secant)
    cell = np.clip(np.searchsorted(x, at, side="right") - 1, 0, x.size - 2)
    t, h, secant = at - x[cell], h[cell], secant[cell]
    left, right = slope[cell], slope[cell + 1]
    square = (3.0 * secant - 2.0 * left - right) / h
    cube = (left + right - 2.0 * secant) / h**2
    return y[cell] + t * (left + t * (square + t * cube))


def _slopes(h: Floats, secant: Floats) -> Floats:
    if h.size == 1:
        return np.array([secant[0], secant[0]])
    slope = np.zeros(h.size + 1)
    same = secant[:-1] * secant[1:] > 0
    before, after = h[1:] + 2.0 * h[:-1], 2.0 * h[1:] + h[:-1]
    mean = before[same] + after[same]
    slope[1:-1][same] = mean / (after[same] / secant[:-1][same] + before[same] / secant[1:][same])
    slope[0] = _end_slope(h[0], h[1], secant[0], secant[1])
    slope[-1] = _end_slope(h[-1], h[-2], secant[-1], secant[-2])
    return slope


def _end_slope(h: float, next_h: float, secant: float, next_secant: float) -> float:
    """Return the slope at an end: of a parabola, but of the secant's sign and at most thrice it."""
    slope = ((2.0 * h + next_h) * secant - h * next_secant) / (h + next_h)
    if slope * secant <= 0:
        return 0.0
    if secant * next_secant <= 0 and abs(slope) > 3.0 * abs(secant):
        return 3.0 * secant
    return slope
