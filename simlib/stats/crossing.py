"""Where along a swept factor the faster side changes, from bands that agree with the verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from simlib.errors import InvalidParameterError
from simlib.stats.compare import Crossover, crossovers
from simlib.stats.intervals import Floats, Interval, as_column
from simlib.stats.monotone import monotone_cubic

_STEPS = 50
"""Interpolated points between two swept values."""
_LARGEST_LOG = 20.0
"""Stands for an end of a band that the data do not bound."""
_METHOD = "monotone cubic between swept values, on the log ratio"


def ratio_crossovers(x: ArrayLike, ratios: Sequence[Interval]) -> list[Crossover]:
    """Return where the ratio of candidate over baseline passes 1, in order along `x`.

    Estimate and band of the log ratio are interpolated by monotone cubics, which follow the bend of
    waits near saturation; straight lines between few loads find the crossing too early. With bands
    at the levels of the family (`simlib.stats.family.Decision.level`), a swept value where a
    difference is claimed lies outside every crossover's interval, and has its sign on that side.

    Parameters
    ----------
    x : array_like, shape (points,)
        Values of the swept factor, strictly increasing.
    ratios : sequence of Interval, length points
        Candidate over baseline. One without an interval splits the range: nothing is interpolated
        across it. Ends that are not bounded are.

    Returns
    -------
    list of Crossover
        As `simlib.stats.compare.crossovers`; sign +1 where the candidate is slower.
    """
    at = as_column(x)
    if len(ratios) != at.size:
        raise InvalidParameterError("ratios", len(ratios), f"of length {at.size}")
    if np.any(np.diff(at) <= 0):
        raise InvalidParameterError("x", at.tolist(), "strictly increasing")
    known = np.array([bool(one.estimate > 0 and one.low >= 0) for one in ratios])  # NaN is not
    edges = np.flatnonzero(np.diff(known.astype(int))) + 1
    found: list[Crossover] = []
    for places in np.split(np.arange(at.size), edges):
        if places.size > 1 and known[places[0]]:
            found += _within(at[places], [ratios[k] for k in places])
    return found


def _within(x: Floats, ratios: list[Interval]) -> list[Crossover]:
    cells = [np.linspace(a, b, _STEPS, endpoint=False) for a, b in pairwise(x)]
    fine = np.append(np.concatenate(cells), x[-1])
    curves = [
        monotone_cubic(x, [_log(getattr(one, end)) for one in ratios], fine)
        for end in ("low", "estimate", "high")
    ]
    bands = [Interval(low, at, high, _METHOD) for low, at, high in np.stack(curves, axis=1)]
    return [replace(one, x=replace(one.x, method=_METHOD)) for one in crossovers(fine, bands)]


def _log(value: float) -> float:
    if value <= 0:
        return -_LARGEST_LOG
    return min(max(math.log(value), -_LARGEST_LOG), _LARGEST_LOG)
