"""Statistics of one run: percentiles with what was left out of them, throughput, utilisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.core.config import SimConfig
from simlib.core.metrics import Metric, metrics_of
from simlib.core.records import (
    Floats,
    RequestRecords,
    Status,
    active_s,
    busy_s,
    in_window,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A metric's values of the requests that have one, in order of arrival; shape (n,)."""

    metric: Metric
    request_id: NDArray[np.int64]
    values: Floats
    open: NDArray[np.bool_]
    """Whether a value is only how long the request had lasted when the run ended."""

    def statistics(self) -> dict[str, float]:
        """Return the metric's statistics by name; NaN without values."""
        return self.metric.of(self.values)

    def lower_bounds(self) -> list[str]:
        """Return the names of the statistics that a longer wait of open requests would change."""
        if not self.open.any():
            return []
        with np.errstate(invalid="ignore"):  # interpolating between two infinities
            at_most = self.metric.of(np.where(self.open, np.inf, self.values))
        return [name for name, value in self.statistics().items() if value != at_most[name]]

    def of(self, request_id: NDArray[np.int64]) -> Sample:
        """Return the same of these requests only."""
        kept = np.isin(self.request_id, request_id)
        return Sample(self.metric, self.request_id[kept], self.values[kept], self.open[kept])


def counted_requests(records: RequestRecords, config: SimConfig) -> RequestRecords:
    """Return the requests that metrics are about: accepted, and arrived in the window.

    Rejected requests have no latency; they are counted beside every metric.
    """
    window = in_window(records, config.warmup_seconds, config.sim_seconds)
    return records.select(window & (records.status != Status.REJECTED))


def sample(metric: Metric, counted: RequestRecords, config: SimConfig, replicate: int) -> Sample:
    """Return a metric's values of `counted_requests`.

    Of a time since arrival, a request that had not got so far when the run ended has waited at
    least until then, and enters with that: leaving it out would flatter an overloaded system.
    """
    if metric.values is None:
        raise TypeError(f"{metric.name} is not measured from requests")
    values = metric.values(counted, config, replicate)
    missing = np.isnan(values)
    if not missing.any():
        return Sample(metric, counted.request_id, values, missing)
    if metric.since_arrival:
        lasted_s = np.where(missing, config.sim_seconds - counted.arrival_s, values)
        return Sample(metric, counted.request_id, lasted_s, missing)
    there = ~missing
    return Sample(metric, counted.request_id[there], values[there], np.zeros(there.sum(), np.bool_))


def request_samples(
    counted: RequestRecords, config: SimConfig, replicate: int = 0
) -> dict[str, Sample]:
    """Return the sample of each metric that is measured from requests, by the metric's name."""
    return {
        metric.name: sample(metric, counted, config, replicate) for metric in metrics_of("requests")
    }


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
        name: pool.replica_gpus * active_s(*ends[name], window)
        for name, pool in config.batching.pools.items()
    }


def pool_gpus(config: SimConfig) -> dict[str, int]:
    """Return the number of GPUs of each pool."""
    return config.deployment.gpus_by_pool


def summarise(
    records: RequestRecords, config: SimConfig, samples: Mapping[str, Sample] | None = None
) -> dict[str, Any]:
    """Return a run's statistics over the requests that arrive in [warmup, sim_seconds).

    Times are in seconds. Throughput counts completions in the window; utilisation is busy time
    clipped to the window over the pool's GPU-seconds.

    Parameters
    ----------
    samples : mapping of str to Sample, optional
        What `request_samples` of the `counted_requests` returns, where it is known already.
    """
    window = (config.warmup_seconds, config.sim_seconds)
    length_s = window[1] - window[0]
    arrived = records.select(in_window(records, *window))
    if samples is None:
        samples = request_samples(counted_requests(records, config), config)
    finished_in_window = np.logical_and(records.finish_s >= window[0], records.finish_s < window[1])
    gpus = pool_gpus(config)
    busy = pool_busy_s(records, config, window)
    measured: dict[str, float] = {}
    for one in samples.values():
        measured |= one.statistics()
    return {
        "mode": config.mode,
        "ttft_definition": config.ttft_definition,
        "num_samples": int(np.count_nonzero(~samples["ttft"].open)),
        **measured,
        "lower_bounds": [name for one in samples.values() for name in one.lower_bounds()],
        "arrived": len(arrived),
        **_status_counts(arrived),
        "preemptions": int(arrived.preemptions.sum()),
        "throughput_rps": float(np.count_nonzero(finished_in_window)) / length_s,
        "elapsed_s": elapsed_s(records, config),
        # a sum over a pool that never idles may round to just above the whole
        **{f"utilization_{pool}": min(1.0, busy[pool] / (gpus[pool] * length_s)) for pool in gpus},
        **_gpu_counts(gpus),
    }


def service_seconds(records: RequestRecords, config: SimConfig) -> dict[str, Floats]:
    """Return the service that each request asks of each pool, in seconds; shape (n,).

    No pools with batching, where a request's service depends on what it is batched with.
    """
    if config.serving == "batching":
        return {}
    cluster = config.cluster
    prefill = records.prompt_tokens / cluster.prefill_tokens_per_s
    decode = records.output_tokens / cluster.decode_tokens_per_s
    return (
        {"gpu": prefill + decode}
        if config.mode == "mono"
        else {
            "prefill": prefill,
            "decode": decode,
        }
    )


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
