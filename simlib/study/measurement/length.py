"""How long a point's runs are, against what its queues need: load, variability, relaxation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords, in_window
from simlib.core.summary import service_seconds
from simlib.stats.relaxation import RunLength, relaxation_requests
from simlib.stats.stability import Load


@dataclass(frozen=True, slots=True)
class PoolWork:
    """Service that the requests of one window ask of a pool: powers of it, mean over requests."""

    rho: float
    """Offered load per server; NaN where it is not known (batching)."""
    first: float
    second: float
    fourth: float


@dataclass(frozen=True, slots=True)
class Work:
    """What arrived in one replicate."""

    requests: int
    """In the window."""
    warmup_requests: int
    """Before it."""
    arrival_scv: float
    """Squared coefficient of variation of the time between arrivals in the window."""
    pools: dict[str, PoolWork]


def work_of(records: RequestRecords, config: SimConfig, rho: Mapping[str, float]) -> Work:
    """Return what arrived in one replicate; `rho` is the offered load of each pool."""
    counted = in_window(records, config.warmup_seconds, config.sim_seconds)
    gaps = np.diff(records.arrival_s[counted])
    regular = gaps.size < 2 or not np.mean(gaps) > 0
    seconds = service_seconds(records, config)
    return Work(
        requests=int(np.count_nonzero(counted)),
        warmup_requests=int(np.count_nonzero(records.arrival_s < config.warmup_seconds)),
        arrival_scv=1.0 if regular else float(np.var(gaps) / np.mean(gaps) ** 2),
        pools={name: _pool_work(seconds.get(name), counted, rho[name]) for name in rho},
    )


def _pool_work(seconds: Floats | None, counted: np.ndarray, rho: float) -> PoolWork:
    if seconds is None or not counted.any():
        return PoolWork(rho, math.nan, math.nan, math.nan)
    mine = seconds[counted]
    return PoolWork(rho, *(float(np.mean(mine**power)) for power in (1, 2, 4)))


def length_of(replicates: Sequence[Work], *, before_decode: bool = False) -> RunLength:
    """Return how long a point's runs are, for the pool that forgets slowest.

    Load, variability and tails are those of the requests that arrived, all replicates together.
    What ends `before_decode` does not wait for a decode pool.
    """
    requests = float(np.mean([one.requests for one in replicates]))
    slowest, kurtosis = math.nan, math.nan
    for name in replicates[0].pools:
        pool = _together(replicates, name)
        if math.isnan(pool.first) or pool.first == 0 or (before_decode and name == "decode"):
            continue
        variable = float(np.mean([one.arrival_scv for one in replicates]))
        time = relaxation_requests(pool.rho, _scv(pool), variable)
        if not time <= slowest:  # NaN at first
            slowest, kurtosis = time, pool.fourth / pool.second**2
    return RunLength(
        runs=len(replicates),
        requests=requests,
        warmup_requests=float(np.mean([one.warmup_requests for one in replicates])),
        relaxation=slowest,
        work_kurtosis=kurtosis,
    )


def loads_of(replicates: Sequence[Work]) -> dict[str, Load]:
    """Return the offered load of each pool with its sampling error, all replicates together."""
    requests = sum(one.requests for one in replicates)
    loads = {}
    for name in replicates[0].pools:
        pool = _together(replicates, name)
        known = pool.first > 0  # NaN is not
        loads[name] = Load.measured(pool.rho, requests, _scv(pool)) if known else Load(pool.rho)
    return loads


def _scv(pool: PoolWork) -> float:
    return max(pool.second / pool.first**2 - 1.0, 0.0)


def _together(replicates: Sequence[Work], name: str) -> PoolWork:
    pools = [one.pools[name] for one in replicates]
    weights = [one.requests for one in replicates]
    if not sum(weights):
        return pools[0]
    moments = [
        float(np.average([getattr(pool, power) for pool in pools], weights=weights))
        for power in ("first", "second", "fourth")
    ]
    return PoolWork(float(np.mean([pool.rho for pool in pools])), *moments)
