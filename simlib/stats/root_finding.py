"""The highest rate that still keeps a target: stochastic root finding with common random numbers.

The share of requests within an SLO falls as the rate grows. Where it crosses the share asked for is
the capacity. Each rate is measured by the same replicates, made of the same random numbers, so the
curves of the replicates move together, and the crossing can be bracketed and read between two
close rates.

Source: R. Pasupathy, S. Kim, "The stochastic root-finding problem: overview, solutions, and open
questions" (2011), doi:10.1145/1921598.1921603.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.stats.curve import inverse_transform, skewness
from simlib.stats.intervals import Floats, Interval, empty
from simlib.stats.student import check_level, t_quantile

FEWEST_REPLICATES = 12
"""Stopping as soon as few replicates happen to agree would give intervals that are too narrow."""
SCOUTS = 3
"""Replicates that say on which side of a rate the capacity lies, roughly."""
_STEP = 1.4
"""From rate to rate while nothing brackets the capacity: an overloaded run costs more than a step
too many."""
_MORE = 1.5
"""Replicates grow by this at most; a width counts once so many more have confirmed it."""
_SKEW = 1.3
"""The skewness of few replicates is smaller than that of all, the more so the heavier the tail."""
_GAP = 4.0
"""Rates next to the crossing are this many half widths apart at most: the curve is bent."""
_MOST_RATES = 80

Outcome = Literal["found", "stability", "never", "always"]


@dataclass(frozen=True, slots=True)
class Attainment:
    """What the replicates of one rate say."""

    shares: Floats
    """Share of requests within the SLO in each replicate, from the first on; shape (replicates,)"""
    requests: int
    """Requests of a replicate, about."""
    stable: bool = True
    """False where the queue grows without end: no such rate is a capacity."""


Measure = Callable[[float, int], Attainment]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate at which the target is kept."""

    interval: Interval
    """In the unit of the rates; without ends where the outcome leaves none."""
    outcome: Outcome
    """``found``; ``stability``: the queue grows without end before the target is missed; ``never``:
    missed even at the lowest rate; ``always``: kept even at the highest."""
    replicates: int
    """Of each rate next to the capacity."""
    log_pseudo_values: Floats
    """Jackknife pseudo-values of the capacity's logarithm, shape (replicates,): their mean is the
    logarithm of the estimate, and they pair by replicate with those of other searches that use the
    same random numbers. Empty for ``never`` and ``always``."""
    rates: tuple[float, ...]
    """Every rate that was measured, ascending."""


@dataclass
class _Curve:
    """The rates measured so far."""

    measure: Measure
    target: float
    level: float
    snap: Callable[[float], float]
    seen: dict[float, Attainment] = field(default_factory=dict)

    def at(self, rate: float, replicates: int) -> Attainment:
        known = self.seen.get(rate)
        if known is None or known.shares.size < replicates:
            if known is None and len(self.seen) >= _MOST_RATES:
                raise RuntimeError(f"no capacity within {_MOST_RATES} rates")
            known = self.seen[rate] = self.measure(rate, replicates)
        return known

    def keeps(self, rate: float, replicates: int) -> bool:
        one = self.at(rate, replicates)
        return one.stable and float(np.mean(one.shares)) >= self.target

    def rates(self, replicates: int) -> list[float]:
        """Return the rates that have so many replicates, ascending."""
        return sorted(r for r, one in self.seen.items() if one.shares.size >= replicates)

    def unstable_but_kept(self, rate: float) -> bool:
        """Return whether only the end of the run kept a growing queue within the SLO."""
        one = self.seen[rate]
        return not one.stable and float(np.mean(one.shares)) >= self.target

    def log_misses(self, rates: list[float], replicates: int) -> tuple[Floats, Floats]:
        """Return the logarithm of the share that misses, of all replicates and without each.

        Shapes (rates,) and (rates, replicates). A share below half a request counts as that.
        """
        whole, without = [], []
        for rate in rates:
            one = self.seen[rate]
            missed = 1.0 - one.shares[:replicates]
            if self.unstable_but_kept(rate):
                missed = np.ones(replicates)
            total, fewer = float(missed.sum()), replicates - 1
            whole.append(max(total / replicates, 0.5 / (replicates * one.requests)))
            without.append(np.maximum((total - missed) / fewer, 0.5 / (fewer * one.requests)))
        return np.log(np.array(whole)), np.log(np.array(without))


def find_capacity(
    measure: Measure,
    *,
    target: float,
    start: float,
    lowest: float,
    highest: float = math.inf,
    relative: float = 0.02,
    max_replicates: int = 64,
    level: float = 0.95,
    snap: Callable[[float], float] = float,
    known: Sequence[float] = (),
) -> Capacity:
    """Return the highest rate at which the mean of a falling curve is at least `target`.

    Three replicates bracket the crossing in steps of 40%. Then at least 12 measure the rates next
    to it. The logarithm of the share that misses, of all replicates together, is read linearly
    between two rates, which is exact where waits have an exponential tail. Leaving out one
    replicate at a time moves the crossing; the jackknife makes the interval of its logarithm.
    Rates are added, a half width beside the crossing, until none of these crossings lies outside
    them and the next ones are no further apart than twice the interval, and replicates until its
    half width is `relative` times the estimate, or there are `max_replicates`.

    Chosen by measurement, on other cases than those that the page on decisions reports. Misses come
    in rare busy periods, so shares of replicates are skewed. Stopping as soon as the interval is
    narrow favours replicates that look alike: a width counts once half as many replicates again
    confirm it. Hall's transformation alone covered 92 to 93% and 78 to 82% in the worst case (heavy
    tails); confirmed, with 1.3 times the skewness of the sample, and never narrower than Student's
    at either end, 95 to 96% and 90 to 92%. An interval that tests each rate has no end where one
    replicate has all misses.

    Sources: R. G. Miller (1974), doi:10.1093/biomet/61.1.1; P. Hall, "On the removal of skewness by
    transformation", J. R. Statist. Soc. B 54 (1992), 221-228.

    Parameters
    ----------
    measure
        Called with a rate and a number of replicates. Replicate k of every rate uses the same
        random numbers. A rate is measured again only for more replicates.
    target
        Share to keep, 0 < target < 1.
    start, lowest, highest
        A first guess of the capacity, and the range to look in.
    relative
        Wanted half width over the estimate.
    max_replicates
        Where to stop in any case; at least 3.
    level
        Confidence level.
    snap
        Moves a rate to the nearest one that may be measured, such as one of three digits, which
        other searches then share.
    known
        Rates that `measure` has already: the crossing is bracketed by them, as far as they go.

    Raises
    ------
    InvalidParameterError
        For a target or level outside (0, 1), an empty range, or fewer than 3 replicates.
    """
    _check(target, start, lowest, highest)
    check_level(level)
    if not relative > 0:
        raise InvalidParameterError("relative", relative, "> 0")
    if max_replicates < SCOUTS:
        raise InvalidParameterError("max_replicates", max_replicates, f">= {SCOUTS}")
    curve = _Curve(measure, target, level, snap)
    replicates = min(FEWEST_REPLICATES, max_replicates)
    for rate in _bracket(curve, start, lowest, highest, known):
        if rate is not None:
            curve.at(rate, replicates)
    narrow = False
    while True:
        roots = _settled(curve, replicates, relative, lowest, highest)
        if not math.isfinite(roots.whole) or _is_step(curve, roots):
            break
        width = roots.interval(level).relative_half_width
        if (width <= relative and narrow) or replicates >= max_replicates:
            break
        narrow = width <= relative
        enough = math.ceil(replicates * (width / relative) ** 2)
        # half as many again at most: the width of few replicates is itself uncertain
        most = math.ceil(_MORE * replicates)
        wanted = most if narrow else max(replicates + 1, min(enough, most))
        replicates = min(wanted, max_replicates)
        for rate in _around(roots):
            curve.at(rate, replicates)
    return _capacity(curve, roots)


def rough_capacity(
    measure: Measure,
    *,
    target: float,
    start: float,
    lowest: float,
    highest: float = math.inf,
    snap: Callable[[float], float] = float,
    known: Sequence[float] = (),
) -> float:
    """Return where the curve crosses the target as three replicates see it, without an interval.

    Read between two rates that are at most 40% apart. 0 if the target is missed at every rate of
    the range, inf if it is kept at every one. Parameters are those of `find_capacity`.
    """
    _check(target, start, lowest, highest)
    curve = _Curve(measure, target, 0.0, snap)
    rates = [r for r in _bracket(curve, start, lowest, highest, known) if r is not None]
    whole, _ = curve.log_misses(rates, SCOUTS)
    return max(0.0, _first_above(rates, whole - math.log1p(-target)))


def _bracket(
    curve: _Curve, start: float, lowest: float, highest: float, known: Sequence[float]
) -> tuple[float | None, float | None]:
    def within(rate: float) -> float:
        return min(max(curve.snap(rate), lowest), highest)

    kept, lost = _bracketed(curve, known)
    rate, step = within(start), _STEP
    if kept is not None:
        rate = within(kept * _STEP)
    elif lost is not None:
        rate = within(lost / _STEP)
    while kept is None or lost is None:
        if curve.keeps(rate, SCOUTS):
            kept = rate
            if rate >= highest:
                break
            rate = within(rate * _STEP)
        else:
            lost = rate
            if rate <= lowest:
                break
            rate = within(rate / step)
            step *= _STEP  # the further down, the faster: it may never be kept
    return kept, lost


def _bracketed(curve: _Curve, known: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the lowest known rate at which the target is lost, and the highest one below it."""
    kept: float | None = None
    for rate in sorted(known):
        if not curve.keeps(rate, SCOUTS):
            return kept, rate
        kept = rate
    return kept, None


def _settled(
    curve: _Curve, replicates: int, relative: float, lowest: float, highest: float
) -> _Roots:
    """Return the crossing, after measuring the rates that it is read between."""
    while True:
        roots = _roots(curve, replicates)
        following = _next_rate(curve, roots, relative)
        if following is None:
            return roots
        following = min(max(curve.snap(following), lowest), highest)
        if following in roots.rates:
            return roots
        curve.at(following, replicates)


@dataclass(frozen=True, slots=True)
class _Roots:
    """Where the curve of all replicates crosses the target, and the curves without one of them."""

    rates: list[float]
    whole: float
    """-inf if the target is missed at every rate, inf if it is kept at every one."""
    without: Floats
    """Without each replicate, shape (replicates,)."""

    def pseudo_values(self) -> Floats:
        n = self.without.size
        return np.asarray(n * math.log(self.whole) - (n - 1) * np.log(self.without))

    def interval(self, level: float) -> Interval:
        """Return the interval of the pseudo-values' mean, back from logarithms.

        Each end is the outer one of Student's interval and of Hall's, corrected for skewness.
        """
        values = self.pseudo_values()
        n, mean = values.size, float(np.mean(values))
        error = float(np.std(values, ddof=1)) / math.sqrt(n)
        skew = _SKEW * float(skewness(values - mean)) / math.sqrt(n)
        t = t_quantile(level, n - 1)
        below, above = (float(x) for x in inverse_transform(np.array([t, -t]), skew))
        return Interval(
            math.exp(mean - error * max(below, t)),
            math.exp(mean),
            math.exp(mean + error * max(-above, t)),
            f"jackknife of the crossing's logarithm, t corrected for skewness over {n} replicates",
        )


def _roots(curve: _Curve, replicates: int) -> _Roots:
    rates = curve.rates(replicates)
    whole, without = curve.log_misses(rates, replicates)
    goal = math.log1p(-curve.target)
    columns = [_first_above(rates, without[:, k] - goal) for k in range(replicates)]
    return _Roots(rates, _first_above(rates, whole - goal), np.array(columns))


def _first_above(rates: list[float], gap: Floats) -> float:
    """Return where a gap, linear between rates, first rises above 0: -inf at once, inf nowhere."""
    over = np.flatnonzero(gap > 0)
    if over.size == 0:
        return math.inf
    i = int(over[0])
    if i == 0:
        return -math.inf
    share = float(gap[i - 1] / (gap[i - 1] - gap[i]))
    return rates[i - 1] + share * (rates[i] - rates[i - 1])


def _next_rate(curve: _Curve, roots: _Roots, relative: float) -> float | None:
    """Return the rate that lacks most; None if none does."""
    rates = roots.rates
    outwards = (rates[-1] / rates[0]) * (1.0 + relative)
    if roots.whole == -math.inf:
        return rates[0] / outwards
    if roots.whole == math.inf:
        return rates[-1] * outwards
    below, above = _neighbours(rates, roots.whole)
    if curve.unstable_but_kept(above):  # a step, not a curve, lies between them
        return math.sqrt(below * above) if above / below > 1.0 + relative / 2.0 else None
    if not np.all(np.isfinite(roots.without)):
        return rates[0] / outwards if np.any(roots.without == -math.inf) else rates[-1] * outwards
    width = max(relative, roots.interval(curve.level).relative_half_width)
    if above / below <= 1.0 + _GAP * width:
        return None
    # the crossing of more replicates lies within a half width
    farther_above = above / roots.whole >= roots.whole / below
    return roots.whole * (1.0 + width) if farther_above else roots.whole / (1.0 + width)


def _neighbours(rates: list[float], rate: float) -> tuple[float, float]:
    below = max(r for r in rates if r <= rate)
    return below, min((r for r in rates if r > rate), default=below)


def _around(roots: _Roots) -> list[float]:
    """Return the rates that the crossings were read between."""
    low, high = float(np.min(roots.without)), float(np.max(roots.without))
    first, last = _neighbours(roots.rates, low)[0], _neighbours(roots.rates, high)[1]
    return [rate for rate in roots.rates if first <= rate <= last]


def _is_step(curve: _Curve, roots: _Roots) -> bool:
    """Return whether the queue grows without end before the target is missed."""
    if not math.isfinite(roots.whole):
        return False
    return curve.unstable_but_kept(_neighbours(roots.rates, roots.whole)[1])


def _capacity(curve: _Curve, roots: _Roots) -> Capacity:
    measured, replicates = tuple(sorted(curve.seen)), roots.without.size
    nothing = np.empty(0)
    if roots.whole == -math.inf:
        reason = f"missed even at {roots.rates[0]:.4g}/s"
        return Capacity(empty("none", reason), "never", replicates, nothing, measured)
    if roots.whole == math.inf:
        reason = f"kept even at {roots.rates[-1]:.4g}/s"
        beyond = Interval(roots.rates[-1], math.nan, math.inf, "none", reason)
        return Capacity(beyond, "always", replicates, nothing, measured)
    if _is_step(curve, roots):
        below, above = _neighbours(roots.rates, roots.whole)
        reason = "the queue grows without end before the target is missed"
        edge = Interval(below, below, above, "between a stable and an unstable rate", reason)
        flat = np.full(replicates, math.log(below))
        return Capacity(edge, "stability", replicates, flat, measured)
    interval = roots.interval(curve.level)
    return Capacity(interval, "found", replicates, roots.pseudo_values(), measured)


def _check(target: float, start: float, lowest: float, highest: float) -> None:
    if not 0 < target < 1:
        raise InvalidParameterError("target", target, "> 0 and < 1")
    if not 0 < lowest <= highest:
        raise InvalidParameterError("lowest", lowest, f"> 0 and <= highest ({highest:g})")
    if not start > 0:
        raise InvalidParameterError("start", start, "> 0")
