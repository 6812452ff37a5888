"""Stories of the batching engine: one claim each, on times that can be counted by hand."""

import tracemalloc

import numpy as np
import pytest

from simlib.core.records import Status, ttft_parts, ttft_s
from simlib.errors import InvalidParameterError
from simlib.latency.linear import LinearLatency
from simlib.latency.models import latency_model
from simlib.latency.table import LatencyTable, TableLatency
from simlib.serving import twin as stepwise
from simlib.serving.deployment import Pool, disaggregated, exposed_bytes, monolithic
from simlib.serving.engine import Classes, simulate
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests
from tests.serving import a_link, at_once

SECOND = LinearLatency(1.0)
ROOM = 1_000_000


def requests_of(*rows):
    arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    return Requests(arrival.astype(float), prompt, output)


def mono(first_token="prefill", latency=SECOND, kv=ROOM, **pool):
    return monolithic(Pool.of(latency, kv, **pool), first_token)


def disagg(prefill=None, decode=None, link=None):
    return disaggregated(
        prefill or Pool.of(SECOND, ROOM), decode or Pool.of(SECOND, ROOM), link or a_link(1e9)
    )


# ---------------------------------------------------------------- iterations


def test_the_prefill_emits_the_first_token_and_each_step_one_more():
    records = simulate(requests_of((5, 10, 4)), mono())
    assert records.prefill_start_s[0] == 5
    assert records.prefill_end_s[0] == records.first_token_s[0] == 6
    assert records.finish_s[0] == 9


def test_a_decode_step_emits_the_first_token_where_asked():
    records = simulate(requests_of((5, 10, 4)), mono("decode"))
    assert records.prefill_end_s[0] == records.decode_start_s[0] == 6
    assert records.first_token_s[0] == 7
    assert records.finish_s[0] == 10


def test_a_prompt_above_the_token_budget_takes_several_chunks():
    records = simulate(requests_of((0, 10, 1)), mono(max_batch_tokens=4, max_batch_size=4))
    assert records.finish_s[0] == 3


def test_decodes_use_the_token_budget_before_chunks():
    """Budget 4, one decode: chunks of 3, so 6 tokens take two iterations instead of two of 4."""
    rows = ((0, 1, 10), (0.5, 6, 1))
    records = simulate(requests_of(*rows), mono(max_batch_tokens=4, max_batch_size=4))
    assert records.prefill_start_s[1] == 1
    assert records.prefill_end_s[1] == 3
    assert records.finish_s[0] == 10


def test_with_prefill_first_decodes_stall():
    rows = ((0, 1, 3), (1.5, 6, 1))
    mixed = simulate(requests_of(*rows), mono())
    stalled = simulate(requests_of(*rows), mono(policy="prefill_first"))
    assert mixed.finish_s.tolist() == [3, 3]
    assert stalled.prefill_start_s[1] == 2
    assert stalled.finish_s.tolist() == [4, 3]


def test_prefill_first_takes_a_whole_prompt_above_the_budget_alone():
    rows = ((0, 3, 1), (0, 50, 1), (0, 3, 1))
    records = simulate(
        requests_of(*rows), mono(policy="prefill_first", max_batch_tokens=8, max_batch_size=8)
    )
    assert records.finish_s.tolist() == [1, 2, 3]


def test_with_chunks_first_decodes_stall_until_the_last_chunk():
    """Budget 4: the 10 tokens take 3 iterations, in which the first request waits for its last."""
    rows = ((0, 1, 3), (0.5, 10, 1))
    small = {"max_batch_tokens": 4, "max_batch_size": 4}
    chunks = simulate(requests_of(*rows), mono(policy="chunks_first", **small))
    assert chunks.prefill_start_s[1] == 1
    assert chunks.finish_s.tolist() == [6, 4]
    whole = simulate(requests_of(*rows), mono(policy="prefill_first", **small))
    assert whole.finish_s.tolist() == [4, 2]


def test_with_whole_prompts_decodes_go_on_and_a_prompt_waits_for_room():
    """Budget 8, one decode: two prompts of 4 do not fit an iteration, of 3 they do."""
    small = {"max_batch_tokens": 8, "max_batch_size": 8}
    for tokens, ends in ((4, [4, 2, 3]), (3, [4, 2, 2])):
        rows = ((0, 1, 4), (0.5, tokens, 1), (0.5, tokens, 1))
        records = simulate(requests_of(*rows), mono(policy="whole_prompts", **small))
        assert records.finish_s.tolist() == ends
    chunked = simulate(requests_of((0, 1, 4), (0.5, 4, 1), (0.5, 4, 1)), mono(**small))
    assert chunked.finish_s.tolist() == [4, 2, 3]
    assert chunked.prefill_start_s.tolist() == [0, 1, 1]  # a chunk of 3 went along


@pytest.mark.parametrize("noted", [False, True])
def test_an_arrival_at_an_iteration_boundary_joins_the_next_iteration(noted):
    """As a lane, and event by event, which a timeline asks for."""
    timeline = Timeline() if noted else None
    records = simulate(requests_of((0, 1, 5), (2, 1, 1)), mono(), timeline=timeline)
    assert records.prefill_start_s[1] == 2


@pytest.mark.parametrize(
    ("discipline", "order"),
    [("fcfs", [1, 2, 3]), ("sjf", [2, 3, 1]), ("edf", [3, 1, 2]), ("priority", [1, 3, 2])],
)
def test_disciplines_order_the_queue(discipline, order):
    """One place, taken by request 0; the others wait and differ in every key."""
    rows = ((0, 5, 1), (0.1, 30, 1), (0.2, 10, 1), (0.3, 20, 1))
    classes = Classes(np.array([9.0, 5.0, 9.0, 1.0]), np.array([0, 0, 2, 1]))
    records = simulate(
        requests_of(*rows), mono(max_batch_size=1, discipline=discipline), classes=classes
    )
    assert np.argsort(records.prefill_start_s).tolist() == [0, *order]


def test_disciplines_without_their_column_are_refused():
    with pytest.raises(InvalidParameterError, match="priority must be a column of 1 values"):
        simulate(requests_of((0, 1, 1)), mono(discipline="priority"))


def test_a_batch_is_limited_to_its_size():
    records = simulate(requests_of(*[(0, 1, 4)] * 5), mono(max_batch_size=2))
    assert records.finish_s.tolist() == [4, 4, 8, 8, 12]


# ---------------------------------------------------------------- KV cache


def test_when_blocks_run_out_the_latest_arrival_is_preempted_and_recomputed():
    """Two sequences of one block each, capacity two: the first to grow takes the other's."""
    rows = ((0, 15, 4), (0, 15, 4))
    deployment = mono(kv=32)
    records = simulate(requests_of(*rows), deployment)
    # prefill to 1, one step to 2 fills both blocks, request 0 then grows alone to 4
    assert records.preemptions.tolist() == [0, 1]
    assert records.finish_s[0] == 4
    # request 1 recomputes its 16 tokens from 4 to 5 and has two steps left
    assert records.finish_s[1] == 7


def test_a_prompt_of_the_whole_capacity_is_served_if_it_need_not_grow():
    records = simulate(requests_of((0, 64, 1), (0, 64, 2), (0, 65, 1)), mono(kv=64))
    assert records.status.tolist() == [Status.FINISHED, Status.REJECTED, Status.REJECTED]
    assert records.finish_s[0] == 1
    assert np.isnan(records.finish_s[1:]).all()
    assert records.prefill_replica.tolist() == [0, -1, -1]


def test_a_prompt_that_never_fits_does_not_block_the_queue():
    rows = ((0, 10, 2), (1, 10_000, 2), (2, 10, 2))
    for deployment in (
        mono(kv=160),
        disagg(prefill=Pool.of(SECOND, 160)),
        disagg(decode=Pool.of(SECOND, 160)),
    ):
        records = simulate(requests_of(*rows), deployment)
        assert records.status.tolist() == [Status.FINISHED, Status.REJECTED, Status.FINISHED]


def test_one_block_serves_one_request_at_a_time():
    records = simulate(requests_of(*[(0, 8, 4)] * 3), mono(kv=16))
    assert records.finish_s.tolist() == [4, 8, 12]


def test_a_prefill_replica_keeps_its_blocks_until_the_transfer_ends():
    """Room for one prompt: the second prefill waits for the first transfer of 16 s."""
    latency = LinearLatency(1.0, kv_bytes_per_token=1.0)
    deployment = disagg(Pool.of(latency, 16), link=a_link(1.0))
    records = simulate(requests_of((0, 16, 1), (0, 16, 1)), deployment)
    assert records.transfer_end_s[0] == 17
    assert records.prefill_start_s[1] == 17


def test_a_transfer_waits_for_room_on_the_decode_side():
    """Decode room for one request: the second is reserved when the first has ended."""
    latency = LinearLatency(1.0, kv_bytes_per_token=1.0)
    deployment = disagg(Pool.of(latency, ROOM), Pool.of(latency, 16), a_link(8.0))
    records = simulate(requests_of((0, 8, 4), (0, 8, 4)), deployment)
    assert records.prefill_end_s.tolist() == [1, 1]
    assert records.finish_s[0] == 1 + 1 + 4
    assert records.transfer_start_s[1] == records.finish_s[0]


def test_tokens_and_blocks_are_conserved_under_preemption():
    rng = np.random.default_rng(2)
    n = 300
    requests = Requests(
        np.cumsum(rng.exponential(0.2, n)), rng.integers(1, 100, n), rng.integers(1, 60, n)
    )
    latency = LinearLatency(1 / 64, kv_bytes_per_token=1.0)
    for deployment in (
        mono(latency=latency, kv=320, max_batch_tokens=64, max_batch_size=32),
        mono(latency=latency, kv=320, policy="prefill_first"),
        disagg(Pool.of(latency, 320), Pool.of(latency, 320), a_link(1e4)),
    ):
        timeline = Timeline()
        records = simulate(requests, deployment, timeline=timeline)
        jumps = timeline.jumps()
        assert (records.status == Status.FINISHED).all()
        assert not np.isnan(records.finish_s).any()
        assert records.preemptions.sum() > 10
        emitted = deployment.decode is None
        assert (jumps.steps * jumps.decode_batch).sum() == (requests.output_tokens - emitted).sum()
        assert jumps.prefill_tokens.sum() > requests.prompt_tokens.sum()
        assert jumps.blocks.max() <= 320 // 16
        assert jumps.blocks.min() >= 1


# ---------------------------------------------------------------- transfers


def transfers(contention, scope="shared", base=0.0, overlap=0):
    """Two replicas finish prompts of 8 and 16 tokens at 1 and 2 s; a token takes 1 s alone."""
    latency = LinearLatency(1.0, kv_bytes_per_token=1.0)
    link = a_link(1.0, base, scope, contention, overlap)
    rows = requests_of((0, 8, 1), (1, 16, 1))
    return simulate(rows, disagg(Pool.of(latency, ROOM, replicas=2), link=link))


def test_fifo_link_serves_one_transfer_after_the_other():
    records = transfers("fifo")
    assert records.transfer_start_s.tolist() == [1, 9]
    assert records.transfer_end_s.tolist() == [9, 25]


def test_fair_link_shares_the_bandwidth():
    """From 2 s on both get half: 7 left take 14 s, then 9 of the other's 16 are left."""
    records = transfers("fair")
    assert records.transfer_start_s.tolist() == [1, 2]
    assert records.transfer_end_s.tolist() == [16, 25]


@pytest.mark.parametrize("contention", ["fifo", "fair"])
def test_links_per_replica_do_not_interfere(contention):
    assert transfers(contention, "per_replica").transfer_end_s.tolist() == [9, 18]


def test_base_latency_delays_but_does_not_occupy_the_link():
    records = transfers("fifo", base=0.5)
    assert records.transfer_start_s.tolist() == [1, 9]
    assert records.transfer_end_s.tolist() == [9.5, 25.5]


def test_layers_sent_during_the_prefill_are_not_sent_after_it():
    """One of 8 bytes leaves during the prefill of 1 s; with two layers half is the least left."""
    assert transfers("fifo", overlap=8).transfer_end_s[0] == 1 + 7
    assert exposed_bytes(8.0, 100.0, 2, 1.0) == 4.0
    assert exposed_bytes(8.0, 1.0, 2, 1.0) == 7.0
    assert exposed_bytes(8.0, 1.0, 0, 1.0) == 8.0


def test_parts_of_ttft_sum_to_it_and_are_never_negative():
    rng = np.random.default_rng(0)
    n = 200
    requests = Requests(
        np.cumsum(rng.exponential(0.5, n)), rng.integers(1, 100, n), rng.integers(1, 60, n)
    )
    latency = LinearLatency(0.05, kv_bytes_per_token=1.0)
    for deployment in (
        mono(latency=latency),
        mono("decode", latency),
        disagg(Pool.of(latency, ROOM), Pool.of(latency, 2_000), a_link(300.0)),
    ):
        records = simulate(requests, deployment)
        parts = ttft_parts(records)
        assert all(part.min() >= 0 for part in parts.values())
        np.testing.assert_allclose(sum(parts.values()), ttft_s(records), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- closed loop, refusals


def test_a_closed_loop_keeps_its_concurrency():
    records = simulate(at_once(np.full(6, 10), np.full(6, 4)), mono(), concurrency=2)
    assert records.arrival_s.tolist() == [0, 0, 4, 4, 8, 8]
    assert records.finish_s.tolist() == [4, 4, 8, 8, 12, 12]


def test_concurrency_above_the_number_of_requests_sends_all_at_once():
    records = simulate(at_once(np.full(3, 10), np.full(3, 4)), mono(), concurrency=50)
    assert records.arrival_s.tolist() == [0, 0, 0]
    assert (records.status == Status.FINISHED).all()


def test_rejected_requests_take_no_place_in_a_closed_loop():
    prompt = np.array([10, 10_000, 10])
    records = simulate(at_once(prompt, np.full(3, 4)), mono(kv=160), concurrency=1)
    assert records.status.tolist() == [Status.FINISHED, Status.REJECTED, Status.FINISHED]
    assert records.arrival_s.tolist() == [0, 4, 4]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Pool.of(SECOND, 15), "kv_capacity_tokens must be at least one block"),
        (lambda: Pool.of(SECOND, 160, replicas=0), "replicas must be >= 1"),
        (lambda: Pool.of(SECOND, 160, max_batch_tokens=8), "max_batch_tokens must be >= max_batch"),
        (lambda: Pool.of(SECOND, 160, router="best"), "router must be one of round_robin"),
        (lambda: Pool.of(SECOND, 160, policy="best"), "policy must be one of chunked_prefill"),
        (lambda: a_link(0.0), "bandwidth_bytes_per_s must be > 0"),
        (lambda: a_link(float("nan")), "bandwidth_bytes_per_s must be a finite number"),
        (lambda: a_link(1.0, -1.0), "base_latency_s must be >= 0"),
        (lambda: a_link(1.0, scope="all"), "scope must be one of per_replica, shared"),
        (
            lambda: disagg(decode=Pool.of(SECOND, 160, discipline="sjf")),
            "decode.discipline must be fcfs",
        ),
        (lambda: LinearLatency(0.0), "step_s must be > 0"),
        (lambda: requests_of((0, 1, 0)), "output_tokens must be >= 1"),
        (
            lambda: simulate(at_once(np.ones(1, int), np.ones(1, int)), mono(), concurrency=0),
            "concurrency must be >= 1",
        ),
    ],
)
def test_impossible_input_is_refused(build, message):
    with pytest.raises(InvalidParameterError, match=message):
        build()


def test_no_requests_give_no_records():
    nothing = Requests(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    for deployment in (mono(), mono(policy="prefill_first"), disagg()):
        assert len(simulate(nothing, deployment)) == 0


# ---------------------------------------------------------------- cost, real latency models


@pytest.mark.parametrize(
    "deployment", [mono, lambda latency: disagg(decode=Pool.of(latency, ROOM))]
)
def test_work_grows_with_requests_not_with_tokens(deployment):
    """Each jump is worked on once, and a timeline has a row of each."""
    rng = np.random.default_rng(1)
    n = 400
    jumps = []
    for scale in (1, 50):
        output = rng.integers(20, 40, n) * scale
        arrival = np.cumsum(rng.exponential(1.0, n)) * scale
        timeline = Timeline()
        simulate(
            Requests(arrival, np.full(n, 10), output),
            deployment(latency=LinearLatency(0.01)),
            timeline=timeline,
        )
        jumps.append(len(timeline.jumps().steps))
    assert jumps[1] < 3 * jumps[0]  # for 50 times the tokens
    assert jumps[0] < 20 * n


def test_a_run_takes_at_most_400_bytes_a_request():
    rng = np.random.default_rng(1)
    n = 2_000
    requests = Requests(
        np.cumsum(rng.exponential(1.0, n)), rng.integers(1, 2_000, n), rng.integers(1, 400, n)
    )
    latency = LinearLatency(0.02, 5e-5, kv_bytes_per_token=1.0)
    for deployment in (
        mono(latency=latency),
        disagg(Pool.of(latency, ROOM), Pool.of(latency, ROOM)),
    ):
        simulate(requests, deployment)
        tracemalloc.start()
        records = simulate(requests, deployment)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (records.status == Status.FINISHED).all()
        assert peak < 400 * n


def table_latency():
    """Piecewise linear in everything, so that a jump crosses kinks."""
    return TableLatency(
        LatencyTable(
            model="m",
            gpu="g",
            tensor_parallel=1,
            precision="bf16",
            backend="b",
            source="made up",
            kv_bytes_per_token=300_000.0,
            kv_capacity_tokens=5_000,
            tokens=[1.0, 8.0, 64.0, 2_048.0],
            shared_s=[0.010, 0.011, 0.015, 0.2],
            chunk=[1.0, 512.0],
            before=[0.0, 4_096.0],
            prefill_attention_s=[[0.001, 0.002], [0.003, 0.018]],
            batch=[1.0, 4.0, 64.0],
            context=[16.0, 200.0, 700.0, 3_000.0],
            decode_attention_s=[
                [0.001, 0.003, 0.004, 0.02],
                [0.002, 0.008, 0.009, 0.05],
                [0.01, 0.02, 0.05, 0.1],
            ],
        )
    )


@pytest.mark.parametrize("kind", ["roofline", "affine", "table"])
def test_engines_agree_on_real_models_and_on_a_table(kind):
    rng = np.random.default_rng(9)
    n = 60
    requests = Requests(
        np.cumsum(rng.exponential(0.1, n)), rng.integers(1, 3_000, n), rng.integers(1, 150, n)
    )
    if kind == "table":
        latency = table_latency()
    else:
        latency = latency_model(kind, model="llama-3.1-70b", gpu="h100_sxm", tensor_parallel=4)
    for deployment in (
        mono(latency=latency, kv=30_000, max_batch_tokens=2_048),
        mono(latency=latency, kv=400_000, replicas=2, router="least_tokens"),
        disagg(Pool.of(latency, 40_000), Pool.of(latency, 30_000), a_link(5e10, 1e-3)),
        disagg(Pool.of(latency, 400_000), Pool.of(latency, 400_000), a_link(5e10, 1e-3)),
    ):
        fast = simulate(requests, deployment)
        slow = stepwise.simulate(requests, deployment)
        for name, column in fast.columns().items():
            np.testing.assert_allclose(column, getattr(slow, name), rtol=1e-9, err_msg=name)


def test_who_comes_while_a_long_prompt_is_computed_does_not_change_its_chunks():
    # one decodes along; the prompt of 40 takes 14 iterations, and the last request comes in between
    requests = requests_of((0, 2, 60), (1, 40, 2), (6, 2, 2))
    deployment = mono(max_batch_tokens=4, max_batch_size=4)
    records, wanted = simulate(requests, deployment), stepwise.simulate(requests, deployment)
    np.testing.assert_allclose(records.prefill_end_s, wanted.prefill_end_s, rtol=1e-12)
    np.testing.assert_allclose(records.finish_s, wanted.finish_s, rtol=1e-12)
