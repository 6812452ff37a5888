"""Side-by-side comparison: identical requests, differences, warnings about unequal sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from simlib.cli.compare import differences, main, pair_of, run_sim, warnings_about
from simlib.cli.run import cli
from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.core.simulator import run_simulation
from simlib.errors import InvalidParameterError
from simlib.stats.curve import mean_curve

SHORT = ("--sim-seconds", "100", "--warmup-seconds", "5")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, *SHORT])


def report(*arguments: str) -> dict[str, Any]:
    result = invoke("--json", *arguments)
    assert result.exit_code == 0, result.stderr
    read: dict[str, Any] = json.loads(result.stdout)
    return read


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_run_sim_mirrors_run_simulation(mode: Any) -> None:
    parameters: tuple[Any, ...] = (
        mode,
        80.0,
        5.0,
        9,
        3.0,
        (5.0, 0.5, 8),
        (4.0, 0.6, 2),
        (3, 7000.0, 900.0),
        (1, 3, 9000.0, 800.0),
    )
    _, expected = run_simulation(*parameters)
    got = run_sim(*parameters)
    assert {key: got[key] for key in expected} == expected


def test_run_sim_takes_what_is_left_out_from_config(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("mode: mono\nsim_seconds: 70\ncluster_mono: {num_gpus: 3}\n", encoding="utf-8")
    from_file = run_sim(config=path)
    assert from_file["num_gpus"] == 3
    assert from_file == run_sim(
        config=SimConfig(mode="mono", sim_seconds=70.0), mono_params=(3, 8000, 2000)
    )
    assert run_sim("disagg", config=path)["prefill_gpus"] == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "both"},
        {"sim_seconds": -1.0},
        {"prompt_lognormal": (6.0, 0.9)},
        {"mono_params": (4, 8000.0)},
        {"disagg_params": (2, 2, 0.0, 2000.0)},
        {"arrival_rate_per_s": 0.0},
        {"replicate": -1},
    ],
)
def test_run_sim_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameterError):
        run_sim(**bad)


def test_differences_are_disagg_minus_mono_and_paired() -> None:
    pair, runs = pair_of(SimConfig(sim_seconds=1500.0), replicates=10)
    rows = {row["metric"]: row for row in differences(pair)}
    row = rows["mean_ttft_s"]
    each = np.array(
        [d["mean_ttft_s"] - m["mean_ttft_s"] for m, d in zip(*runs.values(), strict=True)]
    )
    assert row["difference"] == pytest.approx(each.mean())
    assert row["relative"] == pytest.approx(row["disagg"] / row["mono"] - 1)
    interval = mean_curve(each).interval()
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert interval.low < each.mean() < interval.high
    done = rows["throughput_rps"]
    assert done["mono"] == pytest.approx(np.mean([one["throughput_rps"] for one in runs["mono"]]))


def test_every_statistic_of_ttft_is_shown_and_the_ends_of_others() -> None:
    pair, _ = pair_of(SimConfig(sim_seconds=100.0), replicates=2)
    assert [row["metric"] for row in differences(pair)] == [
        *(statistic.name for statistic in METRICS["ttft"].statistics),
        *("mean_tpot_s", "p99_tpot_s", "mean_e2e_s", "p99_e2e_s", "throughput_rps"),
    ]


def test_both_sides_see_the_same_requests() -> None:
    """Equal counts in every replicate; identical E2E where no queue forms and transfers are 0."""
    read = report(
        "--rate",
        "0.05",
        "--set",
        "cluster_disagg.decode_gpus=50",
        "--set",
        "cluster_disagg.prefill_gpus=50",
        "--set",
        "cluster_mono.num_gpus=100",
    )
    runs = read["runs"]
    for mono, disagg in zip(runs["mono"], runs["disagg"], strict=True):
        assert mono["arrived"] == disagg["arrived"]
        if mono["arrived"]:
            assert mono["p99_e2e_s"] == pytest.approx(disagg["p99_e2e_s"], abs=1e-9)
    assert read["warnings"] == []


def test_unequal_gpu_counts_are_warned_of() -> None:
    result = invoke("--set", "cluster_mono.num_gpus=3", "--replicates", "1")
    assert result.exit_code == 0
    assert "mono against disagg: GPUs differ: 3 against 4" in result.stderr
    assert invoke("--replicates", "1").stderr == ""


def test_unequal_rates_and_unstable_sides_are_warned_of() -> None:
    config = SimConfig.from_dict(
        {
            "cluster_mono": {"decode_tokens_per_s": 1000.0},
            "sim_seconds": 300,
            "arrival": {"rate_per_s": 9},
        }
    )
    pair, _ = pair_of(config.model_copy(update={"drain": False}), replicates=2)
    found = warnings_about(pair)
    assert any("decode_tokens_per_s differ: 1000 against 2000" in text for text in found)
    assert any("disagg is unstable (offered load" in text for text in found)
    assert any("lower bounds" in text for text in found)
    [ttft] = [row for row in differences(pair) if row["metric"] == "mean_ttft_s"]
    assert ttft["verdict"] == "not tested"
    assert "disagg unstable" in ttft["note"]


def test_table_shows_both_sides_and_rounding_noise_as_none() -> None:
    lines = invoke("--replicates", "2").stdout.splitlines()
    assert "mono: 4 GPUs; disagg: 2 prefill + 2 decode GPUs" in lines[0]
    assert "2 replicates, the same on both sides" in lines[1]
    [tpot] = [line.split() for line in lines if line.startswith("TPOT mean")]
    assert tpot[5:8] == ["0", "–", "0.0%"]  # both sides decode at the same rate
    assert any(line.startswith("utilisation  mono: gpu ") for line in lines)


def test_no_requests_at_all_is_shown_as_missing() -> None:
    result = invoke("--rate", "1e-9")
    assert result.exit_code == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if line.startswith("TTFT p99")]
    assert line.split()[3:] == ["–"] * 5 + ["not", "tested"]


def test_simlib_compare_reaches_it() -> None:
    result = CliRunner().invoke(cli, ["compare", "--replicates", "1", *SHORT])
    assert result.exit_code == 0
    assert "TTFT p99 (s)" in result.stdout


@pytest.mark.parametrize("arguments", [("--replicates", "0"), ("--rate", "-1"), ("--set", "x=1")])
def test_bad_input_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2
