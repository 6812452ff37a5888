"""The configuration: defaults, round trips, token modes and their conversions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simlib.core.config import (
    TOKEN_MODES,
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

Z90 = 1.2815515655446004


def test_defaults_are_the_documented_ones():
    config = SimConfig()
    assert (config.mode, config.sim_seconds, config.warmup_seconds) == ("disagg", 600.0, 60.0)
    assert (config.random_seed, config.arrival.rate_per_s) == (42, 2.0)
    prompt, output = config.prompt_tokens, config.output_tokens
    assert (prompt.mode, prompt.mean, prompt.sigma, prompt.min_value) == ("log", 6.0, 0.9, 8)
    assert (output.mode, output.mean, output.sigma, output.min_value) == ("log", 6.0, 1.1, 16)
    mono, disagg = config.cluster_mono, config.cluster_disagg
    assert mono == ClusterMonolithic(
        num_gpus=4, prefill_tokens_per_s=8000.0, decode_tokens_per_s=2000.0
    )
    assert (disagg.prefill_gpus, disagg.decode_gpus) == (2, 2)
    assert (disagg.prefill_tokens_per_s, disagg.decode_tokens_per_s) == (8000.0, 2000.0)
    assert (config.engine, config.drain, config.ttft_definition) == (
        "fast",
        True,
        "first_decode_step",
    )


def test_default_comparison_is_at_equal_gpus():
    config = SimConfig()
    assert config.cluster_mono.total_gpus == config.cluster_disagg.total_gpus


def test_kv_transfer_is_free_by_default():
    cluster = ClusterDisagg()
    assert (cluster.kv_base_latency_s, cluster.transfer_s_per_token) == (0.0, 0.0)


def test_kv_transfer_per_token_is_bytes_over_bandwidth():
    cluster = ClusterDisagg(kv_bytes_per_token=131072.0, kv_bandwidth_bytes_per_s=25e9)
    assert cluster.transfer_s_per_token == 131072.0 / 25e9


def test_mode_selects_the_cluster():
    assert SimConfig(mode="mono").cluster == ClusterMonolithic()
    assert SimConfig(mode="disagg").cluster == ClusterDisagg()


TOKENS = {
    "log": {"mode": "log", "mean": 5.5, "sigma": 0.7, "min_value": 4},
    "real_mean_std": {"mode": "real_mean_std", "mean": 600.0, "std": 500.0, "min_value": 4},
    "p50_p90": {"mode": "p50_p90", "p50": 400.0, "p90": 1500.0, "min_value": 4},
    "fixed": {"mode": "fixed", "value": 512},
    "uniform": {"mode": "uniform", "low": 820, "high": 1024},
    "exponential": {"mode": "exponential", "mean": 300.0, "min_value": 1},
    "empirical": {"mode": "empirical", "path": "lengths.txt"},
}


def test_every_token_mode_is_tried_below():
    assert set(TOKENS) == set(TOKEN_MODES)


@pytest.mark.parametrize("kind", [PromptConfig, OutputConfig])
@pytest.mark.parametrize("mode", TOKENS)
def test_token_modes_round_trip(mode, kind):
    tokens = _parse_token_dist(TOKENS[mode], kind)
    assert type(tokens) is kind
    assert kind.from_dict(tokens.to_dict()) == tokens
    config = SimConfig(prompt_tokens=TOKENS[mode], output_tokens=TOKENS[mode])
    assert SimConfig.from_dict(config.to_dict()) == config


def test_parse_without_a_mapping_gives_the_defaults():
    assert _parse_token_dist(None) == PromptConfig()
    assert _parse_token_dist({}, OutputConfig) == OutputConfig()


def test_real_mean_std_becomes_the_lognormal_with_these_moments():
    tokens = _parse_token_dist(TOKENS["real_mean_std"])
    assert tokens.mode == "log"
    assert tokens.min_value == 4
    real_mean = math.exp(tokens.mean + tokens.sigma**2 / 2)
    assert real_mean == pytest.approx(600.0, rel=1e-12)
    real_std = real_mean * math.sqrt(math.expm1(tokens.sigma**2))
    assert real_std == pytest.approx(500.0, rel=1e-12)


def test_p50_p90_becomes_the_lognormal_with_these_percentiles():
    tokens = _parse_token_dist(TOKENS["p50_p90"])
    assert tokens.mode == "log"
    assert math.exp(tokens.mean) == pytest.approx(400.0, rel=1e-12)
    assert math.exp(tokens.mean + Z90 * tokens.sigma) == pytest.approx(1500.0, rel=1e-12)


@settings(deadline=None)
@given(mean=st.floats(1e-3, 1e6), std=st.floats(0, 1e6))
def test_real_mean_std_inverts_the_lognormal_moments(mean, std):
    mu, sigma = _real_mean_std_to_log_params(mean, std)
    assert math.exp(mu + sigma**2 / 2) == pytest.approx(mean, rel=1e-9)
    assert mean * math.sqrt(math.expm1(sigma**2)) == pytest.approx(std, rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(p50=st.floats(1e-3, 1e6), ratio=st.floats(1, 1e6))
def test_p50_p90_inverts_the_lognormal_percentiles(p50, ratio):
    mu, sigma = _p50_p90_to_log_params(p50, p50 * ratio)
    assert math.exp(mu) == pytest.approx(p50, rel=1e-9)
    assert math.exp(mu + Z90 * sigma) == pytest.approx(p50 * ratio, rel=1e-9)


def test_no_deviation_means_no_sigma():
    assert _real_mean_std_to_log_params(100.0, 0.0) == (math.log(100.0), 0.0)
    assert _p50_p90_to_log_params(100.0, 100.0) == (math.log(100.0), 0.0)


@pytest.mark.parametrize("mode", TOKENS)
def test_essential_leaves_out_what_the_mode_ignores(mode):
    raw = TOKENS[mode]
    noisy = raw if mode in ("real_mean_std", "p50_p90") else {"mean": 3.0, "min_value": 2, **raw}
    essential = _parse_token_dist(noisy).essential()
    if mode in ("fixed", "empirical"):
        assert essential == raw
    assert PromptConfig.from_dict(essential).essential() == essential


CONFIGS = [
    SimConfig(),
    SimConfig(mode="mono", sim_seconds=30.5, warmup_seconds=0.0, random_seed=0),
    SimConfig(arrival=ArrivalConfig(kind="trace", path="trace.csv", speed=2.0, length_s=60.0)),
    SimConfig(
        cluster_disagg=ClusterDisagg(prefill_gpus=1, decode_gpus=3, kv_base_latency_s=0.01),
        drain=False,
        engine="simpy",
        ttft_definition="transfer_end",
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_dict_round_trip(config):
    plain = config.to_dict()
    assert SimConfig.from_dict(plain) == config
    assert SimConfig.from_dict(plain).to_dict() == plain


@pytest.mark.parametrize("config", CONFIGS)
def test_dict_holds_plain_values_only(config):
    def check(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            for inner in value.values():
                check(inner)
        else:
            assert value is None or type(value) in (str, int, float, bool)

    check(config.to_dict())


def test_dict_changed_by_hand_becomes_the_changed_object():
    plain = SimConfig().to_dict()
    plain["arrival"]["rate_per_s"] = 5
    config = SimConfig.from_dict(plain)
    assert config.arrival == ArrivalConfig(rate_per_s=5.0)
    assert config != SimConfig()


def test_parts_may_be_objects_or_mappings():
    assert SimConfig(cluster_mono={"num_gpus": 8}) == SimConfig(
        cluster_mono=ClusterMonolithic(num_gpus=8)
    )


def test_numpy_scalars_become_python_numbers():
    config = SimConfig(
        sim_seconds=np.float32(120.0),
        random_seed=np.int64(7),
        cluster_mono={"num_gpus": np.int32(3)},
    )
    assert type(config.sim_seconds) is float
    assert type(config.random_seed) is int
    assert type(config.cluster_mono.num_gpus) is int
    assert (config.sim_seconds, config.random_seed, config.cluster_mono.num_gpus) == (120.0, 7, 3)


def test_configurations_are_frozen():
    config = SimConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.mode = "mono"
    with pytest.raises(ValidationError, match="frozen"):
        config.arrival.rate_per_s = 3.0
    assert config == SimConfig()


def test_two_configurations_share_no_state():
    first, second = SimConfig().to_dict(), SimConfig().to_dict()
    first["arrival"]["rate_per_s"] = 9.0
    assert second == SimConfig().to_dict()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}\n", "defaults:\n"])
def test_an_empty_file_means_the_defaults(tmp_path, text):
    assert load_config(write(tmp_path / "config.yaml", text)) == SimConfig()


def test_load_config_reads_nested_values(tmp_path):
    text = "mode: mono\narrival: {rate_per_s: 4}\nprompt_tokens: {mode: fixed, value: 100}\n"
    config = load_config(write(tmp_path / "config.yaml", text))
    assert config == SimConfig(
        mode="mono",
        arrival=ArrivalConfig(rate_per_s=4.0),
        prompt_tokens=PromptConfig(mode="fixed", value=100),
    )


def test_load_config_accepts_a_string_path(tmp_path):
    path = write(tmp_path / "config.yaml", "random_seed: 5\n")
    assert load_config(str(path)).random_seed == 5


def test_a_study_file_gives_its_defaults(tmp_path):
    text = "defaults: {mode: mono}\nstudies: {rates: {sweep: {arrival.rate_per_s: [1, 2]}}}\n"
    assert load_config(write(tmp_path / "config.yaml", text)) == SimConfig(mode="mono")


def test_exponent_without_a_dot_is_a_number(tmp_path):
    # YAML 1.1 reads 1e-2 as text
    text = "arrival: {rate_per_s: 1e-2}\ncluster_disagg: {kv_base_latency_s: 5e-3}\n"
    config = load_config(write(tmp_path / "config.yaml", text))
    assert config.arrival.rate_per_s == 0.01
    assert config.cluster_disagg.kv_base_latency_s == 0.005
