"""A serving engine fills in what a configuration leaves out, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from simlib.cli.run import cli
from simlib.core.batching import BatchingMono, LatencyConfig, MonolithicPool
from simlib.core.config import SimConfig
from simlib.core.settings import resolve_config
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.catalog.engines import batch_limits, serving_engines
from simlib.policies.batching import BATCH_POLICIES
from simlib.study.plan.grid import resolve
from simlib.study.plan.identity import point_id, run_settings

GIB = 2.0**30


def config(engine: str | None = "sglang", **sections: Any) -> SimConfig:
    latency = sections.pop("latency", {})
    settings = {"serving": "batching", "mode": "mono", **sections}
    return SimConfig.from_dict({**settings, "latency": {"engine": engine, **latency}})


@pytest.mark.parametrize("engine", serving_engines())
def test_what_is_left_out_is_the_engines(engine: str) -> None:
    of = serving_engines()[engine]
    found = config(engine)
    assert found.latency.step_overhead_s == of.step_overhead_s
    assert found.latency.sequence_overhead_s == of.sequence_overhead_s
    for term in ("expert_launch_s", "latent_launch_s", "latent_step_s"):
        assert getattr(found.latency, term) == getattr(of, term) > 0
    for batching in (found.batching_mono, found.batching_disagg):
        assert batching.front_end is not None
        assert batching.front_end.request_s == of.front_end_request_s
        assert batching.front_end.token_s == of.front_end_token_s
        for pool in batching.pools.values():
            limits = batch_limits(engine, pool.gpu, catalog.gpu(pool.gpu).hbm_bytes)
            assert pool.policy == of.policy
            assert pool.max_batch_tokens == limits.max_batch_tokens
            assert pool.max_batch_size == limits.max_batch_size
            assert pool.gpu_memory_utilization == of.gpu_memory_utilization


def test_layers_cost_nothing_more_where_measurements_hold_all_of_them() -> None:
    for kind in ("affine", "aiconfigurator"):
        latency = config("vllm", latency={"kind": kind}).latency
        assert (latency.expert_launch_s, latency.latent_launch_s, latency.latent_step_s) == (0,) * 3
        assert latency.step_overhead_s > 0


def test_engines_differ_where_it_matters() -> None:
    policies = {name: config(name).batching_mono.pool.policy for name in serving_engines()}
    assert not BATCH_POLICIES[policies["sglang"]].mixes
    assert BATCH_POLICIES[policies["vllm"]].mixes
    fp8 = {"precision": "fp8"}
    kv_cache = {name: config(name, latency=fp8).latency.kv_cache_dtype for name in policies}
    assert kv_cache == {"vllm": "bf16", "sglang": "bf16", "trtllm": "fp8"}


def test_what_is_given_stays() -> None:
    found = config(
        latency={"step_overhead_s": 0.0, "kv_cache_dtype": "bf16", "precision": "fp8"},
        engine="trtllm",
        batching_mono={
            "pool": {"max_batch_tokens": 100, "policy": "prefill_first"},
            "front_end": {"request_s": 0.5},
        },
        batching_disagg={"front_end": None},
    )
    of = serving_engines()["trtllm"]
    assert found.latency.step_overhead_s == 0.0
    assert found.latency.kv_cache_dtype == "bf16"
    assert found.batching_mono.pool.max_batch_tokens == 100
    assert found.batching_mono.pool.policy == "prefill_first"
    assert found.batching_mono.front_end is not None
    assert found.batching_mono.front_end.request_s == 0.5
    assert found.batching_mono.front_end.token_s == of.front_end_token_s
    assert found.batching_disagg.front_end is None


@pytest.mark.parametrize(
    ("engine", "gpu", "tokens"),
    [
        ("vllm", "h100_sxm", 8192),
        ("vllm", "a100_sxm", 2048),  # of as much memory, but slower
        ("vllm", "l4", 2048),
        ("sglang", "l4", 2048),
        ("sglang", "l40s", 4096),
        ("sglang", "h200_sxm", 8192),
        ("sglang", "b200_sxm", 16384),
        ("trtllm", "l4", 8192),
    ],
)
def test_limits_of_a_batch_are_those_of_the_pools_gpu(engine: str, gpu: str, tokens: int) -> None:
    found = config(engine, batching_disagg={"decode": {"gpu": gpu}})
    assert found.batching_disagg.decode.max_batch_tokens == tokens
    assert found.batching_disagg.prefill.max_batch_tokens == 8192


def test_a_small_batch_of_tokens_bounds_the_engines_number_of_sequences() -> None:
    pool = {"pool": {"max_batch_tokens": 64}}
    assert config("vllm", batching_mono=pool).batching_mono.pool.max_batch_size == 64
    assert config("sglang", batching_mono=pool).batching_mono.pool.max_batch_size == 2048


def test_without_an_engine_nothing_changes() -> None:
    assert config(None) == SimConfig.from_dict({"serving": "batching", "mode": "mono"})
    assert config(None).batching_mono == BatchingMono()


def test_a_configuration_survives_being_written_and_read() -> None:
    for engine in serving_engines():
        found = config(engine, latency={"precision": "fp8"})
        assert SimConfig.from_dict(found.to_dict()) == found


def test_parts_built_before_are_filled_in_alike() -> None:
    pool = {"replicas": 3, "max_batch_tokens": 512}
    parts = SimConfig(
        serving="batching",
        mode="mono",
        latency=LatencyConfig(engine="vllm"),
        batching_mono=BatchingMono(pool=MonolithicPool(**pool)),
    )
    assert parts == config("vllm", batching_mono={"pool": pool})


def test_an_engine_may_be_set_on_a_configuration_that_names_none() -> None:
    plain = SimConfig.from_dict({"serving": "batching", "latency": {"model": "qwen3-8b"}})
    changed = resolve_config(plain, {"latency.engine": "sglang"})
    assert changed.latency.model == "qwen3-8b"
    assert changed.batching_disagg.prefill.policy == "chunks_first"


def test_a_point_is_what_the_engine_stands_for_not_its_name() -> None:
    by_name = config("trtllm")
    by_value = SimConfig.from_dict(
        by_name.to_dict() | {"latency": {**by_name.latency.to_dict(), "engine": None}}
    )
    assert point_id(by_name) == point_id(by_value)
    assert run_settings(by_name) == run_settings(by_value)
    assert len({point_id(config(engine)) for engine in (None, *serving_engines())}) == 4


def test_a_study_sweeps_engines() -> None:
    sweep = {"grid": {"latency.engine": ["vllm", "sglang"]}}
    defaults = {"serving": "batching", "mode": "mono"}
    [study] = resolve({"defaults": defaults, "studies": {"one": {"sweep": sweep}}})
    policies = [row.config.batching_mono.pool.policy for row in study.rows]
    assert policies == ["chunked_prefill", "chunks_first"]


@pytest.mark.parametrize("engine", ["tgi", "", 3, ["vllm"]])
def test_other_engines_are_refused(engine: Any) -> None:
    with pytest.raises(InvalidParameterError, match=r"latency\.engine must be one of vllm, sglang"):
        config(engine)


@pytest.mark.parametrize(
    "sections",
    [
        {"batching_mono": 3},
        {"batching_mono": {"pool": "large"}},
        {"batching_mono": {"pool": {"gpu": 5}}},
        {"batching_mono": {"pool": {"max_batch_tokens": "many"}}},
        {"batching_mono": {"pool": {"policy": ["a"]}}},
        {"batching_mono": {"front_end": 1}},
        {"batching_disagg": {"decode": None}},
    ],
)
def test_what_is_wrong_is_refused_as_without_an_engine(sections: dict[str, Any]) -> None:
    messages = set()
    for engine in (None, "vllm"):
        with pytest.raises(InvalidParameterError) as caught:
            config(engine, **sections)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_simulate_says_what_it_took_from_the_engine() -> None:
    words = ["--set", "serving=batching", "--set", "latency.engine=sglang", "--mode", "mono"]
    words += ["--set", "batching_mono.pool.max_batch_size=7"]
    short = ["--sim-seconds", "20", "--warmup-seconds", "2"]
    result = CliRunner().invoke(cli, ["simulate", *words, *short])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["engine_defaults"]
    assert said["batching_mono.pool.policy"] == "chunks_first"
    assert "batching_mono.pool.max_batch_size" not in said  # it was given
    assert not any(name.startswith("batching_disagg") for name in said)


def test_the_catalog_is_of_sound_numbers() -> None:
    for name, engine in serving_engines().items():
        assert engine.policy in BATCH_POLICIES
        assert 0 < engine.gpu_memory_utilization <= 1
        for constant in (
            engine.step_overhead_s,
            engine.sequence_overhead_s,
            engine.front_end_request_s,
            engine.front_end_token_s,
            engine.expert_launch_s,
            engine.latent_launch_s,
            engine.latent_step_s,
        ):
            assert 0 <= constant < 0.1
        for gpu in catalog.gpu_names():
            limits = batch_limits(name, gpu, catalog.gpu(gpu).hbm_bytes)
            assert limits.max_batch_tokens >= 2048
        assert batch_limits(name, "unknown", 1 * GIB).max_batch_size >= 256
