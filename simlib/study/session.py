"""What happens before Snakemake plans a run: lock, check results, write what jobs read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simlib.study import lock, times
from simlib.study.files import write_json
from simlib.study.plan import Plan
from simlib.study.verify import Verifier, take_inventory

SNAPSHOT = ".config.json"
"""In the results folder: the configuration of the run, for jobs that start after an edit."""


def start(config: Mapping[str, Any], results: str, source: str, *, main: bool) -> Plan:
    """Return the plan of a run; in its main process, also prepare the results folder.

    Damaged results are removed, so that Snakemake makes them again.

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
        return Plan.of(config, results, source)
    plan = Plan.of(config, results, source)
    lock.hold(Path())
    for study in plan.studies:
        times.settle(folder / "studies" / study)
    plan.write()
    write_json(snapshot, dict(config))
    for study in plan.studies:
        times.settle(folder / "studies" / study)
    _drop_damaged(plan)
    return plan


def _drop_damaged(plan: Plan) -> None:
    verifier = Verifier(plan.results)
    inventory = take_inventory(plan.studies.values(), verifier)
    for path, reason in inventory.corrupt.items():
        print(f"removed a damaged result, which is made again: {path} ({reason})", file=sys.stderr)
        path.unlink(missing_ok=True)
    for path in inventory.undone:
        path.unlink(missing_ok=True)  # its job reads what is intact and makes the rest
    times.not_ahead(inventory.intact)
    gone = set(inventory.undone)
    lock.keep_finished(Path(), (path for path in inventory.intact if path not in gone))
    verifier.save()
