"""A study with request classes: what an edit of a class simulates again."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow

DISCIPLINE = "batching_disagg.prefill.discipline"
DEFAULTS: dict[str, Any] = {
    "sim_seconds": 60,
    "warmup_seconds": 5,
    "serving": "batching",
    "arrival": {"rate_per_s": 8},
    "latency": {"model": "llama-3.1-8b"},
    "prompt_tokens": {"mode": "p50_p90", "p50": 1500, "p90": 6000},
    "output_tokens": {"mode": "fixed", "value": 40},
    "batching_disagg": {"prefill": {"tensor_parallel": 1}, "decode": {"tensor_parallel": 1}},
    "request_classes": {
        "chat": {"share": 3, "ttft_slo_s": 0.3},
        "batch": {"ttft_slo_s": 10, "priority": 1},
    },
}


def edit(workspace: Workspace, name: str, **changes: Any) -> None:
    workspace.config["defaults"]["request_classes"].setdefault(name, {}).update(changes)


def attainment(workspace: Workspace) -> pd.Series:
    """Return the attainment of the chat requests by discipline."""
    table = pd.read_csv(workspace.folder / "results/studies/rates/tables/classes.csv")
    return table[table["request_class"] == "chat"].set_index(DISCIPLINE)["slo_attainment"]


def test_an_edit_of_a_class_simulates_only_what_it_can_change(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.config["defaults"] = copy.deepcopy(DEFAULTS)
    workspace.study["sweep"] = {"grid": {DISCIPLINE: ["fcfs", "edf", "priority"]}}
    workspace.study["compare"] = {"factor": DISCIPLINE, "baseline": "fcfs"}
    again = Counter({"tables": 1, "figures": 1})

    assert workspace.run() == again + Counter(simulate=6)
    tables = workspace.folder / "results/studies/rates/tables"
    assert (workspace.folder / "results/studies/rates/figures/slo_attainment.png").is_file()
    comparison = pd.read_csv(tables / "class_comparison.csv")
    assert set(comparison["request_class"]) == {"batch", "chat", "all"}
    first = attainment(workspace)
    assert first["edf"] > first["fcfs"]

    edit(workspace, "chat", ttft_slo_s=0.2)
    assert workspace.run() == again + Counter(simulate=2), "of edf, whose deadlines these are"
    assert (attainment(workspace) < first).all()
    edit(workspace, "batch", priority=3)
    assert workspace.run() == again + Counter(simulate=2), "of priority"
    edit(workspace, "chat", share=2)
    assert workspace.run() == again + Counter(simulate=4), "of both, not of fcfs"

    workspace.study["sweep"]["grid"][DISCIPLINE] = ["fcfs", "sjf"]
    assert workspace.run() == again + Counter(simulate=2), "of sjf, which is new"
    before = attainment(workspace)
    for changes in ({"ttft_slo_s": 0.1}, {"priority": 5}, {"share": 1}, {"ttft_slo_s": 0.2}):
        edit(workspace, "chat", **changes)
        assert workspace.run() == again, "neither reads classes"
    edit(workspace, "third", ttft_slo_s=1)
    assert workspace.run() == again
    assert set(attainment(workspace).index) == set(before.index)
    assert workspace.run() == Counter()
