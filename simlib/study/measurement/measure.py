"""What a point's replicates measured: the one measurement that everything shown comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS, Metric, before_decode
from simlib.core.records import Floats, RequestRecords, in_window, ttft_parts, ttft_s
from simlib.core.summary import (
    Sample,
    counted_requests,
    request_samples,
    summarise,
)
from simlib.serving.saturation import Need, needs_of
from simlib.stats.intervals import Interval
from simlib.stats.relaxation import RunLength
from simlib.stats.stability import Drift, Stability, drift, judge
from simlib.stats.warmup import SuggestedWarmup, suggested_warmup_s
from simlib.study.measurement.distribution import Distribution
from simlib.study.measurement.length import Work, length_of, loads_of, work_of
from simlib.study.measurement.measured import Measured, digest, measure_metric
from simlib.study.measurement.over_time import MeasuredOverTime, measure_over_time


@dataclass(frozen=True, slots=True)
class Measurement:
    """One replicate."""

    statistics: dict[str, Any]
    """As `simlib.core.summary.summarise` returns them."""
    work: Work
    parts: dict[str, float]
    """Mean of each part of TTFT, seconds; they sum to the mean of ``first_decode_step`` TTFT."""
    drift: Drift

    @property
    def rho(self) -> dict[str, float]:
        """Offered load by pool."""
        return {name: pool.rho for name, pool in self.work.pools.items()}


@dataclass(frozen=True, slots=True)
class PointMeasurement:
    """All replicates of a point, in order."""

    replicates: tuple[Measurement, ...]
    measured: dict[str, Measured]
    """By statistic, such as p99_ttft_s."""
    stability: Stability
    length: RunLength
    """How long the runs are against what the slowest queue needs."""
    prefill_length: RunLength
    """The same, for what ends before decode begins."""
    warmup: SuggestedWarmup
    distribution: Distribution | None = None
    """Of TTFT; None if nobody got a first token."""
    requests: str = ""
    """Of a single replicate: which requests arrived in the window, in short."""
    over_time: MeasuredOverTime | None = None
    """What timelines add; their inter-token latency also stands in `measured`."""

    @property
    def intervals(self) -> dict[str, Interval]:
        """The estimate with its interval, by statistic."""
        return {name: one.interval for name, one in self.measured.items()}

    @property
    def unsupported(self) -> list[str]:
        """Statistics that are left empty, because there are too few requests for them."""
        return [name for name, one in self.measured.items() if np.isnan(one.interval.estimate)]

    def length_for(self, metric: Metric, config: SimConfig) -> RunLength:
        """Return how long the runs are against what a metric's queues need."""
        return self.prefill_length if before_decode(metric, config) else self.length

    def values(self, statistic: str) -> Floats:
        """Return a number of every replicate, NaN where it has none; shape (replicates,)."""
        return np.array([one.statistics[statistic] for one in self.replicates], dtype=np.float64)

    def part_values(self, part: str) -> Floats:
        """Return the mean of a part of TTFT in every replicate; shape (replicates,)."""
        return np.array([one.parts[part] for one in self.replicates])

    def rho(self) -> dict[str, float]:
        """Return the offered load of each pool, mean over the replicates."""
        return {
            pool: float(np.mean([one.rho[pool] for one in self.replicates]))
            for pool in self.replicates[0].rho
        }

    def total(self, count: str) -> int:
        """Return a count summed over the replicates."""
        return sum(one.statistics[count] for one in self.replicates)

    def mean(self, statistic: str) -> float:
        """Return the mean of a number over the replicates."""
        return float(np.mean(self.values(statistic)))

    def lower_bounds(self) -> list[str]:
        """Return the statistics that unfinished requests make lower bounds in some replicate."""
        names = {name for one in self.replicates for name in one.statistics["lower_bounds"]}
        return sorted(names)


@dataclass(slots=True)
class Replicates:
    """A point's replicates as they come in, so that nobody holds all their records."""

    config: SimConfig
    measured: list[Measurement] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """Of each metric, by replicate."""
    needs: Mapping[str, Need] | None = None
    """What requests need of each batching pool; found when the first replicate comes."""

    def add(self, records: RequestRecords) -> None:
        """Measure the next replicate."""
        if self.needs is None:
            self.needs = needs_of(self.config)
        counted = counted_requests(records, self.config)
        samples = request_samples(counted, self.config, len(self.measured))
        for name, one in samples.items():
            self.samples.setdefault(name, []).append(one)
        work = work_of(records, self.config, self.needs)
        self.measured.append(_measurement(records, counted, samples, self.config, work))

    def metric(self, name: str) -> dict[str, Measured]:
        """Return what the replicates so far say of a metric, by statistic."""
        each = [one.statistics for one in self.measured]
        length = self.length(before_decode=before_decode(METRICS[name], self.config))
        return measure_metric(self.samples[name], length, each)

    def length(self, *, before_decode: bool = False) -> RunLength:
        """Return how long the runs so far are, against what the queues need."""
        return length_of([one.work for one in self.measured], before_decode=before_decode)


def stability_of(works: Sequence[Work], drifts: Sequence[Drift]) -> Stability:
    """Return the verdict on a point, from the work and the drift of waits in each replicate."""
    return judge(loads_of(works), drifts, length_of(works).relaxations)


def measure_point(replicates: Sequence[RequestRecords], config: SimConfig) -> PointMeasurement:
    """Measure a point from its replicates' records, in the configuration's window.

    With one replicate, intervals come from batches within the run, and say so.
    """
    taken = Replicates(config)
    for records in replicates:
        taken.add(records)
    length = taken.length()
    over_time = measure_over_time(replicates, config, length)
    measured: dict[str, Measured] = {}
    for name in taken.samples:
        measured |= taken.metric(name)
    if over_time is not None:
        measured |= over_time.measured
        for one, itl in zip(taken.measured, over_time.statistics, strict=True):
            one.statistics.update(itl)
    shortest = min(len(records) for records in replicates)
    return PointMeasurement(
        replicates=tuple(taken.measured),
        measured=measured,
        stability=stability_of(
            [one.work for one in taken.measured], [one.drift for one in taken.measured]
        ),
        length=length,
        prefill_length=taken.length(before_decode=True),
        warmup=suggested_warmup_s(
            [ttft_s(records, config.ttft_definition)[:shortest] for records in replicates],
            [records.arrival_s[:shortest] for records in replicates],
        ),
        distribution=Distribution.of(taken.samples["ttft"]),
        requests=arrived_in_window(replicates[0], config) if len(replicates) == 1 else "",
        over_time=over_time,
    )


def arrived_in_window(records: RequestRecords, config: SimConfig) -> str:
    """Return which requests arrived in the window, rejected ones included, in short."""
    window = in_window(records, config.warmup_seconds, config.sim_seconds)
    return digest(records.request_id[window])


def _measurement(
    records: RequestRecords,
    counted: RequestRecords,
    samples: Mapping[str, Sample],
    config: SimConfig,
    work: Work,
) -> Measurement:
    parts = ttft_parts(counted)
    return Measurement(
        statistics=summarise(records, config, samples),
        work=work,
        parts={name: float(np.mean(values)) for name, values in parts.items() if len(values)}
        or dict.fromkeys(parts, float("nan")),
        drift=drift(queue_waits_s(counted, config), counted.arrival_s),
    )


def queue_waits_s(counted: RequestRecords, config: SimConfig) -> Floats:
    """Return the waits whose drift tells whether queues grow: for prefill, link and decode.

    Waits for prefill are of places in the queue, not of requests. Where requests overtake each
    other, those that others pass wait until arrivals end, the early ones longest, and their falling
    waits hide a queue that grows. So the k-th start is matched with the k-th arrival, which leaves
    the sum of the waits and the number waiting as they are.
    """
    starts = counted.prefill_start_s
    if config.serving == "batching" and config.batching.discipline != "fcfs":
        starts = np.sort(starts)  # requests that never start come last
    parts = ttft_parts(counted)
    waits: Floats = starts - counted.arrival_s + parts["transfer_wait_s"] + parts["decode_wait_s"]
    return waits
