"""Mixtures of experts in the roofline: what is read, computed, exchanged, and by which rank."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.experts import (
    ALLTOALL_BANDWIDTH,
    ExpertCalibration,
    exchange_s,
    expert_calibration,
)
from simlib.latency.roofline import RooflineCalibration, RooflineLatency

FREE = RooflineCalibration(1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0)
"""Peak rates, and nothing else takes time."""
PEAK = ExpertCalibration(1.0, 1.0, 0.0)
H200 = catalog.gpu("h200_sxm")
QWEN = catalog.model("qwen3-30b-a3b")
DEEPSEEK = catalog.model("deepseek-v3")


def peak(model: catalog.Model, tp: int = 1, gpu: catalog.Gpu = H200, **settings) -> RooflineLatency:
    return RooflineLatency(model, gpu, tp, FREE, experts=PEAK, **settings)


def without_experts(model: catalog.Model) -> catalog.Model:
    """The same model if its experts took nothing: all that every token uses."""
    return replace(model, experts=model.experts, expert_ffn=1)


def expert_s(model: catalog.Model, tokens: int, tp: int = 1, **settings) -> float:
    """Seconds that routed experts add to a decode step of so many sequences."""
    both = [
        peak(one, tp, **settings).iteration_s([], tokens, 0)
        for one in (model, without_experts(model))
    ]
    return both[0] - both[1]


def test_a_token_reads_the_experts_it_uses_and_many_tokens_read_all():
    every = 2 * QWEN.expert_parameters / H200.hbm_bytes_per_s
    assert expert_s(QWEN, 1) == pytest.approx(every * 8 / 128, rel=0.01)
    assert expert_s(QWEN, 60) == pytest.approx(every, rel=0.03)


def test_the_experts_read_are_those_that_random_routing_needs():
    """Monte Carlo: k of E distinct experts for each of T tokens."""
    rng = np.random.default_rng(1)
    every = 2 * QWEN.expert_parameters / H200.hbm_bytes_per_s
    for tokens in (2, 8, 24):
        needed = np.mean(
            [len(np.unique([rng.permutation(128)[:8] for _ in range(tokens)])) for _ in range(200)]
        )
        assert expert_s(QWEN, tokens) == pytest.approx(every * needed / 128, rel=0.02)


def test_many_tokens_compute_what_their_experts_take():
    latency, tokens = peak(QWEN), 100_000
    computed = 2.0 * QWEN.active_parameters - 2.0 * QWEN.output_parameters
    attention = latency.formula.chunk(latency.parameters, tokens, 0)
    seconds = latency.iteration_s([(tokens, 0)], 0, 0) - attention
    assert seconds == pytest.approx(tokens * computed / H200.dense_bf16_flops, rel=0.01)


@pytest.mark.parametrize("whole", [False, True])
def test_gpus_share_the_experts_either_way(whole):
    settings = {"enable_expert_parallel": whole, "expert_imbalance": 1.0}
    assert expert_s(QWEN, 4, 4, **settings) == pytest.approx(expert_s(QWEN, 4) / 4, rel=0.01)


def test_the_busiest_gpu_has_whole_experts_and_more_tokens_than_the_mean():
    tokens = [(100_000, 0)]
    even, uneven = (
        peak(QWEN, 4, enable_expert_parallel=True, expert_imbalance=imbalance)
        for imbalance in (1.0, 1.5)
    )
    share = 2.0 * QWEN.expert_parameters * 8 / 128 / (4 * H200.dense_bf16_flops)
    more = uneven.iteration_s(tokens, 0, 0) - even.iteration_s(tokens, 0, 0)
    assert more == pytest.approx(100_000 * share * 0.5, rel=0.01)
    # 128 experts on 3 GPUs: 43 on the busiest
    three = replace(QWEN, heads=36)
    read = expert_s(three, 2000, 3, enable_expert_parallel=True, expert_imbalance=1.0)
    thirds = expert_s(three, 2000, 3)
    assert read > thirds


def test_experts_of_fewer_bits_are_read_faster_and_the_rest_is_not():
    half = expert_s(QWEN, 4, expert_precision="fp8")
    assert half == pytest.approx(expert_s(QWEN, 4) / 2, rel=0.01)


def test_ranks_attend_to_their_own_sequences_and_share_the_experts():
    def step(batch: int, dp: int) -> float:
        latency = peak(DEEPSEEK, precision="fp8", data_parallel_size=dp)
        return latency.iteration_s([], batch, batch * 4000)

    one, two = (
        peak(DEEPSEEK, precision="fp8"),
        peak(DEEPSEEK, precision="fp8", data_parallel_size=2),
    )
    slope = one.iteration_s([], 8, 80_000) - one.iteration_s([], 8, 40_000)
    halved = two.iteration_s([], 8, 80_000) - two.iteration_s([], 8, 40_000)
    assert halved == pytest.approx(slope / 2)
    # of 9 sequences the busiest of 2 ranks has 5
    fifth = two.iteration_s([], 9, 90_000) - two.iteration_s([], 9, 45_000)
    assert fifth == pytest.approx(slope / 8 * 45_000 / 9 * 8 / 40_000 * 5)
    assert step(1, 8) < step(1, 1)  # experts are read by 8 times as many GPUs


def test_a_prompt_is_on_one_rank_and_as_many_as_ranks_take_as_long_as_one():
    latency = peak(DEEPSEEK, precision="fp8", data_parallel_size=4, enable_expert_parallel=True)
    dense = peak(without_experts(DEEPSEEK), precision="fp8", data_parallel_size=4)
    one, four, five = (dense.iteration_s([(1000, 0)] * n, 0, 0) for n in (1, 4, 5))
    assert one == pytest.approx(four, rel=0.02)
    assert five == pytest.approx(dense.iteration_s([(1000, 0)] * 8, 0, 0), rel=0.02)
    assert latency.iteration_s([(1000, 0)], 0, 0) > one


def test_tokens_travel_to_the_gpus_of_their_experts_and_back():
    settings = {"enable_expert_parallel": True, "dispatch_bytes": 1.0, "imbalance": 1.0}
    assert exchange_s(DEEPSEEK, H200, 8, 1, **settings) == 0.0  # tokens are on all of its GPUs
    others = 7 * (1 - (7 / 8) ** 8)
    sent = others * 58 * 7168 * 3
    one = exchange_s(DEEPSEEK, H200, 1, 8, **settings)
    assert one == pytest.approx(sent / (450e9 * ALLTOALL_BANDWIDTH))
    uneven = exchange_s(DEEPSEEK, H200, 1, 8, **{**settings, "imbalance": 1.25})
    assert uneven == pytest.approx(1.25 * one)
    # beyond a node of 8 the network carries what goes there: 8 of 15 others
    wide = exchange_s(DEEPSEEK, H200, 1, 16, **settings)
    others = 15 * (1 - (15 / 16) ** 8)
    outside = others * 58 * 7168 * 3 * 8 / 15
    assert wide == pytest.approx(outside / (50e9 * ALLTOALL_BANDWIDTH))
    rack = exchange_s(DEEPSEEK, catalog.gpu("gb200"), 1, 16, **settings)
    assert rack < wide / 5
    gathered = exchange_s(DEEPSEEK, H200, 1, 8, **{**settings, "enable_expert_parallel": False})
    assert gathered == pytest.approx(7 * 58 * 7168 * 3 / (450e9 * ALLTOALL_BANDWIDTH))


def test_a_gpu_whose_network_is_not_known_stays_in_its_node():
    with pytest.raises(InvalidParameterError, match="data_parallel_size must be at most 8 GPUs"):
        exchange_s(
            DEEPSEEK,
            catalog.gpu("h20"),
            1,
            16,
            enable_expert_parallel=True,
            dispatch_bytes=1.0,
            imbalance=1.0,
        )


def test_latent_attention_reads_or_computes_whichever_takes_longer():
    """128 heads on one GPU compute: 278,528 operations for 1,152 bytes; 16 on each of 8 read."""

    def slope(tp: int) -> float:
        latency = peak(DEEPSEEK, tp, precision="fp8")
        return latency.iteration_s([], 1, 2_000_000) - latency.iteration_s([], 1, 1_000_000)

    operations = 2.0 * 61 * 128 * (2 * 512 + 64)
    assert slope(1) == pytest.approx(1e6 * operations / H200.dense_bf16_flops, rel=1e-6)
    assert slope(8) == pytest.approx(1e6 * 61 * 576 * 2 / H200.hbm_bytes_per_s, rel=1e-6)


def test_context_beyond_a_window_costs_only_the_layers_that_see_it():
    model = catalog.model("gpt-oss-20b")
    latency = peak(model)
    token = 2 * 8 * 64 * 2 / H200.hbm_bytes_per_s  # of one layer

    def step(context: int) -> float:
        return latency.iteration_s([], 1, context)

    assert step(100) - step(50) == pytest.approx(50 * 24 * token)
    assert step(5000) - step(4000) == pytest.approx(1000 * 12 * token)
    pairs = latency.formula.chunk(latency.parameters, 1000, 0)
    by_hand = sum(12 * (k + 1) + 12 * min(k + 1, 128) for k in range(1000))
    assert pairs == pytest.approx(4 * 64 * 64 * by_hand / H200.dense_bf16_flops, rel=0.01)


def test_a_run_of_steps_crosses_the_window_exactly():
    latency = peak(catalog.model("gpt-oss-20b"))
    batch, context = 3, 3 * 100 + 1
    each = [latency.iteration_s([], batch, context + k * batch) for k in range(60)]
    assert latency.decode_run_s(batch, context, 60) == pytest.approx(math.fsum(each), rel=1e-13)


LAUNCHES = {"expert_launch_s": 1e-3, "latent_launch_s": 2e-3}


@pytest.mark.parametrize(
    ("model", "launch_s"),
    [
        (catalog.model("llama-3.1-8b"), 0.0),
        (QWEN, 48 * 1e-3),
        (DEEPSEEK, 58 * 1e-3 + 61 * 2e-3),
    ],
)
def test_a_prefill_takes_at_least_the_launches_of_its_layers(model, launch_s):
    plain, launched = peak(model, 8), peak(model, 8, **LAUNCHES)
    one_token, long = [(1, 0)], [(200_000, 0)]
    assert plain.iteration_s(one_token, 0, 0) < 0.048
    least = max(launch_s, plain.iteration_s(one_token, 0, 0))
    assert launched.iteration_s(one_token, 0, 0) == pytest.approx(least, rel=1e-12)
    assert plain.iteration_s(long, 0, 0) > launch_s  # the GPUs are behind, launches are hidden
    assert launched.iteration_s(long, 0, 0) == plain.iteration_s(long, 0, 0)
    # steps that only decode are launched at once, as a graph
    assert launched.iteration_s([], 8, 8000) == plain.iteration_s([], 8, 8000)


@pytest.mark.parametrize(("model", "layers"), [(QWEN, 0), (DEEPSEEK, 61)])
def test_layers_of_latent_attention_take_their_time_in_every_iteration(model, layers):
    plain, slower = peak(model, 8), peak(model, 8, latent_step_s=1e-4)
    for iteration in (([(500, 0)], 0, 0), ([(500, 0)], 3, 3000), ([], 3, 3000)):
        more = slower.iteration_s(*iteration) - plain.iteration_s(*iteration)
        assert more == pytest.approx(layers * 1e-4, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", [*LAUNCHES, "latent_step_s"])
@pytest.mark.parametrize("seconds", [-1e-3, math.inf, math.nan])
def test_seconds_of_layers_are_finite_and_not_negative(name, seconds):
    with pytest.raises(InvalidParameterError, match=f"{name} must be finite and >= 0"):
        peak(DEEPSEEK, 8, **{name: seconds})


@pytest.mark.parametrize(
    ("model", "tp", "settings", "match"),
    [
        ("llama-3.1-8b", 1, {"data_parallel_size": 2}, "data_parallel_size must be 1: llama"),
        ("llama-3.1-8b", 1, {"enable_expert_parallel": True}, "enable_expert_parallel must be f"),
        ("mixtral-8x7b", 1, {"data_parallel_size": 0}, "data_parallel_size must be >= 1"),
        (
            "mixtral-8x7b",
            2,
            {"data_parallel_size": 8, "enable_expert_parallel": True},
            "at most the 8 experts",
        ),
        ("mixtral-8x7b", 1, {"expert_imbalance": 0.5}, "expert_imbalance must be >= 1"),
        ("mixtral-8x7b", 1, {"expert_precision": "int3"}, "expert_precision must be one of"),
    ],
)
def test_what_a_model_cannot_have_is_refused(model, tp, settings, match):
    settings = {"enable_expert_parallel": "expert_imbalance" in settings, **settings}
    with pytest.raises(InvalidParameterError, match=match):
        RooflineLatency.from_catalog(model, "h100_sxm", tp, **settings)


def test_efficiencies_are_those_of_the_gpu_or_of_all():
    h20, mi300x, hopper = (catalog.gpu(name) for name in ("h20", "mi300x", "h100_sxm"))
    for precision in catalog.BYTES_PER_PARAMETER:
        default = expert_calibration(h20, precision)
        assert default == expert_calibration(mi300x, precision)
        own = expert_calibration(hopper, precision)
        assert own != default
        assert 0 < own.mfu <= 1
        assert 0 < own.weight_bandwidth <= 1
    # weights of 4 bits are unpacked before Blackwell, and on it computed with
    assert expert_calibration(hopper, "fp4") == expert_calibration(hopper, "int4")
    blackwell = catalog.gpu("b200_sxm")
    assert expert_calibration(blackwell, "fp4") != expert_calibration(blackwell, "int4")
