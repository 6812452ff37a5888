"""Points that are made precise: which of them together, and how much longer they run.

What is compared needs runs of one length, or its two sides have served other requests. So a study's
points that are compared with each other share a job, which finds one length for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from simlib.core.config import SimConfig
from simlib.study.plan.identity import ANALYSIS_ONLY, digest
from simlib.study.plan.resolved import Row


def lengthened(config: SimConfig, times: int) -> SimConfig:
    """Return a configuration whose run, warm-up included, is so many times as long.

    Its requests begin with those of the shorter run: streams continue.
    """
    seconds = {key: times * getattr(config, key) for key in ("sim_seconds", "warmup_seconds")}
    return config.model_copy(update=seconds)


def with_jobs(rows: Sequence[Row], factor: str | None) -> list[Row]:
    """Return rows with the job that makes each precise, if they ask for it.

    Parameters
    ----------
    rows : sequence of Row
        All of a study.
    factor : str or None
        The factor whose levels are compared; None compares nothing.
    """
    # where a factor does not matter to one row, that row is compared with all its levels
    others = [
        name
        for name in (rows[0].coordinates if factor is not None else ())
        if name != factor and all(row.coordinates[name] is not None for row in rows)
    ]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        if row.precision is not None:
            where = [row.coordinates[name] for name in others] if factor is not None else [place]
            groups.setdefault(tuple(where), []).append(place)
    found = list(rows)
    for places in groups.values():
        job = _identity([rows[place] for place in places])
        for number, place in enumerate(places):
            found[place] = replace(rows[place], precision_id=job, precision_place=number)
    return found


def request_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the job that makes rows precise needs to know."""
    first = rows[0]
    return {
        "points": [
            {
                "point_id": row.point_id,
                "config": row.as_written(row.config.to_dict()),
                "files": row.files,
            }
            for row in rows
        ],
        "replicates": first.replicates,
        "precision": first.precision.to_dict() if first.precision is not None else {},
    }


def _identity(rows: Sequence[Row]) -> str:
    """Return the identity of a job: another window or precision is another one."""
    request = request_of(rows)
    for point in request["points"]:
        del point["files"]
        point["config"] = {key: point["config"][key] for key in ANALYSIS_ONLY}
    return digest(request)
