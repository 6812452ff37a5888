"""Statistics of one run: percentiles with what was left out of them, throughput, utilisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import (
    Floats,
    RequestRecords,
    Status,
    TtftDefinition,
    active_s,
    busy_s,
    e2e_s,
    in_window,
    tpot_s,
    ttft_s,
)

PERCENTILES = (50, 90, 95, 99)


def metric_names(metric: str) -> list[str]:
    """Return the names of a metric's statistics, such as p50_ttft_s."""
    return [f"mean_{metric}_s", *(f"p{q}_{metric}_s" for q in PERCENTILES)]


def percentiles(metric: str, values: Floats) -> dict[str, float]:
    """Return the mean and percentiles of `values` by name; NaN where there are no values."""
    names = metric_names(metric)
    if len(values) == 0:
        return dict.fromkeys(names, float("nan"))
    quantiles = np.percentile(values, PERCENTILES)
    return dict(zip(names, [float(np.mean(values)), *map(float, quantiles)], strict=True))


def ttft_statistics(
    records: RequestRecords, definition: TtftDefinition, observed_until_s: float
) -> tuple[dict[str, float], list[str]]:
    """Return mean and percentiles of TTFT, and the names of those that are only lower bounds.

    A request without a first token by `observed_until_s` has waited at least until then. It
    enters with that wait; a statistic that a longer wait would change is a lower bound.
    """
    served = records.status != Status.REJECTED
    values = ttft_s(records, definition)[served]
    missing = np.isnan(values)
    if not missing.any():
        return percentiles("ttft", values), []
    waited = np.where(missing, observed_until_s - records.arrival_s[served], values)
    at_least = percentiles("ttft", waited)
    with np.errstate(invalid="ignore"):  # interpolating between two infinities
        at_most = percentiles("ttft", np.where(missing, np.inf, values))
    return at_least, [name for name, value in at_least.items() if value != at_most[name]]


def pool_busy_s(
    records: RequestRecords, config: SimConfig, window: tuple[float, float]
) -> dict[str, float]:
    """Return the busy GPU-seconds of each pool inside `window`.

    With batching, a replica is busy while it holds a request that has started.
    """
    if config.serving == "batching":
        return _batching_busy_s(records, config, window)
    if config.mode == "mono":
        return {"gpu": busy_s(records.prefill_start_s, records.finish_s, window)}
    return {
        "prefill": busy_s(records.prefill_start_s, records.prefill_end_s, window),
        "decode": busy_s(records.decode_start_s, records.finish_s, window),
    }


def _batching_busy_s(
    records: RequestRecords, config: SimConfig, window: tuple[float, float]
) -> dict[str, float]:
    ends = {
        "gpu": (records.prefill_start_s, records.finish_s, records.prefill_replica),
        "prefill": (records.prefill_start_s, records.prefill_end_s, records.prefill_replica),
        "decode": (records.decode_start_s, records.finish_s, records.decode_replica),
    }
    return {
        name: pool.tensor_parallel * active_s(*ends[name], window)
        for name, pool in config.batching.pools.items()
    }


def pool_gpus(config: SimConfig) -> dict[str, int]:
    """Return the number of GPUs of each pool."""
    return config.deployment.gpus_by_pool


def summarise(records: RequestRecords, config: SimConfig) -> dict[str, Any]:
    """Return a run's statistics over the requests that arrive in [warmup, sim_seconds).

    Times are in seconds. Throughput counts completions in the window; utilisation is busy time
    clipped to the window over the pool's GPU-seconds.
    """
    window = (config.warmup_seconds, config.sim_seconds)
    length_s = window[1] - window[0]
    counted = records.select(in_window(records, *window))
    ttft, lower_bounds = ttft_statistics(counted, config.ttft_definition, config.sim_seconds)
    finished_in_window = np.logical_and(records.finish_s >= window[0], records.finish_s < window[1])
    tpot, e2e = tpot_s(counted), e2e_s(counted)
    gpus = pool_gpus(config)
    busy = pool_busy_s(records, config, window)
    return {
        "mode": config.mode,
        "ttft_definition": config.ttft_definition,
        "num_samples": int(np.count_nonzero(~np.isnan(ttft_s(counted, config.ttft_definition)))),
        **ttft,
        "lower_bounds": lower_bounds,
        **percentiles("tpot", tpot[~np.isnan(tpot)]),
        **percentiles("e2e", e2e[~np.isnan(e2e)]),
        "arrived": len(counted),
        **_status_counts(counted),
        "preemptions": int(counted.preemptions.sum()),
        "throughput_rps": float(np.count_nonzero(finished_in_window)) / length_s,
        "elapsed_s": elapsed_s(records, config),
        # a sum over a pool that never idles may round to just above the whole
        **{f"utilization_{pool}": min(1.0, busy[pool] / (gpus[pool] * length_s)) for pool in gpus},
        **_gpu_counts(gpus),
    }


def offered_load(records: RequestRecords, config: SimConfig) -> dict[str, float]:
    """Return rho of each pool: the service that the requests in the window ask for.

    Service seconds of the requests that arrive in [warmup, sim_seconds), over the pool's
    GPU-seconds in it. Exact from the lengths; whether and when they were served does not matter.
    NaN with batching, where a request's service depends on what it is batched with.
    """
    if config.serving == "batching":
        return dict.fromkeys(pool_gpus(config), float("nan"))
    window = (config.warmup_seconds, config.sim_seconds)
    counted = in_window(records, *window)
    cluster = config.cluster
    seconds = {
        "prefill": records.prompt_tokens[counted].sum() / cluster.prefill_tokens_per_s,
        "decode": records.output_tokens[counted].sum() / cluster.decode_tokens_per_s,
    }
    if config.mode == "mono":
        seconds = {"gpu": seconds["prefill"] + seconds["decode"]}
    return {
        pool: float(seconds[pool]) / (gpus * (window[1] - window[0]))
        for pool, gpus in pool_gpus(config).items()
    }


def elapsed_s(records: RequestRecords, config: SimConfig) -> float:
    """Return the simulated seconds from the start to the last event, the drain included."""
    if not config.drain or len(records) == 0:
        return config.sim_seconds
    return max(config.sim_seconds, float(np.nanmax(records.finish_s, initial=0.0)))


def _status_counts(records: RequestRecords) -> dict[str, int]:
    return {
        status.name.lower(): int(np.count_nonzero(records.status == status)) for status in Status
    }


def _gpu_counts(gpus: Mapping[str, int]) -> dict[str, int]:
    if "gpu" in gpus:
        return {"num_gpus": gpus["gpu"]}
    return {f"{pool}_gpus": count for pool, count in gpus.items()}
