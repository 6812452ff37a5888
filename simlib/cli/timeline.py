"""``simlib timeline``: what the replicas of a batching deployment do over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simlib.cli.group import Command
from simlib.cli.options import configures, overrides_of
from simlib.errors import InvalidParameterError

if TYPE_CHECKING:  # commands import what simulates when they run
    from simlib.serving.timeline import Jumps
    from simlib.study.measurement.occupation import Occupation


@click.command(cls=Command)
@configures(without=("engine", "drain", "ttft_definition"))
@click.option("--replicate", type=int, default=0, show_default=True, help="Other random streams.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file of every jump up to --sim-seconds: batch, context, KV blocks, waiting requests.",
)
def main(config: str | None, replicate: int, output: Path | None, **given: Any) -> None:
    """Run one batching simulation and print inter-token latency and occupation as JSON.

    All is over the window after warm-up, as in the tables of a study with `timeline: true`: ITL
    over every gap between two tokens that ends in it, each counted once; KV occupancy and waiting
    requests over time; the decode batch over the time in which a replica decodes.
    """
    from simlib.cli.run import json_ready
    from simlib.core.settings import resolve_config
    from simlib.serving.timeline import TimedRecords
    from simlib.stats.relaxation import RunLength
    from simlib.study.jobs.simulate import simulate
    from simlib.study.measurement.over_time import gaps_in_window, measure_over_time

    if replicate < 0:
        raise InvalidParameterError("replicate", replicate, ">= 0")
    overrides = {"serving": "batching", "timeline": True}
    resolved = resolve_config(config, overrides | overrides_of({**given, "config": config}))
    records = simulate(resolved, replicate)
    measured = measure_over_time([records], resolved, RunLength(runs=1, requests=len(records)))
    if measured is None or not isinstance(records, TimedRecords):
        raise InvalidParameterError("timeline", False, "true (simlib timeline shows nothing else)")
    length_s = resolved.sim_seconds - resolved.warmup_seconds
    report = {
        "itl": {"gaps": gaps_in_window(records, resolved).total, **measured.statistics[0]},
        "pools": {name: _occupation(pool, length_s) for name, pool in measured.pools.items()},
    }
    if output is not None:
        _write(output, records.timeline.jumps)
    click.echo(json.dumps(json_ready(report), indent=2, allow_nan=False))


def _occupation(pool: Occupation, length_s: float) -> dict[str, float]:
    whole = pool.total()
    return {
        "busy_replica_seconds": float(whole.busy_s[0]),
        "mean_decode_batch": float(whole.decode_batch[0]),
        "mean_waiting": float(whole.waiting_s[0]) / length_s,
        "mean_kv_occupancy": float(whole.kv_occupancy[0]),
        "max_kv_occupancy": whole.highest_kv,
    }


def _write(path: Path, jumps: Jumps) -> None:
    import numpy as np

    from simlib.files import replacing

    columns = jumps.columns()
    order = np.argsort(jumps.end_s, kind="stable")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        rows = zip(*(column[order].tolist() for column in columns.values()), strict=True)
        file.writelines(",".join(map(repr, row)) + "\n" for row in rows)
