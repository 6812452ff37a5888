"""What is said of several comparisons: families of tests, parts of a difference, crossovers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simlib.errors import InvalidParameterError
from simlib.stats.curve import mean_curve
from simlib.stats.intervals import Floats, Interval, as_column


@dataclass(frozen=True, slots=True)
class Holm:
    """Result of Holm's procedure, in the order of the p values given."""

    rejected: NDArray[np.bool_]
    adjusted_p: Floats
    """Smallest family-wise level at which each hypothesis is rejected."""


@dataclass(frozen=True, slots=True)
class Crossover:
    """Where along a swept factor the difference changes its sign."""

    x: Interval
    """Where; an end is infinite if the swept range does not bound it."""
    sign_below: int
    """Sign of the significant difference left of it: +1, -1, or 0 where none is significant."""
    sign_above: int


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each additive part of a metric contributes to its difference."""

    parts: dict[str, Interval]
    total: Interval
    """Difference of the sum; its estimate is the sum of the parts' estimates."""


def holm(p_values: ArrayLike, alpha: float = 0.05) -> Holm:
    """Test a family of hypotheses at a family-wise level: Holm's step-down procedure.

    Valid under any dependence between the tests. A NaN is a test that was not made: it does not
    count in the family, and is not rejected.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", *Scandinavian
    Journal of Statistics* 6 (1979).

    Raises
    ------
    InvalidParameterError
        For alpha outside (0, 1), or a p value outside [0, 1].
    """
    if not 0 < alpha < 1:
        raise InvalidParameterError("alpha", alpha, "> 0 and < 1")
    p = as_column(p_values)
    if np.any((p < 0) | (p > 1)):
        raise InvalidParameterError("p_values", p.tolist(), ">= 0 and <= 1")
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    steps = made.size - np.arange(made.size)
    adjusted = np.full(p.size, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    rejected = np.zeros(p.size, dtype=np.bool_)
    rejected[made] = adjusted[made] <= alpha
    return Holm(rejected, adjusted)


def attribution(
    baseline: Mapping[str, ArrayLike], candidate: Mapping[str, ArrayLike], level: float = 0.95
) -> Attribution:
    """Split the difference of a sum into the differences of its parts.

    Means are additive, so the parts' estimates sum to the total's; percentiles are not.

    Parameters
    ----------
    baseline, candidate : mapping of name to array_like, shape (replicates,)
        The mean of each part in each replicate; the same names on both sides.
    """
    if list(baseline) != list(candidate):
        raise InvalidParameterError("candidate", list(candidate), f"of parts {list(baseline)}")
    differences = {}
    for name in baseline:
        b, c = _pair(baseline[name], candidate[name])
        differences[name] = c - b
    total = np.sum(list(differences.values()), axis=0)
    parts = {name: mean_curve(values).interval(level) for name, values in differences.items()}
    return Attribution(parts, mean_curve(total).interval(level))


def crossovers(x: ArrayLike, differences: Sequence[Interval]) -> list[Crossover]:
    """Return where along `x` the difference changes its sign, in order.

    Difference and interval are interpolated linearly between the swept values. The interval of a
    crossover is the stretch around it on which the difference is not significant (as in Fieller's
    method: the true crossover lies in it whenever the interval of the difference there covers 0). A
    stretch with the same significant sign on both sides is no crossover. One that reaches the end
    of the swept range has an infinite end, and counts only if the estimate changes its sign in it.
    Several sign changes of the estimate within one stretch cannot be told apart and are one.

    Parameters
    ----------
    x : array_like, shape (points,)
        Values of the swept factor, strictly increasing.
    differences : sequence of Interval, length points
        Candidate minus baseline at each. One without an interval (an unstable point) splits the
        range: nothing is interpolated across it.

    Returns
    -------
    list of Crossover
        Empty if the difference never changes its sign.
    """
    at = as_column(x)
    if len(differences) != at.size:
        raise InvalidParameterError("differences", len(differences), f"of length {at.size}")
    if np.any(np.diff(at) <= 0):
        raise InvalidParameterError("x", at.tolist(), "strictly increasing")
    known = [bool(np.isfinite(d.low + d.estimate + d.high)) for d in differences]
    found: list[Crossover] = []
    for present, group in groupby(range(at.size), key=known.__getitem__):
        indices = list(group)
        if present and len(indices) > 1:
            found += _crossovers_within(at[indices], [differences[i] for i in indices])
    return found


def _crossovers_within(x: Floats, differences: list[Interval]) -> list[Crossover]:
    curves = [np.array([getattr(d, end) for d in differences]) for end in _ENDS]
    # With every zero of the three curves a grid point, nothing changes within a cell.
    grid = np.unique(np.concatenate([x, *(_zeros(x, curve) for curve in curves)]))
    middle = (grid[:-1] + grid[1:]) / 2.0
    low, estimate, high = (np.interp(middle, x, curve) for curve in curves)
    sign = (low > 0).astype(int) - (high < 0).astype(int)
    runs = [(value, list(cells)) for value, cells in groupby(range(sign.size), lambda i: sign[i])]
    found = []
    for number, (value, cells) in enumerate(runs):
        below = int(runs[number - 1][0]) if number > 0 else 0
        above = int(runs[number + 1][0]) if number + 1 < len(runs) else 0
        if value != 0:
            # Only an interval of no width jumps from one significant sign to the other.
            if below * value < 0:
                edge = float(grid[cells[0]])
                found.append(Crossover(Interval(edge, edge, edge, _METHOD), below, int(value)))
            continue
        moving = [i for i in cells if estimate[i] != 0]
        changes = [
            float(grid[i + 1] + grid[j]) / 2.0  # apart only if the estimate stays at 0 in between
            for i, j in pairwise(moving)
            if estimate[i] * estimate[j] < 0
        ]
        if not moving and below * above < 0:
            changes = [float(grid[cells[0]] + grid[cells[-1] + 1]) / 2.0]
        if not changes or (below != 0 and below == above):
            continue
        start = float(grid[cells[0]]) if number > 0 else -math.inf
        end = float(grid[cells[-1] + 1]) if number + 1 < len(runs) else math.inf
        reasons = []
        if math.isinf(start) or math.isinf(end):
            reasons.append("the swept range does not bound it")
        if len(changes) > 1:
            reasons.append(f"the difference changes its sign {len(changes)} times within it")
        where = changes[len(changes) // 2]
        interval = Interval(start, where, end, _METHOD, "; ".join(reasons))
        found.append(Crossover(interval, below, above))
    return found


_ENDS = ("low", "estimate", "high")
_METHOD = "interpolated between swept values"


def _zeros(x: Floats, y: Floats) -> Floats:
    """Return the zeros of the line through the points, those inside its segments."""
    i = np.flatnonzero(np.sign(y[:-1]) * np.sign(y[1:]) < 0)
    return np.asarray(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1]))


def _pair(baseline: ArrayLike, candidate: ArrayLike) -> tuple[Floats, Floats]:
    b, c = as_column(baseline), as_column(candidate)
    if b.size != c.size:
        raise InvalidParameterError("candidate", c.size, f"of the baseline's length, {b.size}")
    return b, c
