"""`simlib timeline` reports inter-token latency and occupation of a batching deployment."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from simlib.cli.run import cli
from simlib.core.config import SimConfig
from simlib.core.records import tpot_s
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.over_time import gaps_in_window

SHORT = ["--sim-seconds", "30", "--warmup-seconds", "0", "--rate", "3"]


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_gaps_are_counted_once_and_average_to_the_tokens_times(tmp_path: Path, mode: str) -> None:
    output = tmp_path / "timeline.csv"
    done = CliRunner().invoke(cli, ["timeline", "--mode", mode, *SHORT, "--output", str(output)])
    assert done.exit_code == 0, done.stderr
    itl = json.loads(done.stdout)["itl"]
    config = SimConfig(
        serving="batching",
        mode=mode,
        sim_seconds=30,
        warmup_seconds=0,
        arrival={"rate_per_s": 3},
        timeline=True,
    )
    records = simulate(config)
    finished = records.select(records.finish_s < 30)
    gaps = finished.output_tokens - 1
    # requests that finish in the window have all their gaps in it; the others only some
    assert itl["gaps"] > gaps.sum() > 1000
    assert itl["gaps"] == gaps_in_window(records, config).total
    mean_s = (tpot_s(finished)[gaps > 0] * gaps[gaps > 0]).sum() / gaps.sum()
    assert itl["mean_itl_s"] == pytest.approx(mean_s, rel=0.1)
    assert itl["p50_itl_s"] <= itl["p90_itl_s"] <= itl["p99_itl_s"]
    with output.open(encoding="utf-8") as file:
        jumps = list(csv.DictReader(file))
    ends = [float(jump["end_s"]) for jump in jumps]
    assert ends == sorted(ends)
    assert max(float(jump["start_s"]) for jump in jumps) < 30


def test_a_token_rate_configuration_is_served_by_batching_here() -> None:
    done = CliRunner().invoke(cli, ["timeline", *SHORT, "--set", "batching_disagg.decode.gpu=x"])
    assert done.exit_code == 2
    assert "must be" in done.stderr
