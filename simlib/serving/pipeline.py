"""Disaggregated serving stage by stage, where no KV cache fills: nothing flows back then.

Prefill replicas run first, then the links, then decode replicas. Whether any KV cache could have
filled is checked afterwards on the stamps; if so the result is not used, and the event by event
simulation of `simlib.serving.cluster` takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from simlib.serving.deployment import Disaggregated, Pool
from simlib.serving.lanes import Line, decode_lane, prefill_lane
from simlib.serving.ledger import Ledger
from simlib.serving.link import FairLink, FifoLink

Floats = NDArray[np.float64]


def run_apart(
    entry: Sequence[Sequence[int]],
    deployment: Disaggregated,
    ledger: Ledger,
    route: Callable[[int, int], int],
    line: Line,
) -> bool:
    """Run all stages and stamp the ledger.

    Parameters
    ----------
    entry
        Requests of each prefill replica, in order of arrival.
    deployment, ledger
        What to run and where to stamp.
    route
        (request, tokens) to a decode replica; called in order of prefill end.
    line
        The decode pool's iteration times.

    Returns
    -------
    bool
        Whether the stamps are right: no KV cache filled.
    """
    left = [prefill_lane(requests, deployment.prefill, ledger) for requests in entry]
    order = _in_order_of_end(left, ledger)
    _transfer(order, deployment, ledger)
    if not _held_within(
        left, deployment.prefill, ledger.prefill_start, ledger.transfer_end, ledger, False
    ):
        return False
    replicas: list[list[int]] = [[] for _ in range(deployment.decode.replicas)]
    place = ledger.decode_replica
    for request in order:
        at = route(request, 0)
        place[request] = at
        replicas[at].append(request)
    ready = np.frombuffer(ledger.transfer_end)
    sorted_replicas = []
    for requests in replicas:
        members = np.array(requests, np.int64)
        members = members[np.lexsort((members, ready[members]))]
        sorted_replicas.append(members)
        decode_lane(ready[members].tolist(), members.tolist(), deployment.decode, ledger, line)
    return _held_within(
        sorted_replicas, deployment.decode, ledger.prefill_end, ledger.finish, ledger, True
    )


def _in_order_of_end(left: Sequence[Sequence[int]], ledger: Ledger) -> list[int]:
    """Merge the replicas' finished prefills: by time, replica, place in the batch."""
    if len(left) == 1:
        return list(left[0])
    requests = np.concatenate([np.array(part, np.int64) for part in left])
    replica = np.repeat(np.arange(len(left)), [len(part) for part in left])
    ends = np.frombuffer(ledger.prefill_end)[requests]
    merged: list[int] = requests[np.lexsort((replica, ends))].tolist()
    return merged


def _transfer(order: Sequence[int], deployment: Disaggregated, ledger: Ledger) -> None:
    """Send every KV cache as soon as its prefill ends."""
    link = deployment.link
    shared = link.scope == "shared"
    count = 1 if shared else deployment.prefill.replicas
    token_bytes = deployment.prefill.latency.kv_bytes_per_token
    prompt, starts, ends = ledger.prompt, ledger.prefill_start, ledger.prefill_end
    sent_from, sent_to = ledger.transfer_start, ledger.transfer_end
    source = ledger.prefill_replica
    base_s = link.base_latency_s
    fair = [FairLink(link.bandwidth_bytes_per_s) for _ in range(count)]
    fifo = [FifoLink(link.bandwidth_bytes_per_s) for _ in range(count)]
    for request in order:
        size = token_bytes * prompt[request]
        now = ends[request]
        if link.overlap_layers:
            size = link.exposed_bytes(size, now - starts[request])
        at = 0 if shared else source[request]
        if link.contention == "fifo":
            sent_from[request], sent = fifo[at].send(now, size)
            sent_to[request] = sent + base_s
        else:
            sent_from[request] = now
            _drain(fair[at], now, base_s, ledger)
            fair[at].send(now, request, size)
    for waiting in fair:
        _drain(waiting, inf, base_s, ledger)


def _drain(link: FairLink, until_s: float, base_s: float, ledger: Ledger) -> None:
    while link.active and (end := link.next_s()) < until_s:
        for request in link.pop(end):
            ledger.transfer_end[request] = end + base_s


def _held_within(
    replicas: Sequence[Sequence[int] | NDArray[np.int64]],
    pool: Pool,
    start: Sequence[float],
    end: Sequence[float],
    ledger: Ledger,
    decodes: bool,
) -> bool:
    """Return whether blocks held from `start` to `end` never exceed a replica's KV cache.

    Decoding requests count in full from the start, which errs on the safe side.
    """
    starts, ends = np.frombuffer(start), np.frombuffer(end)  # type: ignore[call-overload]
    for requests in replicas:
        members = np.asarray(requests, np.int64)
        tokens = np.array([ledger.prompt[request] for request in members.tolist()], np.int64)
        if decodes:
            tokens += np.array([ledger.steps[request] for request in members.tolist()], np.int64)
        blocks = -(-tokens // pool.block_tokens)
        times = np.concatenate((ends[members], starts[members]))
        change = np.concatenate((-blocks, blocks))
        held = np.cumsum(change[np.argsort(times, kind="stable")])
        if len(held) and held.max() > pool.capacity_blocks:
            return False
    return True
