"""The tables of a study, from the records of its points."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from simlib import __version__
from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.records import TTFT_PARTS, RequestRecords, in_window
from simlib.core.summary import pool_gpus
from simlib.study.comparison import (
    Pair,
    Side,
    attribute_pairs,
    compare_pairs,
    crossover_lines,
)
from simlib.study.files import replacing, write_json
from simlib.study.measure import PointMeasurement, measure_point
from simlib.study.spec import METRICS
from simlib.study.store import read_records, result_path

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


def replicates_of(row: dict[str, Any], results: Path) -> int:
    """Return how many replicates of a row's point the tables use."""
    if row["precision_id"] is None:
        return int(row["replicates"])
    return int(_decision(row, results)["replicates"])


def _decision(row: dict[str, Any], results: Path) -> dict[str, Any]:
    path = results / "precision" / f"{row['precision_id']}.json"
    decision: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return decision


def _precision(row: dict[str, Any], results: Path) -> str:
    if row["precision_id"] is None:
        return ""
    decision = _decision(row, results)
    wanted = f"{decision['metric']} within {decision['wanted_relative']:.1%}"
    if decision["reached"]:
        return f"reached: {wanted}"
    width = decision["relative_half_width"]
    got = f"{width:.1%}" if width is not None else decision["reason"] or "no interval"
    return f"NOT reached: {wanted}, got {got} with {decision['replicates']} replicates"


def write_tables(study_path: Path, results: Path, output: Path) -> None:
    """Write every table of a study from its points' records."""
    study = json.loads(study_path.read_text(encoding="utf-8"))
    rows = [_measured(row, results) for row in study["rows"]]
    _write_csv(output / "summary.csv", [_summary_line(row) for row in rows])
    pairs = list(_pairs(study, rows, results))
    if study["compare"]:
        _write_csv(output / "comparison.csv", compare_pairs(pairs, METRICS))
        _write_csv(output / "attribution.csv", attribute_pairs(pairs))
    if study["crossover"]:
        lines = crossover_lines(pairs, CROSSOVER_STATISTICS, study["crossover"]["x"])
        _write_csv(output / "crossover.csv", lines)
    if study["requests_table"]:
        _write_requests(output / "requests.parquet", study, results)
    write_json(output / "provenance.json", _provenance(study, rows))


def _read(results: Path, point_id: str, replicate: int) -> RequestRecords:
    path = result_path(results, point_id, replicate)
    return read_records(path, point_id=point_id, replicate=replicate)[0]


def _measured(row: dict[str, Any], results: Path) -> MeasuredRow:
    config = SimConfig.from_dict(row["config"])
    records = [_read(results, row["point_id"], r) for r in range(replicates_of(row, results))]
    return MeasuredRow(
        row["coordinates"],
        config,
        row["point_id"],
        measure_point(records, config, METRICS),
        _precision(row, results),
    )


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
    line["notes"] = _notes(measured)
    line["suggested_warmup_s"] = measured.warmup.warmup_s if measured.warmup.found else np.nan
    line["warmup_flag"] = _warmup_flag(measured, config)
    return line


def _notes(measured: PointMeasurement) -> str:
    """Return why statistics are empty or doubtful, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for statistic, interval in measured.intervals.items():
        if interval.reason:
            by_reason.setdefault(interval.reason, []).append(statistic)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


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
        return Side(row.coordinates[factor], row.config, row.measured, load)

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
                "config": row.config.to_dict(),
            }
            for row in rows
        ],
    }


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        pd.DataFrame(lines).to_csv(temporary, index=False, float_format="%.9g")


def _write_requests(path: Path, study: dict[str, Any], results: Path) -> None:
    """Write all requests of all points, a row group per replicate, so memory stays bounded."""
    with replacing(path) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for row in study["rows"]:
                config = SimConfig.from_dict(row["config"])
                for replicate in range(replicates_of(row, results)):
                    table = _request_table(row, config, replicate, results)
                    writer = writer or _parquet_writer(temporary, table.schema)
                    writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # times compress best with their bytes split by significance, texts by dictionary
    times = [column.name for column in schema if pa.types.is_floating(column.type)]
    texts = [column.name for column in schema if pa.types.is_dictionary(column.type)]
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=texts, use_byte_stream_split=times
    )


def _request_table(
    row: dict[str, Any], config: SimConfig, replicate: int, results: Path
) -> pa.Table:
    records = _read(results, row["point_id"], replicate)
    n = len(records)
    where = {
        key: pa.array([_text(value)] * n, pa.string()).dictionary_encode()
        for key, value in row["coordinates"].items()
    }
    where["point_id"] = pa.array([row["point_id"]] * n).dictionary_encode()
    where["replicate"] = pa.array(np.full(n, replicate, np.int32))
    where["in_window"] = pa.array(in_window(records, config.warmup_seconds, config.sim_seconds))
    return pa.table({**where, **{k: pa.array(v) for k, v in records.columns().items()}})


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
