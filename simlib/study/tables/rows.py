"""The points of a study with what their replicates measured, and their lines in summary.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import TTFT_PARTS, RequestRecords
from simlib.core.summary import pool_gpus
from simlib.errors import InvalidParameterError
from simlib.study.jobs.decision import Decision, read_decisions
from simlib.study.jobs.described import located, read_point
from simlib.study.jobs.store import read_records, result_path
from simlib.study.measurement.classes import ClassMeasurement, class_lines, measure_classes
from simlib.study.measurement.measure import PointMeasurement, measure_point
from simlib.study.measurement.measured import interval_columns, reasons
from simlib.study.measurement.over_time import occupation_columns, timeline_lines
from simlib.study.plan.precise import lengthened
from simlib.study.tables.kept import Kept, MeasuredPoint
from simlib.study.tables.pairs import Side

if TYPE_CHECKING:  # its library takes as long to import as all else here
    from simlib.study.tables.requests_table import RequestsTable


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A line of the study with what its replicates measured."""

    coordinates: dict[str, Any]
    config: SimConfig
    point_id: str
    point: PointMeasurement
    simulated: str
    """The point whose results these are: with `precision`, its runs may be longer."""
    precision: str
    """Whether the wanted precision was reached; empty where none was asked for."""
    classes: tuple[ClassMeasurement, ...]
    """Each request class, and all together; empty without classes."""
    kept: Kept

    def side(self, factor: str, results: Path) -> Side:
        """Return it as one side of a comparison of the levels of a factor."""
        load = partial(_read_all, results, self.simulated, len(self.point.replicates))
        level = self.coordinates[factor]
        return Side(level, self.config, self.point, load, self.classes, self.kept)

    def class_lines(self) -> list[dict[str, Any]]:
        """Return its lines of classes.csv."""
        return class_lines(self.classes, self._where(), self.point, self.config)

    def timeline_lines(self) -> list[dict[str, Any]]:
        """Return its lines of timeline.csv; none without a timeline."""
        over_time = self.point.over_time
        return [] if over_time is None else timeline_lines(over_time, self._where())

    def curve(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return its part of distribution.csv; None if nobody got a first token."""
        distribution = self.point.distribution
        if distribution is None:
            return None
        share, ttft_s = distribution.columns()
        return self._where(), {"share": share, "ttft_s": ttft_s}

    def _where(self) -> dict[str, Any]:
        return {**self.coordinates, "point_id": self.point_id}


def measured_row(row: dict[str, Any], results: Path, requests: RequestsTable | None) -> MeasuredRow:
    """Measure a row of study.json, or read what was kept of it.

    On the way, hand its records to the table of requests.
    """
    decision = _decision(row, results)
    count, simulated = int(row["replicates"]), row["point_id"]
    config = _located(row, results)
    if decision is not None:
        count, simulated = decision.replicates, decision.simulated
        config = lengthened(config, decision.times)
    kept = Kept.of(config, [result_path(results, simulated, r) for r in range(count)])
    measured = kept.read(MeasuredPoint)
    if measured is None or requests is not None:
        records = _read_all(results, simulated, count)
        if requests is not None:
            for replicate, one in enumerate(records):
                requests.add(row, config, replicate, one)
        if measured is None:
            measured = _measure(records, config)
            kept.write(measured)
    return MeasuredRow(
        row["coordinates"],
        config,
        row["point_id"],
        measured.point,
        simulated,
        "" if decision is None else _precision(decision),
        measured.classes,
        kept,
    )


def _located(row: dict[str, Any], results: Path) -> SimConfig:
    """Return a row's configuration with its files where the point's run has them.

    What pools can serve follows from the lengths of a trace, and from own models and latencies.
    """
    point = results / "points" / row["point_id"] / "point.json"
    files = read_point(point)["files"] if point.is_file() else {}
    return SimConfig.from_dict(located({"config": row["config"], "files": files}))


def _measure(records: Sequence[RequestRecords], config: SimConfig) -> MeasuredPoint:
    point = measure_point(records, config)
    classes = measure_classes(records, config, point) if config.request_classes else ()
    return MeasuredPoint(point, classes)


def _read_all(results: Path, point_id: str, count: int) -> list[RequestRecords]:
    return [read_replicate(results, point_id, replicate) for replicate in range(count)]


def read_replicate(results: Path, point_id: str, replicate: int) -> RequestRecords:
    """Read the records of a point's replicate."""
    path = result_path(results, point_id, replicate)
    return read_records(path, point_id=point_id, replicate=replicate)[0]


def summary_line(row: MeasuredRow) -> dict[str, Any]:
    """Return a row's line of summary.csv."""
    point, config = row.point, row.config
    gpus = pool_gpus(config)
    line: dict[str, Any] = {
        **row.coordinates,
        "point_id": row.point_id,
        "gpus": sum(gpus.values()),
        "replicates": len(point.replicates),
        "window_s": config.sim_seconds - config.warmup_seconds,
        "stability": point.stability.verdict,
        "stability_reason": point.stability.reason,
    }
    for pool, rho in point.rho().items():
        line[f"rho_{pool}"] = rho
    for pool in gpus:
        line[f"utilization_{pool}"] = point.mean(f"utilization_{pool}")
    if point.over_time is not None:
        line |= occupation_columns(point.over_time)
    line["throughput_rps"] = point.mean("throughput_rps")
    line["throughput_rps_per_gpu"] = line["throughput_rps"] / line["gpus"]
    for count in ("arrived", "finished", "unfinished", "rejected", "preemptions"):
        line[count] = point.total(count)
    line["ttft_definition"] = config.ttft_definition
    line |= interval_columns(point.intervals)
    for part in TTFT_PARTS:
        line[f"mean_{part}"] = float(np.mean(point.part_values(part)))
    line["lower_bounds"] = " ".join(point.lower_bounds())
    line["precision"] = row.precision
    line["notes"] = reasons(point.intervals)
    line["suggested_warmup_s"] = point.warmup.warmup_s if point.warmup.found else np.nan
    line["warmup_flag"] = _warmup_flag(point, config)
    return line


def _warmup_flag(point: PointMeasurement, config: SimConfig) -> str:
    warmup = point.warmup
    if not warmup.found:
        return warmup.reason
    if warmup.warmup_s <= config.warmup_seconds:
        return ""
    return f"MSER-5 suggests {warmup.warmup_s:.0f} s, configured are {config.warmup_seconds:g} s"


def _decision(row: dict[str, Any], results: Path) -> Decision | None:
    """Return what was decided on a row with a precision."""
    if row["precision_id"] is None:
        return None
    path = results / "precision" / f"{row['precision_id']}.json"
    decisions, place = read_decisions(path), int(row["precision_place"])
    if place >= len(decisions):
        raise InvalidParameterError("points", len(decisions), f"more than {place}", str(path))
    return decisions[place]


def _precision(decision: Decision) -> str:
    wanted = f"{decision.metric} within {decision.wanted_relative:.1%}"
    runs = f" of runs {decision.times} times as long" if decision.times > 1 else ""
    if decision.reached:
        return f"reached: {wanted}, with {decision.replicates} replicates{runs}"
    width = decision.relative_half_width
    got = f"{width:.1%}" if width is not None else "no such interval"
    reason = f" ({decision.reason})" if decision.reason else ""
    return f"NOT reached: {wanted}, got {got} with {decision.replicates} replicates{runs}{reason}"
