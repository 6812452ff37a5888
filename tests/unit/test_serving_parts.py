"""Parts of the batching engine on their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.latency.linear import LinearLatency
from simlib.latency.protocol import DecodeLine, LatencyModel, decode_lines
from simlib.serving.kv_cache import GrowingBlocks, blocks_of
from simlib.serving.link import FairLink, FifoLink
from simlib.serving.router import ROUTERS
from simlib.serving.scheduler import OrderedQueue

coefficients = st.floats(0.0, 1e-3)
latencies = st.builds(
    LinearLatency, st.floats(1e-4, 0.1), coefficients, coefficients, coefficients, coefficients
)


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(1, 20), st.integers(0, 60))
def test_blocks_of_growing_sequences_are_the_sum_of_each(held, block, ahead):
    growing = GrowingBlocks(block)
    growing.step = 7
    for tokens in held:
        growing.add(tokens)
    exact = sum(blocks_of(tokens + ahead, block) for tokens in held)
    assert growing.blocks(ahead) == exact
    assert growing.blocks_at_most(ahead) >= exact
    growing.advance(ahead)
    assert growing.blocks() == exact
    for tokens in held:
        growing.remove(tokens + ahead)
    assert growing.blocks() == growing.tokens == 0


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=20),
    st.integers(1, 20),
    st.integers(0, 40),
    st.integers(1, 100),
)
def test_steps_within_a_bound_are_the_most_that_fit(held, block, spare, most):
    growing = GrowingBlocks(block)
    for tokens in held:
        growing.add(tokens)
    free = growing.blocks(1) + spare
    steps = growing.steps_within(free, most)
    assert 1 <= steps <= most
    assert growing.blocks(steps) <= free
    assert steps == most or growing.blocks(steps + 1) > free


@given(latencies, st.integers(1, 50), st.integers(0, 5_000), st.integers(0, 200))
def test_a_linear_run_is_the_sum_of_its_steps(latency, batch, beyond, steps):
    context = batch + beyond  # a token of context a sequence: the protocol's precondition
    total = sum(latency.iteration_s((), batch, context + k * batch) for k in range(steps))
    run_s = latency.decode_run_s(batch, context, steps)
    assert run_s == pytest.approx(total, rel=1e-9)
    assert latency.decode_steps_within(batch, context, run_s) == steps
    assert latency.decode_steps_within(batch, context, run_s - 1e-6) == max(steps - 1, 0)


def test_linear_latency_is_what_engines_ask_for():
    latency: LatencyModel = LinearLatency(1.0, sequence_s=0.5, context_s=0.25)
    assert isinstance(latency, DecodeLine)
    assert decode_lines(latency, 2) == ([1.0, 1.5, 2.0], 0.25)


def test_chunks_of_a_prompt_cost_the_pairs_of_the_whole():
    latency = LinearLatency(1e-9, pair_s=1.0)
    whole = latency.iteration_s([(10, 0)], 0, 0)
    assert whole == pytest.approx(55)
    assert latency.iteration_s([(4, 0), (6, 4)], 0, 0) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("round_robin", 1),
        ("random", 3),
        ("least_requests", 2),
        ("least_tokens", 1),
        ("power_of_two", 0),
    ],
)
def test_routers_choose(name, expected):
    """Fifth request; uniforms pick replica 3 at random, 3 and 0 of two."""
    assert ROUTERS[name](5, 0.8, 0.1, [3, 2, 1, 5], [10, 5, 5, 9]) == expected


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(1, 9))
def test_power_of_two_compares_two_different_replicas(u, v, n):
    load = list(range(n, 0, -1))
    chosen = ROUTERS["power_of_two"](0, u, v, load, load)
    assert 0 <= chosen < n
    # the most loaded replica is never better than another one
    assert n == 1 or chosen != 0


def test_an_ordered_queue_breaks_ties_by_number():
    queue = OrderedQueue([2.0, 1.0, 1.0])
    for request in (0, 2, 1):
        queue.append(request)
    assert [len(queue), queue[0]] == [3, 1]
    assert [queue.popleft() for _ in range(3)] == [1, 2, 0]


def test_a_fifo_link_is_free_after_the_last_byte():
    link = FifoLink(10.0)
    assert link.send(1.0, 20.0) == (1.0, 3.0)
    assert link.send(2.0, 10.0) == (3.0, 4.0)
    assert link.send(9.0, 10.0) == (9.0, 10.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 50)), min_size=1, max_size=12))
def test_a_fair_link_sends_every_byte_and_is_never_idle_with_work(rows):
    """The last end equals that of a FIFO link: both work as long as there are bytes."""
    fair, fifo = FairLink(7.0), FifoLink(7.0)
    ends = {}

    def until(time_s):
        while fair.next_s() < time_s:
            now = fair.next_s()
            ends.update(dict.fromkeys(fair.pop(now), now))

    now = last = 0.0
    for number, (gap, size) in enumerate(rows):
        now += gap
        until(now)
        fair.send(now, number, size)
        last = fifo.send(now, size)[1]
    until(np.inf)
    assert sorted(ends) == list(range(len(rows)))
    assert max(ends.values()) == pytest.approx(last)
