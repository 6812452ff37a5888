"""What happens before Snakemake plans a run: lock, check results, write what jobs read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simlib.files import write_json
from simlib.study.jobs import batches, lock, up_to_date
from simlib.study.jobs.store import result_path
from simlib.study.jobs.verify import Inventory, Verifier, take_inventory
from simlib.study.jobs.workflow import Plan

SNAPSHOT = ".config.json"
"""In the results folder: the configuration of the run, for jobs that start after an edit."""


def start(config: Mapping[str, Any], results: str, source: str, *, main: bool) -> Plan:
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
    folder = Path(results)
    snapshot = folder / SNAPSHOT
    if not main:
        # a job on another machine: config.yaml may have been edited since the run started
        if snapshot.is_file():
            config = json.loads(snapshot.read_text(encoding="utf-8"))
        plan = Plan.of(config, results, source)
        return replace(plan, batches=tuple(batches.read_batches(folder)))
    plan = Plan.of(config, results, source)
    lock.hold(Path())
    for study in plan.studies:
        up_to_date.settle(folder / "studies" / study)
    plan.write()
    write_json(snapshot, dict(config))
    for study in plan.studies:
        up_to_date.settle(folder / "studies" / study)
    batches.adopt(folder)
    inventory = _drop_damaged(plan)
    plan = replace(plan, batches=tuple(_compose(plan, inventory)))
    batches.write_batches(folder, plan.batches)
    return plan


def _compose(plan: Plan, inventory: Inventory) -> Iterator[batches.Batch]:
    """Yield batches of what is missing; those of a batch are of one study and read the same tables.

    So a study that is asked for alone, or a table that cannot be made, brings or stops no other.
    """
    there = set(inventory.intact)
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


def _drop_damaged(plan: Plan) -> Inventory:
    verifier = Verifier(plan.results)
    inventory = take_inventory(plan.studies.values(), verifier)
    for path, reason in inventory.corrupt.items():
        print(f"removed a damaged result, which is made again: {path} ({reason})", file=sys.stderr)
        path.unlink(missing_ok=True)
    for path in inventory.undone:
        path.unlink(missing_ok=True)  # its job reads what is intact and makes the rest
    up_to_date.not_ahead(inventory.intact)
    gone = set(inventory.undone)
    lock.keep_finished(Path(), (path for path in inventory.intact if path not in gone))
    verifier.save()
    return inventory
