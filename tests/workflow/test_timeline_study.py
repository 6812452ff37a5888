"""A study with `timeline: true`, from its configuration to its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context

from simlib.core.config import SimConfig
from simlib.core.metrics import TTFT_BY, statistics_of
from simlib.stats.curve import mean_curve
from simlib.stats.joint import joint
from simlib.study.figures.data import StudyData
from simlib.study.figures.kinds import KINDS, pages
from simlib.study.figures.style import STYLE
from simlib.study.figures.timeline import shown_level
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.measure import measure_point
from simlib.study.measurement.over_time import BINS
from tests.workflow.conftest import Workspace
from tests.workflow.test_batching_study import DEFAULTS, MODES, changed, tables_of

ITL = [statistic.name for statistic in statistics_of("timeline")]
REQUESTS = [statistic.name for statistic in statistics_of("requests")]
OWN = {statistic.name for statistic in TTFT_BY["first_decode_step"].statistics}
"""By the study's own definition TTFT stands there under its short name."""

ALIKE = {"prompt_tokens__sigma": 0.3, "output_tokens__sigma": 0.3}
"""Lengths of which a minute's requests tell the mean."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables_of(tmp_path_factory.mktemp("study"), MODES, timeline=True, **ALIKE)


def config_of(mode: str, rate: float) -> SimConfig:
    changes = {"mode": mode, "arrival.rate_per_s": rate, "timeline": True}
    changes |= {key.replace("__", "."): value for key, value in ALIKE.items()}
    return SimConfig.from_dict(changed(DEFAULTS, changes))


def test_summary_has_inter_token_latency_and_pools_of_each_side(tables: Path) -> None:
    summary = pd.read_csv(tables / "summary.csv")
    for name in ITL:
        assert (summary[f"{name}_low"] <= summary[name]).all()
        high = summary[f"{name}_high"]
        assert ((summary[name] <= high) | high.isna()).all()  # open where few bursts made it
    mono, disagg = (summary[summary["mode"] == mode] for mode in ("mono", "disagg"))
    for side, pools in ((mono, ["gpu"]), (disagg, ["prefill", "decode"])):
        for pool in ("gpu", "prefill", "decode"):
            for column in ("kv_occupancy", "max_kv_occupancy"):
                assert side[f"{column}_{pool}"].notna().all() == (pool in pools)
    assert (mono["decode_batch_gpu"] >= 1).all()
    assert (disagg["kv_occupancy_decode"] <= disagg["max_kv_occupancy_decode"]).all()
    assert "decode_batch_prefill" not in summary
    # the load makes batches larger
    assert disagg["decode_batch_decode"].is_monotonic_increasing


def test_timeline_has_every_bin_and_averages_to_the_summary(tables: Path) -> None:
    timeline, summary = pd.read_csv(tables / "timeline.csv"), pd.read_csv(tables / "summary.csv")
    assert len(timeline) == BINS * (2 + 2 * 2)
    for (point_id, pool), bins in timeline.groupby(["point_id", "pool"]):
        line = summary[summary["point_id"] == point_id].iloc[0]
        assert bins["start_s"].iloc[0] == 5
        assert bins["end_s"].iloc[-1] == 60
        np.testing.assert_allclose(bins["start_s"].iloc[1:], bins["end_s"].iloc[:-1])
        for column, whole in (("utilization", "utilization"), ("kv_occupancy", "kv_occupancy")):
            assert bins[column].mean() == pytest.approx(line[f"{whole}_{pool}"], rel=1e-6)
        assert bins["utilization"].between(0, 1).all()
    assert timeline.loc[timeline["pool"] == "prefill", "decode_batch"].isna().all()


def test_sides_are_compared_by_inter_token_latency_too(tables: Path) -> None:
    comparison = pd.read_csv(tables / "comparison.csv")
    assert set(comparison["statistic"]) == {*REQUESTS, *ITL} - OWN
    line = comparison[
        (comparison["statistic"] == "mean_itl_s") & (comparison["arrival.rate_per_s"] == 6)
    ].iloc[0]
    sides = []
    for mode in ("mono", "disagg"):
        config = config_of(mode, 6)
        point = measure_point([simulate(config, r) for r in range(3)], config)
        sides.append(point.values("mean_itl_s"))
    expected = joint(*map(mean_curve, sides))
    assert line["difference_s"] == pytest.approx(expected.difference.estimate, rel=1e-6)
    assert line["p_value"] == pytest.approx(expected.p_value, rel=1e-6)


def test_without_timelines_there_are_no_such_columns(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, MODES)
    assert not (tables / "timeline.csv").exists()
    summary = pd.read_csv(tables / "summary.csv")
    assert not [c for c in summary if "itl" in c or "kv_" in c or "decode_batch" in c]
    statistics = pd.read_csv(tables / "comparison.csv")["statistic"]
    assert set(statistics) == set(REQUESTS) - OWN


def test_sides_of_which_one_has_a_timeline_are_compared_without_it(tmp_path: Path) -> None:
    study: dict[str, Any] = {
        "sweep": {"zip": {"side": {"mode": ["mono", "disagg"], "timeline": [True, False]}}},
        "compare": {"factor": "side", "baseline": "mono:True"},
    }
    tables = tables_of(tmp_path, study)
    statistics = pd.read_csv(tables / "comparison.csv")["statistic"]
    assert set(statistics) == set(REQUESTS) - OWN
    summary = pd.read_csv(tables / "summary.csv")
    assert summary["mean_itl_s"].notna().tolist() == [True, False]


def test_one_replicate_has_intervals_but_no_comparison_of_gaps(tmp_path: Path) -> None:
    long = {"sim_seconds": 1000, **ALIKE}  # more than 100 relaxation times
    tables = tables_of(tmp_path, {**MODES, "replicates": 1}, timeline=True, **long)
    summary = pd.read_csv(tables / "summary.csv")
    assert summary["mean_itl_s_low"].notna().all()
    comparison = pd.read_csv(tables / "comparison.csv")
    itl = comparison[comparison["statistic"].str.contains("itl")]
    assert (itl["verdict"] == "not tested").all()
    assert itl["note"].notna().all()


def test_figures_show_latencies_and_the_highest_load(tables: Path) -> None:
    with rc_context(STYLE):
        data = StudyData.read(tables.parent / "study.json", tables)
        assert shown_level(data, {}) == 6
        stems = set()
        for key in ("tpot", "itl", "e2e"):
            ((stem, page),) = pages(f"{key}_vs_<factor>", data)
            assert KINDS[f"{key}_vs_<factor>"].draw(page) is not None
            stems.add(stem)
        assert stems == {f"{key}_vs_arrival_rate_per_s" for key in ("tpot", "itl", "e2e")}
        ((stem, page),) = pages("timeline", data)
        figure = KINDS["timeline"].draw(page)
        assert figure is not None
    assert stem == "timeline"
    assert any("arrival rate 6" in text.get_text() for text in figure.texts)
    drawn = [len(ax.patches) for ax in figure.axes]
    assert drawn == [1] * (4 + 4 + 3)  # a line per pool; a prefill pool has no batch
    timeline = pd.read_csv(tables / "timeline.csv")
    gpu = timeline[(timeline["pool"] == "gpu") & (timeline["arrival.rate_per_s"] == 6)]
    values = figure.axes[1].patches[0].get_data().values
    np.testing.assert_allclose(values, gpu["kv_occupancy"])


@pytest.mark.workflow
def test_the_workflow_makes_tables_and_figures_over_time_and_notices_the_switch(
    tmp_path: Path,
) -> None:
    space = Workspace(tmp_path)
    space.config["defaults"] = changed(DEFAULTS, {"sim_seconds": 20, "timeline": True})
    del space.config["defaults"]["arrival"]
    assert space.run()["simulate"] == 8
    study = tmp_path / "results/studies/rates"
    assert (study / "tables/timeline.csv").is_file()
    assert (study / "figures/timeline.png").is_file()
    assert (study / "figures/itl_vs_arrival_rate_per_s.svg").is_file()
    space.config["defaults"]["warmup_seconds"] = 7
    assert "simulate" not in space.run()  # the window is applied to what was kept
    space.config["defaults"]["timeline"] = False
    assert space.run()["simulate"] == 8
    assert not (study / "figures/timeline.png").exists()
