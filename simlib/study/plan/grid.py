"""From config.yaml to points: the grid, and the identity of each simulation in it."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simlib.core.batching import ADDED_KEYS
from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.overrides import overridden
from simlib.core.reading import check_plain
from simlib.core.sampling import check_lengths, check_trace_covers
from simlib.errors import InvalidParameterError
from simlib.files import canonical_json
from simlib.latency import catalog
from simlib.policies.routers import ROUTERS
from simlib.serving.assemble import deployment_of
from simlib.study.plan.names import distinct
from simlib.study.plan.spec import ZIP_LABELS, Precision, Study, StudyFile
from simlib.workload.traces import trace_sha256

if TYPE_CHECKING:
    from simlib.study.plan.cases import Case
    from simlib.study.plan.decision import Decision

MAX_POINTS = 20_000
"""Most points of a study file; Snakemake plans as many in minutes."""
MAX_SIMULATIONS = 1_000_000
"""Most simulations (points times replicates) of a study file."""
ANALYSIS_ONLY = ("warmup_seconds", "ttft_definition")
"""Settings that tables apply to finished runs; changing them simulates nothing again.

Request classes are such, too, as far as `essential` leaves them out.
"""


_FILES = (
    "arrival.path",
    "prompt_tokens.path",
    "output_tokens.path",
    "latency.path",
    "latency.model",
)
"""Keys that name files."""


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

    def precision_request(self) -> dict[str, Any]:
        """Return what the job that adds replicates until precise needs to know."""
        if self.precision is None:
            raise InvalidParameterError("precision", None, "set in the study")
        return {
            "point_id": self.point_id,
            "config": self.as_written(self.config.to_dict()),
            "replicates": self.replicates,
            "precision": self.precision.to_dict(),
            "files": self.files,
        }

    def precision_id(self) -> str:
        """Return the identity of that job: another window or precision is another one."""
        request = self.precision_request()
        del request["files"]
        request["config"] = {key: request["config"][key] for key in ANALYSIS_ONLY}
        return digest(request)


@dataclass(frozen=True, slots=True)
class ResolvedStudy:
    """A study with every simulation spelled out."""

    name: str
    study: Study
    factors: tuple[Factor, ...]
    rows: tuple[Row, ...]
    cases: tuple[Case, ...] = ()
    """The decisions that it asks for, instead of factors and rows."""

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
                    "precision_id": row.precision_id() if row.precision else None,
                }
                for row in self.rows
            ],
            "decision": self._decision(),
            **self.study.model_dump(
                mode="json", include={"compare", "crossover", "precision", "requests_table", "svg"}
            ),
        }


def resolve(
    data: Mapping[str, Any], where: str = "config.yaml", source: Path | None = None
) -> list[ResolvedStudy]:
    """Validate a study file's content and expand every study.

    Relative paths of traces and lengths that do not exist in the working directory are looked
    for in `source`.

    Raises
    ------
    InvalidParameterError
        For the first wrong value, naming the study, the key, the value and what is allowed.
    """
    try:
        check_plain(data, "config")
        file = StudyFile.from_dict(dict(data))
        SimConfig.from_dict(overridden({}, file.defaults))
        _check_size(file)
    except InvalidParameterError as error:
        raise error.at(where) from None
    studies = []
    for name, study in file.studies.items():
        try:
            studies.append(_resolve_study(name, study, file, source))
        except InvalidParameterError as error:
            raise error.at(f'{where}, study "{name}"') from None
    return studies


def _check_size(file: StudyFile) -> None:
    """Refuse more points than a run can plan, before any of them is built."""
    points = simulations = 0
    for name, study in file.studies.items():
        sizes = {key: len(levels) for key, levels in study.sweep.grid.items()}
        sizes |= {key: len(next(iter(lists.values()))) for key, lists in study.sweep.zip.items()}
        points += math.prod(sizes.values())
        replicates = study.replicates or file.replicates
        simulations += math.prod(sizes.values()) * replicates
        grid = " x ".join(map(str, sizes.values())) or "1"
        if points > MAX_POINTS:
            allowed = f"of at most {MAX_POINTS} points, with all studies before it"
            raise InvalidParameterError(f"sweep of study {name}", f"{grid} points", allowed)
        if simulations > MAX_SIMULATIONS:
            got = f"{grid} points x {replicates} replicates"
            allowed = f"at most {MAX_SIMULATIONS} simulations, with all studies before it"
            raise InvalidParameterError(f"study {name}", got, allowed)


def _resolve_study(name: str, study: Study, file: StudyFile, source: Path | None) -> ResolvedStudy:
    factors = tuple(_factors(study))
    base = overridden(overridden({}, file.defaults), study.overrides)
    if study.decision is not None:
        return _resolve_decision(name, study, study.decision, base, source)
    replicates = study.replicates or file.replicates
    rows: dict[str, Row] = {}
    for combination in itertools.product(*(range(len(f.levels)) for f in factors)):
        labels: dict[str, Any] = {}
        levels: dict[str, Any] = {}
        for factor, level in zip(factors, combination, strict=True):
            labels[factor.name] = factor.labels[level]
            levels |= zip(factor.keys, factor.levels[level], strict=True)
        settings = overridden(base, levels)
        written = _locate_files(settings, source)
        config = SimConfig.from_dict(settings)
        check_trace_covers(config)
        check_lengths(config)
        if config.serving == "batching" and config.latency.kind != "aiconfigurator":
            deployment_of(
                config.batching, config.latency, config.own
            )  # refuses what the catalog lacks
        relevant = essential(config)
        if config.request_classes:  # tables draw them, even if nothing else is random
            relevant["random_seed"] = config.random_seed
        coordinates = {
            factor.name: labels[factor.name]
            if any(_matters(key, relevant) for key in factor.keys)
            else None
            for factor in factors
        }
        # a point that several levels leave unchanged is one line, not several
        random = is_random(config)
        row = Row(
            coordinates,
            config,
            point_id(config),
            replicates if random else 1,
            study.precision if random else None,
            written,
        )
        rows.setdefault(canonical_json(coordinates), row)
    resolved = ResolvedStudy(name, study, factors, tuple(rows.values()))
    _check_roles(resolved)
    return resolved


def _resolve_decision(
    name: str, study: Study, decision: Decision, base: dict[str, Any], source: Path | None
) -> ResolvedStudy:
    from simlib.study.plan.cases import cases_of  # which builds on points, as this file does

    _locate_files(base, source)
    return ResolvedStudy(name, study, (), (), tuple(cases_of(base, decision)))


def _factors(study: Study) -> Iterator[Factor]:
    for key, levels in study.sweep.grid.items():
        yield Factor(key, (key,), tuple((level,) for level in levels), tuple(levels))
    for name, lists in study.sweep.zip.items():
        keys = {key: values for key, values in lists.items() if key != ZIP_LABELS}
        together = tuple(zip(*keys.values(), strict=True))
        # one value, if the keys share it: then the factor is a number, and has an axis
        labels = lists.get(ZIP_LABELS) or [
            values[0] if all(v == values[0] for v in values) else ":".join(map(str, values))
            for values in together
        ]
        distinct(f"zip.{name}", list(labels))
        yield Factor(name, tuple(keys), together, tuple(labels))


def _check_roles(resolved: ResolvedStudy) -> None:
    """Check that compare and crossover name factors and levels of the sweep."""
    by_name = {factor.name: factor for factor in resolved.factors}
    compare, crossover = resolved.study.compare, resolved.study.crossover
    known = "one of the swept factors: " + (", ".join(by_name) or "none")
    if compare is not None:
        if compare.factor not in by_name:
            raise InvalidParameterError("compare.factor", compare.factor, known)
        labels = by_name[compare.factor].labels
        if compare.baseline not in labels:
            raise InvalidParameterError(
                "compare.baseline", compare.baseline, "one of " + ", ".join(map(str, labels))
            )
        if len(labels) < 2:
            raise InvalidParameterError(
                "compare.factor", compare.factor, "a factor of at least two levels"
            )
    if crossover is not None:
        if compare is None:
            raise InvalidParameterError("crossover", "no compare", "in a study with compare")
        for role, name in (("x", crossover.x), ("y", crossover.y)):
            if name not in by_name or name == compare.factor:
                raise InvalidParameterError(f"crossover.{role}", name, known + ", not compared")
        if crossover.x == crossover.y:
            raise InvalidParameterError("crossover.y", crossover.y, "another factor than x")
        for level in by_name[crossover.x].labels:
            if isinstance(level, (str, bool)):
                raise InvalidParameterError("crossover.x", crossover.x, "a factor of numbers")


def is_random(config: SimConfig) -> bool:
    """Return whether replicates differ: a replayed trace has no randomness, but routers may."""
    return not config.arrival.process.replayed or "random_seed" in essential(config)


def essential(config: SimConfig) -> dict[str, Any]:
    """Return what can change the simulation's result, and nothing else.

    Paths are left out: the bytes of a file decide.
    """
    batching = config.serving == "batching"
    deployment = f"{'batching' if batching else 'cluster'}_{config.mode}"
    settings: dict[str, Any] = {
        "serving": config.serving,
        "mode": config.mode,
        "sim_seconds": config.sim_seconds,
        "engine": config.engine,
        "drain": config.drain,
        deployment: config.deployment.to_dict(),
    }
    if config.timeline:
        settings["timeline"] = True
    if batching:
        settings["latency"] = _essential_latency(config)
        pools = config.batching.pools.values()
        settings |= config.own.used(config.latency.model, [pool.gpu for pool in pools])
        if any(ROUTERS[pool.router].draws for pool in config.batching.pools.values()):
            settings["random_seed"] = config.random_seed
        if config.class_key is not None:
            settings["random_seed"] = config.random_seed
            settings["request_classes"] = _essential_classes(config, config.class_key)
    arrival = config.arrival
    own = {"kind": arrival.kind, **{key: getattr(arrival, key) for key in arrival.process.keys}}
    if arrival.process.replayed:
        own["sha256"] = trace_sha256(Path(own.pop("path")))
        return settings | {"arrival": own}
    return settings | {
        "random_seed": config.random_seed,
        "arrival": own,
        "prompt_tokens": _essential_lengths(config.prompt_tokens),
        "output_tokens": _essential_lengths(config.output_tokens),
    }


def _essential_lengths(tokens: Any) -> dict[str, Any]:
    settings: dict[str, Any] = tokens.essential()
    if "path" in settings:
        settings["sha256"] = trace_sha256(Path(settings.pop("path")))
    return settings


def _essential_latency(config: SimConfig) -> dict[str, Any]:
    """Return the latency's settings; files count by their bytes, an engine by what it fills in."""
    settings: dict[str, Any] = config.latency.to_dict() | {"engine": None}
    if config.latency.model not in config.models and catalog.is_model_file(config.latency.model):
        settings["model"] = {"sha256": trace_sha256(catalog.model_path(config.latency.model))}
    settings["path"] = None
    if config.latency.kind == "table":
        settings["path"] = {"sha256": trace_sha256(Path(str(config.latency.path)))}
    return settings


def _essential_classes(config: SimConfig, key: str) -> dict[str, dict[str, Any]]:
    """Return shares, and what the discipline sorts by; names order the draws."""
    return {
        name: {field: getattr(one, field) for field in ("share", key)}
        for name, one in config.request_classes.items()
    }


def point_id(config: SimConfig) -> str:
    """Return the identity of a simulation: 16 hexadecimal digits."""
    identity = {"model_version": MODEL_VERSION, "config": essential(config)}
    return digest(_without_added_keys(identity))


def _without_added_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys that the first results did not know where they change nothing."""
    return {
        key: _without_added_keys(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in ADDED_KEYS or value != ADDED_KEYS[key]
    }


def digest(identity: dict[str, Any]) -> str:
    """Return the identity of plain data: 16 hexadecimal digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def run_settings(config: SimConfig) -> dict[str, Any]:
    """Return the settings that a simulation job reads: all but those that only tables use.

    Equal points give equal settings, so that studies can share a point's file.
    """
    relevant = essential(config)
    settings = {key: value for key, value in config.to_dict().items() if key in relevant}
    if "latency" in settings:
        settings["latency"] |= {"engine": None}  # what it filled in stands there
    for section in ("request_classes", "models", "gpus"):
        if section in relevant:
            settings[section] = relevant[section]
    return settings | {"warmup_seconds": 0.0}


def _locate_files(settings: dict[str, Any], source: Path | None) -> dict[str, str]:
    """Set paths that exist in `source` only; return them, by dotted key, as they were written."""
    written: dict[str, str] = {}
    if source is None:
        return written
    for key in _FILES:
        section, _, name = key.partition(".")
        if not isinstance(settings.get(section), dict):
            continue
        path = settings[section].get(name)
        if not isinstance(path, str) or (name == "model" and not catalog.is_model_file(path)):
            continue
        if not _exists(path) and _exists(str(source / path)):
            settings[section] = {**settings[section], name: str(source / path)}
            written[key] = path
    return written


def _at(settings: dict[str, Any], key: str) -> str:
    section, _, name = key.partition(".")
    return str(settings[section][name])


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long a name, for one
        return False


def _matters(key: str, relevant: dict[str, Any]) -> bool:
    section, _, name = key.partition(".")
    if section in (*ANALYSIS_ONLY, "request_classes"):
        return True
    if section not in relevant:
        return False
    if section in ("prompt_tokens", "output_tokens") or not name:
        return True
    return name.partition(".")[0] in relevant[section] or name == "path"
