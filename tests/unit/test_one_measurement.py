"""Commands, analyses and a study's tables say the same of the same runs: each is run and read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from simlib.analysis.sweep import run_point as sweep_point
from simlib.analysis.visualize import run_sim_with_details
from simlib.cli.run import cli
from simlib.core.metrics import METRICS
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.workflow import Plan
from simlib.study.tables.write import write_tables

TTFT = [statistic.name for statistic in METRICS["ttft"].statistics]


def tables_of(folder: Path, defaults: dict[str, Any], study: dict[str, Any]) -> Path:
    """Run a study without the workflow, which only calls these functions."""
    config = {"defaults": defaults, "replicates": 3, "studies": {"one": study}}
    plan = Plan.of(config, results=str(folder / "results"), source=str(folder))
    plan.write()
    for result in map(Path, plan.results_of("one")):
        run_point(result.parent / "point.json", int(result.stem[1:]), result)
    where = folder / "results/studies/one"
    write_tables(where / "study.json", folder / "results", where / "tables")
    return where / "tables"


def invoke(tmp_path: Path, defaults: dict[str, Any], *arguments: str) -> str:
    """Run a command on a configuration file; return what it prints."""
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(defaults), encoding="utf-8")
    done = CliRunner().invoke(cli, [*arguments, "--config", str(path)])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def same(shown: Any, in_table: float) -> bool:
    """Return whether a number of JSON or CSV is that of a table, which keeps nine digits."""
    value = np.nan if shown in (None, "") else float(shown)
    return bool(np.isclose(value, in_table, rtol=1e-8, atol=1e-12, equal_nan=True))


SJF: dict[str, Any] = {
    "serving": "batching",
    "mode": "mono",
    "sim_seconds": 300,
    "warmup_seconds": 20,
    "prompt_tokens": {"mode": "log", "mean": 8.5, "sigma": 1.0, "min_value": 8},
    "latency": {"model": "llama-3.1-8b"},
    "batching_mono": {"pool": {"replicas": 1, "tensor_parallel": 1, "discipline": "sjf"}},
}


def test_a_sweep_sees_the_overload_that_shortest_first_hides(tmp_path: Path) -> None:
    study = {"replicates": 1, "sweep": {"grid": {"arrival.rate_per_s": [1, 3, 5]}}}
    summary = pd.read_csv(tables_of(tmp_path, SJF, study) / "summary.csv")
    assert "unstable" in set(summary["stability"]), "the case is about an overloaded replica"
    printed = invoke(
        tmp_path, SJF, "sweep", "--rates", "1,3,5", "--mode", "mono", "--format", "csv"
    )
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["stability"] for row in rows] == summary["stability"].tolist()
    for row, (_, line) in zip(rows, summary.iterrows(), strict=True):
        assert all(same(row[name], line[name]) for name in (*TTFT, "throughput_rps"))
    _, line = list(summary.iterrows())[1]
    for point in (
        sweep_point("mono", 3.0, config=tmp_path / "one.yaml"),
        run_sim_with_details(config=tmp_path / "one.yaml", arrival_rate_per_s=3.0)[0],
    ):
        assert point["stability"] == line["stability"]
        assert point["stability_reason"] == line["stability_reason"]
        assert {name for name in TTFT if np.isnan(line[name])} == set(point["unsupported"]) & {
            *TTFT
        }


@pytest.mark.parametrize(
    ("changes", "replicates"),
    [
        ({"sim_seconds": 270, "arrival": {"rate_per_s": 2}}, 3),  # 540 requests: no p99
        ({"sim_seconds": 1000, "arrival": {"rate_per_s": 4}}, 3),
        ({"sim_seconds": 3000, "arrival": {"rate_per_s": 3}}, 1),
        ({"sim_seconds": 300, "arrival": {"rate_per_s": 9}}, 2),  # disagg is overloaded
        ({"sim_seconds": 300, "arrival": {"rate_per_s": 9}, "drain": False}, 2),
    ],
)
def test_compare_says_what_the_study_of_the_two_points_says(
    tmp_path: Path, changes: dict[str, Any], replicates: int
) -> None:
    defaults = {"warmup_seconds": 0, **changes}
    study = {
        "replicates": replicates,
        "sweep": {"grid": {"mode": ["mono", "disagg"]}},
        "compare": {"factor": "mode", "baseline": "mono"},
    }
    tables = tables_of(tmp_path, defaults, study)
    lines = pd.read_csv(tables / "comparison.csv", keep_default_na=True).set_index("statistic")
    summary = pd.read_csv(tables / "summary.csv").set_index("mode")
    printed = invoke(tmp_path, defaults, "compare", "--replicates", str(replicates), "--json")
    report = json.loads(printed)
    assert report["replicates"] == replicates
    seen = 0
    for row in report["differences"]:
        if row["metric"] == "throughput_rps":
            assert same(row["disagg"], summary.loc["disagg", "throughput_rps"])
            continue
        line = lines.loc[row["metric"]]
        for key, column in (
            ("mono", "baseline_s"),
            ("disagg", "candidate_s"),
            ("difference", "difference_s"),
            ("low", "difference_s_low"),
            ("high", "difference_s_high"),
            ("p_adjusted", "p_adjusted"),
        ):
            assert same(row[key], line[column]), (row["metric"], key)
        assert row["verdict"] == line["verdict"]
        for mode in ("mono", "disagg"):
            assert same(row[mode], summary.loc[mode, row["metric"]])
        seen += 1
    assert seen == 9
    unstable = summary.loc["disagg", "stability"] == "unstable"
    assert any("disagg is unstable" in text for text in report["warnings"]) == unstable


def test_a_replayed_trace_behind_a_random_router_is_compared_over_replicates(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace.csv"
    rows = [
        f"2024-01-01 00:00:{k / 20:09.6f},{300 + 900 * (k % 5)},{30 + k % 9}" for k in range(800)
    ]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    pool = {"replicas": 2, "tensor_parallel": 1, "router": "random"}
    defaults = {
        "serving": "batching",
        "sim_seconds": 38,
        "warmup_seconds": 2,
        "arrival": {"kind": "trace", "path": str(trace)},
        "latency": {"model": "llama-3.1-8b"},
        "batching_mono": {"pool": pool},
        "batching_disagg": {"prefill": pool, "decode": pool},
    }
    report = json.loads(invoke(tmp_path, defaults, "compare", "--replicates", "3", "--json"))
    assert report["replicates"] == 3
    means = [run["mean_ttft_s"] for run in report["runs"]["disagg"]]
    assert len(set(means)) == 3, "the router draws anew in each"
    pool["router"] = "round_robin"
    report = json.loads(invoke(tmp_path, defaults, "compare", "--replicates", "3", "--json"))
    assert report["replicates"] == 1, "nothing is random"


def test_the_timeline_command_says_what_the_tables_say(tmp_path: Path) -> None:
    defaults = {**SJF, "mode": "disagg", "timeline": True, "sim_seconds": 40, "warmup_seconds": 5}
    study = {"replicates": 1, "sweep": {"grid": {"arrival.rate_per_s": [3]}}}
    tables = tables_of(tmp_path, defaults, study)
    summary = pd.read_csv(tables / "summary.csv").iloc[0]
    bins = pd.read_csv(tables / "timeline.csv").groupby("pool").mean(numeric_only=True)
    report = json.loads(invoke(tmp_path, defaults, "timeline", "--rate", "3"))
    for statistic in METRICS["itl"].statistics:
        assert same(report["itl"][statistic.name], summary[statistic.name])
    for name, pool in report["pools"].items():
        assert same(pool["mean_kv_occupancy"], summary[f"kv_occupancy_{name}"])
        assert same(pool["max_kv_occupancy"], summary[f"max_kv_occupancy_{name}"])
        assert pool["mean_waiting"] == pytest.approx(bins.loc[name, "waiting"], rel=1e-6)
    assert same(report["pools"]["decode"]["mean_decode_batch"], summary["decode_batch_decode"])


def test_scenarios_show_the_verdicts_of_a_sweep(tmp_path: Path) -> None:
    printed = json.loads(invoke(tmp_path, {}, "scenarios", "run", "saturation", "--json"))
    point = sweep_point("disagg", 6.0)
    assert printed[0]["stability"] == point["stability"]
    assert printed[0]["p99_ttft_s"] == point["p99_ttft_s"]


def test_tables_find_the_files_of_a_study_that_runs_in_another_folder(tmp_path: Path) -> None:
    rows = [f"2024-01-01 00:00:{second:02d}.0000000,200,20" for second in range(60)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    (tmp_path / "beside.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    defaults = {
        "serving": "batching",
        "sim_seconds": 50,
        "warmup_seconds": 0,
        "arrival": {"kind": "trace", "path": "beside.csv"},
        "latency": {"model": "llama-3.1-8b"},
    }
    tables = tables_of(tmp_path, defaults, {"sweep": {"grid": {"mode": ["mono"]}}})
    [line] = pd.read_csv(tables / "summary.csv").to_dict("records")
    assert 0 < line["rho_gpu"] < 1
