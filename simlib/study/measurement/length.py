"""How long a point's runs are, against what its queues need: load, variability, relaxation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords, e2e_s, in_window
from simlib.core.summary import pool_gpus, service_seconds
from simlib.serving.saturation import Need
from simlib.stats.relaxation import RunLength, relaxation_requests
from simlib.stats.stability import Load


@dataclass(frozen=True, slots=True)
class PoolWork:
    """Service that the requests of one window ask of a pool: powers of it, mean over requests."""

    rho: float
    """Offered load per server; NaN where it is not known."""
    first: float
    second: float
    fourth: float
    rho_error: float = 0.0
    """Relative standard error of rho from what the pool can serve; 0 where that is exact."""


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
    in_flight: float = 0.0
    """Requests in the system at one time, mean over the window; counted with batching only."""


def work_of(records: RequestRecords, config: SimConfig, needs: Mapping[str, Need]) -> Work:
    """Return what arrived in one replicate.

    Parameters
    ----------
    needs : mapping of pool name to Need
        With batching: what requests need of each pool.
    """
    window_s = config.sim_seconds - config.warmup_seconds
    counted = in_window(records, config.warmup_seconds, config.sim_seconds)
    gaps = np.diff(records.arrival_s[counted])
    regular = gaps.size < 2 or not np.mean(gaps) > 0
    batching = config.serving == "batching"
    exact = {} if batching else service_seconds(records, config)
    pools = {}
    for name, gpus in pool_gpus(config).items():
        if name in exact:
            pools[name] = _pool_work(exact[name][counted], gpus * window_s)
        elif name in needs:
            mine = needs[name].seconds(records)[counted]
            pools[name] = _pool_work(mine, window_s, needs[name].error)
        else:
            pools[name] = PoolWork(math.nan, math.nan, math.nan, math.nan)
    return Work(
        requests=int(np.count_nonzero(counted)),
        warmup_requests=int(np.count_nonzero(records.arrival_s < config.warmup_seconds)),
        arrival_scv=1.0 if regular else float(np.var(gaps) / np.mean(gaps) ** 2),
        pools=pools,
        in_flight=float(np.nansum(e2e_s(records)[counted])) / window_s if batching else 0.0,
    )


def _pool_work(seconds: Floats, available_s: float, error: float = 0.0) -> PoolWork:
    """Return the work of the requests that count, for a pool that has so many seconds for them."""
    if not seconds.size:
        return PoolWork(0.0, math.nan, math.nan, math.nan, error)
    first, second, fourth = (float(np.mean(seconds**power)) for power in (1, 2, 4))
    return PoolWork(float(seconds.sum()) / available_s, first, second, fourth, error)


def length_of(replicates: Sequence[Work], *, before_decode: bool = False) -> RunLength:
    """Return how long a point's runs are, for the pool that forgets slowest.

    Load, variability and tails are those of the requests that arrived, all replicates together.
    What ends `before_decode` does not wait for a decode pool. With batching, what is in flight
    has to leave, too, before a pool has forgotten (J. D. C. Little, 1961, counts it).
    """
    requests = float(np.mean([one.requests for one in replicates]))
    in_flight = float(np.mean([one.in_flight for one in replicates]))
    slowest, kurtosis = math.nan, math.nan
    for name in replicates[0].pools:
        pool = _together(replicates, name)
        if math.isnan(pool.first) or pool.first == 0 or (before_decode and name == "decode"):
            continue
        variable = float(np.mean([one.arrival_scv for one in replicates]))
        time = relaxation_requests(pool.rho, _scv(pool), variable) + in_flight
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
    variable = float(np.mean([one.arrival_scv for one in replicates]))
    loads = {}
    for name in replicates[0].pools:
        pool = _together(replicates, name)
        if not pool.first > 0:  # NaN is not
            loads[name] = Load(pool.rho)
            continue
        load = Load.measured(pool.rho, requests, _scv(pool), variable)
        error = math.hypot(load.standard_error, pool.rho * pool.rho_error)
        loads[name] = Load(pool.rho, error)
    return loads


def _scv(pool: PoolWork) -> float:
    return max(pool.second / pool.first**2 - 1.0, 0.0)


def _together(replicates: Sequence[Work], name: str) -> PoolWork:
    pools = [one.pools[name] for one in replicates]
    weights = [one.requests for one in replicates]
    if not sum(weights):
        return pools[0]
    first, second, fourth = (
        float(np.average([getattr(pool, power) for pool in pools], weights=weights))
        for power in ("first", "second", "fourth")
    )
    rho = float(np.mean([pool.rho for pool in pools]))
    return PoolWork(rho, first, second, fourth, pools[0].rho_error)
