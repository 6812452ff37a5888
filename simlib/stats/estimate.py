"""What a point's runs say of a mean or a percentile: the one way to both and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from simlib.errors import InvalidParameterError
from simlib.stats.controls import Design, controlled
from simlib.stats.curve import Curve, mean_curve, no_curve
from simlib.stats.intervals import Floats
from simlib.stats.relaxation import (
    BATCH_RELAXATIONS,
    FEWEST_BATCHES,
    LARGEST_BIAS,
    RunLength,
)
from simlib.stats.tails import percentile_curve


@dataclass(frozen=True, slots=True)
class Units:
    """The runs of one metric, cut into what counts as independent."""

    parts: list[Floats]
    """Values of each unit, sorted; NaN, last, for a request that never got so far."""
    pooled: Floats
    """All of them, sorted."""
    means: Floats
    mean: float
    """Mean over the replicates of their means."""
    length: RunLength
    design: Design | None
    unit: str


def units_of(
    runs: Sequence[Floats],
    length: RunLength | None = None,
    *,
    batches: int | None = None,
    deviations: ArrayLike | None = None,
) -> Units:
    """Cut runs into units: replicates, or batches of them where replicates are few and long.

    Parameters
    ----------
    runs : sequence of arrays, shape (requests,)
        One metric's values in each replicate, in order of arrival.
    length : RunLength, optional
        How long they are against their relaxation time; by default that is not known.
    batches : int, optional
        Into how many each run is cut; by default `RunLength.batches`. Two sides that are to be
        compared need the same.
    deviations : array_like, shape (replicates, controls), optional
        Control variates less their known means. Not used where replicates are cut.
    """
    length = length or RunLength(len(runs), min((len(run) for run in runs), default=0))
    each = length.batches() if batches is None else batches
    cut = [part for run in runs for part in np.array_split(run, max(each, 1))]
    own = [float(np.mean(run)) if len(run) else math.nan for run in runs]
    means = np.array([float(np.mean(part)) if len(part) else math.nan for part in cut])
    unit = "replicates" if each == 1 else f"batches ({each} of each run)"
    if deviations is not None and np.shape(deviations)[0] != len(runs):
        raise InvalidParameterError("deviations", np.shape(deviations)[0], f"{len(runs)} rows")
    design = controlled(deviations) if deviations is not None and each == 1 else None
    mean = float(np.mean(own)) if own else math.nan
    parts = [np.sort(part) for part in cut]
    pooled = np.sort(np.concatenate(parts)) if parts else np.empty(0)
    return Units(parts, pooled, means, mean, length, design, unit)


def curve_of(units: Units, percent: float | None) -> Curve:
    """Return the confidence curve of the mean (`percent` None) or a percentile.

    Its upper end is open where the runs are too short for it (`RunLength.too_short`), or started
    empty too recently: where the initial bias may exceed a quarter of the distance to that end.
    """
    if percent is None:
        curve = mean_curve(units.means, units.design, unit=units.unit)
        if units.design is None and not math.isnan(curve.estimate):
            curve = replace(curve, estimate=units.mean)
    else:
        curve = percentile_curve(
            units.parts, percent, units.design, pooled=units.pooled, unit=units.unit
        )
    if units.length.runs == 1 and units.length.batches() == 0:
        reason = (
            f"one run of {units.length.relaxations:.0f} relaxation times gives no interval, "
            f"{FEWEST_BATCHES * BATCH_RELAXATIONS:.0f} would"
        )
        return no_curve(curve.method, reason, curve.estimate)
    if curve.missing:
        return curve
    short = units.length.too_short(percent)
    if short:
        return replace(curve, open_above=short)
    if curve.open_above:
        return curve
    bias = units.length.bias
    end = curve.interval().high
    if bias * abs(curve.estimate) > LARGEST_BIAS * (end - curve.estimate):  # NaN: not known
        return replace(
            curve, open_above=f"the run's empty start may shorten it by {100 * bias:.1f}%"
        )
    return curve
