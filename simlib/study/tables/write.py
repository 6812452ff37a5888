"""The tables of a study, from the records of its points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simlib import __version__
from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.files import write_json
from simlib.study.jobs import outputs
from simlib.study.jobs.described import read_study
from simlib.study.plan.spec import Compare
from simlib.study.tables.attribution import attribute_pairs
from simlib.study.tables.comparison import class_lines, comparison_lines, verdicts_of
from simlib.study.tables.crossover import crossover_lines
from simlib.study.tables.joints import Comparisons
from simlib.study.tables.pairs import pairs_of
from simlib.study.tables.rows import MeasuredRow, measured_row, summary_line
from simlib.study.tables.text import write_curves, write_table

if TYPE_CHECKING:
    from simlib.study.tables.requests_table import RequestsTable


def write_tables(study_path: Path, results: Path, output: Path) -> None:
    """Write every table of a study from its points' records; remove those it no longer has.

    Only files that this function wrote into the folder, and that are unchanged, are removed.
    """
    study = read_study(study_path)
    if study.get("decision") is not None:
        from simlib.study.decide.tables import write_decision  # its imports cost others time

        outputs.record(output, "tables", write_decision(study, results, output))
        return
    names = {"distribution.csv"} | ({"requests.parquet"} if study["requests_table"] else set())
    with _requests_table(study, output) as requests:
        rows = [measured_row(row, results, requests) for row in study["rows"]]
    write_curves(output / "distribution.csv", [row.curve() for row in rows])
    for name, lines in _tables(study, rows, results):
        write_table(output / name, lines)
        names.add(name)
    write_json(output / "provenance.json", _provenance(study, rows))
    outputs.record(output, "tables", [*names, "provenance.json"])


def _requests_table(
    study: dict[str, Any], output: Path
) -> AbstractContextManager[RequestsTable | None]:
    if not study["requests_table"]:
        return nullcontext()
    from simlib.study.tables.requests_table import requests_table

    return requests_table(output / "requests.parquet", study["rows"])


def _tables(
    study: dict[str, Any], rows: list[MeasuredRow], results: Path
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield name and lines of each table but those of requests and of distributions."""
    classes = any(row.classes for row in rows)
    yield "summary.csv", [summary_line(row) for row in rows]
    if classes:
        yield "classes.csv", [line for row in rows for line in row.class_lines()]
    if any(row.point.over_time for row in rows):
        yield "timeline.csv", [line for row in rows for line in row.timeline_lines()]
    if not study["compare"]:
        return
    settings = Compare.from_dict(study["compare"])
    sides = [(row.coordinates, row.side(settings.factor, results)) for row in rows]
    pairs = list(pairs_of(settings.factor, settings.baseline, sides))
    comparisons = Comparisons(settings.margin)
    verdicts = verdicts_of(pairs, settings, comparisons)
    yield "comparison.csv", comparison_lines(verdicts)
    yield "attribution.csv", attribute_pairs(pairs)
    if classes:
        yield "class_comparison.csv", class_lines(pairs, settings, comparisons)
    if study["crossover"]:
        yield "crossover.csv", crossover_lines(verdicts, study["crossover"]["x"], comparisons)


def _window(config: SimConfig) -> dict[str, float]:
    """Return what a precision may have lengthened."""
    return {"sim_seconds": config.sim_seconds, "warmup_seconds": config.warmup_seconds}


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
                "replicates": len(row.point.replicates),
                "random_seed": row.config.random_seed,
                "engine": row.config.engine,
                "interval_methods": sorted(
                    {interval.method for interval in row.point.intervals.values()}
                ),
                "simulated": row.simulated,
                "config": described["config"] | _window(row.config),
            }
            for row, described in zip(rows, study["rows"], strict=True)
        ],
    }
