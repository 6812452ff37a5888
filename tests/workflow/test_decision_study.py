"""A study that asks for a decision: a job for each deployment, tables, figures, nothing twice."""

from __future__ import annotations

import json

import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow


@pytest.fixture
def decision(workspace: Workspace) -> Workspace:
    """Return a workspace whose only study asks which split of 3 GPUs to choose."""
    workspace.config["defaults"] = {"sim_seconds": 200, "warmup_seconds": 40}
    workspace.config["studies"] = {
        "rates": {
            "slo": {"ttft_s": 1.0},
            "deployments": {"gpus": 3},
            "accuracy": {"relative": 0.2, "max_replicates": 10},
        }
    }
    return workspace


def test_every_deployment_is_a_job_and_nothing_runs_twice(decision: Workspace) -> None:
    ran = decision.run()
    assert ran["capacity"] == 3
    assert ran["tables"] == ran["figures"] == 1
    tables = decision.folder / "results/studies/rates/tables"
    said = json.loads((tables / "decision.json").read_text())
    assert len(said["cases"][0]["deployments"]) == 3
    for name in ("summary.csv", "capacity.csv", "frontier.csv", "attainment.csv"):
        assert len((tables / name).read_text().splitlines()) > 1
    figures = {path.name for path in tables.parent.glob("figures/*.svg")}
    assert figures == {"capacity.svg", "frontier.svg", "slo_attainment_vs_rate.svg"}
    assert decision.run() == {}

    simulated = set(decision.simulated())
    decision.study["accuracy"]["indifference"] = 0.3  # only the answer changes
    assert decision.run() == {"tables": 1, "figures": 1}
    assert set(decision.simulated()) == simulated

    decision.study["rate_per_s"] = 2.0
    assert decision.run() == {"capacity": 1, "tables": 1, "figures": 1}
    assert json.loads((tables / "decision.json").read_text())["cases"][0]["fewest_gpus"]["gpus"]


def test_a_damaged_outcome_and_a_lost_simulation_are_made_again(decision: Workspace) -> None:
    decision.run()
    before = decision.results()
    damaged = next(
        path
        for path in (decision.folder / "results/capacity").glob("*.json")
        if "request" not in path.name
    )
    damaged.write_text("{")
    lost = next(decision.folder.glob("results/points/*/r0.npz"))
    lost.unlink()
    ran = decision.run()
    assert ran["capacity"] >= 1
    assert decision.results() == before
    assert lost.is_file() or ran["capacity"] == 1


def test_what_does_not_fit_is_one_line_before_anything_runs(decision: Workspace) -> None:
    decision.study["slo"]["attainment"] = 1.5
    done = decision.snakemake()
    assert done.returncode != 0
    assert "slo.attainment must be > 0 and < 1" in done.stdout + done.stderr
    assert not list(decision.folder.glob("results/points/*"))
