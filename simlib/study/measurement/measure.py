"""What a point's replicates measured: plain numbers, and intervals over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import (
    Floats,
    RequestRecords,
    Status,
    e2e_s,
    in_window,
    tpot_s,
    ttft_parts,
    ttft_s,
)
from simlib.core.summary import PERCENTILES, offered_load, summarise
from simlib.stats.intervals import (
    Interval,
    batch_means_interval,
    batch_percentile_interval,
    empty,
    mean_interval,
    percentile_interval,
)
from simlib.stats.stability import Drift, Stability, drift, verdict_of_drifts
from simlib.stats.warmup import SuggestedWarmup, suggested_warmup_s
from simlib.study.measurement.timed import TimedMeasurement, measure_timed


@dataclass(frozen=True, slots=True)
class Measurement:
    """One replicate."""

    statistics: dict[str, Any]
    """As `simlib.core.summary.summarise` returns them."""
    rho: dict[str, float]
    """Offered load by pool."""
    parts: dict[str, float]
    """Mean of each part of TTFT, seconds; they sum to the mean of ``first_decode_step`` TTFT."""
    samples: dict[str, int]
    """Requests that have a value, by metric: ttft, tpot, e2e."""
    drift: Drift


@dataclass(frozen=True, slots=True)
class PointMeasurement:
    """All replicates of a point, in order."""

    replicates: tuple[Measurement, ...]
    intervals: dict[str, Interval]
    """By statistic, such as p99_ttft_s."""
    pooled: dict[str, float]
    """Percentiles of all replicates' requests together."""
    stability: Stability
    warmup: SuggestedWarmup
    timed: TimedMeasurement | None = None
    """What timelines add; their inter-token latency also stands among the intervals."""

    def values(self, statistic: str) -> Floats:
        """Return a statistic of every replicate, NaN where it has none; shape (replicates,)."""
        return np.array([one.statistics[statistic] for one in self.replicates], dtype=np.float64)

    def part_values(self, part: str) -> Floats:
        """Return the mean of a part of TTFT in every replicate; shape (replicates,)."""
        return np.array([one.parts[part] for one in self.replicates])

    def total(self, count: str) -> int:
        """Return a count summed over the replicates."""
        return sum(one.statistics[count] for one in self.replicates)

    def mean(self, statistic: str) -> float:
        """Return the mean of a statistic over the replicates."""
        return float(np.mean(self.values(statistic)))

    def lower_bounds(self) -> list[str]:
        """Return the statistics that unfinished requests make lower bounds in some replicate."""
        names = {name for one in self.replicates for name in one.statistics["lower_bounds"]}
        return sorted(names)


def measure_point(
    replicates: Sequence[RequestRecords], config: SimConfig, statistics: Sequence[str]
) -> PointMeasurement:
    """Measure a point from its replicates' records, in the configuration's window.

    With one replicate, intervals come from batches within the run, and say so.
    """
    measured = tuple(measure_replicate(records, config) for records in replicates)
    timed = measure_timed(replicates, config)
    intervals, pooled = measure_intervals(replicates, measured, config, statistics)
    if timed is not None:
        for one, itl in zip(measured, timed.statistics, strict=True):
            one.statistics.update(itl)
        intervals, pooled = intervals | timed.intervals, pooled | timed.pooled
    shortest = min(len(records) for records in replicates)
    return PointMeasurement(
        replicates=measured,
        intervals=intervals,
        pooled=pooled,
        stability=verdict_of_drifts(_mean_rho(measured), [one.drift for one in measured]),
        warmup=suggested_warmup_s(
            [ttft_s(records, config.ttft_definition)[:shortest] for records in replicates],
            [records.arrival_s[:shortest] for records in replicates],
        ),
        timed=timed,
    )


def measure_intervals(
    replicates: Sequence[RequestRecords],
    measured: Sequence[Measurement],
    config: SimConfig,
    statistics: Sequence[str],
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Return the interval of each statistic, and the pooled percentiles that they stand around."""
    values = {
        metric: [request_values(records, config, metric) for records in replicates]
        for metric in dict.fromkeys(split_statistic(name)[1] for name in statistics)
    }
    if len(replicates) == 1:
        return {name: _within_run(values, name) for name in statistics}, {}
    pooled: dict[str, float] = {}
    for metric, runs in values.items():
        pooled |= pooled_percentiles(runs, metric)
    intervals = {
        name: interval_over_replicates(measured, name, pooled.get(name)) for name in statistics
    }
    return intervals, pooled


def reasons(intervals: Mapping[str, Interval]) -> str:
    """Return why statistics are empty or doubtful, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for statistic, interval in intervals.items():
        if interval.reason:
            by_reason.setdefault(interval.reason, []).append(statistic)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def split_statistic(statistic: str) -> tuple[float | None, str]:
    """Return (percent or None for the mean, metric) of a name such as p99_ttft_s."""
    which, metric, _ = statistic.split("_")
    return (None if which == "mean" else float(which[1:])), metric


def pooled_percentiles(replicates: Sequence[Floats], metric: str) -> dict[str, float]:
    """Return the percentiles of one metric over all replicates' requests, by statistic.

    Empty where a request has no value yet for TTFT or E2E: it would count as if it did not exist.
    """
    values = np.concatenate(replicates)
    missing = np.isnan(values)
    if missing.any():
        if metric != "tpot":  # one-token outputs have no TPOT, which hides nothing
            return {}
        values = values[~missing]
    if len(values) == 0:
        return {}
    quantiles = np.percentile(values, PERCENTILES)
    return {
        f"p{q}_{metric}_s": float(value) for q, value in zip(PERCENTILES, quantiles, strict=True)
    }


def request_values(records: RequestRecords, config: SimConfig, metric: str) -> Floats:
    """Return one metric (ttft, tpot or e2e) of each request in the window, by arrival.

    Rejected requests, which are counted beside every metric, have none.
    """
    return _values(_counted(records, config), config, metric)


def _values(counted: RequestRecords, config: SimConfig, metric: str) -> Floats:
    if metric == "ttft":
        return ttft_s(counted, config.ttft_definition)
    return tpot_s(counted) if metric == "tpot" else e2e_s(counted)


def _counted(records: RequestRecords, config: SimConfig) -> RequestRecords:
    window = in_window(records, config.warmup_seconds, config.sim_seconds)
    return records.select(window & (records.status != Status.REJECTED))


def measure_replicate(records: RequestRecords, config: SimConfig) -> Measurement:
    """Measure one replicate in the configuration's window."""
    counted = _counted(records, config)
    parts = ttft_parts(counted)
    waits_s = _entry_wait_s(counted, config) + parts["transfer_wait_s"] + parts["decode_wait_s"]
    return Measurement(
        statistics=summarise(records, config),
        rho=offered_load(records, config),
        parts={name: float(np.mean(values)) for name, values in parts.items() if len(values)}
        or dict.fromkeys(parts, float("nan")),
        samples={
            metric: int(np.count_nonzero(~np.isnan(_values(counted, config, metric))))
            for metric in ("ttft", "tpot", "e2e")
        },
        drift=drift(waits_s, counted.arrival_s),
    )


def _entry_wait_s(counted: RequestRecords, config: SimConfig) -> Floats:
    """Return waits for prefill as they drift: of places in the queue, not of requests.

    Where requests overtake each other, those that others pass wait until arrivals end, the early
    ones longest, and their falling waits hide a queue that grows. So the k-th start is matched with
    the k-th arrival, which leaves the sum of the waits and the number waiting as they are.
    """
    starts = counted.prefill_start_s
    if config.serving == "batching" and config.batching.discipline != "fcfs":
        starts = np.sort(starts)  # requests that never start come last
    return starts - counted.arrival_s


def interval_over_replicates(
    measured: Sequence[Measurement], statistic: str, pooled: float | None
) -> Interval:
    """Return a statistic's interval over replicates, around a percentile's pooled estimate."""
    percent, metric = split_statistic(statistic)
    values = [one.statistics[statistic] for one in measured]
    if percent is None:
        return mean_interval(values)
    samples = [one.samples[metric] for one in measured]
    return percentile_interval(values, percent, samples, pooled)


def _within_run(runs: Mapping[str, Sequence[Floats]], statistic: str) -> Interval:
    percent, metric = split_statistic(statistic)
    (values,) = runs[metric]
    if metric == "tpot":
        values = values[~np.isnan(values)]  # one-token outputs have no TPOT
    if len(values) == 0:
        return empty("batch means", "no requests in the window")
    if percent is None:
        return batch_means_interval(values)
    return batch_percentile_interval(values, percent)


def _mean_rho(measured: Sequence[Measurement]) -> Mapping[str, float]:
    return {pool: float(np.mean([one.rho[pool] for one in measured])) for pool in measured[0].rho}
