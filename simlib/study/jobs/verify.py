"""Which results of a folder can be used: damaged ones are found before anything reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simlib.core.model_version import MODEL_VERSION
from simlib.errors import InvalidParameterError
from simlib.files import read_json, replacing
from simlib.study.jobs.decision import Decision, read_decisions
from simlib.study.jobs.described import is_simulation
from simlib.study.jobs.outputs import sha256
from simlib.study.jobs.store import read_records, result_path
from simlib.study.plan.identity import point_id
from simlib.study.plan.precise import lengthened
from simlib.study.plan.resolved import ResolvedStudy, Row
from simlib.study.plan.searches import job_paths

LEDGER = ".verified.json"
"""In the results folder: size and time of the files that were found intact."""

Condition = Literal["intact", "missing", "corrupt"]


@dataclass
class Verifier:
    """Checks result files, each once: an intact one is read again only after it changed.

    A file counts as unchanged while its size and its modification time in nanoseconds are the
    same. Damage that leaves both alone is found when tables read the file; they refuse it and
    remove the ledger, so that the next run checks every byte again.

    Parameters
    ----------
    results : Path
        The results folder.
    trust_ledger : bool
        False reads every file whole, whatever was found before.
    """

    results: Path
    trust_ledger: bool = True
    reasons: dict[Path, str] = field(default_factory=dict)
    """Why a file is corrupt."""
    _known: dict[str, Any] = field(default_factory=dict)
    _seen: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.trust_ledger:
            return
        try:
            ledger = read_json(self.results / LEDGER, "ledger")
        except InvalidParameterError:
            return  # no ledger, or a damaged one: everything is checked
        files = ledger.get("files")
        if ledger.get("model_version") == MODEL_VERSION and isinstance(files, dict):
            self._known = files

    def replicate(self, point_id: str, replicate: int) -> Condition:
        """Return whether a replicate's file is there and is what it claims to be."""
        path = result_path(self.results, point_id, replicate)
        try:
            status = path.stat()
        except FileNotFoundError:
            return "missing"
        key, stamp = f"{point_id}/{replicate}", [status.st_size, status.st_mtime_ns]
        if self._known.get(key) != stamp:
            try:
                read_records(path, point_id=point_id, replicate=replicate)
            except InvalidParameterError as error:
                self.reasons[path] = str(error)
                return "corrupt"
        self._seen[key] = stamp
        return "intact"

    def unchanged(self, path: Path, digest: str) -> bool:
        """Return whether a table or figure has the SHA-256 that it was written with."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, digest]
        key = str(path.relative_to(self.results))
        if self._known.get(key) != stamp and sha256(path) != digest:
            return False
        self._seen[key] = stamp
        return True

    def decision(self, row: Row) -> tuple[Condition, Decision | None]:
        """Return the condition of the decision on a point with a precision; if intact, itself."""
        path = decision_path(self.results, row)
        if row.precision is None or not path.exists():
            return "missing", None
        try:
            decisions = read_decisions(path)
        except InvalidParameterError as error:
            self.reasons[path] = str(error)
            return "corrupt", None
        wrong = _not_of(row, decisions)
        if wrong:
            self.reasons[path] = wrong
            return "corrupt", None
        return "intact", decisions[row.precision_place]

    def outcome(self, job: str) -> tuple[Condition, dict[str, int]]:
        """Return the condition of the outcome of a decision's job, and its points' replicates."""
        path = job_paths(self.results, job)[1]
        if not path.exists():
            return "missing", {}
        try:
            points = read_json(path, "outcome").get("points")
        except InvalidParameterError as error:
            self.reasons[path] = str(error)
            return "corrupt", {}
        if not isinstance(points, dict) or not all(map(is_simulation, points, points.values())):
            self.reasons[path] = "it names no points"
            return "corrupt", {}
        return "intact", points

    def save(self) -> None:
        """Write down what was found intact."""
        if self._seen == self._known:
            return
        with replacing(self.results / LEDGER) as temporary:
            data = {"model_version": MODEL_VERSION, "files": self._seen}
            temporary.write_text(json.dumps(data), encoding="utf-8")


def decision_path(results: Path, row: Row) -> Path:
    """Return where the decision on a point with a precision is kept."""
    return results / "precision" / f"{row.precision_id}.json"


def _not_of(row: Row, decisions: Sequence[Decision]) -> str:
    """Return why decisions are not those that a row asks for; empty if they are."""
    precision = row.precision
    if precision is None or row.precision_place >= len(decisions):
        return f"it has {len(decisions)} points"
    decision = decisions[row.precision_place]
    of_row = (row.point_id, precision.metric, precision.relative)
    if (decision.point_id, decision.metric, decision.wanted_relative) != of_row:
        return "it is of another point, or precision"
    if decision.replicates > precision.max_replicates:
        return f"it has more than {precision.max_replicates} replicates"
    if decision.times > precision.max_lengthening:
        return f"its runs are more than {precision.max_lengthening} times as long"
    if decision.simulated != point_id(lengthened(row.config, decision.times)):
        return "it is of runs of another length"
    return ""


@dataclass
class Inventory:
    """The files that studies want, by condition."""

    intact: list[Path] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    corrupt: dict[Path, str] = field(default_factory=dict)
    """Why, by file."""
    undone: list[Path] = field(default_factory=list)
    """Intact decisions on replicates of which some are missing or corrupt now."""

    def to_dict(self) -> dict[str, Any]:
        """Return the file names by condition, for JSON."""
        return {
            "complete": [str(path) for path in self.intact],
            "missing": [str(path) for path in self.missing],
            "corrupt": {str(path): reason for path, reason in self.corrupt.items()},
        }


def take_inventory(studies: Iterable[ResolvedStudy], verifier: Verifier) -> Inventory:
    """Check every simulation result that `studies` want."""
    found: dict[Path, Condition] = {}
    undone: list[Path] = []
    results = verifier.results
    for row in (row for study in studies for row in study.rows):
        point_id, count = row.point_id, row.replicates
        if row.precision is not None:
            path = decision_path(results, row)
            condition, decision = verifier.decision(row)
            if found.get(path) != "corrupt":  # of another point of its job
                found[path] = condition
            point_id, count = (decision.simulated, decision.replicates) if decision else ("", 0)
        whole = True
        for replicate in range(count):
            file = result_path(results, point_id, replicate)
            if file not in found:
                found[file] = verifier.replicate(point_id, replicate)
            whole = whole and found[file] == "intact"
        if row.precision is not None and found[path] == "intact" and not whole:
            undone.append(path)
    for job in (job for study in studies for job in study.jobs()):
        found[job_paths(results, job)[1]] = verifier.outcome(job)[0]
    return Inventory(
        intact=[path for path, condition in found.items() if condition == "intact"],
        missing=[path for path, condition in found.items() if condition == "missing"],
        corrupt={
            p: verifier.reasons[p] for p, condition in found.items() if condition == "corrupt"
        },
        undone=undone,
    )
