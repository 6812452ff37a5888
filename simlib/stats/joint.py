r"""Differences and ratios of two sides that served the same requests, from their two curves.

Replicate i of both sides is made of the same requests (common random numbers), so the scores
:math:`g_b, g_c` of baseline and candidate are correlated, by r over the replicates. Values
:math:`(x_b, x_c)` are plausible together where

.. math:: Q = \frac{g_b^2 - 2 r g_b g_c + g_c^2}{1 - r^2} \le t^2 .

The difference's interval is what :math:`x_c - x_b` takes in this region, the ratio's what
:math:`x_c / x_b` takes, and the p value of a ratio comes from the smallest Q on its line. So they
agree: both intervals leave out equality exactly where p is below 5%. For means without skewness the
difference has the paired t interval and the ratio has Fieller's. Where the upper end of one side is
open, so is the end of the difference that it decides.

Source: E. C. Fieller, "Some problems in interval estimation" (1954),
doi:10.1111/j.2517-6161.1954.tb00159.x, for the ratio as a projection of the joint region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.stats.curve import Curve, mean_curve, score_of_0, standard_error
from simlib.stats.intervals import Floats, Interval, empty
from simlib.stats.student import t_p_value, t_quantile

_ANGLES = np.linspace(0.0, 2.0 * math.pi, 1441)
_SCORES = np.linspace(-20.0, 20.0, 801)
_LARGEST_CORRELATION = 1.0 - 1e-9
_LARGEST_RATIO = 1e4
_FAR = 1e6
_REFINEMENTS = 8
"""Each narrows where an end lies by a factor of 32."""


@dataclass(frozen=True, slots=True)
class Joint:
    """A candidate against a baseline, in one metric."""

    difference: Interval
    """Candidate minus baseline."""
    ratio: Interval
    """Candidate over baseline; empty unless both are positive."""
    p_value: float
    """Two-sided, of no difference; NaN where it cannot be tested."""
    p_equal: float
    """Of the hypothesis that the ratio is off 1 by the margin or more; NaN likewise."""
    pairing_gain: float
    """Variance of the unpaired difference over that of the paired one."""
    correlation: float


def joint(b: Curve, c: Curve, margin: float = 0.05, level: float = 0.95) -> Joint:
    r"""Compare a candidate with a baseline.

    Equivalence is two one-sided tests (TOST): `p_equal` is the larger p value of "the ratio is at
    most :math:`1/(1 + m)`" and "it is at least :math:`1 + m`". The sides are *equal within m* if it
    is small.

    Source: D. J. Schuirmann (1987), doi:10.1007/BF01068419.

    Parameters
    ----------
    b, c : Curve
        Baseline and candidate, of the same replicates in the same order.
    margin : float
        Ratios within (1/(1 + margin), 1 + margin) count as practically equal; > 0.
    level : float
        Confidence level of the intervals.
    """
    if not margin > 0:
        raise InvalidParameterError("margin", margin, "> 0")
    method = f"joint region, {c.method}"
    difference = c.estimate - b.estimate
    ratio = c.estimate / b.estimate if b.estimate > 0 else math.nan
    missing = b.missing or c.missing
    if not missing and b.units.size != c.units.size:
        raise InvalidParameterError("candidate", c.units.size, f"of {b.units.size} replicates")
    if missing or (b.open_above and c.open_above):
        reason = missing or f"open on both sides: {b.open_above}"
        nothing = math.nan
        return Joint(
            empty(method, reason, difference),
            empty(method, reason, ratio),
            nothing,
            nothing,
            nothing,
            nothing,
        )
    r = correlation(b, c)
    t = t_quantile(level, min(b.degrees_of_freedom, c.degrees_of_freedom))
    if b.values is not None and c.values is not None:
        region: _Region = _Means(b, c)
    else:
        region = _Ellipse(b, c, r)
    low, high = region.differences(t)
    least, most = region.ratios(t)
    low, least = (-math.inf, 0.0) if b.open_above else (low, least)
    high, most = (math.inf, math.inf) if c.open_above else (high, most)
    reason = c.open_above or b.open_above
    if not reason and (math.isinf(low) or math.isinf(high)):
        reason = "the data do not bound one side from above"
    # an open end could lie anywhere above: nothing speaks against it
    freedom = min(b.degrees_of_freedom, c.degrees_of_freedom)

    def p_at_most(one: float) -> float:
        return 1.0 if b.open_above else t_p_one_sided(region.score(one), freedom)

    def p_at_least(one: float) -> float:
        return 1.0 if c.open_above else t_p_one_sided(-region.score(one), freedom)

    positive = b.estimate > 0 and c.estimate > 0
    return Joint(
        Interval(min(low, difference), difference, max(high, difference), method, reason),
        Interval(max(min(least, ratio), 0.0), ratio, max(most, ratio), method, reason)
        if positive
        else empty(method, "a ratio needs positive values", ratio),
        min(1.0, 2.0 * min(p_at_most(1.0), p_at_least(1.0))),
        max(p_at_most(1.0 / (1.0 + margin)), p_at_least(1.0 + margin)) if positive else math.nan,
        region.gain(),
        r,
    )


def t_p_one_sided(score: float, freedom: float) -> float:
    """Return the chance of a t score at least this large."""
    half = t_p_value(score, freedom) / 2.0
    return half if score >= 0 else 1.0 - half


def correlation(b: Curve, c: Curve) -> float:
    """Return the correlation of two curves' scores over their replicates; 0 where one is sure."""
    size = math.sqrt(float(b.units @ b.units) * float(c.units @ c.units))
    if size == 0:
        return 0.0
    r = float(b.units @ c.units) / size
    return min(max(r, -_LARGEST_CORRELATION), _LARGEST_CORRELATION)


class _Region(Protocol):
    """The values of both sides that are plausible together."""

    def differences(self, t: float) -> tuple[float, float]: ...

    def ratios(self, t: float) -> tuple[float, float]: ...

    def score(self, ratio: float) -> float:
        """Return how far the estimates lie above the line of a ratio, in t units."""

    def gain(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Means:
    """Of two means: the means of c - x b have a curve each, without a detour over two."""

    b: Curve
    c: Curve

    def _curve(self, ratio: float) -> Curve:
        assert self.b.values is not None
        assert self.c.values is not None
        return mean_curve(self.c.values - ratio * self.b.values)

    def differences(self, t: float) -> tuple[float, float]:
        low, high = self._curve(1.0).value_at(np.array([t, -t])).tolist()
        off = self.c.estimate - self.b.estimate - self._curve(1.0).estimate
        return low + off, high + off

    def ratios(self, t: float) -> tuple[float, float]:
        at = self.c.estimate / self.b.estimate if self.b.estimate > 0 else math.nan
        if not at > 0:
            return math.nan, math.nan
        return self._end(at, t, 1.0 / _LARGEST_RATIO), self._end(at, t, _LARGEST_RATIO)

    def _end(self, at: float, t: float, factor: float) -> float:
        """Return where the score leaves [-t, t], going from `at` towards `at` times `factor`."""
        sign = 1.0 if factor < 1 else -1.0
        steps = np.append(0.0, math.log(factor) * np.geomspace(1e-9, 1.0, 40))
        for _ in range(_REFINEMENTS):
            beyond = np.flatnonzero(sign * self._scores(at * np.exp(steps)) > t)
            if beyond.size == 0:
                return 0.0 if factor < 1 else math.inf
            past = int(beyond[0])
            if past == 0:
                return at
            steps = np.linspace(steps[past - 1], steps[past], 33)
        return float(at * math.exp(float(steps[-1])))

    def _scores(self, ratios: Floats) -> Floats:
        """Return what `score` does, of many ratios at once."""
        assert self.b.values is not None
        assert self.c.values is not None
        return score_of_0(self.c.values - ratios[:, None] * self.b.values)

    def score(self, ratio: float) -> float:
        return float(self._curve(ratio).score_of(np.array(0.0)))

    def gain(self) -> float:
        assert self.b.values is not None
        assert self.c.values is not None
        sides = (self.b.values, self.c.values, self.c.values - self.b.values)
        *errors, paired = (float(standard_error(side - np.mean(side))) for side in sides)
        return _gain(errors, paired**2)


@dataclass(frozen=True, slots=True)
class _Ellipse:
    """Of any two curves: an ellipse in their scores."""

    b: Curve
    c: Curve
    r: float

    def _edge(self, t: float) -> tuple[Floats, Floats]:
        g = t * np.cos(_ANGLES)
        h = t * (self.r * np.cos(_ANGLES) + math.sqrt(1.0 - self.r**2) * np.sin(_ANGLES))
        return self.b.value_at(g), self.c.value_at(h)

    def differences(self, t: float) -> tuple[float, float]:
        x_b, x_c = self._edge(t)
        if np.any(np.isinf(x_b) & np.isinf(x_c)):
            return -math.inf, math.inf
        away = x_c - x_b
        return float(np.min(away)), float(np.max(away))

    def ratios(self, t: float) -> tuple[float, float]:
        x_b, x_c = self._edge(t)
        if np.any(np.isinf(x_b) & np.isinf(x_c)):
            return 0.0, math.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(x_b > 0, x_c / x_b, np.inf)
        return float(np.min(times)), float(np.max(times))

    def score(self, ratio: float) -> float:
        b, c, r = self.b, self.c, self.r
        x = np.concatenate([b.value_at(_SCORES), c.value_at(_SCORES) / ratio])
        x = np.append(x, [b.estimate, c.estimate / ratio])
        x = np.unique(x[np.isfinite(x)])
        x = np.unique(np.concatenate([x * (1.0 - 1e-12), x, x * (1.0 + 1e-12)]))  # around jumps
        g = np.clip(b.score_of(x), -_FAR, _FAR)
        h = np.clip(c.score_of(ratio * x), -_FAR, _FAR)
        # both scores along the line, in coordinates where Q is the squared length
        path = np.stack([g, (h - r * g) / math.sqrt(1.0 - r * r)])
        away = c.estimate - ratio * b.estimate
        return float(np.copysign(_distance_to_0(path), away)) if away != 0 else 0.0

    def gain(self) -> float:
        spread = []
        for side in (self.b, self.c):
            above, below = side.value_at(np.array([-1.0, 1.0])).tolist()
            spread.append((above - below) / 2.0)
        s, t = spread
        return _gain(spread, s * s + t * t - 2.0 * self.r * s * t)


def _distance_to_0(path: Floats) -> float:
    """Return the distance of a polyline from the origin; shape (2, points)."""
    if path.shape[1] == 1:
        return float(np.hypot(*path[:, 0]))
    step = np.diff(path, axis=1)
    length = np.sum(step * step, axis=0)
    along = -np.sum(path[:, :-1] * step, axis=0)
    part = np.clip(along / np.where(length > 0, length, 1.0), 0.0, 1.0)
    return float(np.sqrt(np.min(np.sum((path[:, :-1] + part * step) ** 2, axis=0))))


def _gain(errors: list[float], paired: float) -> float:
    unpaired = sum(error * error for error in errors)
    if not math.isfinite(unpaired):
        return math.nan
    if paired <= 1e-18 * unpaired:
        return math.inf if unpaired > 0 else math.nan
    return unpaired / paired
