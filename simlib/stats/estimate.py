"""What a point's runs say of a mean or a percentile: the one way to both and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simlib.stats.curve import BURSTY_SHARE, UNKNOWN_BURSTS, Curve, mean_curve, no_curve
from simlib.stats.intervals import RESOLUTION, Floats
from simlib.stats.relaxation import (
    BATCH_RELAXATIONS,
    FEWEST_BATCHES,
    FEWEST_EFFECTIVE,
    HEAVY_TAIL,
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
    unit: str

    def bursts(self, share: float) -> float:
        """Return how many independent bursts hold this share of the requests of each unit."""
        if math.isnan(self.length.relaxation) or not self.parts:
            return UNKNOWN_BURSTS
        return share * self.length.relaxations * self.length.runs / len(self.parts)

    @property
    def constant(self) -> bool:
        """Whether all requests have the same value, but for rounding."""
        return bool(self.pooled.size) and bool(self.pooled[-1] - self.pooled[0] <= RESOLUTION)


def units_of(
    runs: Sequence[Floats],
    length: RunLength | None = None,
    *,
    batches: int | None = None,
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
    """
    length = length or RunLength(len(runs), min((len(run) for run in runs), default=0))
    each = max(length.batches() if batches is None else batches, 1)
    cut = [part for run in runs for part in np.array_split(run, each)]
    own = [float(np.mean(run)) if len(run) else math.nan for run in runs]
    means = np.array([float(np.mean(part)) if len(part) else math.nan for part in cut])
    unit = "replicates" if each == 1 else f"batches ({each} of each run)"
    mean = float(np.mean(own)) if own else math.nan
    parts = [np.sort(part) for part in cut]
    pooled = np.sort(np.concatenate(parts)) if parts else np.empty(0)
    return Units(parts, pooled, means, mean, length, unit)


def curve_of(units: Units, percent: float | None, *, waits: bool = True) -> Curve:
    """Return the confidence curve of the mean (`percent` None) or a percentile.

    Its upper end is open where the runs are too short for it (`RunLength.too_short`), or started
    empty too recently: where the initial bias may exceed a tenth of the distance to that end. It
    is open, too, where batches of a single run are seen to be correlated. What does not vary from
    request to request is not a matter of length. What does not grow with waits, such as the time
    per token or the share of requests that meet an SLO, is none of `waits`: it has no usual
    skewness, and no heavy tail of work decides it.
    """
    length = units.length
    if percent is None:
        bursts = units.bursts(BURSTY_SHARE) if waits else None
        curve = mean_curve(units.means, unit=units.unit, bursts=bursts)
        if not math.isnan(units.mean):
            curve = replace(curve, estimate=units.mean)
    else:
        curve = percentile_curve(
            units.parts,
            percent,
            pooled=units.pooled,
            unit=units.unit,
            bursts=units.bursts(1.0 - percent / 100.0),
        )
    if units.constant:
        return curve
    if length.runs == 1 and length.batches() == 0:
        reason = (
            f"one run of {length.relaxations:.0f} relaxation times gives no interval, "
            f"{FEWEST_BATCHES * BATCH_RELAXATIONS:.0f} would"
        )
        return no_curve(curve.method, reason, curve.estimate)
    reason = "" if curve.missing else _why_open(curve, units, percent, waits)
    return replace(curve, open_above=reason) if reason else curve


def _why_open(curve: Curve, units: Units, percent: float | None, waits: bool) -> str:
    """Return why a curve is open above; empty if it is not."""
    length = units.length if waits else units.length.whatever_the_work()
    short = length.too_short(percent) or (correlated(units.means) if length.runs == 1 else "")
    if waits and not short and percent is None and effective(units.pooled) < FEWEST_EFFECTIVE:
        short = HEAVY_TAIL
    if short or curve.open_above:
        return short or curve.open_above
    end = curve.interval().high
    waited = curve.estimate - float(units.pooled[0])  # at most: who waits least may wait, too
    if length.bias * waited > LARGEST_BIAS * (end - curve.estimate):  # NaN: not known
        return f"the run's empty start may shorten it by {100 * length.bias:.1f}%"
    return ""


def effective(values: Floats) -> float:
    """Return how many values the mean rests on: their number over their kurtosis around 0.

    A mean may have heavier tails than the work of its requests, as where the time of a prefill
    grows with the square of its prompt.
    """
    square = values[np.isfinite(values)] ** 2
    fourth = float(square @ square)
    return float(np.sum(square)) ** 2 / fourth if fourth > 0 else math.inf


def correlated(batches: Floats) -> str:
    """Return a reason if batches are positively correlated (von Neumann's ratio, 1% level).

    Source: J. von Neumann (1941), doi:10.1214/aoms/1177731677.
    """
    n = batches.size
    centred = batches - np.mean(batches)
    total = float(centred @ centred)
    if not total > 0:  # NaN is not
        return ""
    # for independent normal values, 1 - ratio/2 has mean 0 and this variance
    score = 1.0 - float(np.sum(np.diff(batches) ** 2)) / (2.0 * total)
    if score / math.sqrt((n - 2) / (n * n - 1.0)) <= _ONE_PERCENT:
        return ""
    lag_one = float(centred[:-1] @ centred[1:]) / total
    return f"batches of the run are correlated ({lag_one:.2f})"


_ONE_PERCENT = 2.326
