"""Disaggregated serving stage by stage, where no KV cache fills: nothing flows back then.

Prefill replicas run first, then the links, then decode replicas. Whether any KV cache could have
filled is checked afterwards on the stamps; if so the result is not used, and the event by event
simulation of `simlib.serving.events` takes over.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from simlib.serving.deployment import Disaggregated, Pool
from simlib.serving.events import Run
from simlib.serving.lane_pool import LanePool
from simlib.serving.lanes import Line
from simlib.serving.ledger import Ledger
from simlib.serving.link import Links

Floats = NDArray[np.float64]


def run_apart(run: Run, line: Line) -> bool:
    """Run all stages and stamp the ledger; return whether the stamps are right: no cache filled.

    `line` are the decode pool's iteration times.
    """
    assert isinstance(run.deployment, Disaggregated)
    deployment, ledger = run.deployment, run.ledger
    prefill = LanePool.prefill(deployment.prefill, ledger, run.entry_router)
    prefill.run(run.waiting, ledger.arrival, run.waiting, ledger.arrival)
    order = _in_order_of_end(prefill.entered, ledger)
    _transfer(order, deployment, ledger)
    if not prefill_fits(prefill, deployment.prefill, ledger):
        return False
    del prefill  # its lists, before those of the decode pool are made
    decode = LanePool.decode(deployment.decode, ledger, run.decode_router, line)
    delivered = _in_order_of(run.waiting, np.frombuffer(ledger.transfer_end))
    decode.run(order, ledger.prefill_end, delivered, ledger.transfer_end)
    del order, delivered
    return decode_fits(decode, deployment.decode, ledger)


def _in_order_of_end(left: Sequence[Sequence[int]], ledger: Ledger) -> Sequence[int]:
    """Merge the replicas' prefills, each first come, first served: by end, replica, entry."""
    if len(left) == 1:
        return left[0]
    return _in_order_of(
        [request for part in left for request in part], np.frombuffer(ledger.prefill_end)
    )


def _in_order_of(requests: list[int], time_s: Floats) -> list[int]:
    """Sort requests by time, those of one time in the given order."""
    order = np.argsort(time_s[np.array(requests, np.int64)], kind="stable")
    return list(map(requests.__getitem__, order.tolist()))


def _transfer(order: Sequence[int], deployment: Disaggregated, ledger: Ledger) -> None:
    """Send every KV cache as soon as its prefill ends."""
    links = Links(deployment, ledger)
    ends = ledger.prefill_end
    if not links.is_fair:
        for request in order:
            links.send(request, ends[request])
        return
    for request in order:
        now = ends[request]
        _drain(links, links.source(request), now)
        links.share(request, now)
    for source in range(len(links.fair)):
        _drain(links, source, inf)


def _drain(links: Links, source: int, until_s: float) -> None:
    link = links.fair[source]
    while link.active and (end := link.next_s()) < until_s:
        links.pop(source, end)


def prefill_fits(lanes: LanePool, pool: Pool, ledger: Ledger) -> bool:
    """Return whether prompts held until their transfers ended never exceeded a KV cache."""
    return _held_within(
        lanes, pool, np.array(ledger.prompt), ledger.prefill_start, ledger.transfer_end
    )


def decode_fits(lanes: LanePool, pool: Pool, ledger: Ledger) -> bool:
    """Return whether no KV cache filled where requests decode.

    They count in full from the moment they are routed, which errs on the safe side.
    """
    tokens = np.array(ledger.prompt) + np.array(ledger.steps)
    return _held_within(lanes, pool, tokens, ledger.prefill_end, ledger.finish)


def _held_within(
    lanes: LanePool,
    pool: Pool,
    tokens: NDArray[np.int64],
    start: Sequence[float],
    end: Sequence[float],
) -> bool:
    """Return whether blocks held from `start` to `end` never exceed a replica's KV cache."""
    starts, ends = np.frombuffer(start), np.frombuffer(end)  # type: ignore[call-overload]
    for requests in lanes.entered:
        members = np.array(requests, np.int32)
        order = np.argsort(np.concatenate((ends[members], starts[members])), kind="stable")
        blocks = (-(-tokens[members] // pool.block_tokens)).astype(np.int32)
        change = np.concatenate((-blocks, blocks))[order]
        del order
        if np.cumsum(change).max(initial=0) > pool.capacity_blocks:
            return False
    return True
