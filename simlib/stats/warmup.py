"""How much of a run's start to leave out: the MSER-5 rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import Floats, as_column

BATCH = 5
_FEWEST_BATCHES = 10


@dataclass(frozen=True, slots=True)
class Truncation:
    """How many values at the start of a run MSER-5 would leave out."""

    index: int
    """Index of the first value to keep, a multiple of 5."""
    found: bool
    """False where the rule found no truncation point within the first half."""
    reason: str = ""
    """Why none was found."""


@dataclass(frozen=True, slots=True)
class SuggestedWarmup:
    """A warm-up time in seconds since the run's start."""

    warmup_s: float
    found: bool
    reason: str = ""


def mser5(values: ArrayLike) -> Truncation:
    r"""Return where MSER-5 would truncate a run.

    The values are averaged in batches of five, :math:`Y_1 \dots Y_m`, and the number of batches to
    leave out is the :math:`d` that minimises the squared standard error of what remains,
    :math:`\frac{1}{(m - d)^2} \sum_{j > d} (Y_j - \bar Y_{d})^2`. It is searched in the first half;
    a minimum at the end of that half means the run is too short (or never settles), not that half
    of it is warm-up.

    Source: K. P. White (1997), doi:10.1177/003754979706900601; K. P. White, M. J. Cobb,
    S. C. Spratt, "A comparison of five steady-state truncation heuristics for simulation", *Winter
    Simulation Conference* (2000); the first-half rule as in K. Hoad,
    S. Robinson, R. Davies (2010), doi:10.1057/jors.2009.87.

    Parameters
    ----------
    values : array_like, shape (n,) or (replicates, n)
        One value per request in order. Replicates are averaged request by request first, which
        makes the suggestion far steadier: in a single run of a busy queue the rule often takes a
        busy period near the start for warm-up. NaN (no value) is left out of a batch's mean.

    Raises
    ------
    InvalidParameterError
        For values of more than two dimensions.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 2:
        x = _mean_present(x.T)
    x = as_column(x)
    whole = x.size // BATCH
    batches = _mean_present(x[: whole * BATCH].reshape(whole, BATCH))
    present = np.isfinite(batches)
    positions = np.flatnonzero(present)
    y = batches[present]
    m = y.size
    if m < _FEWEST_BATCHES:
        needed = _FEWEST_BATCHES * BATCH
        return Truncation(0, False, f"MSER-5 needs at least {needed} values, got {x.size}")
    y = y - np.mean(y)  # the sums below must not cancel
    remaining = m - np.arange(m)
    sums, squares = np.cumsum(y[::-1])[::-1], np.cumsum((y**2)[::-1])[::-1]
    statistic = np.maximum(squares - sums**2 / remaining, 0.0) / remaining**2
    last = m // 2
    best = int(np.argmin(statistic[: last + 1]))
    if best == last:
        return Truncation(
            int(positions[best]) * BATCH, False, "no minimum in the first half: run too short"
        )
    index = 0 if best == 0 else int(positions[best]) * BATCH
    return Truncation(index, True)


def suggested_warmup_s(values: ArrayLike, times_s: ArrayLike) -> SuggestedWarmup:
    """Return the warm-up in seconds that MSER-5 suggests for values observed at `times_s`.

    Parameters
    ----------
    values : array_like, shape (n,) or (replicates, n)
        As for `mser5`, from the run's very start (nothing left out yet).
    times_s : array_like, shape (n,) or (replicates, n)
        When each request arrived, in seconds since the run's start; averaged over replicates.
    """
    x = np.asarray(values, dtype=np.float64)
    times = np.asarray(times_s, dtype=np.float64)
    if x.shape != times.shape:
        raise InvalidParameterError("times_s", f"shape {times.shape}", f"of shape {x.shape}")
    cut = mser5(x)
    time_s = 0.0
    if cut.index > 0:
        time_s = float(np.mean(times[..., cut.index]))
    return SuggestedWarmup(time_s, cut.found, cut.reason)


def _mean_present(rows: Floats) -> Floats:
    """Return the mean of each row over its finite values, NaN for a row with none."""
    present = np.isfinite(rows)
    count = present.sum(axis=1)
    total = np.where(present, rows, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
