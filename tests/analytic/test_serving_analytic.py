"""The batching engine against queueing theory and closed forms."""

import numpy as np
import pytest

from simlib.latency.linear import LinearLatency
from simlib.serving.deployment import Pool, disaggregated, monolithic
from simlib.serving.engine import simulate
from simlib.serving.timeline import Timeline
from simlib.stats.intervals import mean_interval
from simlib.stats.queueing import md1_mean_wait_s, mg1_mean_wait_s
from simlib.workload.requests import Requests
from tests.serving import a_link, at_once

ROOM = 10_000_000
FAST_LINK = a_link(1e12)


def poisson(rate_per_s, prompt, output, seed):
    rng = np.random.default_rng(seed)
    n = len(prompt)
    return Requests(np.cumsum(rng.exponential(1 / rate_per_s, n)), prompt, output)


def one_at_a_time(latency):
    return Pool.of(latency, ROOM, max_batch_size=1, max_batch_tokens=100_000)


def apart(prefill, decode=None):
    return disaggregated(prefill, decode or Pool.of(LinearLatency(1e-6), ROOM), FAST_LINK)


def mean_waits(rate_per_s, deployment, prompts_of, replicates=12, n=15_000):
    waits = []
    for seed in range(replicates):
        prompt = prompts_of(np.random.default_rng(1_000 + seed), n)
        records = simulate(poisson(rate_per_s, prompt, np.ones(n, np.int64), seed), deployment)
        waits.append((records.prefill_start_s - records.arrival_s)[1_000:].mean())
    return mean_interval(np.array(waits), 0.999)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_prefill_pool_with_fixed_steps_is_m_d_1(load):
    interval = mean_waits(
        load, apart(one_at_a_time(LinearLatency(1.0))), lambda _, n: np.ones(n, np.int64)
    )
    assert interval.contains(md1_mean_wait_s(load, 1.0))
    assert interval.relative_half_width < 0.1


def test_prefill_pool_with_mixed_lengths_is_m_g_1():
    """Prompts of 1 or 9 tokens, 0.5 s a token and 0.5 s a step: service of 1 s or 5 s."""
    service = np.array([1.0, 5.0])
    load = 0.6
    scv = service.var() / service.mean() ** 2
    interval = mean_waits(
        load / service.mean(),
        apart(one_at_a_time(LinearLatency(0.5, token_s=0.5))),
        lambda rng, n: rng.choice([1, 9], n),
    )
    expected = mg1_mean_wait_s(load / service.mean(), service.mean(), scv)
    assert interval.contains(expected)
    assert interval.relative_half_width < 0.15


def test_a_request_alone_takes_the_sum_of_its_iterations():
    """Prefill, transfer, decode: each in closed form, the decode as an arithmetic series."""
    latency = LinearLatency(0.01, 1e-4, 2e-8, 3e-5, 4e-7, kv_bytes_per_token=1_000.0)
    prompt, output = 700, 50
    deployment = disaggregated(
        Pool.of(latency, ROOM, max_batch_tokens=512), Pool.of(latency, ROOM), a_link(1e8, 0.002)
    )
    records = simulate(Requests(np.zeros(1), np.array([prompt]), np.array([output])), deployment)
    prefill_s = 2 * 0.01 + 1e-4 * prompt + 2e-8 * prompt * (prompt + 1) / 2
    transfer_s = 0.002 + prompt * 1_000 / 1e8
    decode_s = output * (0.01 + 3e-5) + 4e-7 * (output * prompt + output * (output - 1) / 2)
    assert records.prefill_end_s[0] == pytest.approx(prefill_s, rel=1e-12)
    assert records.transfer_end_s[0] == pytest.approx(prefill_s + transfer_s, rel=1e-12)
    assert records.finish_s[0] == pytest.approx(prefill_s + transfer_s + decode_s, rel=1e-12)
    first = prefill_s + transfer_s + 0.01 + 3e-5 + 4e-7 * prompt
    assert records.first_token_s[0] == pytest.approx(first, rel=1e-12)


def test_decode_pool_without_queueing_takes_the_same_time_for_all():
    """Fixed steps and room for everyone: output_tokens steps after at most one step of wait."""
    n, step_s = 3_000, 0.02
    rng = np.random.default_rng(3)
    output = rng.integers(1, 200, n)
    deployment = disaggregated(
        Pool.of(LinearLatency(1e-4), ROOM),
        Pool.of(LinearLatency(step_s), ROOM, max_batch_size=8_192),
        FAST_LINK,
    )
    records = simulate(poisson(40.0, np.ones(n, np.int64), output, 4), deployment)
    np.testing.assert_allclose(
        records.finish_s - records.decode_start_s, output * step_s, rtol=1e-9
    )
    wait_s = records.decode_start_s - records.transfer_end_s
    assert wait_s.min() >= 0
    assert wait_s.max() <= step_s * (1 + 1e-9)
    # arrivals see a running iteration at a uniform place: half a step on average
    interval = mean_interval(wait_s.reshape(30, -1).mean(axis=1), 0.999)
    assert interval.contains(step_s / 2)


def test_littles_law_holds_for_the_decode_batch():
    """The time integral of the batch size is the sum of the times spent decoding."""
    n = 4_000
    rng = np.random.default_rng(5)
    latency = LinearLatency(0.01, 5e-5, 0.0, 1e-5, 1e-7)
    deployment = monolithic(Pool.of(latency, ROOM, replicas=2, max_batch_tokens=512))
    timeline = Timeline()
    requests = poisson(8.0, rng.integers(1, 2_000, n), rng.integers(1, 300, n), 6)
    records = simulate(requests, deployment, timeline=timeline)
    jumps = timeline.jumps()
    integral = (jumps.decode_batch * (jumps.end_s - jumps.start_s)).sum()
    assert integral == pytest.approx((records.finish_s - records.decode_start_s).sum(), rel=1e-9)
    # L = λ W over the whole run
    run_s = records.finish_s.max()
    assert integral / run_s == pytest.approx(
        n / run_s * (records.finish_s - records.decode_start_s).mean(), rel=1e-9
    )


def test_a_saturated_replica_completes_batch_over_length_requests_a_step():
    """Prompts of one token: a place in the batch is held for output_tokens iterations."""
    step_s, batch, output = 0.25, 8, 16
    n = 20 * batch
    deployment = monolithic(
        Pool.of(LinearLatency(step_s), ROOM, max_batch_size=batch, max_batch_tokens=1_000)
    )
    records = simulate(
        at_once(np.ones(n, np.int64), np.full(n, output)), deployment, concurrency=64
    )
    assert records.finish_s.max() == pytest.approx(n / batch * output * step_s, rel=1e-12)


def test_beyond_capacity_the_queue_grows_at_the_excess_rate():
    """M/D/1 at twice its capacity: half of the requests are done when the last one arrives."""
    n = 20_000
    deployment = apart(one_at_a_time(LinearLatency(1.0)))
    ones = np.ones(n, np.int64)
    records = simulate(poisson(2.0, ones, ones, 7), deployment)
    done = (records.prefill_end_s <= records.arrival_s[-1]).mean()
    assert done == pytest.approx(0.5, abs=0.02)
    assert (records.status == 0).all()


def test_kv_cache_bounds_concurrency():
    """Room for four sequences: throughput is that of a batch of four, whatever the batch size."""
    step_s, output, n = 0.5, 8, 80
    tight = Pool.of(LinearLatency(step_s), 4 * 16, max_batch_size=64, max_batch_tokens=64)
    records = simulate(
        at_once(np.full(n, 8), np.full(n, output)), monolithic(tight), concurrency=64
    )  # 8 + 7 tokens fit one block
    assert records.finish_s.max() == pytest.approx(n / 4 * output * step_s, rel=1e-12)
    assert records.preemptions.sum() == 0
