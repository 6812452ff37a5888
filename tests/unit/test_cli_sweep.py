"""Sweeps over arrival and prefill rates."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simlib.analysis import sweep, sweep_prefill
from simlib.cli.run import cli
from simlib.core.simulator import run_simulation

SHORT = ("--sim-seconds", "60", "--warmup-seconds", "5")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, *SHORT])


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_a_point_is_a_simulation_at_that_rate(mode: Any) -> None:
    _, expected = run_simulation(mode, 60.0, 5.0, 42, 3.0, (6.0, 0.9, 8), (6.0, 1.1, 16))
    got = sweep.run_point(mode, 3.0, sim_seconds=60.0, warmup_seconds=5.0)
    assert {key: got[key] for key in expected} == expected
    assert (got["arrival_rate_per_s"], got["total_gpus"]) == (3.0, 4)


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_a_prefill_point_sets_the_prefill_rate_of_that_side(mode: Any) -> None:
    _, expected = run_simulation(
        mode,
        60.0,
        5.0,
        42,
        3.0,
        (6.0, 0.9, 8),
        (6.0, 1.1, 16),
        (4, 5000.0, 2000.0),
        (2, 2, 5000.0, 2000.0),
    )
    got = sweep_prefill.run_point(mode, 3.0, 5000.0, sim_seconds=60.0, warmup_seconds=5.0)
    assert {key: got[key] for key in expected} == expected
    assert got["prefill_tokens_per_s"] == 5000.0


def test_rho_is_the_load_of_the_busiest_pool() -> None:
    point = sweep.run_point("disagg", 4.0)
    assert point["rho"] == max(point["rho_prefill"], point["rho_decode"])


def test_sweep_has_a_row_per_mode_and_rate(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    result = invoke("sweep", "--rates", "1,2.5", "--format", "csv", "--output", str(path))
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result.stdout)
    assert {(row["mode"], row["arrival_rate_per_s"]) for row in rows} == {
        (mode, rate) for mode in ("mono", "disagg") for rate in ("1.0", "2.5")
    }
    assert path.read_text(encoding="utf-8") == result.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.csv"]
    assert {row["ttft_definition"] for row in rows} == {"first_decode_step"}


def test_sweep_prefill_has_a_row_per_mode_and_both_rates() -> None:
    result = invoke(
        "sweep-prefill", "--rates", "1,2", "--prefill-rates", "4000,1e4", "--format", "csv"
    )
    rows = rows_of(result.stdout)
    points = {(r["mode"], r["arrival_rate_per_s"], r["prefill_tokens_per_s"]) for r in rows}
    assert len(points) == len(rows) == 8
    assert {point[2] for point in points} == {"4000.0", "10000.0"}


def test_faster_prefill_never_slows_the_prefill_side_of_one_request() -> None:
    """On identical requests, TTFT to the end of prefill falls as its rate rises."""
    base: dict[str, Any] = {"sim_seconds": 60.0, "warmup_seconds": 5.0}
    slow, fast = (
        sweep_prefill.run_point("disagg", 3.0, rate, ttft_definition="prefill_end", **base)
        for rate in (4000.0, 8000.0)
    )
    for name in ("mean_ttft_s", "p50_ttft_s", "p90_ttft_s", "p99_ttft_s"):
        assert fast[name] < slow[name]


def test_one_mode_alone() -> None:
    result = invoke("sweep", "--mode", "mono", "--rates", "1", "--format", "csv")
    assert [row["mode"] for row in rows_of(result.stdout)] == ["mono"]


def test_table_marks_unstable_points_and_lower_bounds() -> None:
    result = invoke("sweep", "--mode", "disagg", "--rates", "1,12", "--no-drain")
    assert "unstable: the queue grows" in result.stdout
    assert "≥: a lower bound" in result.stdout
    [overloaded] = [line for line in result.stdout.splitlines() if line.startswith("disagg     12")]
    assert overloaded.count("≥") == 4  # the mean and three percentiles
    assert overloaded.count("–") == 1  # 319 requests are too few for a p99
    assert "–: too few requests" in result.stdout
    calm = invoke("sweep", "--mode", "mono", "--rates", "1").stdout
    assert "unstable" not in calm
    assert "≥" not in calm


def test_main_alone_has_one_line_errors_too() -> None:
    result = CliRunner().invoke(sweep.main, ["--rates", "x"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_a_failed_sweep_leaves_no_file(tmp_path: Path) -> None:
    result = invoke("sweep", "--rates", "1,-1", "--output", str(tmp_path / "sweep.csv"))
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "--rates", "1,two"), "--rates must be numbers separated by commas"),
        (("sweep", "--rates", ""), "--rates must be numbers"),
        (("sweep", "--rates", "0"), "arrival.rate_per_s must be > 0"),
        (("sweep", "--mode", "all"), "--mode must be one of both, mono, disagg"),
        (("sweep-prefill", "--prefill-rates", "-5"), "prefill_tokens_per_s must be > 0"),
        (
            ("sweep", "--set", "arrival.kind=trace", "--set", "arrival.path=x.csv"),
            "left out when a trace is replayed",
        ),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
