"""Precision on demand: replicates are added until intervals are narrow enough, and reused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow


def decisions(workspace: Workspace) -> list[dict[str, Any]]:
    files = workspace.folder.glob("results/precision/*.json")
    texts = [path.read_text() for path in files if not path.name.endswith(".request.json")]
    return [point for text in texts for point in json.loads(text)["points"]]


def times(workspace: Workspace) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in workspace.simulated()}


def test_replicates_are_added_until_precise_and_reused_when_tightened(
    workspace: Workspace,
) -> None:
    workspace.config["defaults"]["sim_seconds"] = 240  # long enough for 40 replicates to suffice
    workspace.study["sweep"]["grid"]["arrival.rate_per_s"] = [2]
    workspace.study["precision"] = {
        "metric": "mean_ttft_s",
        "relative": 0.15,
        "max_replicates": 40,
        "max_lengthening": 1,
    }
    ran = workspace.run()
    assert ran["make_precise"] == 1, "what is compared shares a job"
    assert ran["simulate"] == 0
    first = decisions(workspace)
    assert all(one["reached"] and one["relative_half_width"] <= 0.15 for one in first)
    before = times(workspace)
    assert len(before) == sum(one["replicates"] for one in first)

    workspace.study["precision"]["relative"] = 0.03
    workspace.study["precision"]["max_replicates"] = max(len(before), 20)
    workspace.run()
    after = times(workspace)
    assert len(after) > len(before)
    assert {path: after[path] for path in before} == before, "nothing was simulated again"

    table = pd.read_csv(workspace.folder / "results/studies/rates/tables/summary.csv")
    for line in table.itertuples():
        wide = (line.mean_ttft_s_high - line.mean_ttft_s_low) / 2 > 0.03 * line.mean_ttft_s
        assert line.precision.startswith("NOT reached" if wide else "reached")
    assert workspace.run() == {}


def test_what_is_compared_is_lengthened_together_and_nothing_else_is(workspace: Workspace) -> None:
    defaults = workspace.config["defaults"]
    defaults |= {"cluster_mono": {"num_gpus": 2}, "cluster_disagg": {"decode_gpus": 1}}
    defaults |= {"sim_seconds": 400, "warmup_seconds": 40}
    for tokens, p50, p90 in (("prompt_tokens", 600, 900), ("output_tokens", 700, 1100)):
        defaults[tokens] = {"mode": "p50_p90", "p50": p50, "p90": p90}  # no heavy tail
    grid = workspace.study["sweep"]["grid"]
    grid["arrival.rate_per_s"] = [0.5, 2.6, 40]  # at ease; too short a run; overloaded
    precision = {"metric": "mean_ttft_s", "relative": 0.5, "max_replicates": 60}
    workspace.study["precision"] = {**precision, "max_lengthening": 16}
    assert workspace.run()["make_precise"] == 3
    table = pd.read_csv(workspace.folder / "results/studies/rates/tables/summary.csv")
    windows = table.groupby("arrival.rate_per_s")["window_s"].agg(["min", "max"])
    assert (windows["min"] == windows["max"]).all(), "the two sides have other windows"
    assert windows.loc[0.5, "min"] == 360
    assert windows.loc[2.6, "min"] in [360.0 * 2**k for k in range(1, 5)]
    assert windows.loc[40, "min"] == 360
    compared = pd.read_csv(workspace.folder / "results/studies/rates/tables/comparison.csv")
    assert (compared["verdict"] != "").all()

    assert workspace.run() == {}
    command = [sys.executable, "-m", "simlib.cli.run", "doctor", "--json"]
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["stale"] == []

    # each longer run is an ordinary point: without one of its results its job runs again
    longer = max(decisions(workspace), key=lambda one: one["times"])
    path = workspace.folder / f"results/points/{longer['simulated']}/r1.npz"
    was = path.read_bytes()
    path.unlink()
    assert workspace.run()["make_precise"] == 1
    assert path.read_bytes() == was
