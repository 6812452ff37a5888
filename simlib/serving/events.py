"""The event by event simulation of a deployment, for every case.

Events at one time happen in this order, and the step-by-step twin (`simlib.serving.twin`) keeps it:

1. iteration ends of the decode pool, by replica; each frees blocks, then reserves for waiting KV
   caches;
2. iteration ends of the prefill (or only) pool, by replica; each finished prefill is routed to a
   decode replica, in the order of its chunks, reserves blocks there if it can, and asks its link
   for the transfer;
3. last bytes sent on fairly shared links, by link, then by request;
4. transfer ends, by request: the prefill side frees its blocks, the decode side may begin;
5. arrivals, by request;
6. iteration starts.

A decode replica on which nothing waits for room is only advanced when something reaches it; the
ends of its iterations change nothing elsewhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from typing import Final

import numpy as np

from simlib.serving.deployment import Deployment, Disaggregated
from simlib.serving.dispatch import (
    ArrivalOrder,
    Classes,
    Router,
    entry_keys,
    pools_of,
    routing_draws,
)
from simlib.serving.kv_cache import blocks_of
from simlib.serving.ledger import Ledger, refused
from simlib.serving.link import Links
from simlib.serving.replica import Replica
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests

DECODE_END: Final = 0
PREFILL_END: Final = 1
LINK: Final = 2
TRANSFER_END: Final = 3
ARRIVAL: Final = 4


class Run:
    """One simulation: replicas, routers, links and the events between them."""

    def __init__(
        self,
        requests: Requests,
        deployment: Deployment,
        random_seed: int,
        replicate: int,
        classes: Classes,
        timeline: Timeline | None,
    ) -> None:
        self.deployment = deployment
        self.timeline = timeline
        self.lost = refused(requests, deployment)
        self.ledger = ledger = Ledger(requests, deployment)
        self.waiting = np.flatnonzero(~self.lost).tolist()
        pools = pools_of(deployment)
        draws = routing_draws(len(requests), deployment, random_seed, replicate)
        apart = isinstance(deployment, Disaggregated)
        discipline = pools[0].discipline
        column = entry_keys(requests, pools[0], classes) if discipline != "fcfs" else None
        keys: Sequence[float] = ArrivalOrder() if column is None else column
        self.deadlines = column if discipline == "edf" else None
        self.entry = [
            Replica(pools[0], index, ledger, keys, prefill_only=apart, timeline=timeline)
            for index in range(pools[0].replicas)
        ]
        self.entry_router = Router(pools[0], draws[0])
        self.decode: list[Replica] = []
        if isinstance(deployment, Disaggregated):
            self.decode_keys = array("d", bytes(8 * len(requests)))
            self.decode = [
                Replica(pools[1], index, ledger, self.decode_keys, remote=True, timeline=timeline)
                for index in range(pools[1].replicas)
            ]
            self.decode_router = Router(pools[1], draws[1])

    def left(self, replica: Replica, router: Router) -> None:
        """Count off what left a replica."""
        ledger = self.ledger
        for request in replica.departed:
            tokens = ledger.prompt[request]
            if not replica.prefill_only:
                tokens += ledger.steps[request]
            router.leave(replica.index, 1, tokens)
        replica.departed.clear()

    # ---------------------------------------------------------------- events

    def events(self, concurrency: int = 0) -> None:
        """Run by a heap of events; with `concurrency`, completions let requests arrive."""
        heap: list[tuple[float, int, int]] = []
        self.heap = heap
        self.closed = concurrency > 0
        self.upcoming = iter(range(len(self.lost)) if self.closed else self.waiting)
        self.started: list[Replica] = []
        for replica in self.entry:
            replica.watched = True
        for replica in self.decode:
            replica.watched = self.closed or not self.decode_router.stateless
        if isinstance(self.deployment, Disaggregated):
            self.links = Links(self.deployment, self.ledger)
            self.entered = 0
        for _ in range(concurrency if self.closed else 1):
            self._next_arrival(0.0)
        handlers = (
            self._end_decode,
            self._end_prefill,
            self._drain,
            self._end_transfer,
            self._arrive,
        )
        now = 0.0
        while True:
            if self.started and (not heap or heap[0][0] > now):
                self._start_all()
            if not heap:
                break
            now, kind, which = heappop(heap)
            handlers[kind](which, now)
        for replica in self.decode:
            replica.advance(inf)

    def _arrive(self, request: int, now: float) -> None:
        ledger = self.ledger
        if not self.closed:
            self._next_arrival(now)
        tokens = ledger.prompt[request]
        if not self.decode:
            tokens += ledger.steps[request]
        at = self.entry_router.choose(request, tokens)
        ledger.prefill_replica[request] = at
        replica = self.entry[at]
        end = replica.end
        replica.deliver(request, now)
        if replica.end == inf:
            self.started.append(replica)
        elif replica.end != end:
            heappush(self.heap, (replica.end, PREFILL_END, at))

    def _end_prefill(self, which: int, now: float) -> None:
        replica = self.entry[which]
        if replica.end != now:
            return  # the jump was cut meanwhile
        replica.complete()
        self.started.append(replica)
        if replica.departed:
            gone = list(replica.departed)
            self.left(replica, self.entry_router)
            for request in gone:
                if self.decode:
                    self._enter_decode(request, now)
                else:
                    self._next_arrival(now)

    def _end_decode(self, which: int, now: float) -> None:
        replica = self.decode[which]
        if replica.end == now:
            replica.complete()
            self._decode_changed(replica, now)

    def _next_arrival(self, now: float) -> None:
        """Let the next request arrive: at its time, or in a closed loop at once."""
        arrival = self.ledger.arrival
        for request in self.upcoming:
            if self.closed:
                arrival[request] = now
                if self.lost[request]:
                    continue
                if self.deadlines is not None:
                    self.deadlines[request] += now  # it was as if sent at 0
            heappush(self.heap, (arrival[request], ARRIVAL, request))
            return

    def _start_all(self) -> None:
        heap = self.heap
        for replica in self.started:
            if replica.end == inf and replica.now != inf:
                replica.start()
                if replica.end != inf:
                    kind = DECODE_END if replica.remote else PREFILL_END
                    heappush(heap, (replica.end, kind, replica.index))
        self.started.clear()

    # ---------------------------------------------------------------- transfers

    def _enter_decode(self, request: int, now: float) -> None:
        """Route a finished prefill to a decode replica and queue it there."""
        ledger = self.ledger
        router = self.decode_router
        if not router.stateless and not self.closed:
            for replica in self.decode:
                if replica.end <= now or (replica.end == inf and replica.now < now):
                    replica.advance(now)
                    if replica.departed:
                        self.left(replica, router)
        at = router.choose(request, ledger.prompt[request] + ledger.steps[request])
        ledger.decode_replica[request] = at
        self.decode_keys[request] = float(self.entered)
        self.entered += 1
        replica = self.decode[at]
        if not self.closed and not replica.unreserved:
            replica.advance(now)
        replica.queue.append(request)
        replica.unreserved += 1
        self._reserve(replica, now)

    def _reserve(self, replica: Replica, now: float) -> None:
        end = replica.end
        for request in replica.reserve(now):
            self._send(request, now)
        if self.closed:
            if replica.end != end:
                heappush(self.heap, (replica.end, DECODE_END, replica.index))
        elif replica.unreserved:
            self._watch(replica)

    def _watch(self, replica: Replica) -> None:
        """See to it that the replica's next iteration end becomes an event."""
        if replica.end != inf:
            heappush(self.heap, (replica.end, DECODE_END, replica.index))
        elif replica.now != inf:
            self.started.append(replica)

    def _decode_changed(self, replica: Replica, now: float) -> None:
        """Follow up on an iteration end of the decode pool."""
        if replica.departed:
            gone = len(replica.departed)
            self.left(replica, self.decode_router)
            if self.closed:
                for _ in range(gone):
                    self._next_arrival(now)
        if replica.unreserved:
            self._reserve(replica, now)
        if self.closed:
            self.started.append(replica)

    def _send(self, request: int, now: float) -> None:
        links = self.links
        if links.is_fair:
            links.share(request, now)
            source = links.source(request)
            heappush(self.heap, (links.fair[source].next_s(), LINK, source))
        else:
            heappush(self.heap, (links.send(request, now), TRANSFER_END, request))

    def _drain(self, which: int, now: float) -> None:
        link = self.links.fair[which]
        if link.next_s() != now:
            return  # a transfer joined meanwhile
        for request in self.links.pop(which, now):
            heappush(self.heap, (self.ledger.transfer_end[request], TRANSFER_END, request))
        if link.active:
            heappush(self.heap, (link.next_s(), LINK, which))

    def _end_transfer(self, request: int, now: float) -> None:
        ledger = self.ledger
        source = self.entry[ledger.prefill_replica[request]]
        source.release(blocks_of(ledger.prompt[request], source.block), now)
        if source.end == inf and source.now != inf:
            self.started.append(source)
        replica = self.decode[ledger.decode_replica[request]]
        if self.closed or replica.unreserved:
            end = replica.end
            replica.deliver_transferred(request, now)
            if replica.end == inf:
                self.started.append(replica)
            elif replica.end != end:
                heappush(self.heap, (replica.end, DECODE_END, replica.index))
        else:
            replica.advance(now)
            if replica.departed:
                self.left(replica, self.decode_router)
            replica.deliver_transferred(request, now)
