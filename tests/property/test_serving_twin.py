"""The jumping engine equals the step-by-step SimPy twin, request by request."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simlib.core.batching import FrontEnd, LinkConfig
from simlib.latency.formulas import FORMULAS
from simlib.latency.linear import LinearLatency
from simlib.latency.models import KV_BYTES, latency_model
from simlib.latency.steps import StepTableLatency
from simlib.latency.table import TableLatency
from simlib.policies.batching import BATCH_POLICIES
from simlib.policies.disciplines import DISCIPLINES
from simlib.policies.routers import ROUTERS
from simlib.serving import twin as stepwise
from simlib.serving.deployment import Pool, disaggregated, monolithic
from simlib.serving.engine import Classes, simulate
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests
from tests.serving import at_once, rooflines, small_steps, small_table


def dyadic(power, low, high):
    """Multiples of a power of two: sums of them are exact, so ties are real ties."""
    return st.integers(low, high).map(lambda k: k * 2.0**-power)


@st.composite
def exact_latencies(draw):
    if draw(st.booleans()):  # fixed steps: arrivals and iteration ends fall together
        return LinearLatency(draw(st.sampled_from([0.125, 0.25])), kv_bytes_per_token=1.0)
    return LinearLatency(
        step_s=draw(dyadic(6, 1, 8)),
        token_s=draw(dyadic(12, 0, 4)),
        pair_s=draw(dyadic(20, 0, 4)),
        sequence_s=draw(dyadic(12, 0, 8)),
        context_s=draw(dyadic(18, 0, 16)),
        kv_bytes_per_token=draw(st.sampled_from([0.0, 1.0, 4.0])),
    )


def inexact(power, low, high):
    return dyadic(power, low, high).map(lambda value: value * 0.7310585786300049)


@st.composite
def inexact_latencies(draw):
    return LinearLatency(
        step_s=draw(inexact(6, 1, 8)),
        token_s=draw(inexact(12, 0, 4)),
        pair_s=draw(inexact(20, 0, 4)),
        sequence_s=draw(inexact(12, 0, 8)),
        context_s=draw(inexact(18, 0, 16)),
        kv_bytes_per_token=draw(st.sampled_from([0.3, 1.1, 4.7])),
    )


@st.composite
def real_latencies(draw):
    """A model of every formula but the linear one, whose times round."""
    overhead = {"sequence_overhead_s": draw(st.sampled_from([0.0, 3e-5]))}
    where = {"gpu": "h100_sxm", "tensor_parallel": 4, "precision": "bf16"}
    dtype = draw(st.sampled_from(list(KV_BYTES)))
    kind = draw(st.sampled_from([name for name in FORMULAS if name != "linear"]))
    if kind == "table":
        return TableLatency(small_table(), **overhead)
    if kind == "steps":
        return StepTableLatency(small_steps(), 1000.0, **overhead)
    if kind in ("roofline", "dense_roofline"):
        models = rooflines(**overhead).values()
        return draw(st.sampled_from([one for one in models if one.formula is FORMULAS[kind]]))
    return latency_model(kind, model="llama-3.1-70b", **where, kv_cache_dtype=dtype, **overhead)


@st.composite
def pools(draw, latencies, *, disciplines=tuple(DISCIPLINES)):
    size = draw(st.integers(1, 8))
    block = draw(st.sampled_from([1, 4, 16]))
    capacity = draw(st.sampled_from([4, 40, 64, 80, 120, 200, 400, 100_000]))
    return Pool.of(
        latency=draw(latencies),
        kv_capacity_tokens=max(capacity, block),
        replicas=draw(st.integers(1, 3)),
        max_batch_tokens=size + draw(st.sampled_from([0, 1, 5, 30, 500])),
        max_batch_size=size,
        data_parallel_size=draw(st.sampled_from([1, 1, 2, 3])),
        block_size=block,
        policy=draw(st.sampled_from(list(BATCH_POLICIES))),
        discipline=draw(st.sampled_from(disciplines)),
        router=draw(st.sampled_from(list(ROUTERS))),
    )


@st.composite
def front_ends(draw):
    return FrontEnd(
        request_s=draw(dyadic(6, 0, 8)),
        token_s=draw(dyadic(10, 0, 4)),
        workers=draw(st.integers(1, 3)),
    )


@st.composite
def deployments(
    draw, latencies, contentions=("fifo", "fair"), disciplines=tuple(DISCIPLINES), token_bytes=1.0
):
    front_end = draw(st.none() | front_ends())
    entry = draw(pools(latencies, disciplines=disciplines))
    if draw(st.booleans()):
        return monolithic(entry, draw(st.sampled_from(["prefill", "decode"])), front_end)
    link = LinkConfig(
        bandwidth_bytes_per_s=token_bytes * 2.0 ** draw(st.integers(4, 12)),
        base_latency_s=draw(dyadic(6, 0, 3)),
        scope=draw(st.sampled_from(["per_replica", "shared"])),
        contention=draw(st.sampled_from(contentions)),
        overlap_layers=draw(st.sampled_from([0, 1, 4])),
    )
    return disaggregated(entry, draw(pools(latencies, disciplines=("fcfs",))), link, front_end)


lengths = st.tuples(
    st.one_of(st.integers(1, 20), st.integers(1, 90)),
    st.one_of(st.integers(1, 5), st.integers(1, 60)),
)


@st.composite
def workloads(draw, gaps):
    rows = draw(st.lists(st.tuples(gaps, lengths), min_size=1, max_size=25))
    return Requests(
        np.cumsum([gap for gap, _ in rows]),
        np.array([prompt for _, (prompt, _) in rows]),
        np.array([output for _, (_, output) in rows]),
    )


@st.composite
def classes_of(draw, n):
    return Classes(
        np.array(draw(st.lists(dyadic(4, 0, 40), min_size=n, max_size=n))),
        np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))),
    )


def ties_between_links(deployment, records):
    """Whether transfers on two fairly shared links end together but for rounding.

    A third of a bandwidth has no exact value, so the two engines may put such ends in different
    orders, and the model does not say which is right.
    """
    link = deployment.link
    if link is None or link.contention == "fifo" or link.scope == "shared":
        return False
    sent = ~np.isnan(records.transfer_end_s)
    order = np.argsort(records.transfer_end_s[sent])
    close = np.diff(records.transfer_end_s[sent][order]) < 1e-9
    return bool((close & (np.diff(records.prefill_replica[sent][order]) != 0)).any())


def assert_same(fast, twin, tolerance):
    for name, column in fast.columns().items():
        other = getattr(twin, name)
        np.testing.assert_allclose(
            column, other, rtol=tolerance, atol=tolerance and 1e-12, err_msg=name
        )


exact_gaps = st.one_of(st.just(0.0), st.sampled_from([0.125, 0.5, 1.0]), dyadic(6, 0, 64))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_engines_agree_to_the_bit_where_sums_are_exact(data):
    """Ties included: every time is a multiple of a power of two in both engines."""
    requests = data.draw(workloads(exact_gaps))
    deployment = data.draw(deployments(exact_latencies(), contentions=("fifo",)))
    classes = data.draw(classes_of(len(requests)))
    fast = simulate(requests, deployment, classes=classes)
    twin = stepwise.simulate(requests, deployment, classes=classes)
    assert_same(fast, twin, 0.0)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_engines_agree_within_rounding(data):
    """Fair links and coefficients that round; gaps without ties."""
    gaps = st.floats(1e-6, 1.0).map(lambda gap: gap * 0.5772156649015329)
    requests = data.draw(workloads(gaps))
    deployment = data.draw(deployments(inexact_latencies()))
    classes = data.draw(classes_of(len(requests)))
    fast = simulate(requests, deployment, classes=classes)
    twin = stepwise.simulate(requests, deployment, classes=classes)
    assume(not ties_between_links(deployment, twin))
    assert_same(fast, twin, 1e-9)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_engines_agree_with_every_latency_formula(data):
    """Times of milliseconds, so that iterations and arrivals mix; rows that near a tie are rare."""
    gaps = st.floats(1e-6, 0.1).map(lambda gap: gap * 0.5772156649015329)
    requests = data.draw(workloads(gaps))
    deployment = data.draw(deployments(real_latencies(), token_bytes=2.0**18))
    classes = data.draw(classes_of(len(requests)))
    fast = simulate(requests, deployment, classes=classes)
    twin = stepwise.simulate(requests, deployment, classes=classes)
    assume(not ties_between_links(deployment, twin))
    assert_same(fast, twin, 1e-9)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_engines_agree_on_ties_of_fairly_shared_links(data):
    """At most two requests are in flight: a share is all or half, so ties are real ties."""
    rows = data.draw(st.lists(lengths, min_size=1, max_size=25))
    prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    deployment = data.draw(deployments(exact_latencies(), ("fair",), ("fcfs", "sjf")))
    concurrency = data.draw(st.integers(1, 2))
    assert_same(
        simulate(at_once(prompt, output), deployment, concurrency=concurrency),
        stepwise.simulate(at_once(prompt, output), deployment, concurrency=concurrency),
        0.0,
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_engines_agree_in_a_closed_loop(data):
    rows = data.draw(st.lists(lengths, min_size=1, max_size=25))
    prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    deployment = data.draw(deployments(exact_latencies(), contentions=("fifo",)))
    concurrency = data.draw(st.integers(1, 30))
    classes = data.draw(classes_of(len(rows)))
    fast, twin = (
        engine(at_once(prompt, output), deployment, concurrency=concurrency, classes=classes)
        for engine in (simulate, stepwise.simulate)
    )
    assert_same(fast, twin, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_timeline_changes_nothing_and_knows_every_gap_between_tokens(data):
    requests = data.draw(workloads(exact_gaps))
    deployment = data.draw(deployments(exact_latencies(), ("fifo",), ("fcfs", "sjf")))
    timeline = Timeline()
    noted = simulate(requests, deployment, timeline=timeline)
    assert_same(noted, simulate(requests, deployment), 0.0)

    run = stepwise.Twin(requests, deployment, 0, 0, Classes())
    run.send_all()
    run.env.run()
    gaps = np.concatenate([np.diff(seq.token_s) for seq in run.sequences])
    values, weights = timeline.itl_s()
    np.testing.assert_array_equal(np.sort(np.repeat(values, weights)), np.sort(gaps))

    jumps = timeline.jumps()
    for number, pool in enumerate(deployment.pools):
        assert jumps.blocks[jumps.pool == number].max(initial=0) <= pool.capacity_blocks
        assert jumps.decode_batch[jumps.pool == number].max(initial=0) <= pool.max_batch_size
