"""A study with every simulation spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simlib.core.config import SimConfig
from simlib.study.plan.identity import run_settings
from simlib.study.plan.spec import Precision, Study

if TYPE_CHECKING:
    from simlib.study.plan.cases import Case


@dataclass(frozen=True, slots=True)
class Factor:
    """One axis of a study: a swept key, or a zip of keys that move together."""

    name: str
    keys: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]
    """The values of `keys`, level by level."""
    labels: tuple[Any, ...]
    """What tables and figures call each level."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a study's tables: where it stands in the grid, and its simulation."""

    coordinates: dict[str, Any]
    """Level by factor; None for a factor that cannot change this simulation."""
    config: SimConfig
    point_id: str
    replicates: int
    """How many the study asks for; with `precision`, how many to start with."""
    precision: Precision | None
    precision_id: str | None = None
    """The job that makes it precise, with the points that it is compared with."""
    precision_place: int = 0
    """Its number among the points of that job."""
    written: Mapping[str, str] = field(default_factory=dict)
    """By key, the path as the study file has it, where `config` has the place it was found."""

    @property
    def files(self) -> dict[str, str]:
        """Where the files of `written` are for a run that starts in this folder."""
        return {key: _at(self.config.to_dict(), key) for key in self.written}

    def as_written(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return settings of `config` with the paths of the study file: they hold anywhere."""
        for key, path in self.written.items():
            section, _, name = key.partition(".")
            if section in settings:
                settings = settings | {section: settings[section] | {name: path}}
        return settings

    def point(self) -> dict[str, Any]:
        """Return what a simulation job needs to know, for point.json."""
        config = self.as_written(run_settings(self.config))
        return {"point_id": self.point_id, "config": config, "files": self.files}


@dataclass(frozen=True, slots=True)
class ResolvedStudy:
    """A study with every simulation spelled out."""

    name: str
    study: Study
    factors: tuple[Factor, ...]
    rows: tuple[Row, ...]
    cases: tuple[Case, ...] = ()
    """The decisions that it asks for, instead of factors and rows."""

    @property
    def precise(self) -> dict[str, list[Row]]:
        """The points that each job makes precise, in their order, by its identity."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.precision_id is not None:
                found.setdefault(row.precision_id, []).append(row)
        return found

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return the requests of the jobs that its decisions need, by identity."""
        return {job: request for case in self.cases for job, request in case.jobs.items()}

    def deployments_of_job(self, job: str) -> list[SimConfig]:
        """Return the simulations that a job's deployments start from."""
        return [one.config for case in self.cases if job in case.jobs for one in case.deployments]

    def _decision(self) -> dict[str, Any] | None:
        decision = self.study.decision
        if decision is None:
            return None
        plain = decision.to_dict()
        return {
            "cases": [case.to_dict() for case in self.cases],
            "factors": list(decision.break_point),
            "accuracy": plain["accuracy"],
            "prices": plain["prices"],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that tables and figures need, for study.json."""
        return {
            "name": self.name,
            "title": self.study.title or self.name.replace("_", " "),
            "factors": [
                {"name": factor.name, "keys": list(factor.keys), "levels": list(factor.labels)}
                for factor in self.factors
            ],
            "rows": [
                {
                    "coordinates": row.coordinates,
                    "point_id": row.point_id,
                    "replicates": row.replicates,
                    "config": row.as_written(row.config.to_dict()),
                    "precision_id": row.precision_id,
                    "precision_place": row.precision_place,
                }
                for row in self.rows
            ],
            "decision": self._decision(),
            **self.study.model_dump(
                mode="json", include={"compare", "crossover", "precision", "requests_table", "svg"}
            ),
        }


def _at(settings: dict[str, Any], key: str) -> str:
    section, _, name = key.partition(".")
    return str(settings[section][name])
