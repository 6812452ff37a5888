"""The SimPy simulators as small stories, and the functions around them."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import simpy

from simlib.core import simulator as module
from simlib.core.config import ClusterDisagg, ClusterMonolithic, SimConfig
from simlib.core.records import TTFT_DEFINITIONS
from simlib.core.simulator import (
    DEFAULT_RANDOM_SEED,
    DEFAULT_SIM_SECONDS,
    DEFAULT_WARMUP_SECONDS,
    DisaggregatedSimulator,
    Metrics,
    MonolithicSimulator,
    Request,
    lognormal_tokens,
    poisson_interarrival_time,
    run_simulation,
    serve,
)
from simlib.errors import InvalidParameterError
from simlib.workload.requests import Requests

EVENTS = {
    "prefill_start_s": "starts prefill",
    "prefill_end_s": "ends prefill",
    "transfer_end_s": "reaches the decode side",
    "decode_start_s": "starts decode",
    "first_token_s": "first token",
    "finish_s": "finishes",
}


def tell(make_simulator, *requests: Request) -> tuple[list[str], Metrics]:
    """Run the requests and return what happened as "time: request event", in order."""
    env = simpy.Environment()
    metrics = Metrics()
    simulator = make_simulator(env)

    def source():
        for request in requests:
            yield env.timeout(request.arrival_time - env.now)
            env.process(simulator.process(request, metrics))

    env.process(source())
    env.run()
    metrics.finalize(env.now)
    log = [
        (getattr(stamps, name), order, request_id, text)
        for request_id, stamps in metrics.stamps.items()
        for order, (name, text) in enumerate(EVENTS.items())
        if name != "transfer_end_s" or stamps.transfer_end_s > stamps.transfer_start_s
    ]
    return [f"{time:g}: {request_id} {text}" for time, _, request_id, text in sorted(log)], metrics


def test_one_gpu_serves_two_requests_one_after_the_other():
    # prefill 4 tokens at 2/s = 2 s, decode 3 tokens at 1/s = 3 s
    log, metrics = tell(
        lambda env: MonolithicSimulator(env, 1, 2.0, 1.0),
        Request(0, 0.0, 4, 3),
        Request(1, 1.0, 2, 1),
    )
    assert log == [
        "0: 0 starts prefill",
        "2: 0 ends prefill",
        "2: 0 starts decode",
        "3: 0 first token",
        "5: 1 starts prefill",
        "5: 0 finishes",
        "6: 1 ends prefill",
        "6: 1 starts decode",
        "7: 1 first token",
        "7: 1 finishes",
    ]
    assert metrics.ttft_values == [3.0, 6.0]
    assert metrics.ttft_times == [3.0, 7.0]
    assert (metrics.completed, metrics.dropped, metrics.end_time) == (2, 0, 7.0)
    assert metrics.gpu_seconds == {"gpu": 7.0}


def test_two_gpus_serve_two_requests_side_by_side():
    log, _ = tell(
        lambda env: MonolithicSimulator(env, 2, 2.0, 1.0),
        Request(0, 0.0, 4, 1),
        Request(1, 1.0, 2, 1),
    )
    assert log == [
        "0: 0 starts prefill",
        "1: 1 starts prefill",
        "2: 0 ends prefill",
        "2: 1 ends prefill",
        "2: 0 starts decode",
        "2: 1 starts decode",
        "3: 0 first token",
        "3: 1 first token",
        "3: 0 finishes",
        "3: 1 finishes",
    ]


def test_disaggregated_overlaps_one_prefill_with_the_decode_of_another():
    log, metrics = tell(
        lambda env: DisaggregatedSimulator(env, 1, 1, 2.0, 1.0),
        Request(0, 0.0, 4, 3),
        Request(1, 1.0, 2, 1),
    )
    assert log == [
        "0: 0 starts prefill",
        "2: 1 starts prefill",
        "2: 0 ends prefill",
        "2: 0 starts decode",
        "3: 1 ends prefill",
        "3: 0 first token",
        "5: 1 starts decode",
        "5: 0 finishes",
        "6: 1 first token",
        "6: 1 finishes",
    ]
    assert metrics.ttft_values == [3.0, 5.0]
    assert metrics.gpu_seconds == {"prefill": 3.0, "decode": 4.0}


def test_transfer_holds_no_gpu_and_slows_no_other_transfer():
    # transfer: 1 s + 0.5 s a token = 3 s for request 0, 2 s for request 1
    log, metrics = tell(
        lambda env: DisaggregatedSimulator(
            env, 1, 1, 2.0, 1.0, kv_base_latency_s=1.0, transfer_s_per_token=0.5
        ),
        Request(0, 0.0, 4, 3),
        Request(1, 0.0, 2, 2),
    )
    assert log == [
        "0: 0 starts prefill",
        "2: 1 starts prefill",
        "2: 0 ends prefill",
        "3: 1 ends prefill",
        "5: 0 reaches the decode side",
        "5: 1 reaches the decode side",
        "5: 0 starts decode",
        "6: 0 first token",
        "8: 1 starts decode",
        "8: 0 finishes",
        "9: 1 first token",
        "10: 1 finishes",
    ]
    assert metrics.gpu_seconds == {"prefill": 3.0, "decode": 5.0}


def test_decode_serves_in_order_of_transfer_end_and_not_of_arrival():
    # request 1 has the shorter prompt and overtakes request 0 on the second prefill GPU
    log, _ = tell(
        lambda env: DisaggregatedSimulator(env, 2, 1, 1.0, 1.0),
        Request(0, 0.0, 5, 1),
        Request(1, 1.0, 1, 4),
    )
    assert log == [
        "0: 0 starts prefill",
        "1: 1 starts prefill",
        "2: 1 ends prefill",
        "2: 1 starts decode",
        "3: 1 first token",
        "5: 0 ends prefill",
        "6: 0 starts decode",
        "6: 1 finishes",
        "7: 0 first token",
        "7: 0 finishes",
    ]


@pytest.mark.parametrize(
    "build",
    [
        lambda env: MonolithicSimulator(env, 0, 1.0, 1.0),
        lambda env: MonolithicSimulator(env, 1, -1.0, 1.0),
        lambda env: DisaggregatedSimulator(env, 1, 0, 1.0, 1.0),
        lambda env: DisaggregatedSimulator(env, 1, 1, 1.0, 0.0),
        lambda env: DisaggregatedSimulator(env, 1, 1, 1.0, 1.0, kv_base_latency_s=-1.0),
        lambda env: DisaggregatedSimulator(env, 1, 1, 1.0, 1.0, transfer_s_per_token=np.inf),
    ],
)
def test_simulators_refuse_impossible_pools(build):
    with pytest.raises(InvalidParameterError, match="must be >"):
        build(simpy.Environment())


def test_metrics_by_hand():
    metrics = Metrics()
    for arrival, ttft in [(0.0, 0.5), (5.0, 1.5), (10.0, 2.0), (12.0, 4.0)]:
        metrics.add_ttft(ttft, arrival + ttft)
        metrics.mark_completed()
    metrics.finalize(20.0, arrived=5)
    everything, late = metrics.summary(), metrics.summary(10.0)
    assert everything["num_samples"] == 4
    assert everything["mean_ttft_s"] == 2.0
    assert everything["p50_ttft_s"] == 1.75
    # a request counts by its arrival: the one that arrives at the warm-up's end does
    assert late["num_samples"] == 2
    assert late["mean_ttft_s"] == 3.0
    assert (late["completed"], late["dropped"], late["elapsed_s"]) == (4, 1, 20.0)


def test_metrics_without_samples_have_no_percentiles():
    metrics = Metrics()
    metrics.finalize(1.0)
    summary = metrics.summary(0.0)
    assert (summary["num_samples"], summary["dropped"]) == (0, 0)
    assert np.isnan(summary["p99_ttft_s"])


def test_metrics_used_without_a_simulator_drop_nothing():
    metrics = Metrics()
    metrics.mark_completed()
    metrics.finalize(1.0)
    assert (metrics.completed, metrics.dropped) == (1, 0)


def test_metrics_share_no_state():
    first, second = Metrics(), Metrics()
    first.add_ttft(1.0, 1.0)
    first.add_gpu_seconds("gpu", 1.0)
    assert (second.ttft_values, second.gpu_seconds) == ([], {})


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: poisson_interarrival_time(2.0, rng),
        lambda rng: lognormal_tokens(6.0, 1.0, 8, rng),
    ],
)
def test_draws_come_from_the_given_rng_and_nothing_else(draw):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - it is what must not be used
    ours, twin = np.random.default_rng(5), np.random.default_rng(5)
    first = [draw(ours) for _ in range(5)]
    assert first == [draw(twin) for _ in range(5)]
    assert len(set(first)) == 5
    assert ours.bit_generator.state == twin.bit_generator.state
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_interarrival_times_have_mean_and_deviation_of_one_over_the_rate():
    rng = np.random.default_rng(0)
    gaps = np.array([poisson_interarrival_time(4.0, rng) for _ in range(20_000)])
    assert abs(gaps.mean() - 0.25) < 4 * 0.25 / np.sqrt(len(gaps))
    # the standard error of an exponential's variance is variance * sqrt(8 / n)
    assert abs(gaps.var() - 0.0625) < 4 * 0.0625 * np.sqrt(8 / len(gaps))


def test_drawn_lengths_are_whole_clipped_and_lognormal():
    rng = np.random.default_rng(0)
    draws = [lognormal_tokens(6.0, 0.5, 300, rng) for _ in range(5000)]
    assert all(type(draw) is int for draw in draws)
    assert min(draws) == 300
    # the median is above the clip, so clipping does not move it; its standard error in log space
    # is sigma sqrt(pi / 2n)
    error = 0.5 * np.sqrt(np.pi / (2 * len(draws)))
    assert abs(np.log(np.median(draws)) - 6.0) < 4 * error + 0.5 / np.exp(6.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_interarrival_time_refuses_rates_that_are_none(rate):
    with pytest.raises(InvalidParameterError, match="rate_per_s must be > 0"):
        poisson_interarrival_time(rate, np.random.default_rng(0))


def test_lognormal_tokens_refuses_a_negative_sigma():
    with pytest.raises(InvalidParameterError, match=r"sigma must be >= 0, got -1.0"):
        lognormal_tokens(6.0, -1.0, 8, np.random.default_rng(0))


def test_default_constants():
    assert (DEFAULT_RANDOM_SEED, DEFAULT_SIM_SECONDS, DEFAULT_WARMUP_SECONDS) == (42, 600.0, 60.0)


def test_every_public_name_exists():
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_positional_order_of_run_simulation_is_the_promised_one():
    parameters = inspect.signature(run_simulation).parameters.values()
    positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == [
        "mode",
        "sim_seconds",
        "warmup_seconds",
        "random_seed",
        "arrival_rate_per_s",
        "prompt_lognormal",
        "output_lognormal",
        "mono_params",
        "disagg_params",
    ]


ARGUMENTS = (120.0, 10.0, 7, 6.0, (6.0, 0.9, 8), (6.0, 1.1, 16))
COMMON = {
    "num_samples",
    "mean_ttft_s",
    "p50_ttft_s",
    "p90_ttft_s",
    "p99_ttft_s",
    "elapsed_s",
    "mode",
    "throughput_rps",
}


def test_run_simulation_mono_has_the_promised_keys():
    metrics, statistics = run_simulation("mono", *ARGUMENTS, mono_params=(3, 8000.0, 2000.0))
    assert COMMON | {"utilization_gpu", "num_gpus"} <= set(statistics)
    assert (statistics["mode"], statistics["num_gpus"]) == ("mono", 3)
    assert isinstance(metrics, Metrics)


def test_run_simulation_disagg_has_the_promised_keys():
    _, statistics = run_simulation("disagg", *ARGUMENTS, disagg_params=(1, 3, 8000.0, 2000.0))
    pools = {"utilization_prefill", "utilization_decode", "prefill_gpus", "decode_gpus"}
    assert COMMON | pools <= set(statistics)
    assert (statistics["prefill_gpus"], statistics["decode_gpus"]) == (1, 3)


def test_run_simulation_without_parameters_takes_the_default_clusters():
    for mode, parameters in (("mono", (4, 8e3, 2e3)), ("disagg", (2, 2, 8e3, 2e3))):
        named = run_simulation(mode, *ARGUMENTS, **{f"{mode}_params": parameters})[1]
        assert run_simulation(mode, *ARGUMENTS)[1] == named


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_statistics_agree_with_the_raw_metrics(mode):
    metrics, statistics = run_simulation(mode, *ARGUMENTS)
    summary = metrics.summary(ARGUMENTS[1])
    assert summary["num_samples"] == statistics["num_samples"]
    for name in ("mean_ttft_s", "p50_ttft_s", "p90_ttft_s", "p99_ttft_s", "elapsed_s"):
        assert summary[name] == pytest.approx(statistics[name], rel=1e-12)


def roughly(a, b) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-9, abs=1e-9, nan_ok=True)
    return a == b


@pytest.mark.parametrize("definition", TTFT_DEFINITIONS)
@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_both_engines_give_the_same_statistics_and_metrics(mode, drain, definition):
    runs = [
        run_simulation(mode, *ARGUMENTS, engine=engine, drain=drain, ttft_definition=definition)
        for engine in ("simpy", "fast")
    ]
    (slow, slow_statistics), (fast, fast_statistics) = runs
    assert slow_statistics.keys() == fast_statistics.keys()
    for name, value in slow_statistics.items():
        assert roughly(value, fast_statistics[name]), name
    assert slow.ttft_values == pytest.approx(fast.ttft_values, abs=1e-9)
    assert slow.ttft_times == pytest.approx(fast.ttft_times, abs=1e-9)
    assert (slow.completed, slow.dropped) == (fast.completed, fast.dropped)
    assert slow.end_time == pytest.approx(fast.end_time, abs=1e-9)
    assert slow.gpu_seconds == pytest.approx(fast.gpu_seconds, abs=1e-6)
    if not drain:
        assert slow.dropped > 0


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_busy_gpu_seconds_of_a_cut_run_include_work_in_progress(mode):
    requests = Requests(np.zeros(4), np.full(4, 1000), np.full(4, 1000))
    config = SimConfig(
        mode=mode,
        sim_seconds=1.0,
        warmup_seconds=0.0,
        drain=False,
        cluster_mono=ClusterMonolithic(num_gpus=2, prefill_tokens_per_s=2000.0),
        cluster_disagg=ClusterDisagg(
            prefill_gpus=1,
            decode_gpus=1,
            prefill_tokens_per_s=4000.0,
            decode_tokens_per_s=800.0,
        ),
    )
    _, metrics = serve(requests, config)
    # disagg: four prefills of 0.25 s; the first decode runs from 0.25 s to past the end
    expected = {"gpu": 2.0} if mode == "mono" else {"prefill": 1.0, "decode": 0.75}
    assert metrics.gpu_seconds == pytest.approx(expected, abs=1e-12)


def test_replicates_of_a_run_differ_and_repeat():
    runs = [run_simulation("mono", *ARGUMENTS, replicate=r)[1]["mean_ttft_s"] for r in (0, 1, 0)]
    assert runs[0] == runs[2] != runs[1]


def test_a_request_is_a_frozen_value():
    request = Request(request_id=1, arrival_time=0.5, prompt_tokens=10, output_tokens=20)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.prompt_tokens = 11
