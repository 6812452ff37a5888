"""What a finished study leaves behind, and how wrong input ends."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow


def test_summary_has_a_line_per_point_with_counts(finished: Workspace) -> None:
    summary = pd.read_csv(finished.folder / "results/studies/rates/tables/summary.csv")
    assert len(summary) == 4
    assert (summary["arrived"] == summary["finished"] + summary["unfinished"]).all()
    assert (summary["replicates"] == 2).all()
    by_rate = summary.groupby("arrival.rate_per_s")["arrived"].nunique()
    assert (by_rate == 1).all(), "both architectures see the same requests"


def test_requests_table_holds_every_request_where_it_is_asked_for(
    finished: Workspace, workspace: Workspace
) -> None:
    assert not list(finished.folder.rglob("requests.parquet"))
    workspace.study["requests_table"] = True
    workspace.run()
    tables = workspace.folder / "results/studies/rates/tables"
    requests = pd.read_parquet(tables / "requests.parquet")
    summary = pd.read_csv(tables / "summary.csv")
    assert requests["in_window"].sum() == summary["arrived"].sum()
    assert set(requests["replicate"]) == {0, 1}


def test_provenance_names_versions_points_and_configuration(finished: Workspace) -> None:
    path = finished.folder / "results/studies/rates/tables/provenance.json"
    provenance = json.loads(path.read_text(encoding="utf-8"))
    assert provenance["model_version"] >= 1
    ids = {point["point_id"] for point in provenance["points"]}
    assert ids == {path.parent.name for path in finished.simulated()}
    assert all(point["config"]["sim_seconds"] == 60 for point in provenance["points"])


def test_figures_exist_in_both_formats(finished: Workspace) -> None:
    figures = finished.folder / "results/studies/rates/figures"
    stems = {path.stem for path in figures.glob("*.png")}
    assert stems == {path.stem for path in figures.glob("*.svg")}
    assert len(stems) >= 5


def test_every_job_leaves_a_log_and_a_benchmark(finished: Workspace) -> None:
    for kind, ending in (("logs", "log"), ("benchmarks", "tsv")):
        folder = finished.folder / "results" / kind
        found = {path.relative_to(folder).parts[0] for path in folder.rglob(f"*.{ending}")}
        assert found == {"batches", "tables", "figures"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("arrival.rate_per_s", [1, -1.0], "arrival.rate_per_s must be > 0, got -1.0"),
        ("arrival.rate", [1], "did you mean 'rate_per_s'?"),
        ("mode", ["mono", "disag"], "mode must be one of mono, disagg, got 'disag'"),
    ],
)
def test_a_wrong_value_stops_before_anything_runs(
    workspace: Workspace, key: str, value: object, message: str
) -> None:
    workspace.study["sweep"]["grid"] = {"mode": ["mono", "disagg"], key: value}
    done = workspace.snakemake()
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert message in output
    assert 'config.yaml, study "rates"' in output
    assert "Traceback" not in output
    assert not (workspace.folder / "results").exists()


def test_a_report_holds_the_figures(finished: Workspace) -> None:
    done = finished.snakemake("--report", "report.html")
    assert done.returncode == 0, done.stderr
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "ttft" in report
    assert report.count("data:image/svg") >= 1 or report.count("svg") >= 1
