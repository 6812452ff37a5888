r"""Is a run long enough? Relaxation time, initial bias, and what follows for intervals.

A loaded queue forgets slowly. Its relaxation time, in requests, is that of M/M/1 times the
variability of its arrivals and its work, as in heavy traffic,

.. math:: \tau = \frac{\rho\,(c_a^2 + c_s^2)}{2\,(1 - \sqrt\rho)^2},

6 requests at rho 0.5, 1,500 at 0.95, for M/M/1. A window of N requests holds about
:math:`N/\tau` independent pieces. It does not depend on the number of servers: time is counted in
requests.

A run starts empty, so its mean waits are too short by a share that decays with it. For reflected
Brownian motion, to which loaded queues tend, that share is

.. math:: 1 - H_1(t) = 2 (1 + t)\,\Phi(-\sqrt t) - 2 \sqrt t\,\varphi(\sqrt t),

with :math:`t = 2` a relaxation time. Both err towards short waits. So what a short run supports is
a lower bound: the upper end of its interval is open.

Source: J. Abate, W. Whitt, "Transient behavior of regulated Brownian motion, I: starting at the
origin", *Advances in Applied Probability* 19 (1987), doi:10.2307/1427408.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from simlib.errors import InvalidParameterError

FEWEST_RELAXATIONS = 5.0
"""A replicate of fewer relaxation times has too skewed a mean, and a percentile that its empty
start shortens. This and the following limits were
chosen by coverage, on other cases than the documented coverage table has."""
FEWEST_BURSTS = 6.0
"""Relaxation times, in all runs together, that lie beyond a percentile: about the number of
independent bursts there."""
LARGEST_BIAS = 0.1
"""Initial bias that is small enough, as a share of the distance to the interval's upper end."""
FEWEST_EFFECTIVE = 300.0
"""Requests over the kurtosis of their work: with fewer, the longest few decide the mean."""
FEWEST_TAIL = 4.0
"""The same for a p99; in proportion to what lies beyond for other percentiles."""
HEAVY_TAIL = "the longest few requests decide it (heavy tail)"
BATCH_RELAXATIONS = 10.0
"""Batches shorter than this are correlated."""
FEWEST_BATCHES = 10
"""A single run that gives no more batches has no interval."""
MOST_BATCHES = 20
_AN_INSTANT = 1e-6
_LONG = 1e3


def relaxation_requests(rho: float, work_scv: float, arrival_scv: float = 1.0) -> float:
    """Return the relaxation time of a queue in requests; inf for rho >= 1, NaN if rho is.

    Parameters
    ----------
    rho : float
        Offered load per server, >= 0.
    work_scv : float
        Squared coefficient of variation of the work that a request brings.
    arrival_scv : float
        That of the time between arrivals; 1 for Poisson arrivals.
    """
    for name, value in (("rho", rho), ("work_scv", work_scv), ("arrival_scv", arrival_scv)):
        if value < 0:
            raise InvalidParameterError(name, value, ">= 0")
    if rho >= 1:
        return math.inf
    return float(rho * (arrival_scv + work_scv) / 2.0 / (1.0 - math.sqrt(rho)) ** 2)


def initial_bias(warmup_relaxations: float, window_relaxations: float) -> float:
    """Return the share of the mean wait that a window misses because its run started empty.

    The mean of :math:`1 - H_1(t)` over the window; 0 for an endless one, 1 at once after the start.

    Parameters
    ----------
    warmup_relaxations, window_relaxations : float
        What is left out at the start, and the window that follows, in relaxation times.
    """
    start, length = 2.0 * warmup_relaxations, 2.0 * window_relaxations
    if math.isinf(length) or math.isnan(length):
        return 0.0 if math.isinf(length) else math.nan
    if length < _AN_INSTANT:
        return _missing_share(start)
    return (_missed(start + length) - _missed(start)) / length


@dataclass(frozen=True, slots=True)
class RunLength:
    """How long the runs of a point are, against what its queue needs."""

    runs: int
    """Replicates, >= 1."""
    requests: float
    """Requests in the window of each."""
    warmup_requests: float = 0.0
    """Requests before the window, in each."""
    relaxation: float = math.nan
    """Relaxation time in requests, of the slowest pool; inf if overloaded, NaN if not known."""
    work_kurtosis: float = math.nan
    """Mean fourth power of a request's work over its mean square squared; NaN if not known."""

    @property
    def relaxations(self) -> float:
        """Relaxation times in the window of each replicate."""
        return _over(self.requests, self.relaxation)

    @property
    def bias(self) -> float:
        """The share of the mean wait that the window misses; NaN if not known."""
        if math.isnan(self.relaxation):
            return math.nan
        return initial_bias(_over(self.warmup_requests, self.relaxation), self.relaxations)

    def whatever_the_work(self) -> RunLength:
        """Return the same for what does not grow with waits: no long request decides it."""
        return replace(self, work_kurtosis=math.nan)

    def batches(self) -> int:
        """Return into how many batches each replicate is cut: 1, or more where few are long.

        At least `MOST_BATCHES` together where replicates are fewer than `FEWEST_BATCHES`, each at
        least `BATCH_RELAXATIONS` long. 0 if a single run is too short.
        """
        if math.isnan(self.relaxation):
            return 1 if self.runs > 1 else FEWEST_BATCHES
        wanted = -(-MOST_BATCHES // self.runs) if self.runs < FEWEST_BATCHES else 1
        fitting = int(min(self.relaxations / BATCH_RELAXATIONS, wanted))
        if self.runs > 1:
            return max(fitting, 1)
        return fitting if fitting >= FEWEST_BATCHES else 0

    def too_short(self, percent: float | None) -> str:
        """Return why the runs do not bound a mean (None) or percentile from above, or ""."""
        if math.isnan(self.relaxation):
            return ""
        if math.isinf(self.relaxation):
            return "the load is not below what the pool can serve"
        beyond = 1.0 if percent is None else 1.0 - percent / 100.0
        effective = self.runs * self.requests / self.work_kurtosis  # NaN compares as enough
        if self.relaxations < FEWEST_RELAXATIONS:
            return (
                f"a replicate is {self.relaxations:.1f} relaxation times long, "
                f"needs {FEWEST_RELAXATIONS:g}"
            )
        bursts = self.runs * self.relaxations * beyond
        if percent is not None and bursts < FEWEST_BURSTS:
            return (
                f"p{percent:g} needs {FEWEST_BURSTS / beyond:.0f} relaxation times in all "
                f"replicates, got {self.runs * self.relaxations:.0f}"
            )
        needed = FEWEST_EFFECTIVE if percent is None else FEWEST_TAIL * 0.01 / beyond
        if effective < needed:
            return HEAVY_TAIL
        return ""

    def requests_for(self, percent: float | None) -> float:
        """Return the requests that each replicate's window needs for an interval with both ends.

        Inf for an overloaded queue; the present ones if the relaxation time is not known.
        """
        if math.isnan(self.relaxation):
            return self.requests
        needed = FEWEST_RELAXATIONS * self.relaxation
        if percent is None:
            tail = FEWEST_EFFECTIVE * self.work_kurtosis / self.runs
        else:
            beyond = 1.0 - percent / 100.0
            needed = max(needed, FEWEST_BURSTS / beyond * self.relaxation / self.runs)
            tail = FEWEST_TAIL * 0.01 / beyond * self.work_kurtosis / self.runs
        return max(needed, 0.0 if math.isnan(tail) else tail)

    def requests_for_precision(
        self, percent: float | None, half_width: float, wanted: float
    ) -> float:
        """Return the requests that each replicate's window needs for an interval that is narrow.

        Widths shrink with the root of the window, the initial bias with the window itself; both
        must meet the goal, and the window must bound the interval (`requests_for`).

        Parameters
        ----------
        percent : float or None
            Of the percentile; None for the mean.
        half_width : float
            Relative half-width of the interval now; inf or NaN where it is open or empty.
        wanted : float
            Relative half-width that is wanted, > 0.

        Returns
        -------
        float
            Not less than the present requests; inf for an overloaded queue.
        """
        if not wanted > 0:
            raise InvalidParameterError("wanted", wanted, "> 0")
        needed = [self.requests, self.requests_for(percent)]
        if math.isfinite(half_width):
            needed.append(self.requests * (half_width / wanted) ** 2)
        if math.isfinite(self.relaxation) and self.relaxation > 0:
            warmup = self.warmup_requests / self.relaxation
            missed = initial_bias(warmup, _LONG) * _LONG  # relaxation times' worth of waiting
            needed.append(missed * self.relaxation / (LARGEST_BIAS * wanted))
        return max(needed)


def _over(requests: float, relaxation: float) -> float:
    return requests / relaxation if relaxation > 0 else math.inf


def _missing_share(t: float) -> float:
    """Return :math:`1 - H_1(t)`."""
    root = math.sqrt(t)
    return float(2.0 * (1.0 + t) * _normal_tail(root) - 2.0 * root * _density(t))


def _missed(t: float) -> float:
    """Return an integral of `_missing_share`; it goes to 0 with t."""
    root = math.sqrt(t)
    below = (t * (t + 2.0) - 1.0) * _normal_tail(root)
    return float(below - (1.0 + t) * root * _density(t))


def _normal_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def _density(t: float) -> float:
    return math.exp(-t / 2.0) / math.sqrt(2.0 * math.pi)
