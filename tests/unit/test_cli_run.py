"""The simlib program and `simulate`: precedence, JSON, the TTFT file, and one-line errors."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from simlib import __version__
from simlib.cli.distributions import describe, sampled
from simlib.cli.options import parse_assignment
from simlib.cli.run import _log_to_real, cli, json_ready, simulate
from simlib.core.config import OutputConfig, PromptConfig, SimConfig, _real_mean_std_to_log_params
from simlib.core.simulator import run_simulation
from simlib.errors import InvalidParameterError

SHORT = ("--sim-seconds", "60", "--warmup-seconds", "5")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def statistics_of(*arguments: str) -> dict[str, Any]:
    result = invoke("simulate", *arguments)
    assert result.exit_code == 0, result.stderr
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "mono.yaml"
    path.write_text(
        "mode: mono\nsim_seconds: 90\nwarmup_seconds: 3\narrival: {rate_per_s: 3}\n"
        "prompt_tokens: {mode: real_mean_std, mean: 600, std: 300}\n",
        encoding="utf-8",
    )
    return path


def test_defaults_are_those_of_the_configuration() -> None:
    assert statistics_of()["config"] == SimConfig().to_dict()


def test_the_file_overrides_the_defaults(config_file: Path) -> None:
    config = statistics_of("--config", str(config_file))["config"]
    assert (config["mode"], config["sim_seconds"], config["arrival"]["rate_per_s"]) == (
        "mono",
        90.0,
        3.0,
    )
    assert config["random_seed"] == 42


def test_flags_override_the_file_even_with_a_default_value(config_file: Path) -> None:
    config = statistics_of("--config", str(config_file), "--mode", "disagg", "--rate", "2")[
        "config"
    ]
    assert (config["mode"], config["arrival"]["rate_per_s"]) == ("disagg", 2.0)
    assert config["sim_seconds"] == 90.0


def test_a_flag_can_mend_a_file_that_is_wrong_alone(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("sim_seconds: 30\n", encoding="utf-8")  # below the default warm-up of 60 s
    assert invoke("simulate", "--config", str(path)).exit_code == 2
    assert statistics_of("--config", str(path), "--warmup-seconds", "1")["arrived"] > 0


def test_defaults_of_a_study_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("defaults: {mode: mono}\nstudies: {a: {}}\n", encoding="utf-8")
    assert statistics_of("--config", str(path))["config"]["mode"] == "mono"


def test_set_reaches_every_key_and_changes_kinds(config_file: Path) -> None:
    config = statistics_of(
        "--config",
        str(config_file),
        "--set",
        "cluster_mono.num_gpus=7",
        "--set",
        "prompt_tokens.mode=fixed",
        "--set",
        "prompt_tokens.value=100",
    )["config"]
    assert config["cluster_mono"]["num_gpus"] == 7
    assert (config["prompt_tokens"]["mode"], config["prompt_tokens"]["value"]) == ("fixed", 100)


def test_set_keeps_a_file_s_kind_of_distribution(config_file: Path) -> None:
    """The file's real_mean_std stays, with another mean."""
    config = statistics_of("--config", str(config_file), "--set", "prompt_tokens.mean=900")[
        "config"
    ]
    mu, sigma = _real_mean_std_to_log_params(900, 300)
    assert config["prompt_tokens"]["mean"] == pytest.approx(mu)
    assert config["prompt_tokens"]["sigma"] == pytest.approx(sigma)


def test_plain_function_prints_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    returned = simulate("mono", 60.0, 5.0, 7)
    assert json.loads(capsys.readouterr().out) == json_ready(returned)
    assert (returned["mode"], returned["config"]["random_seed"]) == ("mono", 7)


def test_plain_function_overrides_the_file_by_what_was_given(config_file: Path) -> None:
    """A default that the caller spells out counts; one that it leaves out does not."""
    assert simulate(config=config_file)["mode"] == "mono"
    assert simulate(mode="disagg", config=config_file)["mode"] == "disagg"
    changed = simulate(config=config_file, overrides={"cluster_mono.num_gpus": 9})
    assert changed["num_gpus"] == 9


def test_plain_function_refuses_unknown_arguments() -> None:
    with pytest.raises(TypeError, match="sim_second"):
        simulate(sim_second=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_program_and_library_agree(mode: Any) -> None:
    """The program's statistics are those of run_simulation with the same parameters."""
    printed = statistics_of("--mode", mode, *SHORT, "--seed", "3", "--rate", "4")
    _, expected = run_simulation(mode, 60.0, 5.0, 3, 4.0, (6.0, 0.9, 8), (6.0, 1.1, 16))
    assert {key: printed[key] for key in expected} == json_ready(expected)


def test_engines_print_the_same_statistics() -> None:
    fast, simpy = (statistics_of(*SHORT, "--engine", engine) for engine in ("fast", "simpy"))
    for key in ("mean_ttft_s", "p99_ttft_s", "throughput_rps", "utilization_decode"):
        assert fast[key] == pytest.approx(simpy[key], abs=1e-9)


def test_replicates_differ_and_repeat() -> None:
    first, again, second = (statistics_of(*SHORT, "--replicate", i) for i in ("0", "0", "1"))
    assert first == again
    assert first["mean_ttft_s"] != second["mean_ttft_s"]


def test_a_run_without_requests_prints_null_and_not_nan() -> None:
    printed = statistics_of("--rate", "1e-9", *SHORT)
    assert (printed["num_samples"], printed["p99_ttft_s"]) == (0, None)


def test_no_drain_marks_lower_bounds() -> None:
    printed = statistics_of(*SHORT, "--no-drain", "--rate", "12")
    assert printed["unfinished"] > 0
    assert "p99_ttft_s" in printed["lower_bounds"]
    assert printed["stability"] == "unstable"


def test_dumped_ttft_gives_back_the_statistics(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ttft.csv"
    printed = statistics_of(*SHORT, "--dump-ttft", str(path))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ttft = np.array([float(row["ttft_s"]) for row in rows])
    assert list(rows[0])[:3] == ["request_id", "arrival_s", "ttft_s"]
    assert len(rows) == printed["arrived"]
    assert float(np.percentile(ttft, 99)) == printed["p99_ttft_s"]
    parts = [name for name in rows[0] if name.endswith(("_wait_s", "prefill_s", "step_s"))]
    assert len(parts) == 5  # with transfer_s, six
    total = [sum(float(row[name]) for name in [*parts, "transfer_s"]) for row in rows]
    np.testing.assert_allclose(total, ttft, atol=1e-9)
    assert [entry.name for entry in path.parent.iterdir()] == ["ttft.csv"]


def test_dumped_ttft_is_empty_where_no_token_came(tmp_path: Path) -> None:
    path = tmp_path / "ttft.csv"
    printed = statistics_of(*SHORT, "--no-drain", "--rate", "12", "--dump-ttft", str(path))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    empty = [row for row in rows if row["ttft_s"] == ""]
    assert len(rows) - len(empty) == printed["num_samples"]
    assert empty
    assert {row["status"] for row in empty} == {"unfinished"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mode", "both"), "mode must be one of mono, disagg, got 'both'"),
        (("--engine", "fats"), "engine must be one of fast, simpy"),
        (("--rate", "-1"), "arrival.rate_per_s must be > 0, got -1.0"),
        (("--rate", "nan"), "arrival.rate_per_s must be"),
        (("--sim-seconds", "0"), "sim_seconds must be > 0"),
        (("--sim-seconds", "inf"), "sim_seconds must be"),
        (("--warmup-seconds", "600"), "warmup_seconds must be < sim_seconds (600)"),
        (("--seed", "-3"), "random_seed must be >= 0"),
        (("--replicate", "-1"), "replicate must be >= 0, got -1"),
        (("--ttft-definition", "first"), "ttft_definition must be one of"),
        (("--config", "/no/such.yaml"), "config must be a readable file"),
        (("--set", "nonsense"), "--set must be KEY=VALUE"),
        (("--set", "=3"), "--set must be KEY=VALUE"),
        (("--set", "mode=[1"), "--set must be KEY=VALUE"),
        (("--set", "arival.rate_per_s=3"), "did you mean 'arrival'"),
        (("--set", "arrival.rate=3"), "did you mean 'rate_per_s'"),
        (("--set", "mode.x=3"), "mode"),
        (("--set", "cluster_mono.num_gpus=0"), "cluster_mono.num_gpus must be >= 1"),
        (("--set", "cluster_mono.num_gpus=2.5"), "cluster_mono.num_gpus must be a whole number"),
        (("--set", "prompt_tokens.mode=fixed"), "prompt_tokens.value must be given"),
        (("--dump-ttft", "/dev/null/x.csv"), "/dev/null"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = invoke("simulate", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("arrival: {rate_per_s: -2}\n", encoding="utf-8")
    assert str(path) in invoke("simulate", "--config", str(path)).stderr


def test_an_error_on_the_command_line_does_not_blame_the_file(config_file: Path) -> None:
    stderr = invoke("simulate", "--config", str(config_file), "--rate", "-2").stderr
    assert "got -2.0" in stderr
    assert str(config_file) not in stderr
    for wrong in ("prompt_tokens.mode=fixed", "cluster_mono=3", "warmup_seconds=90"):
        stderr = invoke("simulate", "--config", str(config_file), "--set", wrong).stderr
        assert "must be" in stderr
        assert str(config_file) not in stderr


def test_plain_function_raises_instead() -> None:
    with pytest.raises(InvalidParameterError, match=r"sim_seconds must be > 0"):
        simulate(sim_seconds=-1.0)


@given(mu=st.floats(-2.0, 12.0), sigma=st.floats(0.0, 3.0))
def test_log_to_real_inverts_real_to_log(mu: float, sigma: float) -> None:
    mean, std = _log_to_real(mu, sigma)
    back = _real_mean_std_to_log_params(mean, std)
    assert back == pytest.approx((mu, sigma), abs=1e-7)


def test_log_to_real_is_the_mean_and_deviation_of_a_lognormal() -> None:
    """Against the integrals over the quantile function of a fine grid of probabilities."""
    z = np.linspace(-12.0, 12.0, 200_001)
    weight = np.exp(-0.5 * z**2)
    x = np.exp(1.5 + 0.8 * z)
    mean = float(np.sum(x * weight) / np.sum(weight))
    std = math.sqrt(float(np.sum(x**2 * weight) / np.sum(weight)) - mean**2)
    assert _log_to_real(1.5, 0.8) == pytest.approx((mean, std), rel=1e-9)


def test_log_to_real_joins_its_two_formulas_and_does_not_overflow() -> None:
    below, above = (_log_to_real(-20.0, math.sqrt(v))[1] for v in (40 - 1e-9, 40 + 1e-9))
    assert below == pytest.approx(above, rel=1e-7)
    assert _log_to_real(0.0, 60.0)[1] == math.inf


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, -0.1), (1.0, math.inf)])
def test_log_to_real_refuses(bad: tuple[float, float]) -> None:
    with pytest.raises(InvalidParameterError):
        _log_to_real(*bad)


def test_distributions_are_described_in_both_spaces(tmp_path: Path) -> None:
    fixed = describe(PromptConfig(mode="fixed", value=100))
    assert fixed["real_space"] == {"mean": 100.0, "std": 0.0}
    assert fixed["log_space"]["mean"] == pytest.approx(math.log(100))
    path = tmp_path / "lengths.txt"
    path.write_text("10\n1000\n", encoding="utf-8")
    observed = describe(OutputConfig(mode="empirical", path=str(path)))
    assert observed["real_space"] == {"mean": 505.0, "std": 495.0}
    assert observed["log_space"]["mean"] == pytest.approx(math.log(100))
    assert math.isnan(sampled(np.array([], dtype=np.int64))["mean"])


def test_exponential_log_moments_agree_with_draws() -> None:
    """Over 200,000 draws, within five standard errors."""
    described = describe(PromptConfig(mode="exponential", mean=500.0))
    logs = np.log(500.0 * np.random.default_rng(1).standard_exponential(200_000))
    error = logs.std() / math.sqrt(len(logs))
    assert described["log_space"]["mean"] == pytest.approx(logs.mean(), abs=5 * error)
    assert described["log_space"]["sigma"] == pytest.approx(logs.std(), rel=0.01)


@pytest.mark.parametrize(("low", "high"), [(819, 1024), (1, 2), (7, 7)])
def test_uniform_moments_agree_with_all_the_lengths(low: int, high: int) -> None:
    """All lengths are alike, so their moments are sums; the logarithm's are those of a density."""
    described = describe(PromptConfig(mode="uniform", low=low, high=high))
    lengths = np.arange(low, high + 1)
    real, logs = described["real_space"], described["log_space"]
    assert real["mean"] == pytest.approx(lengths.mean(), rel=1e-12)
    assert real["std"] == pytest.approx(lengths.std(), rel=1e-9, abs=1e-9)
    assert logs["mean"] == pytest.approx(np.log(lengths).mean(), abs=0.05 if low == 1 else 1e-5)
    if low > 1:
        assert logs["sigma"] == pytest.approx(np.log(lengths).std(), rel=1e-2, abs=1e-9)


def test_sampled_lengths_are_those_of_the_run() -> None:
    printed = statistics_of(
        *SHORT, "--set", "prompt_tokens.mode=fixed", "--set", "prompt_tokens.value=64"
    )
    drawn = printed["token_distributions"]["prompt_tokens"]["sampled"]
    assert (drawn["mean"], drawn["std"]) == (64.0, 0.0)
    assert drawn["n"] >= printed["arrived"]


def test_a_replayed_trace_reports_its_own_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = "".join(f"2024-01-01 00:00:{s:02d}.5,{10 * (s + 1)},7\n" for s in range(40))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows, encoding="utf-8")
    trace = ("--set", "arrival.kind=trace", "--set", f"arrival.path={path}")
    window = ("--sim-seconds", "30", "--warmup-seconds", "5")
    printed = statistics_of(*trace, *window)
    assert printed["token_distributions"]["output_tokens"]["mode"] == "trace"
    assert printed["token_distributions"]["output_tokens"]["sampled"]["mean"] == 7.0
    refused = invoke("simulate", *trace, *window, "--rate", "3")
    assert refused.exit_code == 2
    assert "set arrival.speed instead" in refused.stderr


def test_values_of_set_are_yaml() -> None:
    assert parse_assignment("drain=false") == ("drain", False)
    assert parse_assignment("a.b=x=y") == ("a.b", "x=y")


def test_version() -> None:
    assert invoke("--version").output == f"simlib {__version__}\n"


def test_help_lists_the_commands_without_importing_them() -> None:
    code = (
        "import sys\n"
        "from simlib.cli.run import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pydantic', 'simpy', 'matplotlib', 'pandas', 'scipy', 'yaml'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for name in ("simulate", "compare", "sweep", "sweep-prefill", "plot", "scenarios", "trace"):
        assert f"\n  {name} " in output
    assert output.endswith("loaded: []\n")


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "simlib.cli.run", "simulate", "--mode", "mono", *SHORT]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["mode"] == "mono"
    assert result.stderr == ""


@pytest.mark.parametrize("name", sorted({"simulate", *cli.lazy}))
def test_every_command_has_help(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_an_unknown_command_is_refused() -> None:
    result = invoke("simulat")
    assert result.exit_code == 2
    assert "simulat" in result.stderr
