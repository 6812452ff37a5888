"""The TTFT comparison figure draws the numbers that it was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simlib.analysis.visualize import COLOURS, plot_ttft_comparison, run_sim_with_details
from simlib.cli.run import cli
from simlib.errors import InvalidParameterError

SHORT = {"sim_seconds": 100.0, "warmup_seconds": 5.0}


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    return {mode: run_sim_with_details(mode, **SHORT) for mode in ("mono", "disagg")}  # type: ignore[arg-type]


def test_samples_are_those_behind_the_statistics(runs: dict[str, Any]) -> None:
    for statistics, ttft_s in runs.values():
        assert len(ttft_s) == statistics["num_samples"]
        assert float(np.percentile(ttft_s, 90)) == statistics["p90_ttft_s"]
        assert (ttft_s > 0).all()


def test_samples_leave_out_who_got_no_token() -> None:
    statistics, ttft_s = run_sim_with_details(
        "disagg", arrival_rate_per_s=12.0, drain=False, **SHORT
    )
    assert len(ttft_s) == statistics["num_samples"] < statistics["arrived"]
    assert np.isfinite(ttft_s).all()


def test_distribution_is_the_share_of_requests_at_or_below(runs: dict[str, Any]) -> None:
    left = plot_ttft_comparison(runs).axes[0]
    line = left.get_lines()[0]
    x, share = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    samples = runs["mono"][1]
    for at, height in zip(x[1::50], share[1::50], strict=True):
        # equal samples share their steps
        assert np.mean(samples < at) < height <= np.mean(samples <= at)
    assert share[-1] == 1.0
    assert left.get_xscale() == "log"


def test_distribution_of_unserved_requests_stays_below_one() -> None:
    run = run_sim_with_details("disagg", arrival_rate_per_s=12.0, drain=False, **SHORT)
    figure = plot_ttft_comparison({"disagg": run})
    share = np.asarray(figure.axes[0].get_lines()[0].get_ydata())
    assert share[-1] == pytest.approx(len(run[1]) / run[0]["arrived"])
    [legend] = figure.legends
    assert legend.get_texts()[0].get_text() == "disaggregated (2+2 GPUs, unstable)"
    arrows = [text.get_text() for text in figure.axes[1].texts]
    assert any(text.endswith("↑") for text in arrows)


def test_bars_are_the_mean_and_percentiles_from_zero(runs: dict[str, Any]) -> None:
    right = plot_ttft_comparison(runs).axes[1]
    heights = [bar.get_height() for bar in right.patches]  # type: ignore[attr-defined]
    names = ("mean_ttft_s", "p50_ttft_s", "p90_ttft_s", "p95_ttft_s", "p99_ttft_s")
    expected = [
        runs[mode][0][name] if name not in runs[mode][0]["unsupported"] else np.nan
        for mode in runs
        for name in names
    ]
    assert heights == pytest.approx(expected, nan_ok=True)
    assert np.isnan(expected[4]), "193 requests are too few for a p99"
    assert right.get_ylim()[0] == 0.0


def test_any_labels_get_distinct_colours(runs: dict[str, Any]) -> None:
    many = {"mono": runs["mono"], "a": runs["mono"], "b": runs["disagg"]}
    lines = plot_ttft_comparison(many).axes[0].get_lines()[:3]
    assert len({line.get_color() for line in lines}) == 3
    assert lines[0].get_color() == COLOURS["mono"]


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_files_are_written_whole_and_reproducibly(
    runs: dict[str, Any], tmp_path: Path, suffix: str, start: bytes
) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("a", "b")]
    for path in paths:
        plot_ttft_comparison(runs, path, title="TTFT")
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start)
    assert first == second
    assert sorted(tmp_path.iterdir()) == paths


def test_defaults_draw_both_deployments_to_a_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [legend] = plot_ttft_comparison().legends
    assert capsys.readouterr().out == "ttft_comparison.png\n"
    assert (tmp_path / "ttft_comparison.png").read_bytes().startswith(b"\x89PNG")
    assert [text.get_text() for text in legend.get_texts()] == [
        "monolithic (4 GPUs)",
        "disaggregated (2+2 GPUs)",
    ]


def test_bad_input_is_refused(runs: dict[str, Any], tmp_path: Path) -> None:
    statistics, samples = runs["mono"]
    redefined = statistics | {"ttft_definition": "prefill_end"}
    bad: list[tuple[Any, Any]] = [
        ({}, None),
        ({"mono": (statistics, samples[:0])}, None),
        (
            {"a": runs["mono"], "b": (redefined, samples)},
            None,
        ),
        (runs, tmp_path / "figure.bmp"),
    ]
    for given, path in bad:
        with pytest.raises(InvalidParameterError):
            plot_ttft_comparison(given, path)
    assert list(tmp_path.iterdir()) == []


def test_no_global_state_of_matplotlib_is_used(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib as mpl\n"
        # reading rcParams['backend'] would itself import pyplot
        "read = lambda: {key: mpl.rcParams[key] for key in mpl.rcParams if key != 'backend'}\n"
        "before = read()\n"
        "from simlib.analysis.visualize import plot_ttft_comparison\n"
        f"plot_ttft_comparison(output={str(tmp_path / 'a.svg')!r})\n"
        "print('matplotlib.pyplot' in sys.modules, read() == before)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output == "False True\n"


def test_the_program_writes_the_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "ttft.png"
    arguments = ["plot", "--output", str(path), "--sim-seconds", "100", "--rate", "3"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.stderr
    assert path.stat().st_size > 10_000


def test_the_program_refuses_an_unknown_ending(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["plot", "--output", str(tmp_path / "a.txt")])
    assert result.exit_code == 2
    assert "a path ending in .png, .svg, .pdf" in result.stderr
