"""What the workflow makes: the files of a study file's points, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.errors import InvalidParameterError
from simlib.files import write_json
from simlib.study.jobs.batches import BATCHES, Batch
from simlib.study.jobs.outputs import manifest_path, read_manifest
from simlib.study.jobs.store import result_path
from simlib.study.jobs.up_to_date import FIGURES_OF, TABLES_OF
from simlib.study.jobs.verify import LEDGER, decision_path
from simlib.study.plan.grid import resolve
from simlib.study.plan.precise import request_of
from simlib.study.plan.resolved import ResolvedStudy, Row
from simlib.study.plan.searches import ANSWER, job_paths
from simlib.study.plan.spec import StudyFile

# Measured for each engine, both deployments, and rounded up. What is asked for is more: memory
# twice, time tenfold, for slower machines than the one measured on. A retry asks for more still.
_BASE_MB = 600
"""On a cluster, Snakemake runs twice beside the simulation: in the job and in its step."""
_BASE_MINUTES = 5
_BYTES_PER_REQUEST = {"fast": 700}
_BYTES_OTHERWISE = 2000
_SECONDS_PER_SIMULATION = 0.01
_SECONDS_PER_REQUEST = {"fast": 1e-6, "simpy": 2e-5}
_SECONDS_BATCHING = {"fast": 5e-7, "simpy": 2e-2}
_SECONDS_WITH_TIMELINE = 8e-7
"""Of the fast batching engine; `benchmarks/batching.py` holds these against what it measures."""
SNAPSHOT = ".config.json"
"""In the results folder: the configuration of the run, for jobs that start after an edit."""


@dataclass(frozen=True)
class Plan:
    """All studies of a study file, and where their results go."""

    studies: dict[str, ResolvedStudy]
    results: Path
    """The folder of all that a run makes."""
    named: Path
    """What rules call that folder; a module's `prefix`, which Snakemake adds, is left out."""
    batch_seconds: float
    batches: tuple[Batch, ...] = ()
    """The missing simulations that share jobs."""
    intact: frozenset[Path] = frozenset()
    """The results that were checked and need no job."""

    @classmethod
    def of(
        cls, config: Mapping[str, Any], results: str, source: str, named: str | None = None
    ) -> Plan:
        """Validate a study file's content and expand it.

        Traces are looked for beside the working directory, then in `source`, the folder of the
        workflow, so that studies run from any folder find the trace that ships with it.
        """
        resolved = resolve(config, source=Path(source))
        batch_seconds = StudyFile.from_dict(dict(config)).batch_seconds
        studies = {study.name: study for study in resolved}
        return cls(studies, Path(results), Path(named or results), batch_seconds)

    def write(self) -> None:
        """Write the point and study files that jobs read; unchanged ones are left alone."""
        for study in self.studies.values():
            write_json(self.results / "studies" / study.name / "study.json", study.to_dict())
            for job, request in study.jobs().items():
                write_json(job_paths(self.results, job)[0], request)
                for config in study.deployments_of_job(job):
                    self._write_table_requests(table_requests(config))
            for job, rows in study.precise.items():
                write_json(self.results / "precision" / f"{job}.request.json", request_of(rows))
            for row in study.rows:
                write_json(self.results / "points" / row.point_id / "point.json", row.point())
                self._write_table_requests(self._table_requests(row.point_id))

    def _write_table_requests(self, requests: Mapping[str, dict[str, Any]]) -> None:
        for table, request in requests.items():
            path = self.results / "latency" / table
            write_json(path.with_suffix(".request.json"), request)

    def results_of(self, study: str, *, missing: bool = False) -> list[str]:
        """Return the simulation results that a study's tables need.

        Parameters
        ----------
        study : str
            Its name.
        missing : bool
            Only those that a job of this run makes.
        """
        there: frozenset[Path] = self.intact if missing else frozenset()
        wanted = dict.fromkeys(self._wanted(self.studies[study]))
        if self.named == self.results:
            return [str(path) for path in wanted if path not in there]
        return [
            str(self.named / path.relative_to(self.results)) for path in wanted if path not in there
        ]

    def _wanted(self, study: ResolvedStudy) -> Iterator[Path]:
        for job in study.jobs():
            yield job_paths(self.results, job)[1]
        for row in study.rows:
            if row.precision is not None:
                yield decision_path(self.results, row)
                continue
            for replicate in range(row.replicates):
                yield result_path(self.results, row.point_id, replicate)

    def requests(self, point_id: str) -> float:
        """Return about how many requests a replicate of a point has; more rather than fewer."""
        config = self._configs[point_id]
        return config.arrival.process.expected(config.arrival, config.sim_seconds)

    def seconds(self, point_id: str) -> float:
        """Return about how long simulating a replicate takes, without starting a process."""
        config = self._configs[point_id]
        per_request = _SECONDS_PER_REQUEST[config.engine]
        if config.serving == "batching":
            per_request = _SECONDS_BATCHING[config.engine]
        if config.timeline:
            per_request = _SECONDS_WITH_TIMELINE
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
        return sorted(str(self.named / "latency" / name) for name in names)

    def _table_requests(self, point_id: str) -> dict[str, dict[str, Any]]:
        """Return what each table of measured kernels depends on, by the name of its file."""
        return table_requests(self._configs[point_id])

    def outcomes_read(self, job: str) -> list[str]:
        """Return the outcomes of the round before that a job of a decision reads."""
        requests = next(s.jobs() for s in self.studies.values() if job in s.jobs())
        return [str(job_paths(self.named, one)[1]) for one in requests[job]["reads"]]

    def tables_of_job(self, job: str) -> list[str]:
        """Return the tables of measured kernels that the job of a decision reads."""
        names = {
            name
            for study in self.studies.values()
            for one in study.deployments_of_job(job)
            for name in table_requests(one)
        }
        return sorted(str(self.named / "latency" / name) for name in names)

    @cached_property
    def _configs(self) -> dict[str, SimConfig]:
        return {r.point_id: r.config for study in self.studies.values() for r in study.rows}

    def tables(self, study: str) -> str:
        """Return the table that stands for all tables of a study."""
        return str(self.named / "studies" / study / "tables" / "summary.csv")

    def figures(self, study: str) -> str:
        """Return the file that stands for all figures of a study."""
        return str(self.named / "studies" / study / FIGURES_OF)

    def drawn(self, study: str) -> list[str]:
        """Return the finished figures of a study: as SVG, where there is none as PNG."""
        if not (self.results / "studies" / study / FIGURES_OF).exists():
            return []
        names = _names(manifest_path(self.results / "studies" / study / "figures", "figures"))
        folder = self.named / "studies" / study / "figures"
        wanted = {name.rpartition(".")[0]: name for name in sorted(names)}  # .svg after .png
        return [str(folder / name) for name in wanted.values()]

    def answers(self, study: str) -> list[str]:
        """Return the finished answer in words of a study that asks for a decision."""
        answer = Path("studies") / study / "tables" / ANSWER
        if not self.studies[study].cases or not (self.results / answer).exists():
            return []
        return [str(self.named / answer)]

    def shared_results(self, request: str) -> list[str]:
        """Return the results that studies without a precision want of a request's point.

        The job that adds replicates reads them, and does not make them a second time.
        """
        found: dict[str, None] = {}
        for row in self._precise[request]:
            for replicate in range(self._plain.get(row.point_id, 0)):
                found[str(result_path(self.named, row.point_id, replicate))] = None
        return list(found)

    @cached_property
    def _precise(self) -> dict[str, list[Row]]:
        return {job: rows for s in self.studies.values() for job, rows in s.precise.items()}

    @cached_property
    def _plain(self) -> dict[str, int]:
        """How many replicates of each point studies without a precision want."""
        wanted: dict[str, int] = {}
        for row in (row for study in self.studies.values() for row in study.rows):
            if row.precision is None:
                wanted[row.point_id] = max(row.replicates, wanted.get(row.point_id, 0))
        return wanted

    def own_files(self) -> Iterator[tuple[str, str]]:
        """Yield folder and name of each file that a run writes or reads, logs included."""
        top = str(self.results)
        for name in (SNAPSHOT, BATCHES, LEDGER):
            yield top, name
        for study in self.studies.values():
            folder = f"{top}/studies/{study.name}"
            for name in ("study.json", TABLES_OF, FIGURES_OF):
                yield folder, name
            for writer in ("tables", "figures"):
                manifest = manifest_path(Path(folder) / writer, writer)
                yield str(manifest.parent), manifest.name
                yield from self._notes(writer, study.name)
                for name in _names(manifest):
                    yield str(manifest.parent), name
            for name in ("summary.csv", "provenance.json"):
                yield f"{folder}/tables", name
            for row in study.rows:
                yield from self._files_of(row)
            for job in study.jobs():
                for path in job_paths(self.results, job):
                    yield str(path.parent), path.name
                yield from self._notes("capacity", job)

    def _files_of(self, row: Row) -> Iterator[tuple[str, str]]:
        folder = f"{self.results}/points/{row.point_id}"
        yield folder, "point.json"
        for replicate in range(row.replicates):
            yield folder, f"r{replicate}.npz"
            yield folder, f"r{replicate}.staged"
        if row.precision is not None:
            name = str(row.precision_id)
            yield f"{self.results}/precision", f"{name}.json"
            yield f"{self.results}/precision", f"{name}.request.json"
            yield from self._notes("precision", name)
        for table in self._table_requests(row.point_id):
            name = table.removesuffix(".json")
            yield f"{self.results}/latency", f"{name}.json"
            yield f"{self.results}/latency", f"{name}.request.json"
            yield from self._notes("latency", name)

    def _notes(self, kind: str, name: str) -> Iterator[tuple[str, str]]:
        yield f"{self.results}/logs/{kind}", f"{name}.log"
        yield f"{self.results}/benchmarks/{kind}", f"{name}.tsv"


def _names(manifest: Path) -> Iterable[str]:
    try:
        return read_manifest(manifest)
    except InvalidParameterError:
        return ()


def table_requests(config: SimConfig) -> dict[str, dict[str, Any]]:
    """Return what each table of measured kernels depends on that a simulation reads, by name."""
    if config.serving != "batching" or config.latency.kind != "aiconfigurator":
        return {}
    pools, latency = config.batching.pools.values(), config.latency
    return {latency.table_name(pool): latency.table_request(pool) for pool in pools}
