"""What every run of the token-rate model obeys, whatever its configuration."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st

from simlib.core import recursion
from simlib.core.config import ClusterDisagg, ClusterMonolithic
from simlib.core.records import RequestRecords, Status, cut_at, e2e_s, ttft_parts, ttft_s
from simlib.core.recursion import disaggregated, fcfs, monolithic
from simlib.workload.requests import Requests

# sums of a few hundred times below 1e6 s, each rounded to 53 bits
ROUNDING_S = 1e-8


def given(**strategies):
    """As Hypothesis has it, without a deadline: others may use the same CPU."""
    return lambda test: settings(deadline=None)(given_(**strategies)(test))


servers = st.integers(1, 5)
# no subnormals: they lose bits when the clock is scaled
times = st.floats(0.0, 3.0, allow_subnormal=False)
services = st.floats(0.0, 10.0, allow_subnormal=False)
queues = st.lists(st.tuples(times, services), min_size=1, max_size=120)
rates = st.floats(1.0, 1000.0)
rows = st.lists(
    st.tuples(times, st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=80
)


@st.composite
def loads(draw) -> Requests:
    gaps, prompt, output = zip(*draw(rows), strict=True)
    return Requests(np.cumsum(gaps), np.array(prompt), np.array(output))


@st.composite
def mono_clusters(draw) -> ClusterMonolithic:
    return ClusterMonolithic(
        num_gpus=draw(servers), prefill_tokens_per_s=draw(rates), decode_tokens_per_s=draw(rates)
    )


@st.composite
def disagg_clusters(draw) -> ClusterDisagg:
    return ClusterDisagg(
        prefill_gpus=draw(servers),
        decode_gpus=draw(servers),
        prefill_tokens_per_s=draw(rates),
        decode_tokens_per_s=draw(rates),
        kv_base_latency_s=draw(st.sampled_from([0.0, 0.3])),
        kv_bytes_per_token=draw(st.sampled_from([0.0, 0.001])),
        kv_bandwidth_bytes_per_s=1.0,
    )


def served(requests: Requests, cluster: ClusterMonolithic | ClusterDisagg) -> RequestRecords:
    if isinstance(cluster, ClusterMonolithic):
        return monolithic(requests, cluster)
    return disaggregated(requests, cluster)


clusters = st.one_of(mono_clusters(), disagg_clusters())


def columns(queue) -> tuple[np.ndarray, np.ndarray]:
    gaps, service = zip(*queue, strict=True)
    return np.cumsum(gaps), np.array(service)


def assert_disjoint(start: np.ndarray, end: np.ndarray, server: np.ndarray) -> None:
    for one in np.unique(server):
        mine = server == one
        order = np.argsort(start[mine], kind="stable")
        assert (start[mine][order][1:] >= end[mine][order][:-1]).all()


@given(queue=queues, c=servers)
def test_fcfs_never_starts_before_ready_keeps_order_and_serves_one_at_a_time(queue, c):
    ready, service = columns(queue)
    start, server = fcfs(ready, service, c)
    assert (start >= ready).all()
    assert (np.diff(start) >= 0).all()
    assert ((server >= 0) & (server < c)).all()
    assert_disjoint(start, start + service, server)


@given(queue=queues, c=servers)
def test_fcfs_conserves_work_nobody_waits_while_a_server_idles(queue, c):
    ready, service = columns(queue)
    start, _ = fcfs(ready, service, c)
    end = start + service
    for i in np.flatnonzero(start > ready):
        # at the instant before i starts, all servers hold an earlier request
        holding = np.count_nonzero((start[:i] < start[i]) & (end[:i] >= start[i]))
        waiting_alike = np.count_nonzero(start[:i] == start[i])
        assert holding + waiting_alike >= c
        assert (end[:i] == start[i]).any()  # it starts the moment that a server becomes free


@given(queue=queues, c=servers)
def test_fcfs_equals_the_recursion_on_the_sorted_workload_vector(queue, c):
    # Kiefer and Wolfowitz: the wait of n is the smallest of the c servers' remaining work
    ready, service = columns(queue)
    start, _ = fcfs(ready, service, c)
    work, last = np.zeros(c), 0.0
    for n, (now, length) in enumerate(zip(ready, service, strict=True)):
        work = np.maximum(work - (now - last), 0.0)
        assert start[n] == pytest.approx(now + work[0], abs=ROUNDING_S)
        work[0] += length
        work.sort()
        last = now


@given(queue=queues, c=servers)
def test_one_more_server_slows_no_request_of_a_queue(queue, c):
    ready, service = columns(queue)
    assert (fcfs(ready, service, c + 1)[0] <= fcfs(ready, service, c)[0] + ROUNDING_S).all()


@given(queue=queues)
def test_with_a_server_for_each_request_nobody_waits(queue):
    ready, service = columns(queue)
    assert np.array_equal(fcfs(ready, service, len(ready))[0], ready)


def test_the_server_idle_longest_is_taken_and_the_lowest_of_equals():
    ready = np.array([0.0, 0.0, 0.0, 10.0, 11.0, 12.0])
    service = np.array([3.0, 1.0, 2.0, 9.0, 9.0, 9.0])
    assert fcfs(ready, service, 3)[1].tolist() == [0, 1, 2, 1, 2, 0]


def test_chunks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    ready, service = np.cumsum(rng.exponential(1.0, 1000)), rng.exponential(2.5, 1000)
    whole = fcfs(ready, service, 3)
    monkeypatch.setattr(recursion, "_CHUNK", 7)
    for ours, theirs in zip(whole, fcfs(ready, service, 3), strict=True):
        assert np.array_equal(ours, theirs)


@given(requests=loads(), cluster=mono_clusters())
def test_adding_a_gpu_slows_no_monolithic_request(requests, cluster):
    more = cluster.model_copy(update={"num_gpus": cluster.num_gpus + 1})
    before, after = monolithic(requests, cluster), monolithic(requests, more)
    for name in ("prefill_start_s", "first_token_s", "finish_s"):
        assert (getattr(after, name) <= getattr(before, name) + ROUNDING_S).all()


@given(requests=loads(), cluster=disagg_clusters())
def test_adding_a_prefill_gpu_delays_no_prefill_and_a_decode_gpu_no_token(requests, cluster):
    before = disaggregated(requests, cluster)
    prefill = cluster.model_copy(update={"prefill_gpus": cluster.prefill_gpus + 1})
    after = disaggregated(requests, prefill)
    for name in ("prefill_start_s", "prefill_end_s", "transfer_end_s"):
        assert (getattr(after, name) <= getattr(before, name) + ROUNDING_S).all()
    decode = cluster.model_copy(update={"decode_gpus": cluster.decode_gpus + 1})
    after = disaggregated(requests, decode)
    assert np.array_equal(after.prefill_end_s, before.prefill_end_s)
    for name in ("decode_start_s", "first_token_s", "finish_s"):
        assert (getattr(after, name) <= getattr(before, name) + ROUNDING_S).all()


@given(requests=loads(), cluster=clusters)
def test_stamps_are_in_order_and_every_request_finishes(requests, cluster):
    records = served(requests, cluster)
    stamps = ("arrival_s", "prefill_start_s", "prefill_end_s", "transfer_start_s")
    stamps += ("transfer_end_s", "decode_start_s", "first_token_s", "finish_s")
    for earlier, later in pairwise(stamps):
        # a one-token output finishes with its first token, give or take the last bit
        slack = ROUNDING_S if later == "finish_s" else 0.0
        assert (getattr(records, later) >= getattr(records, earlier) - slack).all()
    assert (records.status == Status.FINISHED).all()


@given(requests=loads(), cluster=clusters)
def test_ttft_parts_sum_to_ttft_and_none_is_negative(requests, cluster):
    records = served(requests, cluster)
    parts = ttft_parts(records)
    assert np.allclose(sum(parts.values()), ttft_s(records), rtol=0.0, atol=ROUNDING_S)
    assert all((part >= 0).all() for part in parts.values())


@given(requests=loads(), cluster=clusters)
def test_ttft_follows_the_models_formula(requests, cluster):
    records = served(requests, cluster)
    parts = ttft_parts(records)
    prefill = requests.prompt_tokens / cluster.prefill_tokens_per_s
    transfer = np.zeros(len(requests))
    if isinstance(cluster, ClusterDisagg):
        transfer = cluster.kv_base_latency_s + requests.prompt_tokens * cluster.transfer_s_per_token
    step = 1.0 / cluster.decode_tokens_per_s
    formula = parts["prefill_wait_s"] + prefill + transfer + parts["decode_wait_s"] + step
    assert np.allclose(ttft_s(records), formula, rtol=0.0, atol=ROUNDING_S)
    assert np.allclose(
        records.finish_s - records.decode_start_s,
        requests.output_tokens * step,
        rtol=1e-9,
        atol=ROUNDING_S,
    )


@given(requests=loads(), cluster=clusters)
def test_no_gpu_serves_two_requests_at_once(requests, cluster):
    records = served(requests, cluster)
    if isinstance(cluster, ClusterMonolithic):
        assert np.array_equal(records.prefill_replica, records.decode_replica)
        # start + (prefill + decode) and (start + prefill) + decode differ in the last bits
        end = records.finish_s - ROUNDING_S
        assert_disjoint(records.prefill_start_s, end, records.prefill_replica)
        return
    assert_disjoint(records.prefill_start_s, records.prefill_end_s, records.prefill_replica)
    assert_disjoint(records.decode_start_s, records.finish_s, records.decode_replica)
    assert records.prefill_replica.max() < cluster.prefill_gpus
    assert records.decode_replica.max() < cluster.decode_gpus


@given(requests=loads(), cluster=disagg_clusters())
def test_each_pool_serves_in_the_order_in_which_requests_reach_it(requests, cluster):
    records = disaggregated(requests, cluster)
    assert (np.diff(records.prefill_start_s) >= 0).all()
    order = np.argsort(records.transfer_end_s, kind="stable")
    assert (np.diff(records.decode_start_s[order]) >= 0).all()


@given(requests=loads(), cluster=clusters)
def test_littles_law_holds_on_every_sample_path(requests, cluster):
    # L = lambda W over [0, T], where T is the last departure: the time integral of the number in
    # the system, counted event by event, is the sum of the times that requests spend in it
    records = served(requests, cluster)
    finish = np.maximum(records.finish_s, records.arrival_s)
    moments = np.concatenate([records.arrival_s, finish])
    change = np.concatenate([np.ones(len(records)), -np.ones(len(records))])
    order = np.lexsort((-change, moments))
    number = np.cumsum(change[order])
    assert number.min() >= 0
    assert number[-1] == 0
    end = moments.max()
    mean_number = np.sum(number[:-1] * np.diff(moments[order])) / end if end > 0 else 0.0
    rate = len(records) / end if end > 0 else 0.0
    assert mean_number == pytest.approx(rate * e2e_s(records).mean(), rel=1e-9, abs=1e-12)


@given(requests=loads(), cluster=clusters, exponent=st.integers(-6, 6))
def test_a_faster_clock_changes_nothing_but_the_unit(requests, cluster, exponent):
    # powers of two scale floats exactly, so the runs are equal to the last bit
    factor = 2.0**exponent
    rates_of = ("prefill_tokens_per_s", "decode_tokens_per_s", "kv_bandwidth_bytes_per_s")
    changes = {name: getattr(cluster, name) / factor for name in rates_of if hasattr(cluster, name)}
    if isinstance(cluster, ClusterDisagg):
        changes["kv_base_latency_s"] = cluster.kv_base_latency_s * factor
    before = served(requests, cluster)
    after = served(
        dataclasses.replace(requests, arrival_s=requests.arrival_s * factor),
        cluster.model_copy(update=changes),
    )
    for name, column in before.columns().items():
        expected = column * factor if column.dtype.kind == "f" else column
        assert np.array_equal(getattr(after, name), expected), name


@given(requests=loads(), cluster=clusters, share=st.floats(0.0, 1.2))
def test_cutting_a_run_is_what_an_observer_sees_who_leaves(requests, cluster, share):
    records = served(requests, cluster)
    end = float(records.finish_s.max()) * share
    seen = cut_at(records, end)
    for name, column in seen.columns().items():
        if column.dtype.kind == "f" and name != "arrival_s":
            happened = getattr(records, name) < end
            assert np.array_equal(column[happened], getattr(records, name)[happened])
            assert np.isnan(column[~happened]).all()
    assert np.array_equal(seen.status == Status.FINISHED, records.finish_s < end)


@given(requests=loads(), cluster=clusters, extra=st.integers(1, 40))
def test_later_requests_do_not_change_the_prefill_of_earlier_ones(requests, cluster, extra):
    n = len(requests)
    longer = Requests(
        np.concatenate([requests.arrival_s, np.full(extra, requests.arrival_s[-1] + 0.5)]),
        np.concatenate([requests.prompt_tokens, np.full(extra, 2)]),
        np.concatenate([requests.output_tokens, np.full(extra, 9)]),
    )
    assert np.array_equal(
        served(requests, cluster).prefill_end_s, served(longer, cluster).prefill_end_s[:n]
    )
