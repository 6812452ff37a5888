"""What each request class measured: SLO attainment, and TTFT by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.core.classes import ALL_CLASSES
from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS, Metric, metrics_of
from simlib.core.records import RequestRecords, in_window
from simlib.core.sampling import sample_classes
from simlib.core.summary import Sample, counted_requests, sample
from simlib.stats.intervals import empty
from simlib.stats.relaxation import RunLength
from simlib.study.measurement.measure import PointMeasurement
from simlib.study.measurement.measured import (
    Measured,
    interval_columns,
    measure_metric,
    reasons,
)

ATTAINMENT = "slo_attainment"


@dataclass(frozen=True, slots=True)
class ClassMeasurement:
    """One class of a point's requests, or all of them together."""

    name: str
    """Its name; `simlib.core.classes.ALL_CLASSES` for all together."""
    ttft_slo_s: float | None
    priority: int | None
    requests: int
    """Requests that arrived in the window, summed over the replicates."""
    measured: dict[str, Measured]
    """Its shares, such as SLO attainment, and its TTFT, by statistic."""
    goodput_rps: float
    """Requests within their SLO per second of the window; NaN where none has one."""

    @property
    def has_slo(self) -> bool:
        """Whether any of the requests have an SLO to meet."""
        return not np.isnan(self.goodput_rps)

    @property
    def lower_bounds(self) -> list[str]:
        """Statistics that unfinished requests make lower bounds in some replicate."""
        return sorted(name for name, one in self.measured.items() if one.lower_bound)


@dataclass(frozen=True, slots=True)
class ClassedRecords:
    """The requests of one replicate that arrived in the window, by class."""

    records: RequestRecords
    place: NDArray[np.int64]
    """Place of each request's class in ``config.request_classes``."""
    config: SimConfig
    replicate: int

    @classmethod
    def of(cls, records: RequestRecords, config: SimConfig, replicate: int) -> ClassedRecords:
        """Draw the classes of the requests that arrived in the window again."""
        arrived = records.select(in_window(records, config.warmup_seconds, config.sim_seconds))
        place = sample_classes(config, replicate, arrived.request_id)
        return cls(arrived, place, config, replicate)

    def arrived(self, name: str) -> RequestRecords:
        """Return the requests of a class, or of all."""
        if name == ALL_CLASSES:
            return self.records
        return self.records.select(self.place == list(self.config.request_classes).index(name))

    def sample(self, metric: Metric, name: str) -> Sample:
        """Return a metric's values in a class, or of all requests."""
        mine = self.arrived(name)
        if not metric.is_share:  # a rejected request has no latency, but it has missed its SLO
            mine = counted_requests(mine, self.config)
        return sample(metric, mine, self.config, self.replicate)


def measure_classes(
    replicates: Sequence[RequestRecords], config: SimConfig, point: PointMeasurement
) -> tuple[ClassMeasurement, ...]:
    """Measure each class of a point, and all together, in the configuration's window.

    Parameters
    ----------
    replicates : sequence of RequestRecords
        From replicate 0 on: the number decides which classes are drawn.
    point : PointMeasurement
        What the same records measured without regard to classes.
    """
    runs = [ClassedRecords.of(records, config, r) for r, records in enumerate(replicates)]
    latency = METRICS["ttft"]
    together = {one.name: point.measured[one.name] for one in latency.statistics}
    length = point.length_for(latency, config)
    found = []
    for name, one in config.request_classes.items():
        ttft = measure_metric([run.sample(latency, name) for run in runs], length)
        found.append(_measurement(name, (one.ttft_slo_s, one.priority), runs, ttft, length))
    return (*found, _measurement(ALL_CLASSES, (None, None), runs, together, length))


def class_lines(
    classes: Sequence[ClassMeasurement],
    where: Mapping[str, Any],
    point: PointMeasurement,
    config: SimConfig,
) -> list[dict[str, Any]]:
    """Return the lines of classes.csv of one point; `where` are their first columns."""
    lines = []
    for one in classes:
        intervals = {name: measured.interval for name, measured in one.measured.items()}
        lines.append(
            {
                **where,
                "request_class": one.name,
                "ttft_slo_s": one.ttft_slo_s,
                "priority": one.priority,
                "replicates": len(point.replicates),
                "stability": point.stability.verdict,
                "requests": one.requests,
                "goodput_rps": one.goodput_rps,
                "ttft_definition": config.ttft_definition,
                **interval_columns(intervals),
                "lower_bounds": " ".join(one.lower_bounds),
                "notes": reasons(intervals),
            }
        )
    return lines


def _measurement(
    name: str,
    slo_and_priority: tuple[float | None, int | None],
    runs: Sequence[ClassedRecords],
    ttft: dict[str, Measured],
    length: RunLength,
) -> ClassMeasurement:
    slo_s, priority = slo_and_priority
    config = runs[0].config
    of_class = config.request_classes.values() if name == ALL_CLASSES else ()
    has_slo = slo_s is not None or any(one.ttft_slo_s is not None for one in of_class)
    shares: dict[str, Measured] = {}
    good = 0.0
    for metric in metrics_of("classes"):
        samples = [run.sample(metric, name) for run in runs]
        measured = measure_metric(samples, length)
        if metric.name == ATTAINMENT:
            good = sum(float(one.values.sum()) for one in samples)
        if not has_slo:
            nothing = empty("", "no SLO")
            measured = {key: Measured(one.values, nothing) for key, one in measured.items()}
        shares |= measured
    window_s = config.sim_seconds - config.warmup_seconds
    return ClassMeasurement(
        name=name,
        ttft_slo_s=slo_s,
        priority=priority,
        requests=sum(len(run.arrived(name)) for run in runs),
        measured={**shares, **ttft},
        goodput_rps=good / (len(runs) * window_s) if has_slo else np.nan,
    )
