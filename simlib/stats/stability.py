"""Is a point's queue in a steady state? A verdict from the offered load and the drift of waits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import as_column
from simlib.stats.relaxation import FEWEST_RELAXATIONS

StabilityVerdict = Literal["stable", "unstable", "undetermined"]

BATCHES = 20
FEWEST_REQUESTS = 100
_MATERIAL_GROWTH_UNSTABLE = 1.0
_MATERIAL_GROWTH_DOUBTFUL = 0.5
_MOST_MISSING = 0.05


@dataclass(frozen=True, slots=True)
class Drift:
    """How the waits of one run changed over its window; plain numbers, to store per replicate."""

    tau: float
    """Kendall's rank correlation of batch means with time, -1 to 1; NaN with too few requests."""
    slope: float
    """Theil-Sen slope of the waits, seconds per second; an overloaded FCFS queue tends to rho - 1,
    a stable one to 0."""
    growth: float
    """Slope times the window's length over the mean wait: 0 if steady, towards 2 if waits rise
    from nothing all through the window."""
    n: int
    """Requests in the window."""
    missing: int
    """Those without a wait: never served before the run ended."""


@dataclass(frozen=True, slots=True)
class Stability:
    """The verdict on a point, and why."""

    verdict: StabilityVerdict
    reason: str


def drift(waits_s: ArrayLike, arrival_s: ArrayLike) -> Drift:
    """Return the drift of one run's waits over its window.

    The window is cut into 20 batches of equal size, and Kendall's tau and the Theil-Sen slope are
    taken of their means: both are robust to a few long busy periods, and batches rather than
    requests are ranked because waits of neighbours are alike.

    Source: M. G. Kendall (1938), doi:10.1093/biomet/30.1-2.81; P. K. Sen (1968),
    doi:10.1080/01621459.1968.10480934.

    Parameters
    ----------
    waits_s : array_like, shape (n,)
        Waits in order of arrival, of the requests that count; NaN for one that never started.
    arrival_s : array_like, shape (n,)
        Their arrival times, not decreasing.
    """
    waits, arrivals = as_column(waits_s), as_column(arrival_s)
    n = waits.size
    if arrivals.size != n:
        raise InvalidParameterError("arrival_s", arrivals.size, f"of length {n}")
    if np.any(np.diff(arrivals) < 0):
        raise InvalidParameterError("arrival_s", "a decrease", "in order of arrival")
    present = np.isfinite(waits)
    missing = n - int(np.count_nonzero(present))
    waits, arrivals = waits[present], arrivals[present]
    if waits.size < FEWEST_REQUESTS:
        return Drift(math.nan, math.nan, math.nan, n, missing)
    mean_wait = np.array([np.mean(part) for part in np.array_split(waits, BATCHES)])
    mean_time = np.array([np.mean(part) for part in np.array_split(arrivals, BATCHES)])
    earlier, later = np.triu_indices(BATCHES, 1)
    rise = mean_wait[later] - mean_wait[earlier]
    run = mean_time[later] - mean_time[earlier]
    slope = float(np.median(rise[run > 0] / run[run > 0])) if np.any(run > 0) else 0.0
    overall = float(np.mean(waits))
    length = float(arrivals[-1] - arrivals[0])
    growth = slope * length / overall if overall > 0 else 0.0
    return Drift(float(np.mean(np.sign(rise))), slope, growth, n, missing)


def verdict(
    rho_per_pool: Mapping[str, float], waits_s: ArrayLike, arrival_s: ArrayLike
) -> Stability:
    """Return the verdict on a single run; see `verdict_of_drifts`."""
    return verdict_of_drifts(rho_per_pool, [drift(waits_s, arrival_s)])


def verdict_of_drifts(rho_per_pool: Mapping[str, float], drifts: Sequence[Drift]) -> Stability:
    r"""Return the verdict on a point from its offered load and its replicates' drifts.

    A pool with :math:`\rho \ge 1` makes the point unstable. Otherwise the drift decides, averaged
    over the :math:`R` replicates: *unstable* (some limit that rho does not know, such as memory)
    if waits rise nearly all the time, :math:`\bar\tau \ge 0.5 + 0.4/\sqrt R`, and by at least their
    mean; *undetermined* if they rise more often than chance explains,
    :math:`\bar\tau \ge \max(0.25, 0.5/\sqrt R)`, and by at least half their mean, or if more than
    5% of the requests never started, or there are fewer than 100. Thresholds were set by
    simulation, because no textbook test holds for waits this dependent; the validation page gives
    the measured error rates.

    Parameters
    ----------
    rho_per_pool : mapping of pool name to float
        Offered load per server, exact from the workload; NaN where it is not known.
    drifts : sequence of Drift
        One per replicate.
    """
    for pool, rho in rho_per_pool.items():
        if rho < 0:
            raise InvalidParameterError(f"rho_per_pool[{pool!r}]", rho, ">= 0")
    overloaded = [f"{pool} {rho:.3f}" for pool, rho in rho_per_pool.items() if rho >= 1]
    if overloaded:
        return Stability("unstable", f"offered load rho >= 1: {', '.join(overloaded)}")
    loads = ", ".join(
        f"{pool} {'unknown' if math.isnan(rho) else f'{rho:.3f}'}"
        for pool, rho in rho_per_pool.items()
    )
    requests, missing = sum(d.n for d in drifts), sum(d.missing for d in drifts)
    if missing > _MOST_MISSING * requests:
        share = 100.0 * missing / requests
        return Stability("undetermined", f"{share:.1f}% of the requests never started ({loads})")
    usable = [d for d in drifts if not math.isnan(d.tau)]
    if not usable or len(usable) < len(drifts):
        fewest = min((d.n - d.missing for d in drifts), default=0)
        reason = f"needs at least {FEWEST_REQUESTS} requests in the window, got {fewest}"
        return Stability("undetermined", f"{reason} (rho: {loads})")
    tau = float(np.mean([d.tau for d in usable]))
    growth = float(np.mean([d.growth for d in usable]))
    root = math.sqrt(len(usable))
    seen = f"rho: {loads}; trend of waits: tau {tau:.2f}, growth {growth:.2f} of their mean"
    if tau >= 0.5 + 0.4 / root and growth >= _MATERIAL_GROWTH_UNSTABLE:
        return Stability("unstable", f"waits rise all through the window ({seen})")
    if tau >= max(0.25, 0.5 / root) and growth >= _MATERIAL_GROWTH_DOUBTFUL:
        return Stability("undetermined", f"waits drift upwards, run too short to tell ({seen})")
    return Stability("stable", seen)


@dataclass(frozen=True, slots=True)
class Load:
    """Offered load per server of one pool."""

    rho: float
    """NaN where it is not known."""
    standard_error: float = 0.0
    """0 where rho follows from the configuration."""

    @classmethod
    def measured(
        cls, rho: float, requests: float, work_scv: float, arrival_scv: float = 1.0
    ) -> Load:
        """Return a load that was measured on `requests` requests that arrive at random.

        The work that arrives is a sum over a renewal process, so its relative variance is that of
        a time between arrivals plus that of a request's work, over the number of requests.

        Parameters
        ----------
        rho : float
            Work that arrived over what could have been served.
        requests : float
            How many requests brought it, over all replicates.
        work_scv : float
            Squared coefficient of variation of a request's work.
        arrival_scv : float
            That of the time between arrivals; 1 for Poisson arrivals.
        """
        if requests <= 0:
            return cls(math.nan)
        return cls(rho, rho * math.sqrt((arrival_scv + work_scv) / requests))


def judge(loads: Mapping[str, Load], drifts: Sequence[Drift], relaxations: float) -> Stability:
    """Return the verdict on a point from its loads, its waits' drift and its windows' length.

    *Unstable* where a pool's rho is 1 or more beyond its sampling error, or where waits rise all
    through the windows (a limit that rho does not know, such as memory). *Undetermined* where rho
    and its error reach 1, where waits drift, or where a window is shorter than
    `simlib.stats.relaxation.FEWEST_RELAXATIONS` relaxation times, in which a stable queue and an
    unstable one look alike. *Stable* otherwise.

    Parameters
    ----------
    loads : mapping of pool name to Load
    drifts : sequence of Drift
        One per replicate.
    relaxations : float
        Relaxation times of the slowest pool in each replicate's window; NaN where not known.
    """
    for pool, load in loads.items():
        if load.standard_error < 0:
            raise InvalidParameterError(
                f"loads[{pool!r}].standard_error", load.standard_error, ">= 0"
            )
    sure = {pool: load.rho - _ONE_SIDED_95 * load.standard_error for pool, load in loads.items()}
    over = [f"{pool} {_written(loads[pool])}" for pool, least in sure.items() if least >= 1]
    if over:
        return Stability("unstable", f"offered load rho >= 1: {', '.join(over)}")
    # what rho does not say: the drift alone decides on rho strictly below 1
    below = {
        pool: load.rho if math.isnan(load.rho) else min(load.rho, _JUST_BELOW_1)
        for pool, load in loads.items()
    }
    seen = verdict_of_drifts(below, drifts)
    near = [
        f"{pool} {_written(load)}"
        for pool, load in loads.items()
        if load.rho + _ONE_SIDED_95 * load.standard_error >= 1
    ]
    if near and seen.verdict != "unstable":
        return Stability("undetermined", f"rho reaches 1 within its error: {', '.join(near)}")
    if seen.verdict == "stable" and relaxations < FEWEST_RELAXATIONS:
        reason = f"the window is {relaxations:.1f} relaxation times long"
        return Stability("undetermined", f"{reason}, too short to tell ({seen.reason})")
    return seen


_ONE_SIDED_95 = 1.645
_JUST_BELOW_1 = 1.0 - 1e-9


def _written(load: Load) -> str:
    error = f" ± {load.standard_error:.3f}" if load.standard_error else ""
    return f"{load.rho:.3f}{error}"
