"""What happens before Snakemake plans a run: lock, check results, write what jobs read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simlib.errors import InvalidParameterError
from simlib.files import read_json, tidy, write_json
from simlib.study.jobs import batches, lock, outputs, up_to_date
from simlib.study.jobs.outputs import manifest_path
from simlib.study.jobs.store import result_path
from simlib.study.jobs.verify import Verifier, take_inventory
from simlib.study.jobs.workflow import SNAPSHOT, Plan


def start(
    config: Mapping[str, Any],
    results: str,
    source: str,
    named: str | None = None,
    *,
    main: bool,
    dryrun: bool = False,
) -> Plan:
    """Return the plan of a run; in its main process, also prepare the results folder.

    Damaged results are removed, so that Snakemake makes them again, and what a killed batch had
    finished is put in its place.

    Raises
    ------
    InvalidParameterError
        If the configuration is wrong.
    FolderInUseError
        If another run works in this folder.
    """
    # jobs, here and on other machines, import simlib and nothing of the folder they work in
    os.environ["PYTHONSAFEPATH"] = "1"
    folder = Path(results)
    snapshot = folder / SNAPSHOT
    if not main:
        # a job on another machine: config.yaml may have been edited since the run started
        plan = Plan.of(read_json(snapshot, "the run's configuration"), results, source, named)
        return replace(plan, batches=tuple(batches.read_batches(folder)))
    plan = Plan.of(config, results, source, named)
    lock.hold(Path())
    _clear(plan)
    plan.write()
    write_json(snapshot, dict(config))
    _adopt(folder)
    verifier = Verifier(plan.results)
    intact = _drop_damaged(plan, verifier)
    for study in plan.studies:
        _settle(folder / "studies" / study, verifier, dryrun=dryrun)
    verifier.save()
    plan = replace(plan, batches=tuple(_compose(plan, intact)), intact=intact)
    batches.write_batches(folder, plan.batches)
    return plan


def _clear(plan: Plan) -> None:
    """Make room for the files of a run, and remove what killed writers left."""
    folders: dict[str, set[str]] = {}
    for folder, name in plan.own_files():
        folders.setdefault(folder, set()).add(name)
    for folder, names in folders.items():
        tidy(Path(folder), names, plan.results.parent)


def _adopt(results: Path) -> None:
    try:
        batches.adopt(results)
    except InvalidParameterError as error:
        _tell_removed(results / batches.BATCHES, str(error))
        (results / batches.BATCHES).unlink()


def _settle(study: Path, verifier: Verifier, *, dryrun: bool) -> None:
    """Have tables and figures made again of which one is missing or altered."""
    altered = set()
    for writer in ("tables", "figures"):
        found = list(outputs.problems(study / writer, writer, verifier.unchanged))
        if found:
            altered.add(writer)
        if manifest_path(study / writer, writer).exists():
            for path, what in found:
                print(f"{writer} are made again: {path} is {what}", file=sys.stderr)
    up_to_date.settle(study, altered=altered, dryrun=dryrun)


def _tell_removed(path: Path, reason: str) -> None:
    print(f"removed a damaged result, which is made again: {path} ({reason})", file=sys.stderr)


def _compose(plan: Plan, intact: frozenset[Path]) -> Iterator[batches.Batch]:
    """Yield batches of what is missing; those of a batch are of one study and read the same tables.

    So a study that is asked for alone, or a table that cannot be made, brings or stops no other.
    """
    there = set(intact)
    for study in plan.studies.values():
        groups: dict[tuple[str, ...], list[batches.Simulation]] = {}
        for row in study.rows:
            if row.precision is not None:
                continue
            for replicate in range(row.replicates):
                path = result_path(plan.results, row.point_id, replicate)
                if path not in there:
                    there.add(path)
                    tables = tuple(plan.latency_tables(row.point_id))
                    groups.setdefault(tables, []).append((row.point_id, replicate))
        for simulations in groups.values():
            yield from batches.compose(simulations, plan.seconds, plan.batch_seconds)


def _drop_damaged(plan: Plan, verifier: Verifier) -> frozenset[Path]:
    """Remove the results that cannot be used; return those that can."""
    inventory = take_inventory(plan.studies.values(), verifier)
    for path, reason in inventory.corrupt.items():
        _tell_removed(path, reason)
        path.unlink(missing_ok=True)
    gone = set(inventory.undone)
    for path in gone:
        path.unlink(missing_ok=True)  # its job reads what is intact and makes the rest
    intact = frozenset(path for path in inventory.intact if path not in gone)
    up_to_date.not_ahead(intact)
    lock.keep_finished(Path(), intact)
    return intact
