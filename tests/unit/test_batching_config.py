"""The configuration of batching deployments: round trips, and refusals that name the key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.core.config import SimConfig
from simlib.core.records import Status, ttft_parts, ttft_s
from simlib.core.summary import summarise
from simlib.errors import InvalidParameterError
from simlib.policies.batching import BATCH_POLICIES
from simlib.serving.assemble import deployment_of
from simlib.study.jobs.simulate import simulate
from simlib.study.plan.identity import point_id

KNOWN_ID = "67a50214f474c233"
NAN, INF = float("nan"), float("inf")


def config(mode: str = "mono", **sections: object) -> SimConfig:
    return SimConfig.from_dict({"serving": "batching", "mode": mode, **sections})


# ------------------------------------------------------------------ round trip

POOLS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(1, 64),
        "gpu": st.sampled_from(["h100_sxm", "a100_sxm", "l40s"]),
        "tensor_parallel": st.sampled_from([1, 2, 4, 8]),
        "kv_capacity_tokens": st.none() | st.integers(16, 10**7),
        "max_batch_tokens": st.integers(2048, 10**5),
        "max_batch_size": st.integers(1, 2048),
        "policy": st.sampled_from(list(BATCH_POLICIES)),
        "router": st.sampled_from(["round_robin", "random", "least_tokens", "power_of_two"]),
    },
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "latency": st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(["roofline", "affine", "aiconfigurator"]),
                "precision": st.sampled_from(["bf16", "fp8"]),
                "engine": st.none() | st.sampled_from(["vllm", "sglang", "trtllm"]),
                "step_overhead_s": st.floats(0, 1),
                "sequence_overhead_s": st.floats(0, 1),
            },
        ),
        "batching_mono": st.fixed_dictionaries(
            {}, optional={"pool": POOLS, "first_token": st.sampled_from(["prefill", "decode"])}
        ),
        "batching_disagg": st.fixed_dictionaries(
            {},
            optional={
                "prefill": POOLS,
                "decode": POOLS,
                "link": st.fixed_dictionaries(
                    {},
                    optional={
                        "bandwidth_bytes_per_s": st.floats(1, 1e15),
                        "base_latency_s": st.floats(0, 10),
                        "scope": st.sampled_from(["per_replica", "shared"]),
                        "contention": st.sampled_from(["fifo", "fair"]),
                        "overlap_layers": st.integers(0, 200),
                    },
                ),
            },
        ),
    },
)


@given(sections=SECTIONS)
def test_a_configuration_read_back_is_equal_and_keeps_what_was_given(sections):
    read = config(**sections)
    written = read.to_dict()
    assert SimConfig.from_dict(written) == read
    for name, section in sections.items():
        for key, value in section.items():
            if isinstance(value, dict):
                assert {inner: written[name][key][inner] for inner in value} == value
            else:
                assert written[name][key] == value


@given(sections=SECTIONS)
def test_gpus_are_replicas_times_tensor_parallelism(sections):
    read = config(**sections)
    pool, prefill, decode = (
        read.batching_mono.pool,
        read.batching_disagg.prefill,
        read.batching_disagg.decode,
    )
    assert read.batching_mono.total_gpus == pool.replicas * pool.tensor_parallel
    assert read.batching_disagg.gpus_by_pool == {
        "prefill": prefill.replicas * prefill.tensor_parallel,
        "decode": decode.replicas * decode.tensor_parallel,
    }
    assert read.batching_disagg.total_gpus == sum(read.batching_disagg.gpus_by_pool.values())


def test_both_deployments_have_8_gpus_by_default():
    assert SimConfig().batching_mono.total_gpus == SimConfig().batching_disagg.total_gpus == 8


@pytest.mark.parametrize("key", ["gpu", "max_batch_size"])
def test_a_key_that_is_given_leaves_the_defaults_of_the_others(key):
    """As with lengths: half a section is not another section."""
    value = {"gpu": "h200_sxm", "max_batch_size": 64}[key]
    default = SimConfig().to_dict()["batching_mono"]["pool"]
    assert config(batching_mono={"pool": {key: value}}).to_dict()["batching_mono"]["pool"] == {
        **default,
        key: value,
    }


# ------------------------------------------------------------------ refusals


def nested(dotted: str, value: object) -> dict:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


MALFORMED = [
    ("serving", "batch", "one of token_rate, batching"),
    ("latency.kind", "lookup", "one of roofline, affine, aiconfigurator, table"),
    ("latency.model", 70, "a text"),
    ("latency.precision", "int3", "one of bf16, fp8, fp4, int4"),
    ("latency.step_overhead_s", -1e-3, ">= 0"),
    ("latency.step_overhead_s", "1 ms", "a finite number"),
    ("latency.step_overhead_s", NAN, ""),  # neither above nor below anything
    ("latency.sequence_overhead_s", INF, "a finite number"),
    ("latency", "roofline", "a mapping of keys to values"),
    ("batching_mono.pool", 2, "a mapping of keys to values"),
    ("batching_mono.pool.replicas", 0, ">= 1"),
    ("batching_mono.pool.replicas", 1.5, "a whole number"),
    ("batching_mono.pool.replicas", True, "a number"),
    ("batching_mono.pool.gpu", 100, "a text"),
    ("batching_mono.pool.tensor_parallel", -4, ">= 1"),
    ("batching_mono.pool.kv_capacity_tokens", 0, ">= 1"),
    ("batching_mono.pool.kv_capacity_tokens", 15, "at least one block of 16 tokens"),
    ("batching_mono.pool.max_batch_tokens", 255, ">= max_batch_size (256) with chunked_prefill"),
    ("batching_mono.pool.max_batch_size", 0, ">= 1"),
    ("batching_mono.pool.max_batch_size", "many", "a whole number"),
    (
        "batching_mono.pool.policy",
        "chunked",
        "one of chunked_prefill, prefill_first, chunks_first, whole_prompts",
    ),
    ("batching_mono.pool.discipline", "lifo", "one of fcfs, sjf"),
    (
        "batching_mono.pool.router",
        "robin",
        "one of round_robin, random, least_requests, least_tokens, power_of_two",
    ),
    ("batching_mono.first_token", "both", "one of prefill, decode"),
    ("batching_disagg.prefill.replicas", None, "a whole number"),
    ("batching_disagg.prefill.max_batch_tokens", -1, ">= 1"),
    ("batching_disagg.decode.discipline", "sjf", "fcfs"),
    ("batching_disagg.decode.kv_capacity_tokens", "all", "a whole number"),
    ("batching_disagg.link.bandwidth_bytes_per_s", 0, "> 0"),
    ("batching_disagg.link.bandwidth_bytes_per_s", INF, "a finite number"),
    ("batching_disagg.link.base_latency_s", -0.1, ">= 0"),
    ("batching_disagg.link.scope", "node", "one of per_replica, shared"),
    ("batching_disagg.link.contention", "none", "one of fifo, fair"),
    ("batching_disagg.link.overlap_layers", -1, ">= 0"),
    ("batching_disagg.link", [], "a mapping of keys to values"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), MALFORMED)
def test_a_bad_value_is_told_with_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(InvalidParameterError) as caught:
        SimConfig.from_dict(nested(key, value))
    message = str(caught.value)
    assert message.startswith(f"{key} must be ")
    assert allowed in message
    assert f"got {value!r}" in message


UNKNOWN = [
    ("servin", "serving"),
    ("batching", "batching_mono"),
    ("latency.overhead_s", "step_overhead_s"),
    ("latency.kin", "kind"),
    ("batching_mono.pools", "pool"),
    ("batching_mono.replicas", None),
    ("batching_mono.pool.replica", "replicas"),
    ("batching_mono.pool.tensor_paralel", "tensor_parallel"),
    ("batching_mono.pool.max_num_seqs", None),
    ("batching_mono.link", None),
    ("batching_disagg.pool", None),
    ("batching_disagg.prefil", "prefill"),
    ("batching_disagg.decode.kv_capacity", "kv_capacity_tokens"),
    ("batching_disagg.link.bandwidth", "bandwidth_bytes_per_s"),
]


@pytest.mark.parametrize(("key", "nearest"), UNKNOWN)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, nearest):
    with pytest.raises(InvalidParameterError) as caught:
        SimConfig.from_dict(nested(key, 1))
    message = str(caught.value)
    assert message.startswith(f"{key} must be a known key")
    if nearest:
        assert f"did you mean {nearest!r}?" in message


def test_whole_prompts_may_exceed_the_tokens_of_a_batch():
    """vLLM V0 takes the first prompt whatever its length, so there the sizes are free."""
    pool = {"policy": "prefill_first", "max_batch_tokens": 64}
    assert config(batching_mono={"pool": pool}).batching_mono.pool.max_batch_tokens == 64


def test_a_closed_loop_needs_batching():
    with pytest.raises(InvalidParameterError, match="serving must be batching"):
        SimConfig.from_dict({"arrival": {"kind": "closed_loop"}})


# ------------------------------------------------------------------ from values to a deployment


def test_a_deployment_has_the_values_of_its_configuration():
    pool = {
        "replicas": 3,
        "max_batch_tokens": 4096,
        "max_batch_size": 32,
        "policy": "prefill_first",
    }
    read = config(batching_mono={"pool": pool, "first_token": "decode"})
    deployed = deployment_of(read.batching, read.latency)
    assert deployed.decode is None
    assert deployed.first_token == "decode"
    assert deployed.entry.settings == read.batching_mono.pool
    for key, value in pool.items():
        assert getattr(deployed.entry.settings, key) == value


def test_a_capacity_that_is_given_replaces_that_of_the_memory():
    read = config("disagg", batching_disagg={"decode": {"kv_capacity_tokens": 999}})
    deployed = deployment_of(read.batching, read.latency)
    assert deployed.decode.capacity_blocks == 999 // 16
    assert deployed.entry.capacity_blocks > 100_000 // 16


def test_blocks_may_be_given_as_vllm_reports_them():
    pool = {"num_gpu_blocks_override": 77, "block_size": 32}
    read = config(batching_mono={"pool": pool})
    assert deployment_of(read.batching, read.latency).entry.capacity_blocks == 77
    with pytest.raises(InvalidParameterError, match="num_gpu_blocks_override must be left out"):
        config(batching_mono={"pool": {**pool, "kv_capacity_tokens": 999}})


@pytest.mark.parametrize("kind", ["roofline", "affine"])
def test_fp8_caches_hold_twice_the_tokens_and_are_read_in_half_the_time(kind):
    def entry(**latency: str):
        read = config(latency={"kind": kind, **latency})
        return deployment_of(read.batching, read.latency).entry

    half, whole = entry(kv_cache_dtype="fp8"), entry()
    assert half.capacity_blocks == pytest.approx(2 * whole.capacity_blocks, abs=2)
    assert half.latency.kv_bytes_per_token == whole.latency.kv_bytes_per_token / 2
    growth = [
        pool.latency.iteration_s([], 8, 80_000) - pool.latency.iteration_s([], 8, 8)
        for pool in (half, whole)
    ]
    assert growth[0] == pytest.approx(growth[1] / 2)
    assert half.latency.iteration_s([], 8, 0) == whole.latency.iteration_s([], 8, 0)


def test_measured_kernels_have_16_bit_caches():
    read = config(latency={"kind": "aiconfigurator", "kv_cache_dtype": "fp8"})
    with pytest.raises(InvalidParameterError, match=r"latency\.kv_cache_dtype must be bf16"):
        deployment_of(read.batching, read.latency)


def test_new_keys_at_their_defaults_leave_a_point_its_identity():
    """The id that this configuration had before there were these keys."""
    assert point_id(config()) == KNOWN_ID
    changed = [
        config(latency={"kv_cache_dtype": "fp8"}),
        config(batching_mono={"pool": {"num_gpu_blocks_override": 9}}),
        config(batching_mono={"pool": {"block_size": 32}}),
        config(batching_mono={"front_end": {"request_s": 0.003}}),
    ]
    assert len({KNOWN_ID, *map(point_id, changed)}) == 5


MIXTURE = {"model": "deepseek-v3", "precision": "fp8"}
RANKS = {"gpu": "h200_sxm", "tensor_parallel": 1, "data_parallel_size": 8}


def test_ranks_count_as_gpus_everywhere():
    wide = {**RANKS, "replicas": 2, "enable_expert_parallel": True}
    read = config(
        "disagg",
        latency=MIXTURE,
        batching_disagg={"prefill": {**RANKS, "tensor_parallel": 2}, "decode": wide},
    )
    assert read.batching.gpus_by_pool == {"prefill": 16, "decode": 16}
    assert read.batching.total_gpus == 32


def test_settings_of_the_scheduler_and_the_cache_are_those_of_a_rank():
    read = config(latency=MIXTURE, batching_mono={"pool": {**RANKS, "max_batch_size": 64}})
    pool = deployment_of(read.batching, read.latency).entry
    assert pool.max_batch_size == 8 * 64
    assert pool.max_batch_tokens == 8 * 8192
    assert pool.capacity_blocks == 8 * pool.rank_blocks
    given = {**RANKS, "num_gpu_blocks_override": 77}
    read = config(latency=MIXTURE, batching_mono={"pool": given})
    assert deployment_of(read.batching, read.latency).entry.capacity_blocks == 8 * 77


def test_a_request_must_fit_one_rank():
    pool = {**RANKS, "kv_capacity_tokens": 160, "replicas": 1}
    read = config(
        latency=MIXTURE,
        batching_mono={"pool": pool},
        prompt_tokens={"mode": "fixed", "value": 200},
        output_tokens={"mode": "fixed", "value": 2},
        sim_seconds=20,
        warmup_seconds=1,
    )
    records = simulate(read)
    assert len(records) > 10
    assert (records.status == Status.REJECTED).all()


def test_busy_time_of_a_replica_is_that_of_all_its_gpus():
    pool = {**RANKS, "replicas": 1}
    read = config(latency=MIXTURE, batching_mono={"pool": pool}, sim_seconds=60, warmup_seconds=5)
    found = summarise(simulate(read), read)
    assert 0.5 < found["utilization_gpu"] <= 1.0


def test_experts_and_ranks_make_another_point():
    changes = [
        {"latency": {**MIXTURE, "expert_precision": "fp4"}},
        {"latency": {**MIXTURE, "expert_imbalance": 1.5}},
        {"latency": {**MIXTURE, "expert_launch_s": 1e-3}},
        {"latency": {**MIXTURE, "latent_launch_s": 1e-3}},
        {"latency": {**MIXTURE, "latent_step_s": 1e-4}},
        {"batching_mono": {"pool": {"data_parallel_size": 2}}},
        {"batching_mono": {"pool": {"enable_expert_parallel": True}}},
    ]
    ids = {point_id(config(**{"latency": MIXTURE, **change})) for change in ({}, *changes)}
    assert len(ids) == 1 + len(changes)


@pytest.mark.parametrize("kind", ["affine", "aiconfigurator"])
def test_kinds_that_do_not_know_ranks_refuse_them(kind):
    read = config(latency={"kind": kind}, batching_mono={"pool": RANKS})
    with pytest.raises(InvalidParameterError, match=r"pool.data_parallel_size must be 1"):
        deployment_of(read.batching, read.latency)


def test_a_dense_model_has_no_ranks():
    read = config(batching_mono={"pool": {**RANKS, "tensor_parallel": 4}})
    with pytest.raises(InvalidParameterError, match=r"pool.data_parallel_size must be 1: llama"):
        deployment_of(read.batching, read.latency)


def test_tables_of_kernels_depend_on_what_is_new_only_where_it_is_given():
    plain = config(latency={"kind": "aiconfigurator"})
    pool = plain.batching_mono.pool
    assert set(plain.latency.table_request(pool)) == {
        "model", "gpu", "tensor_parallel", "precision",
    }  # fmt: skip
    more = config(
        latency={"kind": "aiconfigurator", "backend": "sglang", "expert_precision": "fp8"},
        batching_mono={"pool": {"enable_expert_parallel": True}},
    )
    request = more.latency.table_request(more.batching_mono.pool)
    assert request["backend"] == "sglang"
    assert request["expert_parallel"] == 4
    assert request["expert_precision"] == "fp8"


def test_overheads_lengthen_every_step():
    def step_s(**latency: float) -> float:
        read = config(latency=latency)
        return deployment_of(read.batching, read.latency).entry.latency.iteration_s([], 8, 800)

    both = step_s(step_overhead_s=0.25, sequence_overhead_s=0.125)
    assert both - step_s() == pytest.approx(0.25 + 8 * 0.125)


IMPOSSIBLE = [
    ({"batching_mono": {"pool": {"gpu": "h900"}}}, "batching_mono.pool.gpu", "h100_sxm"),
    ({"latency": {"model": "gpt-x"}}, "latency.model", "llama-3.1-70b"),
    (
        {"batching_mono": {"pool": {"tensor_parallel": 1}}},
        "batching_mono.pool.tensor_parallel",
        "enough GPUs: llama-3.1-70b needs 141.1 GB",
    ),
    (
        {"batching_mono": {"pool": {"tensor_parallel": 3}}},
        "batching_mono.pool.tensor_parallel",
        "a divisor of the 64 attention heads",
    ),
    (
        {
            "latency": {"precision": "fp8"},
            "batching_mono": {"pool": {"gpu": "a100_sxm"}},
        },
        "latency.precision",
        "one the GPU supports",
    ),
    (
        {"latency": {"kind": "affine", "model": "opt-13b"}},
        "latency.model on batching_mono.pool",
        "one with fitted coefficients",
    ),
]


@pytest.mark.parametrize(("sections", "key", "allowed"), IMPOSSIBLE)
def test_what_the_catalog_lacks_or_cannot_hold_is_refused_with_the_key(sections, key, allowed):
    read = config(**sections)
    with pytest.raises(InvalidParameterError) as caught:
        deployment_of(read.batching, read.latency)
    assert str(caught.value).startswith(f"{key} must be ")
    assert allowed in str(caught.value)


def test_the_pool_at_fault_is_named():
    read = config("disagg", batching_disagg={"decode": {"gpu": "l4"}})
    with pytest.raises(InvalidParameterError, match=r"^batching_disagg\.decode\.tensor_parallel "):
        deployment_of(read.batching, read.latency)


def test_tables_of_measured_kernels_are_named_by_all_that_changes_them():
    base = config(latency={"kind": "aiconfigurator", "model": "org/name"})
    pool = base.batching_mono.pool
    names = {
        base.latency.table_name(pool),
        base.latency.table_name(pool.model_copy(update={"gpu": "l40s"})),
        base.latency.table_name(pool.model_copy(update={"tensor_parallel": 2})),
        base.latency.model_copy(update={"precision": "fp8"}).table_name(pool),
        base.latency.model_copy(update={"model": "org/other"}).table_name(pool),
    }
    assert len(names) == 5
    assert base.latency.table_name(pool.model_copy(update={"replicas": 9})) in names


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_a_front_end_of_the_configuration_is_the_first_part_of_ttft(mode):
    settings = {
        "sim_seconds": 30.0,
        "warmup_seconds": 0.0,
        f"batching_{mode}": {"front_end": {"request_s": 0.25, "token_s": 1e-5, "workers": 2}},
    }
    fast, simpy = (
        simulate(config(mode, engine=engine, **settings)) for engine in ("fast", "simpy")
    )
    for name, column in fast.columns().items():
        np.testing.assert_allclose(column, getattr(simpy, name), rtol=1e-9, err_msg=name)
    parts = ttft_parts(fast)
    service_s = 0.25 + 1e-5 * fast.prompt_tokens
    assert (parts["front_end_s"] >= service_s - 1e-12).all()
    assert (parts["front_end_s"] > service_s + 1e-3).any(), "some wait for a worker"
    np.testing.assert_allclose(sum(parts.values()), ttft_s(fast), rtol=1e-12)
