r"""Verdicts of a study: its primary comparisons are one family, held to 5% together.

The primary tests are those a study was made for. "Faster" and "slower" are claimed by Holm's
procedure over them, so the chance of even one wrong claim in the study is at most 5%. "Equal within
the margin" is claimed by Holm's procedure over their equivalence tests, held to 5% likewise. What
is neither is too close to call with these data. Everything else is secondary: its tests are made
one by one, which the reader has to know.

Sides that are identical, or that are unstable, are no tests, and take no room in the family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.stats.compare import holm
from simlib.stats.intervals import RESOLUTION
from simlib.stats.joint import Joint

Outcome = Literal["faster", "slower", "equal", "too close to call", "identical", "not tested"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison that may be tested."""

    joint: Joint
    primary: bool
    untestable: str = ""
    """Why it is no test, such as "baseline is unstable"; empty if it is one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What may be said of one comparison."""

    outcome: Outcome
    """Of a metric where less is better; "equal" is within the margin."""
    primary: bool
    p_adjusted: float
    """Smallest family-wise level at which a difference is claimed; NaN if none was tested. Of
    secondary comparisons, the p value itself."""
    level: float
    """Level at which this comparison's interval leaves out equality exactly if a difference is
    claimed: 95% for secondary ones, more in a family."""
    reason: str = ""
    """Why it was not tested."""


def decide(comparisons: Sequence[Comparison], alpha: float = 0.05) -> list[Decision]:
    """Return a decision for each comparison, in their order.

    Parameters
    ----------
    comparisons : sequence of Comparison
        All of a study.
    alpha : float
        Chance of one wrong claim among the primary ones that is accepted, in (0, 1).
    """
    if not 0 < alpha < 1:
        raise InvalidParameterError("alpha", alpha, "> 0 and < 1")
    reasons = [_no_test(one) for one in comparisons]
    tested = np.array([not reason for reason in reasons], dtype=np.bool_)
    primary = np.array([one.primary for one in comparisons], dtype=np.bool_)
    p = np.array([one.joint.p_value for one in comparisons], dtype=np.float64)
    equal = np.array([one.joint.p_equal for one in comparisons], dtype=np.float64)
    family = primary & tested
    adjusted = [_adjusted(values, family, tested) for values in (p, equal)]
    levels = _levels(p, family, alpha)
    return [
        Decision(
            _outcome(one, reason, float(a), float(e), alpha),
            one.primary,
            float(a),
            float(level),
            "" if reason == "identical" else reason,
        )
        for one, reason, a, e, level in zip(comparisons, reasons, *adjusted, levels, strict=True)
    ]


def is_identical(joint: Joint) -> bool:
    """Return whether all that the data allow of a difference is rounding."""
    difference = joint.difference
    return bool(max(abs(difference.low), abs(difference.high)) < RESOLUTION)


def _no_test(one: Comparison) -> str:
    if one.untestable:
        return one.untestable
    if is_identical(one.joint):
        return "identical"
    if math.isnan(one.joint.p_value):
        return one.joint.difference.reason or "no interval"
    return ""


def _adjusted(p: np.ndarray, family: np.ndarray, tested: np.ndarray) -> np.ndarray:
    adjusted = np.where(tested, p, math.nan)
    adjusted[family] = holm(p[family]).adjusted_p
    return adjusted


def _levels(p: np.ndarray, family: np.ndarray, alpha: float) -> np.ndarray:
    """Return the level at which Holm's procedure held each test of the family."""
    levels = np.full(p.size, 1.0 - alpha)
    members = np.flatnonzero(family)
    order = members[np.argsort(p[members], kind="stable")]
    left = members.size
    for k in order:
        levels[k] = 1.0 - alpha / left
        if p[k] <= alpha / left:
            left = max(left - 1, 1)
        # after the first that is kept, all are: at the same level
    return levels


def _outcome(one: Comparison, reason: str, p: float, equal: float, alpha: float) -> Outcome:
    if reason:
        return "identical" if reason == "identical" else "not tested"
    estimate = one.joint.difference.estimate
    if p <= alpha and abs(estimate) >= RESOLUTION:
        return "faster" if estimate < 0 else "slower"
    return "equal" if equal <= alpha else "too close to call"
