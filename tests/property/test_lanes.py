"""Lanes: whatever horizons they are sent, a replica's run is the same."""

from functools import partial
from math import inf

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simlib.latency.linear import LinearLatency
from simlib.latency.protocol import decode_lines
from simlib.serving.deployment import Disaggregated, Monolithic, Pool, TransferLink
from simlib.serving.dispatch import Classes
from simlib.serving.events import Run
from simlib.serving.lanes import Lane, decode_lane, mixed_lane, prefill_lane
from simlib.workload.requests import Requests

LATENCY = LinearLatency(2.0**-5, 2.0**-10, 2.0**-18, 2.0**-9, 2.0**-14, kv_bytes_per_token=1.0)
times = st.integers(0, 200).map(lambda k: k * 2.0**-5)


def one_lane(kind, rows, capacity):
    """Return a lane, its run, and what is delivered to it: (time, request)."""
    arrival, prompt, output = (np.array(column) for column in zip(*sorted(rows), strict=True))
    requests = Requests(arrival.astype(float), prompt, output)
    pool = Pool(LATENCY, capacity, max_batch_tokens=16, max_batch_size=4, block_tokens=4)
    deployment = (
        Monolithic(pool, "decode")
        if kind == "mixed"
        else Disaggregated(pool, pool, TransferLink(1.0))
    )
    run = Run(requests, deployment, 0, 0, Classes(), None)
    line = decode_lines(LATENCY, pool.max_batch_size)
    if kind == "mixed":
        loop = partial(mixed_lane, replica=run.entry[0], line=line)
    elif kind == "prefill":
        loop = partial(prefill_lane, pool=pool, ledger=run.ledger)
    else:
        loop = partial(decode_lane, pool=pool, ledger=run.ledger, line=line)
        for request, time in enumerate(requests.arrival_s):
            run.ledger.transfer_end[request] = time
    coming = [(float(requests.arrival_s[request]), request) for request in run.waiting]
    return Lane(loop), run, coming


def stamps(run):
    ledger = run.ledger
    return [
        list(column)
        for column in (
            np.nan_to_num(np.array(ledger.prefill_start), nan=-1.0),
            np.nan_to_num(np.array(ledger.prefill_end), nan=-1.0),
            np.nan_to_num(np.array(ledger.decode_start), nan=-1.0),
            np.nan_to_num(np.array(ledger.first_token), nan=-1.0),
            np.nan_to_num(np.array(ledger.finish), nan=-1.0),
            ledger.preemptions,
        )
    ]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["mixed", "prefill", "decode"]),
    rows=st.lists(
        st.tuples(times, st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12
    ),
    capacity=st.sampled_from([80, 120, 10_000]),
    horizons=st.lists(times, max_size=30),
)
def test_horizons_on_the_way_change_nothing(kind, rows, capacity, horizons):
    whole, expected, coming = one_lane(kind, rows, capacity)
    whole.entered.extend(request for _, request in coming)
    assert whole.advance(inf) == inf

    lane, run, coming = one_lane(kind, rows, capacity)
    for horizon in sorted(horizons):
        while coming and coming[0][0] < horizon:
            lane.entered.append(coming.pop(0)[1])
        assert lane.advance(horizon) >= horizon
    lane.entered.extend(request for _, request in coming)
    assert lane.advance(inf) == inf

    assert stamps(run) == stamps(expected)
    assert lane.left == whole.left
    assert sorted(lane.left) == run.waiting


def test_a_lane_is_due_at_the_end_of_its_jump_and_a_delivery_cuts_it():
    lane, run, _ = one_lane("decode", [(0.0, 1, 8), (0.0, 1, 8)], 10_000)
    assert run.waiting == [0, 1]
    lane.entered.append(0)
    step = LATENCY.decode_run_s(1, 1, 1)
    all_steps = LATENCY.decode_run_s(1, 1, 8)
    assert lane.advance(step / 2) == all_steps
    run.ledger.transfer_end[1] = step / 2
    lane.entered.append(1)
    assert lane.advance(step / 2) == step
    assert not lane.left
