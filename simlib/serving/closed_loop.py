"""A closed loop by lanes: each completion lets the next request arrive at the same instant.

Lanes, links and arrivals move on together, from one time at which something ends to the next, in
the order of events that `simlib.serving.events` states. As in `simlib.serving.pipeline`, no KV
cache of a disaggregated deployment may fill, which is checked afterwards on the stamps. Links must
be ``fifo``, whose transfers have an end from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf, nextafter

from simlib.serving.deployment import Disaggregated
from simlib.serving.events import Run
from simlib.serving.lane_pool import LanePool
from simlib.serving.lanes import Line
from simlib.serving.link import Links
from simlib.serving.pipeline import decode_fits, prefill_fits


def run_closed(run: Run, line: Line, concurrency: int) -> bool:
    """Run with `concurrency` requests in flight; return whether the stamps are right.

    `line` are the iteration times of the pool that decodes.
    """
    deployment, ledger = run.deployment, run.ledger
    if not isinstance(deployment, Disaggregated):
        pool = LanePool.mixed(run.entry, ledger, run.entry_router, line)
        _loop(pool, _sender(run, pool), concurrency)
        return True
    prefill = LanePool.prefill(deployment.prefill, ledger, run.entry_router)
    decode = LanePool.decode(deployment.decode, ledger, run.decode_router, line)
    links = Links(deployment, ledger)
    _loop_apart(prefill, decode, links, _sender(run, prefill), concurrency)
    return prefill_fits(prefill, deployment.prefill, ledger) and decode_fits(
        decode, deployment.decode, ledger
    )


def _sender(run: Run, pool: LanePool) -> Callable[[int, float], None]:
    """Return a function of (number, time) that lets so many requests arrive."""
    upcoming = iter(range(len(run.lost)))
    lost, arrival = run.lost.tobytes(), run.ledger.arrival

    def send(number: int, now: float) -> None:
        while number:
            request = next(upcoming, -1)
            if request < 0:
                return
            arrival[request] = now
            if not lost[request]:
                pool.route(request)
                pool.deliver(request, now)
                number -= 1

    return send


def _loop(pool: LanePool, send: Callable[[int, float], None], concurrency: int) -> None:
    now, vacant = 0.0, concurrency
    while now < inf:
        if vacant:
            send(vacant, now)
        pool.start(now)
        now = min(pool.due)
        vacant = len(pool.end(now, now))


def _loop_apart(
    prefill: LanePool,
    decode: LanePool,
    links: Links,
    send: Callable[[int, float], None],
    concurrency: int,
) -> None:
    """Run until nothing is in flight.

    A replica begins its next iteration together with the end of the last one unless something
    may still be delivered to it at the same time.
    """
    sending: list[tuple[float, int]] = []  # heap of (end of transfer, request)
    send(concurrency, 0.0)
    prefill.start(0.0)
    while True:
        prefill_s, decode_s = min(prefill.due), min(decode.due)
        sent_s = sending[0][0] if sending else inf
        now = min(prefill_s, decode_s, sent_s)
        if now == inf:
            return
        after = nextafter(now, inf)
        vacant = 0
        if decode_s == now:
            alone = now < prefill_s and now < sent_s
            vacant = len(decode.end(now, after if alone else now))
        if prefill_s == now:
            for request in prefill.end(now, now if vacant else after):
                decode.route(request)
                heappush(sending, (links.send(request, now), request))
        while sending and sending[0][0] == now:
            decode.deliver(heappop(sending)[1], now)
        if now in (prefill_s, sent_s):
            decode.start(now)
        if vacant:
            send(vacant, now)
            prefill.start(now)
