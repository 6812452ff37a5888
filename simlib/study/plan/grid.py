"""From config.yaml to points: every study with its grid spelled out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.overrides import overridden
from simlib.core.reading import check_plain
from simlib.core.sampling import check_lengths, check_trace_covers
from simlib.errors import InvalidParameterError
from simlib.files import canonical_json
from simlib.latency import catalog
from simlib.serving.assemble import deployment_of
from simlib.study.plan.cases import cases_of
from simlib.study.plan.decision import Decision
from simlib.study.plan.identity import essential, is_random, matters, point_id
from simlib.study.plan.names import distinct
from simlib.study.plan.precise import with_jobs
from simlib.study.plan.resolved import Factor, ResolvedStudy, Row
from simlib.study.plan.spec import ZIP_LABELS, Study, StudyFile

MAX_POINTS = 20_000
"""Most points of a study file; Snakemake plans as many in minutes."""
MAX_SIMULATIONS = 1_000_000
"""Most simulations (points times replicates) of a study file."""


_FILES = (
    "arrival.path",
    "prompt_tokens.path",
    "output_tokens.path",
    "latency.path",
    "latency.model",
)
"""Keys that name files."""


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
            if any(matters(key, relevant) for key in factor.keys)
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
            written=written,
        )
        rows.setdefault(canonical_json(coordinates), row)
    compared = study.compare.factor if study.compare is not None else None
    resolved = ResolvedStudy(name, study, factors, tuple(with_jobs(list(rows.values()), compared)))
    _check_roles(resolved)
    return resolved


def _resolve_decision(
    name: str, study: Study, decision: Decision, base: dict[str, Any], source: Path | None
) -> ResolvedStudy:
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


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long a name, for one
        return False
