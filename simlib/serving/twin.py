"""Continuous batching iteration by iteration in SimPy: the readable statement of the model.

Slow on purpose: nothing is jumped, every sequence counts its own tokens and blocks. The order of
events at one time is the one of `simlib.serving.cluster`, kept by SimPy event priorities.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from simlib.core.records import RequestRecords, Status, records_of
from simlib.serving.cluster import Classes, entry_keys, pools_of, routing_draws
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic, Pool, TransferLink
from simlib.serving.kv_cache import blocks_of
from simlib.serving.link import TOGETHER_BYTES
from simlib.serving.router import ROUTERS
from simlib.workload.requests import Requests

Process = Generator[simpy.Event, Any, None]
_PHASE = 1 << 40
_DECODE_END, _PREFILL_END, _LINK, _TRANSFER_END, _ARRIVAL, _START = (
    phase * _PHASE for phase in range(2, 8)
)


def _after(env: simpy.Environment, delay_s: float, rank: int) -> simpy.Event:
    """Return an event `delay_s` from now; the lowest rank goes first at one time."""
    event = env.event()
    event._ok = True
    event._value = None
    env.schedule(event, priority=rank, delay=delay_s)  # type: ignore[arg-type]
    return event


@dataclass(eq=False)
class Sequence:
    """One request on its way."""

    number: int
    prompt: int
    output: int
    key: tuple[float, int]
    arrival_s: float = nan
    prefill_start_s: float = nan
    prefill_end_s: float = nan
    transfer_start_s: float = nan
    transfer_end_s: float = nan
    decode_start_s: float = nan
    first_token_s: float = nan
    finish_s: float = nan
    prefill_replica: int = -1
    decode_replica: int = -1
    preemptions: int = 0
    status: Status = Status.UNFINISHED
    emitted: int = 0
    """Output tokens so far."""
    decoded: int = 0
    """Decode steps so far; each adds a token of context to the prompt."""
    computed: int = 0
    """Tokens whose KV cache is there."""
    blocks: int = 0
    """Blocks held on the replica it is on."""
    arrived_here: bool = True
    """Whether its KV cache is, or will be computed, on the replica it waits for."""
    route_tokens: int = 0
    token_s: list[float] = field(default_factory=list)
    """Time of every output token."""

    @property
    def context(self) -> int:
        """Tokens of KV cache it needs to decode."""
        return self.prompt + self.decoded


@dataclass(eq=False)
class Batch:
    """What one iteration works on."""

    chunks: list[tuple[Sequence, int]] = field(default_factory=list)
    decodes: list[Sequence] = field(default_factory=list)


class Server:
    """A replica as a SimPy process."""

    def __init__(self, env: simpy.Environment, pool: Pool, index: int, rank: int) -> None:
        self.env = env
        self.pool = pool
        self.index = index
        self.end_rank = rank + index
        self.waiting: list[Sequence] = []
        self.ready: list[Sequence] = []
        self.running: list[Sequence] = []
        self.elsewhere: list[Sequence] = []
        """Hold blocks, but do not run: transfers from or to here."""
        self.wake = env.event()
        self.on_iteration: list[Callable[[Server, Batch], None]] = []
        self.in_flight: list[Sequence] = []
        env.process(self.run())

    def used_blocks(self) -> int:
        """Return the sum of all blocks held."""
        return sum(seq.blocks for seq in (*self.running, *self.elsewhere, *self.ready))

    def free_blocks(self) -> int:
        """Return the blocks nobody holds; never negative."""
        free = self.pool.capacity_blocks - self.used_blocks()
        assert free >= 0
        return free

    def blocks(self, tokens: int) -> int:
        """Return the blocks for `tokens` tokens."""
        return blocks_of(tokens, self.pool.block_tokens)

    def notify(self) -> None:
        """Wake an idle server."""
        if not self.wake.triggered:
            self.wake.succeed()

    def run(self) -> Process:
        """Form a batch, let it take its time, repeat."""
        while True:
            batch = self.schedule()
            if not batch.chunks and not batch.decodes:
                self.wake = self.env.event()
                yield self.wake
            else:
                for seq in batch.decodes:
                    if seq.emitted == 0:
                        seq.decode_start_s = self.env.now
                duration = self.pool.latency.iteration_s(
                    [(new, seq.computed) for seq, new in batch.chunks],
                    len(batch.decodes),
                    sum(seq.context for seq in batch.decodes),
                )
                yield _after(self.env, duration, self.end_rank)
                self.end_iteration(batch)
            yield _after(self.env, 0.0, _START)

    # -- the scheduler

    def schedule(self) -> Batch:
        """Form the next batch; again if preemption left nobody to run."""
        while True:
            while self.ready and len(self.running) < self.pool.max_batch_size:
                self.running.append(self.ready.pop(0))
            batch = Batch()
            preempted = False
            if self.pool.policy == "prefill_first":
                self.admit_whole(batch)
                if not batch.chunks:
                    preempted = self.decode(batch)
            else:
                preempted = self.decode(batch)
                self.chunk(batch, admit=not preempted)
            if batch.chunks or batch.decodes or not preempted:
                return batch

    def decode(self, batch: Batch) -> bool:
        """Give every decoding sequence room for one token, first in order first."""
        preempted = False
        for seq in sorted(self.running, key=lambda seq: seq.key):
            if seq not in self.running or seq.computed < seq.context:
                continue
            more = self.blocks(seq.context + 1) - seq.blocks
            while more > self.free_blocks():
                victim = max(self.running, key=lambda seq: seq.key)
                self.preempt(victim)
                preempted = True
                if victim is seq:
                    break
            else:
                seq.blocks += more
                batch.decodes.append(seq)
        return preempted

    def preempt(self, seq: Sequence) -> None:
        """Take all from a running sequence; it starts again from the queue."""
        self.running.remove(seq)
        seq.blocks = 0
        seq.computed = 0
        seq.preemptions += 1
        seq.arrived_here = True
        self.waiting.append(seq)

    def next_waiting(self) -> Sequence | None:
        """Return the first waiting sequence if it may run and its blocks fit."""
        if not self.waiting or len(self.running) >= self.pool.max_batch_size:
            return None
        seq = min(self.waiting, key=lambda seq: seq.key)
        if not seq.arrived_here or self.blocks(seq.context) > self.free_blocks():
            return None
        return seq

    def admit(self, seq: Sequence) -> None:
        """Let a waiting sequence run."""
        self.waiting.remove(seq)
        self.running.append(seq)
        seq.blocks = self.blocks(seq.context)
        if np.isnan(seq.prefill_start_s):
            seq.prefill_start_s = self.env.now

    def chunk(self, batch: Batch, *, admit: bool) -> None:
        """Fill what is left of the token budget with chunks of prompts."""
        budget = self.pool.max_batch_tokens - len(batch.decodes)
        for seq in self.running:
            if seq.computed < seq.context and budget > 0:
                new = min(seq.context - seq.computed, budget)
                batch.chunks.append((seq, new))
                budget -= new
        while admit and budget > 0 and (head := self.next_waiting()) is not None:
            self.admit(head)
            new = min(head.context, budget)
            batch.chunks.append((head, new))
            budget -= new

    def admit_whole(self, batch: Batch) -> None:
        """Take whole prompts up to the token budget, the first one in any case."""
        budget = self.pool.max_batch_tokens
        while (head := self.next_waiting()) is not None:
            if batch.chunks and head.context > budget:
                break
            self.admit(head)
            batch.chunks.append((head, head.context))
            budget -= head.context

    # -- what an iteration did

    def end_iteration(self, batch: Batch) -> None:
        """Count tokens, then let the cluster act on each sequence."""
        for seq in batch.decodes:
            seq.computed += 1
            seq.decoded += 1
            self.emit(seq)
        for seq, new in batch.chunks:
            seq.computed += new
        for act in self.on_iteration:
            act(self, batch)

    def emit(self, seq: Sequence) -> None:
        """Emit one output token."""
        seq.emitted += 1
        seq.token_s.append(self.env.now)
        if seq.emitted == 1:
            seq.first_token_s = self.env.now

    def leave(self, seq: Sequence) -> None:
        """Let a sequence go, with its blocks."""
        self.running.remove(seq)
        seq.blocks = 0


class Link:
    """A link from prefill to decode replicas."""

    def __init__(self, env: simpy.Environment, config: TransferLink, index: int) -> None:
        self.env = env
        self.config = config
        self.index = index
        self.turn = simpy.Resource(env, capacity=1)
        self.active: dict[Sequence, float] = {}
        self.since_s = 0.0
        self.changes = 0

    def send(self, seq: Sequence, size: float, done: Callable[[Sequence], None]) -> None:
        """Begin a transfer; `done` is called at its end."""
        if self.config.contention == "fair":
            self.drain()
            self.active[seq] = size
            seq.transfer_start_s = self.env.now
            self.env.process(self.share(done))
        else:
            self.env.process(self.one_by_one(seq, size, done))

    def one_by_one(self, seq: Sequence, size: float, done: Callable[[Sequence], None]) -> Process:
        """Wait for the link, send, let the link go, arrive."""
        with self.turn.request() as turn:
            yield turn
            seq.transfer_start_s = self.env.now
            yield _after(self.env, size / self.config.bandwidth_bytes_per_s, 0)
        yield from self.arrive(seq, done)

    def arrive(self, seq: Sequence, done: Callable[[Sequence], None]) -> Process:
        """End a transfer after the base latency."""
        yield _after(self.env, self.config.base_latency_s, _TRANSFER_END + seq.number)
        seq.transfer_end_s = self.env.now
        done(seq)

    def drain(self) -> None:
        """Take what was sent since the last change off all active transfers."""
        if self.active:
            sent = (self.env.now - self.since_s) * (
                self.config.bandwidth_bytes_per_s / len(self.active)
            )
            self.active = {seq: left - sent for seq, left in self.active.items()}
        self.since_s = self.env.now

    def share(self, done: Callable[[Sequence], None]) -> Process:
        """Wait for the next transfer to be through, unless one joins or leaves before."""
        self.changes += 1
        mine = self.changes
        while self.active:
            least = min(self.active.values())
            wait_s = max(least, 0.0) / (self.config.bandwidth_bytes_per_s / len(self.active))
            yield _after(self.env, wait_s, _LINK + self.index)
            if self.changes != mine:
                return
            through = [seq for seq, left in self.active.items() if left <= least + TOGETHER_BYTES]
            self.drain()
            for seq in sorted(through, key=lambda seq: seq.number):
                del self.active[seq]
                self.env.process(self.arrive(seq, done))


class Twin:
    """A deployment as SimPy processes."""

    def __init__(
        self,
        requests: Requests,
        deployment: Deployment,
        random_seed: int,
        replicate: int,
        classes: Classes,
    ) -> None:
        self.env = simpy.Environment()
        self.deployment = deployment
        self.apart = isinstance(deployment, Disaggregated)
        pools = pools_of(deployment)
        keys = entry_keys(requests, pools[0], classes)
        self.sequences = [
            Sequence(
                number,
                int(requests.prompt_tokens[number]),
                int(requests.output_tokens[number]),
                (keys[number], number),
                float(requests.arrival_s[number]),
            )
            for number in range(len(requests))
        ]
        self.draws = routing_draws(len(requests), deployment, random_seed, replicate)
        self.routed = [0, 0]
        self.entered = 0
        self.pools = pools
        self.servers = [
            [Server(self.env, pool, index, rank) for index in range(pool.replicas)]
            for pool, rank in zip(pools, (_PREFILL_END, _DECODE_END), strict=False)
        ]
        for server in self.servers[0]:
            server.on_iteration.append(self.end_prefills if self.apart else self.end_mixed)
        if isinstance(deployment, Disaggregated):
            for server in self.servers[1]:
                server.on_iteration.append(self.end_mixed)
            count = pools[0].replicas if deployment.link.scope == "per_replica" else 1
            self.links = [Link(self.env, deployment.link, index) for index in range(count)]
        self.closed = False
        self.upcoming = iter(self.sequences)

    # -- arrivals

    def fits(self, seq: Sequence) -> bool:
        """Return whether a request fits alone where it has to run."""
        if isinstance(self.deployment, Disaggregated):
            prefill, decode = self.deployment.prefill, self.deployment.decode
            return (
                blocks_of(seq.prompt, prefill.block_tokens) <= prefill.capacity_blocks
                and blocks_of(seq.prompt + seq.output, decode.block_tokens)
                <= decode.capacity_blocks
            )
        pool = self.deployment.pool
        held = seq.prompt + seq.output - (self.deployment.first_token == "prefill")
        return blocks_of(held, pool.block_tokens) <= pool.capacity_blocks

    def send_all(self) -> None:
        """Let requests arrive at their times, all planned at time 0."""
        for seq in self.sequences:
            self.plan_arrival(seq, seq.arrival_s)

    def plan_arrival(self, seq: Sequence, delay_s: float) -> None:
        """Let a request arrive `delay_s` from now."""
        event = _after(self.env, delay_s, _ARRIVAL + seq.number)
        assert event.callbacks is not None
        event.callbacks.append(lambda _event: self.arrive(seq))

    def arrive(self, seq: Sequence) -> None:
        """Reject or route a request."""
        if not self.fits(seq):
            seq.status = Status.REJECTED
            return
        tokens = seq.prompt + (0 if self.apart else self.decode_steps(seq))
        seq.prefill_replica = self.route(0, seq, tokens)
        server = self.servers[0][seq.prefill_replica]
        server.waiting.append(seq)
        server.notify()

    def next_closed(self) -> None:
        """Let the next request that fits arrive now."""
        for seq in self.upcoming:
            seq.arrival_s = self.env.now
            if self.fits(seq):
                self.plan_arrival(seq, 0.0)
                return
            seq.status = Status.REJECTED

    def decode_steps(self, seq: Sequence) -> int:
        """Return the decode steps of a request."""
        emits = isinstance(self.deployment, Monolithic) and self.deployment.first_token == "prefill"
        return seq.output - emits

    def route(self, stage: int, seq: Sequence, tokens: int) -> int:
        """Choose a replica of a pool."""
        pool = self.pools[stage]
        u, v = (column[seq.number] if column else 0.0 for column in self.draws[stage])
        servers = self.servers[stage]
        at = ROUTERS[pool.router](
            self.routed[stage],
            u,
            v,
            [len(server.in_flight) for server in servers],
            [sum(other.route_tokens for other in server.in_flight) for server in servers],
        )
        self.routed[stage] += 1
        seq.route_tokens = tokens
        servers[at].in_flight.append(seq)
        return at

    # -- iteration ends

    def end_mixed(self, server: Server, batch: Batch) -> None:
        """Finish decodes, let finished prefills decode."""
        for seq in sorted(batch.decodes, key=lambda seq: seq.number):
            if seq.emitted == seq.output:
                self.finish(server, seq)
        for seq, _ in batch.chunks:
            if seq.computed < seq.context:
                continue
            if np.isnan(seq.prefill_end_s):
                seq.prefill_end_s = self.env.now
                if isinstance(self.deployment, Monolithic):
                    seq.decode_replica = seq.prefill_replica
                    seq.transfer_start_s = seq.transfer_end_s = self.env.now
                    if self.deployment.first_token == "prefill":
                        seq.decode_start_s = self.env.now
                        server.emit(seq)
            if seq.emitted == seq.output:
                self.finish(server, seq)
        self.reserve(server)

    def finish(self, server: Server, seq: Sequence) -> None:
        """End a request."""
        seq.finish_s = self.env.now
        seq.status = Status.FINISHED
        server.leave(seq)
        server.in_flight.remove(seq)
        if self.closed:
            self.next_closed()

    def end_prefills(self, server: Server, batch: Batch) -> None:
        """Send finished prefills on their way to the decode pool."""
        for seq, _ in batch.chunks:
            if seq.computed < seq.context:
                continue
            seq.prefill_end_s = self.env.now
            server.running.remove(seq)
            server.in_flight.remove(seq)
            here = Sequence(seq.number, seq.prompt, seq.output, seq.key, blocks=seq.blocks)
            server.elsewhere.append(here)
            seq.decode_replica = self.route(1, seq, seq.prompt + seq.output)
            seq.key = (float(self.entered), seq.number)
            self.entered += 1
            seq.blocks = 0
            seq.arrived_here = False
            target = self.servers[1][seq.decode_replica]
            target.waiting.append(seq)
            self.reserve(target)

    # -- transfers

    def reserve(self, server: Server) -> None:
        """Give waiting KV caches their blocks on the decode side and send them."""
        while server.waiting:
            seq = min(server.waiting, key=lambda seq: seq.key)
            blocks = server.blocks(seq.prompt)
            if seq.arrived_here or blocks > server.free_blocks():
                return
            server.waiting.remove(seq)
            server.elsewhere.append(seq)
            seq.blocks = blocks
            assert isinstance(self.deployment, Disaggregated)
            size = self.deployment.link.exposed_bytes(
                self.deployment.prefill.latency.kv_bytes_per_token * seq.prompt,
                seq.prefill_end_s - seq.prefill_start_s,
            )
            link = self.links[seq.prefill_replica if len(self.links) > 1 else 0]
            link.send(seq, size, self.end_transfer)

    def end_transfer(self, seq: Sequence) -> None:
        """Free the prefill side, let the decode side begin."""
        source = self.servers[0][seq.prefill_replica]
        source.elsewhere = [here for here in source.elsewhere if here.number != seq.number]
        source.notify()
        target = self.servers[1][seq.decode_replica]
        target.elsewhere.remove(seq)
        target.ready.append(seq)
        target.notify()

    # -- results

    def records(self, requests: Requests) -> RequestRecords:
        """Return what happened, as columns."""
        kinds: dict[str, type[np.generic]] = {
            "prefill_start_s": np.float64,
            "prefill_end_s": np.float64,
            "transfer_start_s": np.float64,
            "transfer_end_s": np.float64,
            "decode_start_s": np.float64,
            "first_token_s": np.float64,
            "finish_s": np.float64,
            "prefill_replica": np.int32,
            "decode_replica": np.int32,
            "preemptions": np.int32,
            "status": np.int8,
        }
        arrived = Requests(
            np.array([seq.arrival_s for seq in self.sequences]),
            requests.prompt_tokens,
            requests.output_tokens,
        )
        return records_of(
            arrived,
            {
                name: np.array([getattr(seq, name) for seq in self.sequences], kind)
                for name, kind in kinds.items()
            },
        )


def simulate(
    requests: Requests,
    deployment: Deployment,
    *,
    random_seed: int = 0,
    replicate: int = 0,
    classes: Classes | None = None,
) -> RequestRecords:
    """Simulate as `simlib.serving.cluster.simulate` does, one iteration after the other."""
    twin = Twin(requests, deployment, random_seed, replicate, classes or Classes())
    twin.send_all()
    twin.env.run()
    return twin.records(requests)


def simulate_closed_loop(
    prompt_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    concurrency: int,
    deployment: Deployment,
    *,
    random_seed: int = 0,
    replicate: int = 0,
) -> RequestRecords:
    """Simulate as `simlib.serving.cluster.simulate_closed_loop` does, step by step."""
    requests = Requests(np.zeros(len(prompt_tokens)), prompt_tokens, output_tokens)
    twin = Twin(requests, deployment, random_seed, replicate, Classes())
    twin.closed = True
    for _ in range(concurrency):
        twin.next_closed()
    twin.env.run()
    return twin.records(requests)
