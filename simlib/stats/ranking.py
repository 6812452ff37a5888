r"""The best of a field, and how much better: ranking and selection with paired samples.

Each system has one value per replicate, and replicate k of all systems is made of the same random
numbers, so what two systems share counts for their difference. Systems may differ in their number
of replicates: those that are far behind need few. A field has many pairs, but a claim about
its best needs only those pairs that contain the (unknown) best: k - 1 one-sided intervals, not
k (k - 1) / 2, made simultaneous by Bonferroni, which holds whatever the correlation that common
random numbers bring.

Sources: J. C. Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the
best" (1984), doi:10.1214/aos/1176346732; B. L. Nelson, F. J. Matejcik, "Using common random
numbers for indifference-zone selection and multiple comparisons in simulation" (1995),
doi:10.1287/mnsc.41.12.1935.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import Floats, Interval, as_column, empty
from simlib.stats.student import check_level, t_quantile

FEWEST_PAIRS = 3
"""Fewer replicates have no spread to speak of."""

Claim = Literal["first", "second", "too close to call"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one system stands in its field."""

    name: str
    estimate: float
    behind_best: Interval
    """Its value less that of the best other one: above 0 for the best. The intervals of all
    systems hold at once; as Hsu's, they always reach 0."""
    tied: bool
    """True if it may be the best, or is behind by no more than the indifference zone."""


@dataclass(frozen=True, slots=True)
class Duel:
    """The best of one group against the best of another."""

    margin: Interval
    """Best of the first less best of the second, with the multiplicity of both groups."""
    claim: Claim
    first: str
    """Name of the best of the first group, by its estimate."""
    second: str


def rank(
    samples: Mapping[str, Floats], *, indifference: float = 0.0, level: float = 0.95
) -> list[Standing]:
    """Return the systems of a field, best (largest mean) first, with ties kept.

    Multiple comparisons with the best: the intervals of all systems hold together with probability
    `level`. A system is tied if its interval reaches 0, or if its estimate is within `indifference`
    of the best one.

    Parameters
    ----------
    samples
        By system one value per replicate, shape (replicates,); not all need equally many.
    indifference
        Differences up to this do not matter, in the unit of the values.

    Raises
    ------
    InvalidParameterError
        For no systems, a negative indifference, or a level outside (0, 1).
    """
    _check(indifference, level)
    values = _columns(list(samples.values()))
    names = list(samples)
    means = np.array([column.mean() for column in values])
    best = float(means.max())
    lows, highs = _bounds(values, values, (1.0 - level) / max(1, len(names) - 1))
    standings = []
    for i, name in enumerate(names):
        others = [j for j in range(len(names)) if j != i]
        if not others:
            nothing = empty("alone", "there is no other", math.nan)
            standings.append(Standing(name, float(means[i]), nothing, tied=True))
            continue
        gap = float(means[i] - means[others].max())
        low, high = float(lows[i, others].min()), float(highs[i, others].min())
        method = f"multiple comparisons with the best, {values[i].size} replicates"
        behind = Interval(min(low, gap, 0.0), gap, max(high, gap, 0.0), method)
        tied = high >= 0.0 or best - float(means[i]) <= indifference
        standings.append(Standing(name, float(means[i]), behind, tied))
    return sorted(standings, key=lambda standing: -standing.estimate)


def duel(
    first: Mapping[str, Floats],
    second: Mapping[str, Floats],
    *,
    indifference: float = 0.0,
    level: float = 0.95,
) -> Duel:
    r"""Compare the best of one group with the best of another, all of them being estimates.

    The margin is :math:`\max_i \mu_i - \max_j \mu_j`. With one-sided bounds of every pair,
    :math:`\max_i \min_j L_{ij}` and :math:`\max_i \min_j U_{ij}` bound it. The lower one
    can err only through pairs of the second group's best, the upper one only through those of the
    first group's best: so each is shared by one group only, at half of ``1 - level``. Without this,
    the best of many noisy estimates would look better than it is.

    A claim needs an interval that leaves out 0 and a margin of more than `indifference`.

    Parameters
    ----------
    first, second
        By system one value per replicate.
    indifference
        Margins up to this are too close to call whatever their interval.

    Raises
    ------
    InvalidParameterError
        For an empty group, a negative indifference, or a level outside (0, 1).
    """
    _check(indifference, level)
    if not first or not second:
        counts = [len(first), len(second)]
        raise InvalidParameterError("systems", counts, "at least one in each group")
    a, b = _columns(list(first.values())), _columns(list(second.values()))
    lows, _ = _bounds(a, b, (1.0 - level) / 2.0 / len(a))
    _, highs = _bounds(a, b, (1.0 - level) / 2.0 / len(b))
    best_a, best_b = (int(np.argmax([column.mean() for column in group])) for group in (a, b))
    replicates = min(a[best_a].size, b[best_b].size)
    estimate = float(a[best_a].mean() - b[best_b].mean())
    margin = Interval(
        min(float(lows.min(axis=1).max()), estimate),
        estimate,
        max(float(highs.min(axis=1).max()), estimate),
        f"paired, best of {len(a)} against best of {len(b)}, {replicates} replicates",
    )
    claim: Claim = "too close to call"
    if margin.low > 0.0 and estimate > indifference:
        claim = "first"
    elif margin.high < 0.0 and -estimate > indifference:
        claim = "second"
    return Duel(margin, claim, list(first)[best_a], list(second)[best_b])


def contenders(
    samples: Mapping[str, Floats], *, indifference: float = 0.0, level: float = 0.99
) -> set[str]:
    """Return the systems that may be the best, or within `indifference` of it, of a field.

    A first stage with few replicates: the others need no more. The best one is wrongly left out
    with a probability of at most 1 - `level`, whatever the number of systems, because only the
    pairs that contain it can err.

    Raises
    ------
    InvalidParameterError
        For no systems, a negative indifference, or a level outside (0, 1).
    """
    _check(indifference, level)
    values = _columns(list(samples.values()))
    _, highs = _bounds(values, values, (1.0 - level) / max(1, len(values) - 1))
    return {
        name
        for name, row in zip(samples, highs.min(axis=1), strict=True)
        if float(row) >= -indifference
    }


def _bounds(
    first: Sequence[Floats], second: Sequence[Floats], one_sided: float
) -> tuple[Floats, Floats]:
    r"""Return lower and upper bounds of all differences of means, each erring with `one_sided`.

    Of two systems with n and k replicates, m of them common, either the paired difference over
    the m, with :math:`s_{a-b}^2 / m`, or the difference of both means over all they have, with
    :math:`s_a^2 / n + s_b^2 / k - 2 m s_{ab} / (n k)`: whichever varies less.
    Shape (first, second).
    """
    sizes = [np.array([column.size for column in group]) for group in (first, second)]
    means = [np.array([column.mean() for column in group]) for group in (first, second)]
    errors = [
        np.array([np.var(column, ddof=1) / column.size for column in group])
        for group in (first, second)
    ]
    common = np.minimum.outer(sizes[0], sizes[1])
    difference, variance = np.subtract.outer(means[0], means[1]), np.add.outer(errors[0], errors[1])
    quantile = np.empty(common.shape)
    for m in np.unique(common):
        (a, at_a), (b, at_b) = (_first(group, int(m)) for group in (first, second))
        shared = (a @ b.T) / (m - 1)
        own = np.add.outer((a**2).sum(axis=1), (b**2).sum(axis=1)) / (m - 1)
        paired = (own - 2.0 * shared) / m
        all_ = variance - 2.0 * m * shared / np.multiply.outer(sizes[0], sizes[1])
        those = common == m
        better = those & (paired < all_)
        variance = np.where(those, np.minimum(paired, all_), variance)
        difference = np.where(better, np.subtract.outer(at_a, at_b), difference)
        quantile[those] = t_quantile(1.0 - 2.0 * one_sided, int(m) - 1)
    half = quantile * np.sqrt(np.maximum(variance, 0.0))
    return difference - half, difference + half


def _first(group: Sequence[Floats], m: int) -> tuple[Floats, Floats]:
    """Return the first m values of each less their mean, and the means; 0 for those with fewer."""
    means = np.array([c[:m].mean() if c.size >= m else 0.0 for c in group])
    rows = [
        c[:m] - mean if c.size >= m else np.zeros(m) for c, mean in zip(group, means, strict=True)
    ]
    return np.array(rows), means


def _columns(samples: Sequence[Floats]) -> list[Floats]:
    columns = [as_column(sample) for sample in samples]
    n = min((column.size for column in columns), default=0)
    if n < FEWEST_PAIRS:
        raise InvalidParameterError("replicates", n, f"at least {FEWEST_PAIRS} of each system")
    if not all(np.all(np.isfinite(column)) for column in columns):
        raise InvalidParameterError("samples", "a value that is not finite", "finite numbers")
    return columns


def _check(indifference: float, level: float) -> None:
    check_level(level)
    if not indifference >= 0:
        raise InvalidParameterError("indifference", indifference, ">= 0")
