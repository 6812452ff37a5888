"""The tables of a study, from the records of its points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simlib import __version__
from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.records import TTFT_PARTS, RequestRecords
from simlib.core.summary import pool_gpus
from simlib.files import replacing, write_json
from simlib.study.jobs import outputs
from simlib.study.jobs.decision import Decision, read_decision
from simlib.study.jobs.described import read_study
from simlib.study.jobs.store import read_records, result_path
from simlib.study.measurement.classes import ClassMeasurement, class_lines, measure_classes
from simlib.study.measurement.measure import PointMeasurement, measure_point, reasons
from simlib.study.measurement.timed import occupation_columns, timeline_lines
from simlib.study.plan.spec import METRICS
from simlib.study.tables.class_comparison import compare_classes
from simlib.study.tables.comparison import (
    Pair,
    Side,
    attribute_pairs,
    compare_pairs,
    crossover_lines,
)
from simlib.study.tables.requests_table import RequestsTable, requests_table

CROSSOVER_STATISTICS = ("mean_ttft_s", "p99_ttft_s")


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A line of the study with what its replicates measured."""

    coordinates: dict[str, Any]
    config: SimConfig
    point_id: str
    measured: PointMeasurement
    precision: str
    """Whether the wanted precision was reached; empty where none was asked for."""
    classes: tuple[ClassMeasurement, ...]
    """Each request class, and all together; empty without classes."""


def replicates_of(row: dict[str, Any], results: Path) -> int:
    """Return how many replicates of a row's point the tables use."""
    if row["precision_id"] is None:
        return int(row["replicates"])
    return _decision(row, results).replicates


def _decision(row: dict[str, Any], results: Path) -> Decision:
    return read_decision(results / "precision" / f"{row['precision_id']}.json")


def _precision(row: dict[str, Any], results: Path) -> str:
    if row["precision_id"] is None:
        return ""
    decision = _decision(row, results)
    wanted = f"{decision.metric} within {decision.wanted_relative:.1%}"
    if decision.reached:
        return f"reached: {wanted}"
    width = decision.relative_half_width
    got = f"{width:.1%}" if width is not None else decision.reason or "no interval"
    return f"NOT reached: {wanted}, got {got} with {decision.replicates} replicates"


def write_tables(study_path: Path, results: Path, output: Path) -> None:
    """Write every table of a study from its points' records; remove those it no longer has.

    Only files that this function wrote into the folder, and that are unchanged, are removed.
    """
    study = read_study(study_path)
    names = {"requests.parquet"} if study["requests_table"] else set()
    with (
        requests_table(output / "requests.parquet", study["rows"]) if names else nullcontext()
    ) as requests:
        rows = [_measured(row, results, requests) for row in study["rows"]]
    for name, lines in _tables(study, rows, results):
        _write_csv(output / name, lines)
        names.add(name)
    write_json(output / "provenance.json", _provenance(study, rows))
    outputs.record(output, "tables", [*names, "provenance.json"])


def _tables(
    study: dict[str, Any], rows: list[MeasuredRow], results: Path
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield name and lines of each table but that of requests."""
    classes = any(row.classes for row in rows)
    yield "summary.csv", [_summary_line(row) for row in rows]
    if classes:
        yield "classes.csv", [line for row in rows for line in _class_lines(row)]
    if any(row.measured.timed for row in rows):
        yield "timeline.csv", list(_timeline_lines(rows))
    pairs = list(_pairs(study, rows, results))
    if study["compare"]:
        yield "comparison.csv", compare_pairs(pairs, METRICS)
        yield "attribution.csv", attribute_pairs(pairs)
        if classes:
            yield "class_comparison.csv", compare_classes(pairs)
    if study["crossover"]:
        x = study["crossover"]["x"]
        yield "crossover.csv", crossover_lines(pairs, CROSSOVER_STATISTICS, x)


def _read(results: Path, point_id: str, replicate: int) -> RequestRecords:
    path = result_path(results, point_id, replicate)
    return read_records(path, point_id=point_id, replicate=replicate)[0]


def _measured(row: dict[str, Any], results: Path, requests: RequestsTable | None) -> MeasuredRow:
    """Measure a row; on the way, hand its records to the table of requests."""
    config = SimConfig.from_dict(row["config"])
    records = [_read(results, row["point_id"], r) for r in range(replicates_of(row, results))]
    if requests is not None:
        for replicate, one in enumerate(records):
            requests.add(row, config, replicate, one)
    measured = measure_point(records, config, METRICS)
    return MeasuredRow(
        row["coordinates"],
        config,
        row["point_id"],
        measured,
        _precision(row, results),
        measure_classes(records, config, measured) if config.request_classes else (),
    )


def _class_lines(row: MeasuredRow) -> list[dict[str, Any]]:
    where = {**row.coordinates, "point_id": row.point_id}
    return class_lines(row.classes, where, row.measured, row.config)


def _timeline_lines(rows: list[MeasuredRow]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row.measured.timed is not None:
            where = {**row.coordinates, "point_id": row.point_id}
            yield from timeline_lines(row.measured.timed, where)


def _summary_line(row: MeasuredRow) -> dict[str, Any]:
    measured, config = row.measured, row.config
    gpus = pool_gpus(config)
    line: dict[str, Any] = {
        **row.coordinates,
        "point_id": row.point_id,
        "gpus": sum(gpus.values()),
        "replicates": len(measured.replicates),
        "stability": measured.stability.verdict,
        "stability_reason": measured.stability.reason,
    }
    for pool in gpus:
        line[f"rho_{pool}"] = float(np.mean([one.rho[pool] for one in measured.replicates]))
    for pool in gpus:
        line[f"utilization_{pool}"] = measured.mean(f"utilization_{pool}")
    if measured.timed is not None:
        line |= occupation_columns(measured.timed)
    line["throughput_rps"] = measured.mean("throughput_rps")
    line["throughput_rps_per_gpu"] = line["throughput_rps"] / line["gpus"]
    for count in ("arrived", "finished", "unfinished", "rejected", "preemptions"):
        line[count] = measured.total(count)
    line["ttft_definition"] = config.ttft_definition
    for statistic, interval in measured.intervals.items():
        line[statistic] = interval.estimate
        line[f"{statistic}_low"] = interval.low
        line[f"{statistic}_high"] = interval.high
    for part in TTFT_PARTS:
        line[f"mean_{part}"] = float(np.mean(measured.part_values(part)))
    line["lower_bounds"] = " ".join(measured.lower_bounds())
    line["precision"] = row.precision
    line["notes"] = reasons(measured.intervals)
    line["suggested_warmup_s"] = measured.warmup.warmup_s if measured.warmup.found else np.nan
    line["warmup_flag"] = _warmup_flag(measured, config)
    return line


def _warmup_flag(measured: PointMeasurement, config: SimConfig) -> str:
    warmup = measured.warmup
    if not warmup.found:
        return warmup.reason
    if warmup.warmup_s <= config.warmup_seconds:
        return ""
    return f"MSER-5 suggests {warmup.warmup_s:.0f} s, configured are {config.warmup_seconds:g} s"


def _pairs(study: dict[str, Any], rows: list[MeasuredRow], results: Path) -> Iterator[Pair]:
    """Yield each candidate row with the baseline row at the same other coordinates.

    A coordinate that does not matter to one side (None) matches every level.
    """
    if not study["compare"]:
        return
    factor, baseline = study["compare"]["factor"], study["compare"]["baseline"]

    def side(row: MeasuredRow) -> Side:
        load = partial(_read, results, row.point_id, 0)
        return Side(row.coordinates[factor], row.config, row.measured, load, row.classes)

    bases = [row for row in rows if row.coordinates[factor] == baseline]
    for row in rows:
        if row.coordinates[factor] == baseline:
            continue
        for base in bases:
            others = [key for key in row.coordinates if key != factor]
            if all(_agree(row.coordinates[key], base.coordinates[key]) for key in others):
                where = {
                    key: row.coordinates[key]
                    if row.coordinates[key] is not None
                    else base.coordinates[key]
                    for key in others
                }
                yield Pair(where, side(base), side(row))


def _agree(one: Any, other: Any) -> bool:
    return one is None or other is None or one == other


def _provenance(study: dict[str, Any], rows: list[MeasuredRow]) -> dict[str, Any]:
    return {
        "study": study["name"],
        "simlib_version": __version__,
        "model_version": MODEL_VERSION,
        "compare": study["compare"],
        "points": [
            {
                "point_id": row.point_id,
                "coordinates": row.coordinates,
                "replicates": len(row.measured.replicates),
                "random_seed": row.config.random_seed,
                "engine": row.config.engine,
                "interval_methods": sorted(
                    {interval.method for interval in row.measured.intervals.values()}
                ),
                "config": described["config"],
            }
            for row, described in zip(rows, study["rows"], strict=True)
        ],
    }


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        pd.DataFrame(lines).to_csv(temporary, index=False, float_format="%.9g")
