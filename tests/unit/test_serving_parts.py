"""Parts of the batching engine on their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.latency.linear import LinearLatency
from simlib.policies.batching import BATCH_POLICIES
from simlib.policies.disciplines import DISCIPLINES, RequestView
from simlib.policies.routers import ROUTERS, PoolView
from simlib.serving import engine, policies, state
from simlib.serving.deployment import Classes, Pool, monolithic
from simlib.serving.kv_cache import add, fits, growing_blocks, remove, steps_within
from simlib.serving.queues import pop, push, schedule, sift_up, take_out
from simlib.workload.requests import Requests
from tests.serving import decode_run_s

coefficients = st.floats(0.0, 1e-3)
latencies = st.builds(
    LinearLatency, st.floats(1e-4, 0.1), coefficients, coefficients, coefficients, coefficients
)


def growing(held, block, blocks=10_000, step=7):
    """Return the state of a replica whose sequences hold so many tokens, and nothing else."""
    pool = Pool.of(LinearLatency(1.0), blocks * block, block_size=block, max_batch_size=20)
    requests = Requests(np.zeros(20), np.ones(20, np.int64), np.ones(20, np.int64))
    s = engine._state(requests, monolithic(pool), [[]], Classes(), None)
    s.replicas.step[0] = step
    for tokens in held:
        add(s, 0, tokens)
    return s


def growing_of(s, ahead):
    return growing_blocks(s.replicas[0], s.phases[0], s.pools[0].block_tokens, ahead)


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(1, 20), st.integers(0, 60))
def test_blocks_of_growing_sequences_are_the_sum_of_each(held, block, ahead):
    s = growing(held, block)
    exact = sum(-(-(tokens + ahead) // block) for tokens in held)
    assert growing_of(s, ahead) == exact
    for tokens in held:
        remove(s, 0, tokens)
    assert not s.phases.any()
    assert s.replicas.batch[0] == s.replicas.context[0] == 0


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=20),
    st.integers(1, 20),
    st.integers(0, 40),
    st.integers(1, 100),
)
def test_steps_within_the_cache_are_the_most_that_fit(held, block, spare, most):
    capacity = growing_of(growing(held, block), 1) + spare
    s = growing(held, block, capacity)
    steps = steps_within(s, 0, most)
    assert 1 <= steps <= most
    assert growing_of(s, steps) <= capacity
    assert steps == most or growing_of(s, steps + 1) > capacity
    for ahead in (0, steps, steps + 1, steps + block):
        for more in (0, 1, spare):
            room = growing_of(s, ahead) + more <= capacity
            assert fits(s, 0, ahead, more) == room


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60))
def test_a_heap_of_requests_gives_them_by_order_then_by_number(actions):
    order = np.array([float(key) for key, _ in actions])
    requests = np.zeros(len(actions), state.REQUEST).view(np.recarray)
    first, inside, taken, wanted = state.NOBODY, [], [], []
    for number, (_, takes) in enumerate(actions):
        first = push(requests, order, first, number)
        inside.append(number)
        if takes:
            taken.append(first)
            first = pop(requests, order, first)
            wanted.append(min(inside, key=lambda one: (order[one], one)))
            inside.remove(wanted[-1])
    assert taken == wanted
    while first != state.NOBODY:
        taken.append(first)
        first = pop(requests, order, first)
    assert taken == wanted + sorted(inside, key=lambda one: (order[one], one))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.data())
def test_a_heap_of_numbers_keeps_the_smallest_on_top_whatever_is_taken_out(numbers, data):
    heap = np.zeros(len(numbers), np.int64)
    for size, number in enumerate(numbers):
        heap[size] = number
        sift_up(heap, size)
    left = sorted(numbers)
    for size in range(len(numbers), 0, -1):
        assert heap[0] == left[0]
        at = data.draw(st.integers(0, size - 1))
        left.remove(heap[at])
        take_out(heap, at, size)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=60))
def test_the_calendar_knows_the_earliest_place_and_of_one_time_the_lowest(changes):
    next_s, winners = np.full(8, np.inf), np.array([-1, *[0, 0, 4, 0, 2, 4, 6], *range(8)])
    for place, time in changes:
        schedule(next_s, winners, place, float(time) if time else np.inf)
        assert winners[1] == np.argmin(next_s)


@given(latencies, st.integers(1, 50), st.integers(0, 5_000), st.integers(0, 200))
def test_a_linear_run_is_the_sum_of_its_steps(latency, batch, beyond, steps):
    context = batch + beyond  # a token of context a sequence: the protocol's precondition
    total = sum(latency.iteration_s((), batch, context + k * batch) for k in range(steps))
    run_s = decode_run_s(latency, batch, context, steps)
    assert run_s == pytest.approx(total, rel=1e-9)


def test_chunks_of_a_prompt_cost_the_pairs_of_the_whole():
    latency = LinearLatency(1e-9, pair_s=1.0)
    whole = latency.iteration_s([(10, 0)], 0, 0)
    assert whole == pytest.approx(55)
    assert latency.iteration_s([(4, 0), (6, 4)], 0, 0) == pytest.approx(whole)


def view(turn=5, u=0.8, v=0.1, requests=(3, 2, 1, 5), tokens=(10, 5, 5, 9)):
    return PoolView(turn, u, v, np.array(requests), np.array(tokens))


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
    assert ROUTERS[name].choose(view()) == expected


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(1, 9))
def test_power_of_two_compares_two_different_replicas(u, v, n):
    load = list(range(n, 0, -1))
    chosen = ROUTERS["power_of_two"].choose(view(0, u, v, load, load))
    assert 0 <= chosen < n
    # the most loaded replica is never better than another one
    assert n == 1 or chosen != 0


def test_compiled_choices_are_the_functions_of_the_dicts_in_their_order():
    request = RequestView(7, 2.0, 30, 0.5, 3)
    for number, router in enumerate(ROUTERS.values()):
        assert policies.choose_replica(number, view()) == router.choose(view())
    for number, discipline in enumerate(DISCIPLINES.values()):
        assert policies.queue_key(number, request) == discipline.key(request)
    assert len({discipline.key(request) for discipline in DISCIPLINES.values()}) == len(DISCIPLINES)
    for number, policy in enumerate(BATCH_POLICIES.values()):
        for given_ in ((30, 20, False), (30, 20, True), (10, 20, False)):
            assert policies.chunk_tokens(number, *given_) == policy.chunk(*given_)
