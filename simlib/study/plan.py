"""What the workflow makes: the files of a study file's points, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simlib.study.files import write_json
from simlib.study.grid import ResolvedStudy, resolve, run_settings
from simlib.study.store import result_path


@dataclass(frozen=True)
class Plan:
    """All studies of a study file, and where their results go."""

    studies: dict[str, ResolvedStudy]
    results: Path

    @classmethod
    def of(cls, config: Mapping[str, Any], results: str, source: str) -> Plan:
        """Validate a study file's content and expand it.

        Traces are looked for beside the working directory, then in `source`, the folder of the
        workflow, so that studies run from any folder find the trace that ships with it.
        """
        resolved = resolve(config, source=Path(source))
        return cls({study.name: study for study in resolved}, Path(results))

    def write(self) -> None:
        """Write the point and study files that jobs read; unchanged ones are left alone."""
        for study in self.studies.values():
            write_json(self.results / "studies" / study.name / "study.json", study.to_dict())
            for row in study.rows:
                point = {"point_id": row.point_id, "config": run_settings(row.config)}
                write_json(self.results / "points" / row.point_id / "point.json", point)
                if row.precision is not None:
                    name = f"{row.precision_id()}.request.json"
                    write_json(self.results / "precision" / name, row.precision_request())

    def results_of(self, study: str) -> list[str]:
        """Return the simulation results that a study's tables need."""
        found: dict[str, None] = {}
        for row in self.studies[study].rows:
            if row.precision is not None:
                found[str(self.results / "precision" / f"{row.precision_id()}.json")] = None
                continue
            for replicate in range(row.replicates):
                found[str(result_path(self.results, row.point_id, replicate))] = None
        return list(found)

    def tables(self, study: str) -> str:
        """Return the table that stands for all tables of a study."""
        return str(self.results / "studies" / study / "tables" / "summary.csv")

    def figures(self, study: str) -> str:
        """Return the folder of a study's figures."""
        return str(self.results / "studies" / study / "figures")
