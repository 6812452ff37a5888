"""The state of a results folder: what is complete, missing, corrupt or stale."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simlib.study.jobs.verify import Inventory, Verifier, decision_path, take_inventory
from simlib.study.plan.grid import ResolvedStudy

_LEFTOVER = re.compile(r"\.\d+\..+")
"""A file that a killed job was writing; see `simlib.files.replacing`."""


@dataclass(frozen=True)
class Diagnosis:
    """What a results folder holds."""

    inventory: Inventory
    stale: tuple[Path, ...]
    """Files that no study wants, and what killed jobs left half written."""

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
        for name in ("summary.csv", "provenance.json"):
            table = results / "studies" / study.name / "tables" / name
            (inventory.intact if table.is_file() else inventory.missing).append(table)
    return Diagnosis(inventory, tuple(sorted(_stale(studies, results))))


def _stale(studies: Sequence[ResolvedStudy], results: Path) -> Iterator[Path]:
    names = {study.name for study in studies}
    rows = [row for study in studies for row in study.rows]
    points = {row.point_id for row in rows}
    adaptive = {row.point_id for row in rows if row.precision is not None}
    replicates: dict[str, int] = {}
    for row in rows:
        replicates[row.point_id] = max(row.replicates, replicates.get(row.point_id, 0))
    decisions = {decision_path(results, r).stem for r in rows if r.precision is not None}

    def unwanted(path: Path) -> bool:
        kind, *rest = path.relative_to(results).parts
        if kind in ("logs", "benchmarks") and rest:
            kind, *rest = rest
        if not rest:
            return False
        first = rest[0]
        if kind == "points":
            if first not in points:
                return True
            number = re.fullmatch(r"r(\d+)\.\w+", rest[-1])
            # replicates that were added for precision are kept: a tighter one needs them again
            return (
                number is not None and first not in adaptive and int(number[1]) >= replicates[first]
            )
        if kind == "precision":
            return first.split(".")[0] not in decisions
        if kind in ("studies", "tables", "figures"):
            return first.split(".")[0] not in names
        return False

    for path in _files(results):
        if _LEFTOVER.fullmatch(path.name) or unwanted(path):
            yield path


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def prune(results: Path, stale: Iterable[Path]) -> None:
    """Remove files, and the folders below the results folder that this leaves empty."""
    for path in stale:
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == results or results not in folder.parents or any(folder.iterdir()):
                break
            folder.rmdir()
