"""Continuous batching on whole deployments: the fast engine.

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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import RequestRecords
from simlib.errors import InvalidParameterError
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic, Pool
from simlib.serving.kv_cache import blocks_of
from simlib.serving.lanes import Line, mixed_lane
from simlib.serving.ledger import Ledger, refused
from simlib.serving.link import FairLink, FifoLink
from simlib.serving.pipeline import run_apart
from simlib.serving.protocol import decode_lines
from simlib.serving.replica import Replica
from simlib.serving.router import DRAWS, ROUTERS, STATELESS, Route
from simlib.serving.scheduler import order_key
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests
from simlib.workload.streams import Stream, generator

DECODE_END: Final = 0
PREFILL_END: Final = 1
LINK: Final = 2
TRANSFER_END: Final = 3
ARRIVAL: Final = 4


@dataclass(frozen=True, slots=True)
class Classes:
    """What the disciplines ``edf`` and ``priority`` sort by; columns of one value per request."""

    ttft_slo_s: NDArray[np.float64] | None = None
    """Seconds from arrival to the TTFT deadline."""
    priority: NDArray[np.int64] | None = None
    """Priority class, the smallest served first."""


def routing_draws(
    n: int, deployment: Deployment, random_seed: int, replicate: int
) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Return two columns of uniforms per pool, entry pool first; empty where not needed."""
    rng = generator(random_seed, replicate, Stream.ROUTING)
    columns = []
    for pool in pools_of(deployment):
        draws: list[Sequence[float]] = [
            rng.random(n).tolist() for _ in range(DRAWS.get(pool.router, 0))
        ]
        draws += [()] * (2 - len(draws))
        columns.append((draws[0], draws[1]))
    return columns


def pools_of(deployment: Deployment) -> tuple[Pool, ...]:
    """Return the pools of a deployment, the one where requests arrive first."""
    if isinstance(deployment, Monolithic):
        return (deployment.pool,)
    return (deployment.prefill, deployment.decode)


def entry_keys(requests: Requests, pool: Pool, classes: Classes) -> list[float]:
    """Return what the entry pool's discipline sorts by, per request."""
    n = len(requests)
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {}
    for discipline, name in (("edf", "ttft_slo_s"), ("priority", "priority")):
        column = getattr(classes, name)
        if pool.discipline == discipline and (column is None or len(column) != n):
            raise InvalidParameterError(name, column, f"a column of {n} values with {discipline}")
        columns[name] = np.zeros(n) if column is None else column
    return [
        order_key(pool.discipline, arrival_s, prompt, slo_s, priority)
        for arrival_s, prompt, slo_s, priority in zip(
            requests.arrival_s.tolist(),
            requests.prompt_tokens.tolist(),
            columns["ttft_slo_s"].tolist(),
            columns["priority"].tolist(),
            strict=True,
        )
    ]


class _Router:
    """Chooses replicas and counts what is outstanding."""

    __slots__ = ("first", "requests", "route", "second", "stateless", "tokens", "turn")

    def __init__(self, pool: Pool, draws: tuple[Sequence[float], Sequence[float]]) -> None:
        self.route: Route = ROUTERS[pool.router]
        self.stateless = pool.router in STATELESS or pool.replicas == 1
        self.first, self.second = draws
        self.requests = [0] * pool.replicas
        self.tokens = [0] * pool.replicas
        self.turn = 0

    def choose(self, request: int, tokens: int) -> int:
        u = self.first[request] if self.first else 0.0
        v = self.second[request] if self.second else 0.0
        at = self.route(self.turn, u, v, self.requests, self.tokens)
        self.turn += 1
        self.requests[at] += 1
        self.tokens[at] += tokens
        return at

    def leave(self, at: int, tokens: int) -> None:
        self.requests[at] -= 1
        self.tokens[at] -= tokens


def simulate(
    requests: Requests,
    deployment: Deployment,
    *,
    random_seed: int = 0,
    replicate: int = 0,
    classes: Classes | None = None,
    timeline: Timeline | None = None,
) -> RequestRecords:
    """Simulate a run until every request has ended; equals `simlib.serving.twin` but faster.

    Parameters
    ----------
    requests
        What arrives, in order of arrival.
    deployment
        The pools, and the link between them.
    random_seed, replicate
        Seed of the routing draws (only routers that draw use them).
    classes
        Deadlines or priorities, for the disciplines that need them.
    timeline
        Where to note every jump (batch size, KV occupancy, token gaps); costs memory.

    Returns
    -------
    RequestRecords
        A row per request. Requests that can never fit are rejected on arrival.

    Raises
    ------
    InvalidParameterError
        If a discipline lacks its column.
    """
    classes = classes or Classes()
    run = _Run(requests, deployment, random_seed, replicate, classes, timeline)
    line = run.lane_lines()
    if line is not None:
        if run.lanes(line):
            return run.ledger.records(requests, run.lost)
        run = _Run(requests, deployment, random_seed, replicate, classes, timeline)
    if isinstance(deployment, Monolithic):
        run.monolithic()
    else:
        run.events()
    return run.ledger.records(requests, run.lost)


def simulate_closed_loop(
    prompt_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    concurrency: int,
    deployment: Deployment,
    *,
    random_seed: int = 0,
    replicate: int = 0,
    timeline: Timeline | None = None,
) -> RequestRecords:
    """Simulate a benchmark that keeps `concurrency` requests in flight.

    The first ones arrive at 0; each completion lets the next one arrive at the same instant.
    Requests that can never fit are rejected and take no place.

    Parameters
    ----------
    prompt_tokens, output_tokens
        Lengths in order of sending; arrival times come out in the records.
    concurrency
        At least 1; above the number of requests, all arrive at 0.
    deployment, random_seed, replicate, timeline
        As in `simulate`; disciplines that need classes are refused.

    Raises
    ------
    InvalidParameterError
        If concurrency is below 1.
    """
    if concurrency < 1:
        raise InvalidParameterError("concurrency", concurrency, ">= 1")
    requests = Requests(np.zeros(len(prompt_tokens)), prompt_tokens, output_tokens)
    run = _Run(requests, deployment, random_seed, replicate, Classes(), timeline)
    run.events(concurrency)
    arrived = Requests(np.array(run.ledger.arrival), prompt_tokens, output_tokens)
    return run.ledger.records(arrived, run.lost)


class _Run:
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
        keys: Sequence[float] = (
            _Constant()
            if pools[0].discipline == "fcfs"
            else entry_keys(requests, pools[0], classes)
        )
        self.entry = [
            Replica(pools[0], index, ledger, keys, prefill_only=apart, timeline=timeline)
            for index in range(pools[0].replicas)
        ]
        self.entry_router = _Router(pools[0], draws[0])
        self.decode: list[Replica] = []
        if isinstance(deployment, Disaggregated):
            self.decode_keys = [0.0] * len(requests)
            self.decode = [
                Replica(pools[1], index, ledger, self.decode_keys, remote=True, timeline=timeline)
                for index in range(pools[1].replicas)
            ]
            self.decode_router = _Router(pools[1], draws[1])

    def lane_lines(self) -> Line | None:
        """Return the decode pool's lines if its replicas can run as lanes, else None."""
        pools = pools_of(self.deployment)
        last = pools[-1]
        plain = all(
            pool.discipline == "fcfs" and (pool.router in STATELESS or pool.replicas == 1)
            for pool in pools
        )
        if not plain or self.timeline is not None:
            return None
        if len(pools) == 1 and last.policy != "chunked_prefill":
            return None
        return decode_lines(last.latency, last.max_batch_size)

    def lanes(self, line: Line) -> bool:
        """Run each replica on its own; return False if KV caches could fill and couple them."""
        ledger = self.ledger
        entry: list[list[int]] = [[] for _ in self.entry]
        place = ledger.prefill_replica
        choose = self.entry_router.choose
        for request in self.waiting:
            at = choose(request, 0)
            place[request] = at
            entry[at].append(request)
        if isinstance(self.deployment, Disaggregated):
            return run_apart(entry, self.deployment, ledger, self.decode_router.choose, line)
        for replica, requests in zip(self.entry, entry, strict=True):
            mixed_lane(replica, requests, line)
        return True

    def monolithic(self) -> None:
        """Run independent replicas: each is advanced only when something depends on it."""
        ledger, router, replicas = self.ledger, self.entry_router, self.entry
        arrival, prompt, steps = ledger.arrival, ledger.prompt, ledger.steps
        place = ledger.prefill_replica
        alike = router.stateless
        for replica in replicas:
            replica.watched = not alike
        for request in self.waiting:
            now = arrival[request]
            tokens = prompt[request] + steps[request]
            if not alike:
                for replica in replicas:
                    if replica.end <= now or (replica.end == inf and replica.now < now):
                        replica.advance(now)
                        if replica.departed:
                            self._left(replica, router)
            at = router.choose(request, tokens)
            replica = replicas[at]
            place[request] = at
            if alike:
                replica.advance(now)
            replica.deliver(request, now)
        for replica in replicas:
            replica.advance(inf)

    def _left(self, replica: Replica, router: _Router) -> None:
        ledger = self.ledger
        for request in replica.departed:
            tokens = ledger.prompt[request]
            if not replica.prefill_only:
                tokens += ledger.steps[request]
            router.leave(replica.index, tokens)
        replica.departed.clear()

    # ---------------------------------------------------------------- events

    def events(self, concurrency: int = 0) -> None:
        """Run by a heap of events; with `concurrency`, completions let requests arrive."""
        heap: list[tuple[float, int, int]] = []
        self.heap = heap
        self.closed = concurrency > 0
        self.upcoming = iter(range(len(self.lost)) if self.closed else self.waiting)
        self.started: list[Replica] = []
        apart = isinstance(self.deployment, Disaggregated)
        for replica in self.entry:
            replica.watched = True
        for replica in self.decode:
            replica.watched = self.closed or not self.decode_router.stateless
        if apart:
            self._make_links()
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
            self._left(replica, self.entry_router)
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

    def _make_links(self) -> None:
        assert isinstance(self.deployment, Disaggregated)
        link = self.deployment.link
        count = len(self.entry) if link.scope == "per_replica" else 1
        self.fifo = [FifoLink(link.bandwidth_bytes_per_s) for _ in range(count)]
        self.fair = [FairLink(link.bandwidth_bytes_per_s) for _ in range(count)]
        self.is_fair = link.contention == "fair"
        self.base_s = link.base_latency_s
        self.token_bytes = self.deployment.prefill.latency.kv_bytes_per_token
        self.overlap = link.overlap_layers > 0
        self.entered = 0

    def _enter_decode(self, request: int, now: float) -> None:
        """Route a finished prefill to a decode replica and queue it there."""
        ledger = self.ledger
        router = self.decode_router
        if not router.stateless and not self.closed:
            for replica in self.decode:
                if replica.end <= now or (replica.end == inf and replica.now < now):
                    replica.advance(now)
                    if replica.departed:
                        self._left(replica, router)
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
            self._left(replica, self.decode_router)
            if self.closed:
                for _ in range(gone):
                    self._next_arrival(now)
        if replica.unreserved:
            self._reserve(replica, now)
        if self.closed:
            self.started.append(replica)

    def _send(self, request: int, now: float) -> None:
        ledger = self.ledger
        size = self.token_bytes * ledger.prompt[request]
        if self.overlap:
            assert isinstance(self.deployment, Disaggregated)
            size = self.deployment.link.exposed_bytes(
                size, ledger.prefill_end[request] - ledger.prefill_start[request]
            )
        source = ledger.prefill_replica[request] if len(self.fifo) > 1 else 0
        if self.is_fair:
            link = self.fair[source]
            link.send(now, request, size)
            ledger.transfer_start[request] = now
            heappush(self.heap, (link.next_s(), LINK, source))
            return
        start, sent = self.fifo[source].send(now, size)
        ledger.transfer_start[request] = start
        end = sent + self.base_s
        ledger.transfer_end[request] = end
        heappush(self.heap, (end, TRANSFER_END, request))

    def _drain(self, which: int, now: float) -> None:
        link = self.fair[which]
        if link.next_s() != now:
            return  # a transfer joined meanwhile
        for request in link.pop(now):
            end = now + self.base_s
            self.ledger.transfer_end[request] = end
            heappush(self.heap, (end, TRANSFER_END, request))
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
                self._left(replica, self.decode_router)
            replica.deliver_transferred(request, now)


class _Constant(Sequence[float]):
    """The key of a first-come-first-served queue: the request number alone decides."""

    def __getitem__(self, index: object) -> float:  # type: ignore[override]
        return 0.0

    def __len__(self) -> int:
        return 0
