"""The registry of metrics: one entry is all that another percentile or another metric takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from simlib.cli.run import cli
from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS, Metric, statistic_named, statistics_of
from simlib.core.records import TTFT_DEFINITIONS, Floats, RequestRecords, e2e_s, ttft_s
from simlib.core.summary import summarise
from simlib.errors import InvalidParameterError
from simlib.study.figures.data import StudyData
from simlib.study.figures.latency import latency_figure
from simlib.study.jobs.simulate import simulate
from simlib.study.plan.spec import Precision
from tests.unit.test_one_measurement import tables_of

STUDY: dict[str, Any] = {
    "requests_table": True,
    "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [2, 4]}},
    "compare": {"factor": "mode", "baseline": "mono"},
}
CLASSES = {"chat": {"share": 3, "ttft_slo_s": 0.2}, "batch": {"ttft_slo_s": 20}}


def test_names_of_columns_are_the_promised_ones() -> None:
    assert [one.name for one in statistics_of("requests")] == [
        f"{which}_{metric}_s"
        for metric in ("ttft", "tpot", "e2e")
        for which in ("mean", "p50", "p90", "p95", "p99")
    ] + [
        f"{which}_ttft_{definition}_s"
        for definition in TTFT_DEFINITIONS
        for which in ("mean", "p99")
    ]
    assert [one.name for one in statistics_of("classes")] == ["slo_attainment"]
    assert statistic_named("p95_itl_s").label == "ITL p95 (s)"
    with pytest.raises(InvalidParameterError, match="mean_ttft_s"):
        statistic_named("p42_ttft_s")


def test_p99_9_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more = replace(METRICS["ttft"], percentiles=(50, 99.9, 99))
    monkeypatch.setitem(METRICS, "ttft", more)
    shown = ["mean_ttft_s", "p50_ttft_s", "p99_ttft_s", "p99.9_ttft_s"]
    defaults = {"sim_seconds": 6000, "warmup_seconds": 0, "request_classes": CLASSES}
    tables = tables_of(tmp_path, defaults, STUDY)
    for name in ("summary", "classes"):
        columns = [c for c in pd.read_csv(tables / f"{name}.csv") if c.endswith("_ttft_s")]
        assert columns == shown, name
    summary = pd.read_csv(tables / "summary.csv")
    requests = pd.read_parquet(tables / "requests.parquet")
    for _, line in summary.iterrows():
        own = requests[requests["point_id"] == line["point_id"]]
        expected = np.percentile(own["first_token_s"] - own["arrival_s"], 99.9)
        assert line["p99.9_ttft_s"] == pytest.approx(expected, rel=1e-8)
        assert line["p99.9_ttft_s_low"] < line["p99.9_ttft_s"]
        high = line["p99.9_ttft_s_high"]  # open where too few independent bursts lie beyond it
        assert high > line["p99.9_ttft_s"] or (np.isnan(high) and "p99.9_ttft_s" in line["notes"])
    comparison = pd.read_csv(tables / "comparison.csv")
    tail = comparison[comparison["statistic"] == "p99.9_ttft_s"]
    assert len(tail) == 2
    assert (tail["family"] == "secondary").all()
    assert Precision(metric="p99.9_ttft_s").metric == "p99.9_ttft_s"
    short = ("--sim-seconds", "100")
    printed = CliRunner().invoke(cli, ["compare", "--replicates", "1", "--json", *short])
    metrics = [row["metric"] for row in json.loads(printed.stdout)["differences"]]
    assert metrics[:4] == shown
    data = StudyData.read(tables.parent / "study.json", tables)
    figure = latency_figure("ttft", data)
    assert figure is not None
    texts = {text.get_text() for text in figure.findobj(Text)}
    assert texts >= {"p50 TTFT", "p99 TTFT", "p99.9 TTFT"}
    assert "p99.9" in CliRunner().invoke(cli, ["sweep", "--rates", "1", *short]).stdout


def within_both(records: RequestRecords, config: SimConfig, _: int) -> Floats:
    """Return 1 for a request with TTFT and E2E within limits, else 0."""
    ttft, e2e = ttft_s(records, config.ttft_definition), e2e_s(records)
    return ((ttft <= 0.1) & (e2e <= 1.0)).astype(np.float64)


def test_goodput_as_the_share_within_a_joint_slo_is_one_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    goodput = Metric(
        "goodput", "goodput", "Within the joint SLO", within_both, unit="", less_is_better=False
    )
    monkeypatch.setitem(METRICS, "goodput", goodput)
    tables = tables_of(tmp_path, {"sim_seconds": 3000}, STUDY)
    summary = pd.read_csv(tables / "summary.csv")
    config = SimConfig.from_dict({"mode": "mono", "sim_seconds": 3000})
    shares = [summarise(simulate(config, r), config)["goodput"] for r in range(3)]
    assert summary["goodput"].iloc[0] == pytest.approx(np.mean(shares), rel=1e-8)
    assert (summary["goodput_high"] <= 1).all()
    assert summary["goodput_low"].notna().all()
    comparison = pd.read_csv(tables / "comparison.csv")
    lines = comparison[comparison["statistic"] == "goodput"]
    # the disaggregated side has the longer queue for its two decode GPUs
    assert lines["verdict"].tolist() == ["lower", "lower"]
    assert (lines["difference_s"] < 0).all()
    assert summary["precision"].isna().all()
    assert Precision(metric="goodput").metric == "goodput"


def test_a_share_is_no_percentile() -> None:
    assert [one.short for one in METRICS["slo_attainment"].statistics] == ["mean"]
    assert METRICS["slo_attainment"].outcome(-0.1) == "lower"
    assert METRICS["ttft"].outcome(-0.1) == "faster"
