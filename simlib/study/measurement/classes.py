"""What each request class measured: SLO attainment, and TTFT by class.

SLO attainment is that of DistServe (OSDI 2024, arXiv:2401.09670), for TTFT: the share of the
requests arriving in the window whose TTFT is within their class's SLO. A request without a first
token, because it was rejected or the run ended, has missed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.core.classes import ALL_CLASSES
from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords, in_window, ttft_s
from simlib.core.sampling import sample_classes
from simlib.stats.intervals import Interval, batch_means_interval, empty, mean_interval
from simlib.study.measurement.measure import (
    PointMeasurement,
    measure_intervals,
    measure_replicate,
    reasons,
)

STATISTICS = ("mean_ttft_s", "p50_ttft_s", "p90_ttft_s", "p99_ttft_s")


@dataclass(frozen=True, slots=True)
class ClassMeasurement:
    """One class of a point's requests, or all of them together."""

    name: str
    """Its name; `simlib.core.classes.ALL_CLASSES` for all together."""
    ttft_slo_s: float | None
    priority: int | None
    requests: int
    """Requests that arrived in the window, summed over the replicates."""
    attained: Floats
    """SLO attainment of each replicate, NaN where no request has an SLO; shape (replicates,)."""
    attainment: Interval
    goodput_rps: float
    """Requests within their SLO per second of the window; NaN where none has one."""
    ttft: dict[str, Interval]
    """By statistic."""
    lower_bounds: tuple[str, ...]
    """Statistics that unfinished requests make lower bounds in some replicate."""

    @property
    def has_slo(self) -> bool:
        """Whether any of the requests have an SLO to meet."""
        return not np.isnan(self.goodput_rps)


@dataclass(frozen=True, slots=True)
class ClassedRecords:
    """The requests of one replicate that arrived in the window, with their classes."""

    records: RequestRecords
    place: NDArray[np.int64]
    """Place of each request's class in ``config.request_classes``."""
    met: Floats
    """1 where TTFT is within the SLO, 0 where not, NaN where the class has none."""

    @classmethod
    def of(cls, records: RequestRecords, config: SimConfig, replicate: int) -> ClassedRecords:
        """Draw the classes again, and hold each TTFT against its SLO."""
        counted = records.select(in_window(records, config.warmup_seconds, config.sim_seconds))
        place = sample_classes(config, replicate, counted.request_id)
        slos = [one.ttft_slo_s for one in config.request_classes.values()]
        slo_s = np.array([np.nan if slo is None else slo for slo in slos])[place]
        within = ttft_s(counted, config.ttft_definition) <= slo_s  # false without a first token
        return cls(counted, place, np.where(np.isnan(slo_s), np.nan, within))

    def met_of(self, name: str, config: SimConfig) -> tuple[NDArray[np.int64], Floats]:
        """Return numbers of the requests of a class that have an SLO, and whether they met it."""
        mine = ~np.isnan(self.met)
        if name != ALL_CLASSES:
            mine &= self.place == list(config.request_classes).index(name)
        return self.records.request_id[mine], self.met[mine]


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
    found = []
    for place, (name, one) in enumerate(config.request_classes.items()):
        mine = [run.records.select(run.place == place) for run in runs]
        measured = [measure_replicate(records, config) for records in mine]
        bounds = {bound for run in measured for bound in run.statistics["lower_bounds"]}
        found.append(
            _measurement(
                name,
                (one.ttft_slo_s, one.priority),
                [run.met_of(name, config)[1] for run in runs],
                sum(map(len, mine)),
                config,
                measure_intervals(mine, measured, config, STATISTICS)[0],
                bounds,
            )
        )
    everything = _measurement(
        ALL_CLASSES,
        (None, None),
        [run.met_of(ALL_CLASSES, config)[1] for run in runs],
        sum(len(run.records) for run in runs),
        config,
        {name: point.intervals[name] for name in STATISTICS},
        set(point.lower_bounds()),
    )
    return (*found, everything)


def class_lines(
    classes: Sequence[ClassMeasurement],
    where: Mapping[str, Any],
    point: PointMeasurement,
    config: SimConfig,
) -> list[dict[str, Any]]:
    """Return the lines of classes.csv of one point; `where` are their first columns."""
    lines = []
    for one in classes:
        intervals = {"slo_attainment": one.attainment, **one.ttft}
        line = {
            **where,
            "request_class": one.name,
            "ttft_slo_s": one.ttft_slo_s,
            "priority": one.priority,
            "replicates": len(one.attained),
            "stability": point.stability.verdict,
            "requests": one.requests,
            "goodput_rps": one.goodput_rps,
            "ttft_definition": config.ttft_definition,
        }
        for statistic, interval in intervals.items():
            line[statistic] = interval.estimate
            line[f"{statistic}_low"] = interval.low
            line[f"{statistic}_high"] = interval.high
        line["lower_bounds"] = " ".join(one.lower_bounds)
        line["notes"] = reasons(intervals)
        lines.append(line)
    return lines


def attainment_interval(met: Sequence[Floats]) -> Interval:
    """Return the SLO attainment with its 95% interval.

    The mean over replicates of their attainments, with Student's t; of one replicate, the share in
    it, with batch means. What reaches beyond 0 or 1 is cut off. Where all replicates (or batches)
    are alike, as where every request met its SLO, the data say nothing of the spread, and there is
    no interval.

    Parameters
    ----------
    met : sequence of arrays, shape (requests,)
        For each replicate: 1 for a request within its SLO, 0 for one that missed it.
    """
    shares = _shares(met)
    interval = batch_means_interval(met[0]) if len(met) == 1 else mean_interval(shares)
    if np.isnan(interval.low):
        return empty(interval.method, interval.reason, float(np.mean(shares)))
    if interval.low == interval.high:
        unit = "batches" if len(met) == 1 else "replicates"
        return empty(interval.method, f"all {unit} are alike", interval.estimate)
    low, high = max(interval.low, 0.0), min(interval.high, 1.0)
    return Interval(low, interval.estimate, high, interval.method, interval.reason)


def _measurement(
    name: str,
    slo_and_priority: tuple[float | None, int | None],
    met: Sequence[Floats],
    requests: int,
    config: SimConfig,
    ttft: dict[str, Interval],
    lower_bounds: set[str],
) -> ClassMeasurement:
    slo_s, priority = slo_and_priority
    of_class = config.request_classes.values() if name == ALL_CLASSES else ()
    has_slo = slo_s is not None or any(one.ttft_slo_s is not None for one in of_class)
    window_s = config.sim_seconds - config.warmup_seconds
    good = sum(float(np.sum(run)) for run in met) / (len(met) * window_s)
    return ClassMeasurement(
        name=name,
        ttft_slo_s=slo_s,
        priority=priority,
        requests=requests,
        attained=_shares(met),
        attainment=attainment_interval(met) if has_slo else empty("", "no SLO"),
        goodput_rps=good if has_slo else np.nan,
        ttft=ttft,
        lower_bounds=tuple(sorted(bound for bound in lower_bounds if bound in STATISTICS)),
    )


def _shares(met: Sequence[Floats]) -> Floats:
    return np.array([np.mean(run) if len(run) else np.nan for run in met])
