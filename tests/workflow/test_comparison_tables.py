"""The comparison of a study: pairing, fairness, attribution, A/A, crossovers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simlib.core.records import TTFT_PARTS_OF
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.workflow import Plan
from simlib.study.tables.write import write_tables


def tables_of(folder: Path, study: dict[str, Any], **defaults: Any) -> Path:
    """Run a study without the workflow, which only calls these functions."""
    config = {
        "defaults": {"sim_seconds": 150, "warmup_seconds": 10, **defaults},
        "replicates": 4,
        "studies": {"one": study},
    }
    plan = Plan.of(config, results=str(folder / "results"), source=str(folder))
    plan.write()
    for result in map(Path, plan.results_of("one")):
        run_point(result.parent / "point.json", int(result.stem[1:]), result)
    study_folder = folder / "results/studies/one"
    write_tables(study_folder / "study.json", folder / "results", study_folder / "tables")
    return study_folder / "tables"


MODES = {
    "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 4]}},
    "compare": {"factor": "mode", "baseline": "mono"},
}


@pytest.mark.parametrize("definition", TTFT_PARTS_OF)
def test_attributed_parts_sum_to_the_difference_of_ttft(tmp_path: Path, definition: str) -> None:
    tables = tables_of(tmp_path, MODES, ttft_definition=definition)
    why = pd.read_csv(tables / "attribution.csv")
    for _, lines in why.groupby("arrival.rate_per_s"):
        parts = lines[lines["part"] != "total"]
        total = lines[lines["part"] == "total"].iloc[0]
        # tables have nine digits
        assert parts["difference_s"].sum() == pytest.approx(total["difference_s"], rel=1e-7)
    comparison = pd.read_csv(tables / "comparison.csv")
    means = comparison[comparison["statistic"] == "mean_ttft_s"].set_index("arrival.rate_per_s")
    totals = why[why["part"] == "total"].set_index("arrival.rate_per_s")
    np.testing.assert_allclose(means["difference_s"], totals["difference_s"], rtol=1e-6, atol=2e-9)


def test_differences_are_those_of_the_summary(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, MODES)
    summary = pd.read_csv(tables / "summary.csv").set_index(["mode", "arrival.rate_per_s"])
    comparison = pd.read_csv(tables / "comparison.csv")
    for line in comparison[comparison["statistic"] == "p50_ttft_s"].to_dict("records"):
        rate = line["arrival.rate_per_s"]
        expected = (
            summary.loc[("disagg", rate), "p50_ttft_s"] - summary.loc[("mono", rate), "p50_ttft_s"]
        )
        assert line["difference_s"] == pytest.approx(expected, rel=1e-6)


def test_equal_hardware_carries_no_warning_and_other_gpu_counts_do(tmp_path: Path) -> None:
    equal = tables_of(tmp_path / "equal", MODES)
    unequal = tables_of(tmp_path / "unequal", MODES, cluster_mono={"num_gpus": 5})
    for name in ("comparison", "attribution"):
        assert pd.read_csv(equal / f"{name}.csv")["unfair"].isna().all()
        warnings = pd.read_csv(unequal / f"{name}.csv")["unfair"]
        assert (warnings == "GPUs differ: 5 against 4").all()


def test_too_few_samples_leave_a_percentile_empty_with_the_reason(tmp_path: Path) -> None:
    summary = pd.read_csv(tables_of(tmp_path, MODES) / "summary.csv")
    few = summary[summary["arrived"] < 1000]
    assert len(few) == 2
    assert few["p99_ttft_s"].isna().all()
    assert few["notes"].str.contains("p99 needs at least 1000 samples").all()
    assert summary["p50_ttft_s"].notna().all()


def test_an_end_that_the_data_do_not_bound_is_empty_with_the_reason(tmp_path: Path) -> None:
    study = {"sweep": {"grid": {"mode": ["mono"], "arrival.rate_per_s": [8]}}}
    summary = pd.read_csv(tables_of(tmp_path, study) / "summary.csv").iloc[0]
    assert 0 <= summary["mean_ttft_s_low"] < summary["mean_ttft_s"]
    assert np.isnan(summary["mean_ttft_s_high"])
    assert "mean_ttft_s" in summary["notes"]
    assert "relaxation times" in summary["notes"]


def test_three_definitions_of_ttft_stand_beside_each_other(tmp_path: Path) -> None:
    summary = pd.read_csv(tables_of(tmp_path, MODES) / "summary.csv")
    np.testing.assert_allclose(summary["mean_ttft_first_decode_step_s"], summary["mean_ttft_s"])
    disagg = summary[summary["mode"] == "disagg"]
    for name in ("mean_ttft_prefill_end_s", "mean_ttft_transfer_end_s"):
        assert (disagg[name] < disagg["mean_ttft_s"]).all()


def test_an_overloaded_point_is_unstable_by_its_load(tmp_path: Path) -> None:
    study = {"sweep": {"grid": {"mode": ["mono"], "arrival.rate_per_s": [2, 20]}}}
    summary = pd.read_csv(tables_of(tmp_path, study) / "summary.csv")
    assert list(summary["stability"]) == ["stable", "unstable"]
    assert summary["rho_gpu"].iloc[1] > 1
    assert (summary["finished"] == summary["arrived"]).all(), "the drain serves every request"


def test_without_a_drain_unfinished_requests_make_percentiles_lower_bounds(
    tmp_path: Path,
) -> None:
    study = {"sweep": {"grid": {"mode": ["mono"], "arrival.rate_per_s": [20]}}}
    summary = pd.read_csv(tables_of(tmp_path, study, drain=False) / "summary.csv").iloc[0]
    assert summary["unfinished"] > 0
    assert summary["arrived"] == summary["finished"] + summary["unfinished"]
    assert "p90_ttft_s" in summary["lower_bounds"].split()


def test_an_architecture_compared_with_itself_shows_no_significant_difference(
    tmp_path: Path,
) -> None:
    study = {
        "sweep": {"grid": {"random_seed": [1, 2, 3], "arrival.rate_per_s": [1, 3, 5]}},
        "compare": {"factor": "random_seed", "baseline": 1},
    }
    comparison = pd.read_csv(tables_of(tmp_path, study, sim_seconds=600) / "comparison.csv")
    primary = comparison[comparison["family"] == "primary"]
    assert not set(primary["verdict"]) & {"faster", "slower"}
    assert (primary["verdict"] == "too close to call").any()


def test_a_large_difference_is_found_significant(tmp_path: Path) -> None:
    slow = {"prefill_gpus": 2, "decode_gpus": 2, "prefill_tokens_per_s": 800}
    study = {
        "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1]}},
        "compare": {"factor": "mode", "baseline": "mono"},
    }
    comparison = pd.read_csv(tables_of(tmp_path, study, cluster_disagg=slow) / "comparison.csv")
    line = comparison[comparison["statistic"] == "p50_ttft_s"].iloc[0]
    assert line["verdict"] == "slower"
    assert line["unfair"] == "prefill_tokens_per_s differ: 8000 against 800"


def test_a_crossover_is_located_between_the_rates_that_bracket_it(tmp_path: Path) -> None:
    study = {
        "overrides": {"ttft_definition": "prefill_end"},
        "sweep": {
            "grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2, 3, 4, 5]},
            "zip": {
                "prefill": {
                    "cluster_mono.prefill_tokens_per_s": [3000, 4000],
                    "cluster_disagg.prefill_tokens_per_s": [3000, 4000],
                }
            },
        },
        "compare": {"factor": "mode", "baseline": "mono"},
        "crossover": {"x": "arrival.rate_per_s", "y": "prefill"},
    }
    tables = tables_of(tmp_path, study, sim_seconds=1500)
    crossings = pd.read_csv(tables / "crossover.csv")
    found = crossings[crossings["statistic"] == "mean_ttft_s"]
    assert len(found) == 2
    assert (found["faster_below"] == "mono").all()
    assert (found["faster_above"] == "disagg").all()
    assert (found["crossover_low"] <= found["crossover"]).all()
    comparison = pd.read_csv(tables / "comparison.csv")
    for line in found.to_dict("records"):
        means = comparison[
            (comparison["statistic"] == "mean_ttft_s") & (comparison["prefill"] == line["prefill"])
        ].set_index("arrival.rate_per_s")["difference_s"]
        assert means[int(np.floor(line["crossover"]))] > 0
        assert means[int(np.ceil(line["crossover"]))] < 0
