"""Every malformed configuration is refused with what is wrong, what was given, what is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simlib.core.config import (
    ArrivalConfig,
    ClusterDisagg,
    ClusterMonolithic,
    OutputConfig,
    PromptConfig,
    SimConfig,
    _p50_p90_to_log_params,
    _parse_token_dist,
    _real_mean_std_to_log_params,
    load_config,
)
from simlib.core.simulator import run_simulation
from simlib.errors import InvalidParameterError

NAN, INF = float("nan"), float("inf")
MAPPING = "a mapping of keys to values"
MODES = "one of log, real_mean_std, p50_p90, fixed, uniform, exponential, empirical"

# keys of SimConfig, then: the name in the message, the value, what is allowed
MALFORMED = [
    ({"mode": "monolithic"}, "mode", "monolithic", "one of mono, disagg"),
    ({"mode": None}, "mode", None, "one of mono, disagg"),
    ({"mode": ["mono"]}, "mode", ["mono"], "one of mono, disagg"),
    ({"mode": 1}, "mode", 1, "one of mono, disagg"),
    ({"engine": "numba"}, "engine", "numba", "one of fast, simpy"),
    (
        {"ttft_definition": "first"},
        "ttft_definition",
        "first",
        "one of first_decode_step, prefill_end, transfer_end",
    ),
    ({"drain": "maybe"}, "drain", "maybe", "true or false"),
    ({"drain": 3}, "drain", 3, "true or false"),
    ({"sim_seconds": 0}, "sim_seconds", 0, "> 0"),
    ({"sim_seconds": -600.0}, "sim_seconds", -600.0, "> 0"),
    ({"sim_seconds": NAN}, "sim_seconds", NAN, "a finite number"),
    ({"sim_seconds": INF}, "sim_seconds", INF, "a finite number"),
    ({"sim_seconds": "nan"}, "sim_seconds", "nan", "a finite number"),
    ({"sim_seconds": "ten"}, "sim_seconds", "ten", "a finite number"),
    ({"sim_seconds": ""}, "sim_seconds", "", "a finite number"),
    ({"sim_seconds": None}, "sim_seconds", None, "a finite number"),
    ({"sim_seconds": True}, "sim_seconds", True, "a number"),
    ({"sim_seconds": np.True_}, "sim_seconds", np.True_, "a number"),
    ({"sim_seconds": [600]}, "sim_seconds", [600], "a finite number"),
    ({"warmup_seconds": -1}, "warmup_seconds", -1, ">= 0"),
    ({"warmup_seconds": 600}, "warmup_seconds", 600.0, "< sim_seconds (600)"),
    ({"sim_seconds": 30}, "warmup_seconds", 60.0, "< sim_seconds (30)"),
    ({"warmup_seconds": NAN}, "warmup_seconds", NAN, "a finite number"),
    ({"random_seed": -1}, "random_seed", -1, ">= 0"),
    ({"random_seed": 1.5}, "random_seed", 1.5, "a whole number"),
    ({"random_seed": NAN}, "random_seed", NAN, "a finite number"),
    ({"random_seed": "x"}, "random_seed", "x", "a whole number"),
    ({"random_seed": False}, "random_seed", False, "a number"),
    ({"arrival": {"rate_per_s": 0}}, "arrival.rate_per_s", 0, "> 0"),
    ({"arrival": {"rate_per_s": -2.0}}, "arrival.rate_per_s", -2.0, "> 0"),
    ({"arrival": {"rate_per_s": NAN}}, "arrival.rate_per_s", NAN, "a finite number"),
    ({"arrival": {"rate_per_s": -INF}}, "arrival.rate_per_s", -INF, "a finite number"),
    ({"arrival": {"rate_per_s": "2/s"}}, "arrival.rate_per_s", "2/s", "a finite number"),
    ({"arrival": {"rate_per_s": 10**400}}, "arrival.rate_per_s", 10**400, "a finite number"),
    (
        {"arrival": {"rate_per_s": 1e12}},
        "arrival.rate_per_s",
        1e12,
        "<= 1.66667e+06 (at most 1000000000 requests a run)",
    ),
    ({"arrival": {"rate_per_s": 1e308}}, "arrival.rate_per_s", 1e308, "<= 1.66667e+06"),
    ({"arrival": None}, "arrival", None, MAPPING),
    ({"arrival": 2.0}, "arrival", 2.0, MAPPING),
    ({"arrival": [2.0]}, "arrival", [2.0], MAPPING),
    (
        {"arrival": {"kind": "uniform"}},
        "arrival.kind",
        "uniform",
        "one of poisson, gamma, trace, closed_loop",
    ),
    ({"arrival": {"kind": "trace"}}, "arrival.path", None, "the path of a trace"),
    ({"arrival": {"kind": "trace", "path": ""}}, "arrival.path", "", "the path of a trace"),
    ({"arrival": {"path": 5}}, "arrival.path", 5, "a text"),
    ({"arrival": {"speed": 0}}, "arrival.speed", 0, "> 0"),
    ({"arrival": {"start_s": -1}}, "arrival.start_s", -1, ">= 0"),
    ({"arrival": {"length_s": 0}}, "arrival.length_s", 0, "> 0"),
    ({"arrival": {5: 1}}, "arrival", 5, "a mapping whose keys are words"),
    ({"prompt_tokens": "long"}, "prompt_tokens", "long", MAPPING),
    ({"prompt_tokens": {"mode": "normal"}}, "prompt_tokens.mode", "normal", MODES),
    ({"prompt_tokens": {"mode": ["log"]}}, "prompt_tokens.mode", ["log"], MODES),
    ({"prompt_tokens": {"mean": NAN}}, "prompt_tokens.mean", NAN, "a finite number"),
    ({"prompt_tokens": {"mean": 500.0}}, "prompt_tokens.mean", 500.0, "in log space"),
    ({"prompt_tokens": {"sigma": -0.1}}, "prompt_tokens.sigma", -0.1, ">= 0"),
    ({"prompt_tokens": {"sigma": 1e200}}, "prompt_tokens.mean", 6.0, "real mean below 1e9"),
    ({"prompt_tokens": {"min_value": 0}}, "prompt_tokens.min_value", 0, ">= 1"),
    ({"prompt_tokens": {"min_value": 1.5}}, "prompt_tokens.min_value", 1.5, "a whole number"),
    ({"prompt_tokens": {"min_value": 10**10}}, "prompt_tokens.min_value", 10**10, "<= 1000000000"),
    ({"output_tokens": {"mode": "fixed"}}, "output_tokens.value", None, "given in tokens"),
    ({"output_tokens": {"mode": "fixed", "value": 0}}, "output_tokens.value", 0, ">= 1"),
    (
        {"output_tokens": {"mode": "fixed", "value": 10**30}},
        "output_tokens.value",
        10**30,
        "<= 1000000000",
    ),
    (
        {"output_tokens": {"mode": "uniform", "high": 9}},
        "output_tokens.low",
        None,
        "given in tokens",
    ),
    (
        {"output_tokens": {"mode": "uniform", "low": 9}},
        "output_tokens.high",
        None,
        "given in tokens",
    ),
    (
        {"output_tokens": {"mode": "uniform", "low": 9, "high": 8}},
        "output_tokens.high",
        8,
        ">= low (9) tokens",
    ),
    (
        {"prompt_tokens": {"mode": "uniform", "low": 1, "high": 10**10}},
        "prompt_tokens.high",
        10**10,
        "<= 1000000000 tokens",
    ),
    ({"output_tokens": {"mode": "empirical"}}, "output_tokens.path", None, "a file of lengths"),
    (
        {"output_tokens": {"mode": "exponential", "mean": 0}},
        "output_tokens.mean",
        0.0,
        "> 0 and <= 1000000000 tokens (mode: exponential)",
    ),
    (
        {"output_tokens": {"mode": "exponential", "mean": 1e30}},
        "output_tokens.mean",
        1e30,
        "> 0 and <= 1000000000 tokens (mode: exponential)",
    ),
    (
        {"output_tokens": {"mode": "real_mean_std", "mean": 10}},
        "output_tokens.std",
        None,
        "a number of tokens (mode: real_mean_std)",
    ),
    (
        {"output_tokens": {"mode": "real_mean_std", "mean": 0, "std": 1}},
        "output_tokens.mean",
        0.0,
        "> 0 tokens",
    ),
    (
        {"output_tokens": {"mode": "real_mean_std", "mean": 10, "std": -1}},
        "output_tokens.std",
        -1.0,
        ">= 0 tokens",
    ),
    (
        {"output_tokens": {"mode": "real_mean_std", "mean": 10, "std": 5, "sigma": 1}},
        "output_tokens.sigma",
        1,
        "left out: mode real_mean_std takes mean, std, min_value",
    ),
    (
        {"output_tokens": {"mode": "real_mean_std", "mean": True, "std": 5}},
        "output_tokens.mean",
        True,
        "a number of tokens",
    ),
    (
        {"output_tokens": {"mode": "p50_p90", "p50": 100, "p90": 50}},
        "output_tokens.p90",
        50.0,
        ">= p50 (100) tokens",
    ),
    (
        {"output_tokens": {"mode": "p50_p90", "p50": "many", "p90": 50}},
        "output_tokens.p50",
        "many",
        "a number of tokens (mode: p50_p90)",
    ),
    (
        {"output_tokens": {"mode": "p50_p90", "p50": 10**400, "p90": 50}},
        "output_tokens.p50",
        10**400,
        "a number of tokens",
    ),
    ({"cluster_mono": {"num_gpus": 0}}, "cluster_mono.num_gpus", 0, ">= 1"),
    ({"cluster_mono": {"num_gpus": 2.5}}, "cluster_mono.num_gpus", 2.5, "a whole number"),
    ({"cluster_mono": {"num_gpus": True}}, "cluster_mono.num_gpus", True, "a number"),
    (
        {"cluster_mono": {"decode_tokens_per_s": 0}},
        "cluster_mono.decode_tokens_per_s",
        0,
        "> 0",
    ),
    ({"cluster_disagg": {"prefill_gpus": -1}}, "cluster_disagg.prefill_gpus", -1, ">= 1"),
    ({"cluster_disagg": {"decode_gpus": "two"}}, "cluster_disagg.decode_gpus", "two", "a whole"),
    (
        {"cluster_disagg": {"kv_base_latency_s": -0.1}},
        "cluster_disagg.kv_base_latency_s",
        -0.1,
        ">= 0",
    ),
    (
        {"cluster_disagg": {"kv_bandwidth_bytes_per_s": 0}},
        "cluster_disagg.kv_bandwidth_bytes_per_s",
        0,
        "> 0",
    ),
    (
        {"cluster_disagg": {"kv_bandwidth_bytes_per_s": INF}},
        "cluster_disagg.kv_bandwidth_bytes_per_s",
        INF,
        "a finite number",
    ),
]


@pytest.mark.parametrize(("keys", "name", "got", "allowed"), MALFORMED)
def test_message_names_the_key_the_value_and_what_is_allowed(keys, name, got, allowed):
    with pytest.raises(InvalidParameterError) as caught:
        SimConfig.from_dict(keys)
    message = str(caught.value)
    assert message.startswith(f"{name} must be ")
    assert allowed in message
    assert f"got {got!r}" in message
    assert isinstance(caught.value, ValueError)


UNKNOWN = [
    ({"mod": "mono"}, "mod", "mode"),
    ({"sim_second": 5}, "sim_second", "sim_seconds"),
    ({"seed": 1}, "seed", "random_seed"),
    ({"arrivals": {}}, "arrivals", "arrival"),
    ({"arrival": {"rate": 1}}, "arrival.rate", "rate_per_s"),
    ({"prompt_tokens": {"sigm": 1}}, "prompt_tokens.sigm", "sigma"),
    ({"output_tokens": {"min_val": 4}}, "output_tokens.min_val", "min_value"),
    ({"cluster_mono": {"num_gpu": 4}}, "cluster_mono.num_gpu", "num_gpus"),
    ({"cluster_mono": {"prefill_gpus": 4}}, "cluster_mono.prefill_gpus", None),
    ({"cluster_disagg": {"num_gpus": 4}}, "cluster_disagg.num_gpus", None),
    (
        {"cluster_disagg": {"kv_bandwidth": 1e9}},
        "cluster_disagg.kv_bandwidth",
        "kv_bandwidth_bytes_per_s",
    ),
]


@pytest.mark.parametrize(("keys", "name", "nearest"), UNKNOWN)
def test_unknown_key_is_refused_and_the_nearest_one_suggested(keys, name, nearest):
    with pytest.raises(InvalidParameterError) as caught:
        SimConfig.from_dict(keys)
    message = str(caught.value)
    assert message.startswith(f"{name} must be a known key")
    assert f"got {name.rpartition('.')[2]!r}" in message
    if nearest:
        assert f"did you mean {nearest!r}?" in message


def test_a_key_like_no_other_gets_the_list_and_no_guess():
    with pytest.raises(InvalidParameterError) as caught:
        SimConfig(zzz=1)
    assert "did you mean" not in str(caught.value)
    assert "known: mode, sim_seconds, warmup_seconds" in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "mono", 3, {"mode"}])
def test_only_a_mapping_is_a_configuration(data):
    with pytest.raises(InvalidParameterError, match=f"SimConfig must be {MAPPING}, got "):
        SimConfig.from_dict(data)


def test_keys_must_be_words():
    with pytest.raises(InvalidParameterError, match="must be a mapping whose keys are words"):
        SimConfig.from_dict({True: 1})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArrivalConfig(rate_per_s=-1.0), "rate_per_s must be > 0, got -1.0"),
        (lambda: PromptConfig(sigma=-1.0), "sigma must be >= 0, got -1.0"),
        (lambda: OutputConfig(min_value=-1), "min_value must be >= 1, got -1"),
        (lambda: ClusterMonolithic(num_gpus=0), "num_gpus must be >= 1, got 0"),
        (lambda: ClusterDisagg(decode_gpus=0), "decode_gpus must be >= 1, got 0"),
        (lambda: _parse_token_dist({"mode": "gamma"}), f"mode must be {MODES}, got 'gamma'"),
        (lambda: _real_mean_std_to_log_params(NAN, 1.0), "mean must be > 0 tokens, got nan"),
        (lambda: _real_mean_std_to_log_params(1.0, INF), "std must be >= 0 tokens, got inf"),
        (lambda: _p50_p90_to_log_params(-1.0, 1.0), "p50 must be > 0 tokens, got -1.0"),
        (lambda: _p50_p90_to_log_params(1.0, NAN), "p90 must be >= p50 (1) tokens, got nan"),
    ],
)
def test_parts_refuse_bad_values_from_python_too(build, message):
    with pytest.raises(InvalidParameterError) as caught:
        build()
    assert str(caught.value) == message


def test_a_deviation_that_overflows_is_refused_and_does_not_leak_an_overflow_error():
    with pytest.raises(InvalidParameterError, match="mean must be"):
        PromptConfig.from_dict({"mode": "real_mean_std", "mean": 1.0, "std": 1e200})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "both"}, "mode must be one of mono, disagg, got 'both'"),
        ({"sim_seconds": -1.0}, "sim_seconds must be > 0, got -1.0"),
        ({"warmup_seconds": 100.0}, "warmup_seconds must be < sim_seconds (100), got 100.0"),
        ({"random_seed": -1}, "random_seed must be >= 0, got -1"),
        ({"arrival_rate_per_s": 0.0}, "rate_per_s must be > 0, got 0.0"),
        ({"prompt_lognormal": None}, "prompt_lognormal must be (mu, sigma, min_value), got None"),
        ({"prompt_lognormal": (6.0, 0.9)}, "prompt_lognormal must be (mu, sigma, min_value)"),
        ({"output_lognormal": (6.0, -0.9, 1)}, "sigma must be >= 0, got -0.9 (output_lognormal)"),
        ({"mono_params": (0, 8e3, 2e3)}, "num_gpus must be >= 1, got 0 (mono_params)"),
        ({"mono_params": (4, 8e3)}, "mono_params must be (num_gpus, prefill_tokens_per_s, "),
        (
            {"disagg_params": (2, 2, 8e3, NAN)},
            "decode_tokens_per_s must be a finite number, got nan (disagg_params)",
        ),
        ({"engine": "ns3"}, "engine must be one of fast, simpy, got 'ns3'"),
    ],
)
def test_run_simulation_says_which_argument_is_wrong(changes, message):
    arguments = {
        "mode": "mono",
        "sim_seconds": 100.0,
        "warmup_seconds": 10.0,
        "random_seed": 1,
        "arrival_rate_per_s": 1.0,
        "prompt_lognormal": (6.0, 0.9, 8),
        "output_lognormal": (6.0, 1.1, 16),
    }
    with pytest.raises(InvalidParameterError) as caught:
        run_simulation(**(arguments | changes))
    assert str(caught.value).startswith(message)


FILES = [
    ("arrival: {rate_per_s: -1}\n", "arrival.rate_per_s must be > 0, got -1"),
    ("arrival: {rate_per_s: 1e-}\n", "arrival.rate_per_s must be a finite number, got '1e-'"),
    ("arrival:\n  on: 3\n", "arrival must be a mapping whose keys are words, got True"),
    ("arival: {}\n", "arival must be a known key (did you mean 'arrival'?"),
    ("5: mono\n", "SimConfig must be a mapping whose keys are words, got 5"),
    ("sim_seconds: .inf\n", "sim_seconds must be a finite number, got inf"),
    (
        "sim_seconds: 2026-01-01\n",
        "sim_seconds must be a text, a number, true, false or null, not a date",
    ),
    ("defaults: {mode: mon}\n", "mode must be one of mono, disagg, got 'mon'"),
    ("defaults: [mono]\n", "SimConfig must be a mapping of keys to values, got ['mono']"),
    ("mode: [mono\n", "config must be valid YAML ("),
    ("mode: mono\n\tdrain: true\n", "config must be valid YAML ("),
    ("day: 2026-13-45\n", "config must be valid YAML ("),
    ("a: !!python/object:os.system {}\n", "config must be valid YAML ("),
    ("- mode\n- mono\n", "config must be a mapping of keys to values, got ['mode', 'mono']"),
    ("mono\n", "config must be a mapping of keys to values, got 'mono'"),
    ("7\n", "config must be a mapping of keys to values, got 7"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_load_config_names_the_file(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidParameterError) as caught:
        load_config(path)
    assert str(caught.value).startswith(message)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named():
    bad = Path("no-such-folder") / "missing.yaml"
    with pytest.raises(InvalidParameterError) as caught:
        load_config(bad)
    assert str(caught.value) == (
        f"config must be a readable file (No such file or directory), got {str(bad)!r}"
    )


def test_a_syntax_error_gives_line_and_column(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("mode: mono\narrival: {rate_per_s: 1\n", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match=r"line 3, column 1"):
        load_config(path)


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(InvalidParameterError, match="config must be a readable file"):
        load_config(tmp_path)


def test_a_binary_file_is_no_configuration(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"mode: \xff\xfe\x00")
    with pytest.raises(InvalidParameterError, match="config must be UTF-8 text"):
        load_config(path)
