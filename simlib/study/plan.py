"""What the workflow makes: the files of a study file's points, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.study.files import write_json
from simlib.study.grid import ResolvedStudy, resolve, run_settings
from simlib.study.store import result_path

# Measured for each engine, both deployments, and rounded up: memory twice, time tenfold, for
# slower machines than the one measured on. A retry asks for more.
_BASE_MB = 250
_BASE_MINUTES = 5
_BYTES_PER_REQUEST = {"fast": 700}
_BYTES_OTHERWISE = 2000
_SECONDS_PER_REQUEST = {"fast": 1e-5}
_SECONDS_OTHERWISE = 2e-4
_TRACE_LINE_BYTES = 12
"""Fewer than in any line of a trace."""


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

    def requests(self, point_id: str) -> float:
        """Return about how many requests a replicate of a point has; more rather than fewer."""
        config = self._configs[point_id]
        if config.arrival.kind == "trace":
            return Path(str(config.arrival.path)).stat().st_size / _TRACE_LINE_BYTES
        if config.arrival.kind == "closed_loop":
            return config.arrival.requests
        return config.arrival.rate_per_s * config.sim_seconds

    def memory_mb(self, point_id: str) -> int:
        """Return the memory to ask for when simulating a replicate, MB."""
        per_request = _BYTES_PER_REQUEST.get(self._configs[point_id].engine, _BYTES_OTHERWISE)
        return _BASE_MB + int(self.requests(point_id) * per_request / 1e6)

    def minutes(self, point_id: str) -> int:
        """Return the time to ask for when simulating a replicate, minutes."""
        per_request = _SECONDS_PER_REQUEST.get(self._configs[point_id].engine, _SECONDS_OTHERWISE)
        return _BASE_MINUTES + int(self.requests(point_id) * per_request / 60)

    def latency_tables(self, point_id: str) -> list[str]:
        """Return the tables of measured kernels that a point's simulation reads."""
        config = self._configs[point_id]
        if config.serving != "batching" or config.latency.kind != "aiconfigurator":
            return []
        names = {config.latency.table_name(pool) for pool in config.batching.pools.values()}
        return sorted(str(self.results / "latency" / name) for name in names)

    @cached_property
    def _configs(self) -> dict[str, SimConfig]:
        return {r.point_id: r.config for study in self.studies.values() for r in study.rows}

    def tables(self, study: str) -> str:
        """Return the table that stands for all tables of a study."""
        return str(self.results / "studies" / study / "tables" / "summary.csv")

    def figures(self, study: str) -> str:
        """Return the folder of a study's figures."""
        return str(self.results / "studies" / study / "figures")
