"""A study that asks for a decision: a job for each deployment, tables, figures, nothing twice."""

from __future__ import annotations

import csv
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


def test_every_architecture_is_a_job_and_nothing_runs_twice(decision: Workspace) -> None:
    ran = decision.run()
    assert ran["capacity"] == 3  # and one that asks what errors the verdict stands
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


def test_a_damaged_outcome_and_a_lost_measurement_are_made_again(decision: Workspace) -> None:
    decision.run()
    before = decision.results()
    outcomes = [
        path
        for path in (decision.folder / "results/capacity").glob("*.json")
        if "request" not in path.name and '"longer"' in path.read_text()  # no other job reads it
    ]
    outcomes[0].write_text("{")
    next(decision.folder.glob("results/points/*/attained-*.json")).unlink()
    ran = decision.run()
    assert ran["capacity"] == 1
    assert decision.results() == before


def test_a_second_round_finds_those_exactly_that_may_be_the_best(decision: Workspace) -> None:
    decision.study["accuracy"] = {"relative": 0.05, "max_replicates": 40}
    ran = decision.run()
    assert ran["capacity"] == 5  # each architecture coarsely, then those that may be the best
    assert decision.run() == {}
    table = decision.folder / "results/studies/rates/tables/capacity.csv"
    lines = list(csv.DictReader(table.read_text().splitlines()))
    replicates = sorted(int(line["replicates"]) for line in lines)
    assert replicates[0] <= 18 < replicates[-1]
    decision.study["accuracy"]["relative"] = 0.04  # the first round stays as it is
    assert decision.run() == {"capacity": 3, "tables": 1, "figures": 1}


def test_the_report_has_a_section_with_the_answer_in_words(decision: Workspace) -> None:
    decision.run()
    answer = decision.folder / "results/studies/rates/tables/answer.html"
    assert "<strong>Verdict: " in answer.read_text()
    made = decision.snakemake("--report", "report.html")
    assert made.returncode == 0, made.stdout + made.stderr
    report = (decision.folder / "report.html").read_text()
    assert '"answer.html"' in report
    assert "highest rate at which it keeps the" in report  # captions are of decisions
    assert "Every simulated point of the study" not in report


def test_what_does_not_fit_is_one_line_before_anything_runs(decision: Workspace) -> None:
    decision.study["slo"]["attainment"] = 1.5
    done = decision.snakemake()
    assert done.returncode != 0
    assert "slo.attainment must be > 0 and < 1" in done.stdout + done.stderr
    assert not list(decision.folder.glob("results/points/*"))
