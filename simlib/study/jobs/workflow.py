"""What the workflow makes: the files of a study file's points, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.files import write_json
from simlib.study.jobs.batches import Batch
from simlib.study.jobs.store import result_path
from simlib.study.plan.grid import ResolvedStudy, resolve, run_settings
from simlib.study.plan.spec import StudyFile

# Measured for each engine, both deployments, and rounded up. What is asked for is more: memory
# twice, time tenfold, for slower machines than the one measured on. A retry asks for more still.
_BASE_MB = 600
"""On a cluster, Snakemake runs twice beside the simulation: in the job and in its step."""
_BASE_MINUTES = 5
_BYTES_PER_REQUEST = {"fast": 700}
_BYTES_OTHERWISE = 2000
_SECONDS_PER_SIMULATION = 0.01
_SECONDS_PER_REQUEST = {"fast": 1e-6}
_SECONDS_OTHERWISE = 2e-5
_SECONDS_WITH_TIMELINE = 7e-5
_TRACE_LINE_BYTES = 12
"""Fewer than in any line of a trace."""


@dataclass(frozen=True)
class Plan:
    """All studies of a study file, and where their results go."""

    studies: dict[str, ResolvedStudy]
    results: Path
    batch_seconds: float
    batches: tuple[Batch, ...] = ()
    """The missing simulations that share jobs."""

    @classmethod
    def of(cls, config: Mapping[str, Any], results: str, source: str) -> Plan:
        """Validate a study file's content and expand it.

        Traces are looked for beside the working directory, then in `source`, the folder of the
        workflow, so that studies run from any folder find the trace that ships with it.
        """
        resolved = resolve(config, source=Path(source))
        batch_seconds = StudyFile.from_dict(dict(config)).batch_seconds
        return cls({study.name: study for study in resolved}, Path(results), batch_seconds)

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
                for table, request in self._table_requests(row.point_id).items():
                    path = self.results / "latency" / table
                    write_json(path.with_suffix(".request.json"), request)

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

    def seconds(self, point_id: str) -> float:
        """Return about how long simulating a replicate takes, without starting a process."""
        config = self._configs[point_id]
        if config.serving == "batching":
            per_request = _SECONDS_WITH_TIMELINE if config.timeline else _SECONDS_OTHERWISE
        else:
            per_request = _SECONDS_PER_REQUEST.get(config.engine, _SECONDS_OTHERWISE)
        return _SECONDS_PER_SIMULATION + self.requests(point_id) * per_request

    def memory_mb(self, *point_ids: str) -> int:
        """Return the memory to ask for when simulating replicates one after the other, MB."""
        return _BASE_MB + max(map(self._megabytes, point_ids))

    def minutes(self, *point_ids: str) -> int:
        """Return the time to ask for when simulating replicates one after the other, minutes."""
        return _BASE_MINUTES + int(10 * sum(map(self.seconds, point_ids)) / 60)

    def _megabytes(self, point_id: str) -> int:
        config = self._configs[point_id]
        plain = not config.timeline
        per_request = _BYTES_PER_REQUEST.get(config.engine if plain else "", _BYTES_OTHERWISE)
        return int(self.requests(point_id) * per_request / 1e6)

    def latency_tables(self, *point_ids: str) -> list[str]:
        """Return the tables of measured kernels that simulations of points read."""
        names = {name for point_id in point_ids for name in self._table_requests(point_id)}
        return sorted(str(self.results / "latency" / name) for name in names)

    def _table_requests(self, point_id: str) -> dict[str, dict[str, Any]]:
        """Return what each table of measured kernels depends on, by the name of its file."""
        config = self._configs[point_id]
        if config.serving != "batching" or config.latency.kind != "aiconfigurator":
            return {}
        pools, latency = config.batching.pools.values(), config.latency
        return {latency.table_name(pool): latency.table_request(pool) for pool in pools}

    @cached_property
    def _configs(self) -> dict[str, SimConfig]:
        return {r.point_id: r.config for study in self.studies.values() for r in study.rows}

    def tables(self, study: str) -> str:
        """Return the table that stands for all tables of a study."""
        return str(self.results / "studies" / study / "tables" / "summary.csv")

    def figures(self, study: str) -> str:
        """Return the folder of a study's figures."""
        return str(self.results / "studies" / study / "figures")
