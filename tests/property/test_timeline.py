"""A run's timeline against the step-by-step twin: every gap, its time, and every block held."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlib.core.batching import LinkConfig
from simlib.latency.linear import LinearLatency
from simlib.serving import twin as stepwise
from simlib.serving.deployment import Classes, Pool, disaggregated, monolithic
from simlib.serving.engine import simulate
from simlib.serving.timeline import Timeline
from simlib.study.measurement.occupation import Level
from simlib.workload.requests import Requests
from tests.property.test_serving_twin import (
    classes_of,
    deployments,
    exact_gaps,
    exact_latencies,
    pools,
    real_latencies,
    workloads,
)


def observed(requests, deployment):
    """Return the twin after its run, and (time, blocks of each replica) after each change."""
    run = stepwise.Twin(requests, deployment, 0, 0, Classes())
    run.send_all()
    servers = [server for pool in run.servers for server in pool]
    seen = [(0.0, [0] * len(servers))]
    while run.env.peek() < np.inf:
        run.env.step()
        seen.append((run.env.now, [server.used_blocks() for server in servers]))
    times, blocks = zip(*seen, strict=True)
    return run, np.array(times), np.array(blocks)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_gap_has_its_time_and_its_weight(data):
    requests = data.draw(workloads(exact_gaps))
    deployment = data.draw(deployments(exact_latencies(), ("fifo",), ("fcfs", "sjf")))
    timeline = Timeline()
    simulate(requests, deployment, timeline=timeline)
    run, _, _ = observed(requests, deployment)
    wanted = [
        (later, later - earlier)
        for seq in run.sequences
        for earlier, later in zip(seq.token_s[:-1], seq.token_s[1:], strict=True)
    ]
    times, values, weights = timeline.gaps().each()
    found = np.repeat(np.column_stack((times, values)), weights, axis=0)
    assert sorted(map(tuple, found.tolist())) == sorted(wanted)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_blocks_held_over_time_are_those_of_the_twin(data):
    requests = data.draw(workloads(exact_gaps))
    deployment = data.draw(deployments(exact_latencies(), ("fifo",), ("fcfs", "sjf")))
    timeline = Timeline()
    simulate(requests, deployment, timeline=timeline)
    _, times, blocks = observed(requests, deployment)
    own = deployment.pools
    result = timeline.run([pool.capacity_blocks for pool in own])
    column = 0
    for number, pool in enumerate(own):
        for replica in range(pool.settings.replicas):
            level = Level.of_replica(result, number, replica)
            exact = np.sum(blocks[:-1, column] * np.diff(times))
            jumps = result.jumps.select(
                (result.jumps.pool == number) & (result.jumps.replica == replica)
            )
            # within iterations alike, a block per decoding sequence
            several = np.where(jumps.steps > 1, jumps.decode_batch, 0)
            bound = np.sum(several * (jumps.end_s - jumps.start_s))
            integral = level.integrals(np.array([0.0, times[-1]]))[0]
            assert integral == pytest.approx(exact, rel=1e-9, abs=bound + 1e-9)
            # zero-length states between events of one time are no levels
            lasting = blocks[:-1, column][np.diff(times) > 0]
            highest = level.highest(0.0, times[-1])
            assert lasting.max(initial=0) <= highest <= pool.capacity_blocks
            column += 1


def test_blocks_reserved_at_the_time_a_jump_ends_are_not_held_during_it():
    requests = Requests(np.zeros(2), np.array([1, 19]), np.array([21, 1]))
    pool = Pool.of(
        LinearLatency(1.0),
        kv_capacity_tokens=40,
        block_size=1,
        max_batch_tokens=1,
        max_batch_size=1,
    )
    deployment = disaggregated(pool, pool, LinkConfig(bandwidth_bytes_per_s=16.0))
    timeline = Timeline()
    simulate(requests, deployment, timeline=timeline)
    level = Level.of_replica(timeline.run([40, 40]), 1, 0)
    # the second prompt's cache comes after 20 s, with the end of the first one's 19th step
    assert level.highest(0.0, 19.9) <= 20
    assert level.highest(0.0, 20.1) == 40


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_blocks_of_one_token_grow_evenly_so_their_integral_is_exact(data):
    requests = data.draw(workloads(exact_gaps))
    pool = data.draw(pools(st.just(LinearLatency(0.25)), disciplines=("fcfs", "sjf")))
    blocks_of_one = pool.settings.model_copy(update={"block_size": 1})
    pool = Pool(blocks_of_one, pool.latency, pool.settings.kv_capacity_tokens)
    deployment = monolithic(pool, "prefill")
    timeline = Timeline()
    simulate(requests, deployment, timeline=timeline)
    _, times, blocks = observed(requests, deployment)
    result = timeline.run([pool.capacity_blocks])
    edges = np.linspace(0.0, times[-1], 8)
    for replica in range(pool.settings.replicas):
        held = np.append(0.0, np.cumsum(blocks[:-1, replica] * np.diff(times)))
        level = Level.of_replica(result, 0, replica)
        whole = level.integrals(edges[[0, -1]])
        assert whole[0] == pytest.approx(held[-1], rel=1e-12)
        assert level.integrals(edges).sum() == pytest.approx(whole[0], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gaps_of_every_latency_formula_are_those_of_the_twin(data):
    """Tables are linear in pieces, so a jump may hold several runs of gaps."""
    gaps = st.floats(1e-6, 0.1).map(lambda gap: gap * 0.5772156649015329)
    requests = data.draw(workloads(gaps))
    deployment = data.draw(deployments(real_latencies(), ("fifo",), token_bytes=2.0**18))
    classes = data.draw(classes_of(len(requests)))
    timeline = Timeline()
    simulate(requests, deployment, classes=classes, timeline=timeline)
    run = stepwise.Twin(requests, deployment, 0, 0, classes)
    run.send_all()
    run.env.run()
    wanted = [gap for seq in run.sequences for gap in np.diff(seq.token_s)]
    _, values, weights = timeline.gaps().each()
    found = np.sort(np.repeat(values, weights))
    np.testing.assert_allclose(found, np.sort(wanted), rtol=1e-9, atol=1e-9)
