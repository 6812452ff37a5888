"""``simlib timeline``: what the replicas of a batching deployment do over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simlib.cli.group import Command
from simlib.cli.options import configures, overrides_of

if TYPE_CHECKING:  # commands import what simulates when they run
    from simlib.serving.timeline import Jumps, Timeline


@click.command(cls=Command)
@configures(without=("engine", "drain", "ttft_definition"))
@click.option("--replicate", type=int, default=0, show_default=True, help="Other random streams.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file of every jump: batch, context, KV blocks, waiting requests.",
)
def main(config: str | None, replicate: int, output: Path | None, **given: Any) -> None:
    """Run one batching simulation and print inter-token latency and occupation as JSON.

    ITL is over every gap between two tokens of the whole run, each counted once. Batch size and KV
    occupancy are averages over the time that a pool's replicas work. In a study, `timeline: true`
    puts both into its tables and figures, over the window after warm-up.
    """
    from simlib.analysis.point import resolve_config
    from simlib.cli.run import json_ready
    from simlib.core.sampling import sample_requests
    from simlib.serving.assemble import deployment_of, serve
    from simlib.serving.timeline import Timeline

    overrides = {"serving": "batching", **overrides_of({**given, "config": config})}
    resolved = resolve_config(config, overrides)
    timeline = Timeline()
    serve(sample_requests(resolved, replicate), resolved, replicate, timeline=timeline)
    jumps = timeline.jumps()
    pools = deployment_of(resolved.batching, resolved.latency).pools
    report = {
        "itl": _itl(timeline),
        "pools": {
            name: _occupation(jumps, number, pool.capacity_blocks)
            for number, (name, pool) in enumerate(zip(resolved.batching.pools, pools, strict=True))
        },
    }
    if output is not None:
        _write(output, jumps)
    click.echo(json.dumps(json_ready(report), indent=2, allow_nan=False))


def _itl(timeline: Timeline) -> dict[str, float]:
    from simlib.core.summary import PERCENTILES, metric_names
    from simlib.stats.weighted import Weighted

    gaps = Weighted(*timeline.itl_s())
    values = [gaps.mean(), *gaps.percentiles(PERCENTILES)]
    return {"gaps": gaps.total, **dict(zip(metric_names("itl"), values, strict=True))}


def _occupation(jumps: Jumps, pool: int, capacity_blocks: int) -> dict[str, float]:
    mine = jumps.pool == pool
    seconds = (jumps.end_s - jumps.start_s)[mine]
    worked_s = float(seconds.sum())
    blocks = jumps.blocks[mine]
    return {
        "busy_replica_seconds": worked_s,
        "mean_decode_batch": _average(jumps.decode_batch[mine], seconds),
        "mean_waiting": _average(jumps.waiting[mine], seconds),
        "mean_kv_occupancy": _average(blocks, seconds) / capacity_blocks,
        "max_kv_occupancy": float(blocks.max(initial=0)) / capacity_blocks,
    }


def _average(values: Any, seconds: Any) -> float:
    total = float(seconds.sum())
    return float((values * seconds).sum()) / total if total > 0 else float("nan")


def _write(path: Path, jumps: Jumps) -> None:
    import dataclasses

    import numpy as np

    from simlib.files import replacing

    columns = {field.name: getattr(jumps, field.name) for field in dataclasses.fields(jumps)}
    order = np.argsort(jumps.end_s, kind="stable")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        rows = zip(*(column[order].tolist() for column in columns.values()), strict=True)
        file.writelines(",".join(map(repr, row)) + "\n" for row in rows)
