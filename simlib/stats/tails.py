"""Percentiles over replicates, by inverting the interval of the share of requests beyond a value.

The spread of the replicates' own percentiles says little of the pooled percentile's error where
few long busy periods make the tail. But the share of requests beyond a value x is a mean over
replicates, with a confidence curve of its own (skewed as waits are, the more the further out), and
the p99 may be any x beyond which the share may be 1%. Nothing is assumed of the tail's shape, and
an upper end that the data do not bound is open.

Source: R. S. Woodruff, "Confidence intervals for medians and other position measures", *Journal of
the American Statistical Association* 47 (1952), doi:10.1080/01621459.1952.10483443.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simlib.stats.curve import (
    UNKNOWN_BURSTS,
    Curve,
    no_curve,
    skewness_of_waits,
    standard_error,
    transform,
)
from simlib.stats.intervals import Floats, enough_for_percentile

FEWEST_BURSTS = 4.0
"""With fewer independent bursts beyond a percentile, it may well lie beyond all that was seen: that
4 bursts are expected and none comes has probability exp(-4) = 2%, an interval's upper error."""
_CANDIDATES = 400
_COARSE = 200
_FARTHEST = 20.0
"""Candidates reach to scores of this size; further out no interval and no p value asks."""


def percentile_curve(
    runs: Sequence[Floats],
    q: float,
    *,
    pooled: Floats | None = None,
    unit: str = "replicates",
    bursts: float = UNKNOWN_BURSTS,
) -> Curve:
    r"""Return the confidence curve of the `q`-th percentile of all replicates together.

    The score of x is that of the share beyond x against :math:`1 - q/100`, by the replicates'
    shares (`simlib.stats.curve.transform` of their t statistic). The curve is open above where
    fewer than `FEWEST_BURSTS` independent bursts lie beyond the estimate; their number is
    estimated as the squared share over its variance, as if bursts came like a Poisson process.

    Parameters
    ----------
    runs : sequence of arrays, shape (requests,)
        The values of each replicate (or batch), *sorted*. A NaN, sorted last, is a request that
        never got so far: it lies beyond every value.
    q : float
        Percent, 0 < q < 100. All together must have 10 requests beyond it.
    pooled : array, shape (all requests,), optional
        All values together, sorted; saves sorting them for each percentile.
    bursts : float
        That are expected beyond it in each replicate (or batch), for `skewness_of_waits`.
    """
    n = len(runs)
    share = 1.0 - q / 100.0
    method = f"inverted share beyond it, skewness-corrected t over {n} {unit}"
    if pooled is None:
        pooled = np.sort(np.concatenate(runs)) if n else np.empty(0)
    present = pooled[: int(np.searchsorted(pooled, math.inf, side="right"))]  # NaN sorts last
    missing = pooled.size - present.size
    short = enough_for_percentile(pooled.size, q)
    if short is not None:
        return no_curve(method, short)
    if not all(run.size for run in runs):
        return no_curve(method, f"some of {n} {unit} have no requests")
    if missing >= share * pooled.size:
        return no_curve(method, f"{missing} of {pooled.size} requests have no value")

    def shares(values: Floats) -> Floats:
        beyond = [1.0 - np.searchsorted(run, values, side="right") / run.size for run in runs]
        return np.stack(beyond, axis=1)

    def scores(values: Floats) -> Floats:
        return _scores(shares(values), share, bursts)

    if n == 1:
        return no_curve(method, f"one of {unit} gives no interval", _plain(pooled, q))
    values = _candidates(present, scores)
    table = np.minimum.accumulate(scores(values))  # skewness can make it rise a little
    estimate = _plain(pooled, q)
    own = shares(np.array([estimate]))[0]
    residuals = own - np.mean(own)
    variance = float(standard_error(residuals)) ** 2
    bursts = share**2 / variance if variance > 0 else math.inf
    few = f"fewer than {FEWEST_BURSTS:g} independent bursts lie beyond p{q:g} ({bursts:.1f})"

    def value_at(score: Floats) -> Floats:
        place = np.searchsorted(-table, -np.asarray(score), side="left")
        return np.append(values, np.inf)[place]

    def score_of(value: Floats) -> Floats:
        place = np.searchsorted(values, np.asarray(value), side="right")
        return np.concatenate([[np.inf], table])[place]

    return Curve(
        estimate,
        value_at,
        score_of,
        residuals,
        n - 1,
        method,
        open_above=few if bursts < FEWEST_BURSTS else "",
    )


def _plain(pooled: Floats, q: float) -> float:
    """Return the percentile of sorted values, as NumPy interpolates it; NaN lies beyond all."""
    place = q / 100.0 * (pooled.size - 1)
    low = int(place)
    below, above = float(pooled[low]), float(pooled[min(low + 1, pooled.size - 1)])
    if place == low or below == above:
        return below
    return math.inf if math.isnan(above) else below + (place - low) * (above - below)


def _candidates(pooled: Floats, scores: object) -> Floats:
    """Return order statistics that cover the scores that matter, without repetition."""
    assert callable(scores)
    places = _coarse(pooled.size)
    near = np.flatnonzero(np.abs(scores(pooled[places])) < _FARTHEST)
    if near.size == 0:
        return np.unique(pooled[places])
    first = places[max(int(near[0]) - 1, 0)]
    final = places[min(int(near[-1]) + 1, places.size - 1)]
    fine = np.linspace(first, final, _CANDIDATES).astype(np.int64)
    inside = places[(places >= first) & (places <= final)]
    return np.unique(pooled[np.union1d(fine, inside)])


@lru_cache(maxsize=64)  # the metrics of a point have as many values each
def _coarse(size: int) -> NDArray[np.int64]:
    """Return some places in so many sorted values, the largest one by one.

    The tail of a tail is where a p99's upper end is.
    """
    spread = np.linspace(0, size - 1, _COARSE).astype(np.int64)
    top = size - np.geomspace(1, size, _COARSE).astype(np.int64)
    return np.union1d(spread, np.clip(top, 0, size - 1))


def _scores(shares: Floats, share: float, bursts: float) -> Floats:
    """Return the score of `share`, from the replicates' shares; shape (values, replicates)."""
    mean = np.mean(shares, axis=1)
    residuals = shares - mean[:, None]
    error = standard_error(residuals)
    away = mean - share
    alike = error <= 1e-12
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(alike, 0.0, away / np.where(alike, 1.0, error))
    sure = np.where(np.abs(away) <= 1e-12, 0.0, np.copysign(np.inf, away))
    weight = max(1.0 - 2.0 * share, 0.0)  # a median's is not skewed
    skew = skewness_of_waits(residuals, bursts, weight)
    score = transform(t, skew / math.sqrt(shares.shape[1]))
    return np.where(alike, sure, score)
