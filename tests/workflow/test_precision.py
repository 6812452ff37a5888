"""Precision on demand: replicates are added until intervals are narrow enough, and reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow


def decisions(workspace: Workspace) -> list[dict[str, Any]]:
    files = workspace.folder.glob("results/precision/*.json")
    texts = [path.read_text() for path in files if not path.name.endswith(".request.json")]
    return [json.loads(text) for text in texts]


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
    }
    ran = workspace.run()
    assert ran["replicate_until_precise"] == 2
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
