"""The state of a results folder: what is complete, missing, corrupt or stale."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simlib.errors import InvalidParameterError
from simlib.files import LEFTOVER
from simlib.study.jobs import outputs, up_to_date
from simlib.study.jobs.verify import Inventory, Verifier, decision_path, take_inventory
from simlib.study.plan.resolved import ResolvedStudy

_ID = r"[0-9a-f]{12,16}"
_OURS = re.compile(
    rf"points/{_ID}/(point\.json|r\d+\.(npz|staged)|attained-{_ID}\.json)"
    rf"|(precision|capacity)/{_ID}(\.request)?\.json"
    r"|studies/\w+/(study\.json|\.tables-of|\.figures-of)"
    rf"|(logs|benchmarks)/(points/{_ID}/r\d+|(tables|figures)/\w+|(precision|capacity)/{_ID})\.(log|tsv)"
)
"""What the workflow writes, and a study may no longer want; tables and figures have a manifest."""


@dataclass(frozen=True)
class Diagnosis:
    """What a results folder holds."""

    inventory: Inventory
    stale: tuple[Path, ...]
    """Files of ours that no study wants, and what killed jobs left half written."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is missing or corrupt."""
        return not (self.inventory.missing or self.inventory.corrupt)

    def to_dict(self) -> dict[str, Any]:
        """Return the file names by condition, for JSON."""
        stale = [str(path) for path in self.stale]
        return {**self.inventory.to_dict(), "stale": stale, "healthy": self.healthy}


def diagnose(studies: Sequence[ResolvedStudy], results: Path) -> Diagnosis:
    """Read every result that `studies` want, whole, and find the files that none of them wants."""
    verifier = Verifier(results, trust_ledger=False)
    inventory = take_inventory(studies, verifier)
    for study in studies:
        _diagnose_outputs(results / "studies" / study.name, verifier, inventory)
    return Diagnosis(inventory, tuple(sorted(_stale(studies, results, verifier))))


def _diagnose_outputs(study: Path, verifier: Verifier, inventory: Inventory) -> None:
    """Add a study's tables and figures, and whether they were made from what is there."""
    marks = {
        "tables": (study / up_to_date.TABLES_OF, up_to_date.tables_sources(study)),
        "figures": (study / up_to_date.FIGURES_OF, up_to_date.figures_sources(study)),
    }
    for writer, (mark, sources) in marks.items():
        folder = study / writer
        found = dict(outputs.problems(folder, writer, verifier.unchanged))
        for path, what in found.items():
            if what == "missing":
                inventory.missing.append(path)
            else:
                inventory.corrupt[path] = what
        inventory.intact += [path for path in _written(folder, writer) if path not in found]
        if not mark.exists():
            inventory.missing.append(mark)
        elif not up_to_date.is_made_from(mark, sources):
            inventory.corrupt[mark] = f"{writer} were made from another version of the study"


def _written(folder: Path, writer: str) -> Iterator[Path]:
    try:
        yield from (
            folder / name for name in outputs.read_manifest(outputs.manifest_path(folder, writer))
        )
    except InvalidParameterError:  # told by `problems`
        return


def _stale(studies: Sequence[ResolvedStudy], results: Path, verifier: Verifier) -> Iterator[Path]:
    names = {study.name for study in studies}
    rows = [row for study in studies for row in study.rows]
    points = {row.point_id for row in rows}
    precise = [row for row in rows if row.precision is not None]
    decided = [verifier.decision(row)[1] for row in precise]
    adaptive = {row.point_id for row in precise} | {one.simulated for one in decided if one}
    replicates: dict[str, int] = {}
    for row in rows:
        replicates[row.point_id] = max(row.replicates, replicates.get(row.point_id, 0))
    decisions = {decision_path(results, row).stem for row in precise}
    jobs = {job for study in studies for job in study.jobs()}
    searched = {point for job in jobs for point in verifier.outcome(job)[1]}
    adaptive |= searched
    points |= adaptive

    def unwanted(path: Path) -> bool:
        relative = path.relative_to(results)
        if not _OURS.fullmatch(relative.as_posix()):
            return False
        kind, *rest = relative.parts
        if kind in ("logs", "benchmarks"):
            kind, *rest = rest
        first = rest[0]
        if kind == "points":
            if first not in points:
                return True
            number = re.fullmatch(r"r(\d+)\.\w+", rest[-1])
            # replicates that were added for precision are kept: a tighter one needs them again
            return (
                number is not None
                and first not in adaptive
                and int(number[1]) >= replicates.get(first, 0)
            )
        if kind == "capacity":
            return first.split(".")[0] not in jobs
        if kind == "precision":
            return first.split(".")[0] not in decisions
        return first.split(".")[0] not in names  # studies, and logs of tables and figures

    for path in _files(results):
        if LEFTOVER.fullmatch(path.name) or unwanted(path):
            yield path
    for study in (results / "studies").glob("*"):
        if study.name not in names:
            for writer in ("tables", "figures"):
                yield from _stale_outputs(study / writer, writer)


def _stale_outputs(folder: Path, writer: str) -> Iterator[Path]:
    """Yield what a study that is gone wrote, and nobody has changed."""
    if folder.is_symlink():
        return
    manifest = outputs.manifest_path(folder, writer)
    try:
        files = outputs.read_manifest(manifest)
    except InvalidParameterError:
        return
    for name, digest in files.items():
        path = folder / name
        if path.is_file() and not path.is_symlink() and outputs.sha256(path) == digest:
            yield path
    yield manifest


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def prune(results: Path, stale: Iterable[Path]) -> None:
    """Remove files, and the folders below the results folder that this leaves empty."""
    for path in stale:
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == results or results not in folder.parents or any(folder.iterdir()):
                break
            folder.rmdir()
