"""Parts of the step-by-step twin: sequences, replicas and links as SimPy processes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import simpy

from simlib.core.batching import FrontEnd, LinkConfig
from simlib.core.records import Status
from simlib.policies.batching import BATCH_POLICIES
from simlib.serving.deployment import Pool, exposed_bytes

Process = Generator[simpy.Event, Any, None]
_PHASE = 1 << 40
DECODE_END, PREFILL_END, LINK, TRANSFER_END, READ, ARRIVAL, START = (
    phase * _PHASE for phase in range(2, 9)
)
TOGETHER_BYTES = 1e-6
"""Transfers on a fair link that are this close to their last byte end together."""


def after(env: simpy.Environment, delay_s: float, rank: int) -> simpy.Event:
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
    fits: bool = True
    """Whether it fits, alone, where it has to run."""
    ttft_slo_s: float = 0.0
    priority: int = 0
    key: tuple[float, int] = (nan, 0)
    """What the queue that it is in sorts by."""
    arrival_s: float = nan
    routed_s: float = nan
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

    def __init__(
        self,
        env: simpy.Environment,
        pool: Pool,
        index: int,
        rank: int,
        on_iteration: Callable[[Server, Batch], None],
    ) -> None:
        self.env = env
        self.pool = pool
        self.settings = pool.settings
        self.policy = BATCH_POLICIES[pool.settings.policy]
        self.index = index
        self.end_rank = rank + index
        self.waiting: list[Sequence] = []
        self.ready: list[Sequence] = []
        self.running: list[Sequence] = []
        self.elsewhere: list[Sequence] = []
        """Hold blocks, but do not run: transfers from or to here."""
        self.wake = env.event()
        self.on_iteration = on_iteration
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
        return -(-tokens // self.settings.block_size)

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
                yield after(self.env, duration, self.end_rank)
                self.end_iteration(batch)
            yield after(self.env, 0.0, START)

    # -- the scheduler

    def schedule(self) -> Batch:
        """Form the next batch; again if preemption left nobody to run."""
        while True:
            while self.ready and len(self.running) < self.pool.max_batch_size:
                self.running.append(self.ready.pop(0))
            batch = Batch()
            preempted = False
            if self.policy.mixes:
                preempted = self.decode(batch)
            self.prefill(batch, admit=not preempted)
            if not self.policy.mixes and not batch.chunks:
                preempted = self.decode(batch)
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

    def prefill(self, batch: Batch, *, admit: bool) -> None:
        """Fill what is left of the token budget with prompts, or chunks of them."""
        budget = self.pool.max_batch_tokens - len(batch.decodes)
        for seq in self.running:
            if seq.computed < seq.context:
                new = self.policy.chunk(seq.context - seq.computed, budget, not batch.chunks)
                if new:
                    batch.chunks.append((seq, new))
                    budget -= new
        while admit and all(seq.computed + new == seq.context for seq, new in batch.chunks):
            head = self.next_waiting()
            if head is None:
                return
            new = self.policy.chunk(head.context, budget, not batch.chunks)
            if not new:
                return
            self.admit(head)
            batch.chunks.append((head, new))
            budget -= new

    # -- what an iteration did

    def end_iteration(self, batch: Batch) -> None:
        """Count tokens, then let the cluster act on each sequence."""
        for seq in batch.decodes:
            seq.computed += 1
            seq.decoded += 1
            self.emit(seq)
        for seq, new in batch.chunks:
            seq.computed += new
        self.on_iteration(self, batch)

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


class Reading:
    """The front end: workers that read requests first come, first served."""

    def __init__(self, env: simpy.Environment, config: FrontEnd) -> None:
        self.env = env
        self.config = config
        self.workers = simpy.Resource(env, capacity=config.workers)

    def read(self, seq: Sequence, done: Callable[[Sequence], None]) -> Process:
        """Wait for a worker, let it read, go on."""
        with self.workers.request() as turn:
            yield turn
            seconds = self.config.request_s + self.config.token_s * seq.prompt
            yield after(self.env, seconds, READ + seq.number)
        done(seq)


class Link:
    """A link from prefill to decode replicas."""

    def __init__(self, env: simpy.Environment, config: LinkConfig, index: int) -> None:
        self.env = env
        self.config = config
        self.index = index
        self.turn = simpy.Resource(env, capacity=1)
        self.active: dict[Sequence, float] = {}
        self.since_s = 0.0
        self.changes = 0

    def send(self, seq: Sequence, size: float, done: Callable[[Sequence], None]) -> None:
        """Begin a transfer of what was not sent during the prefill; `done` is called at its end."""
        took_s = seq.prefill_end_s - seq.prefill_start_s
        config = self.config
        size = exposed_bytes(size, took_s, config.overlap_layers, config.bandwidth_bytes_per_s)
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
            yield after(self.env, size / self.config.bandwidth_bytes_per_s, 0)
        yield from self.arrive(seq, done)

    def arrive(self, seq: Sequence, done: Callable[[Sequence], None]) -> Process:
        """End a transfer after the base latency."""
        yield after(self.env, self.config.base_latency_s, TRANSFER_END + seq.number)
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
            yield after(self.env, wait_s, LINK + self.index)
            if self.changes != mine:
                return
            through = [seq for seq, left in self.active.items() if left <= least + TOGETHER_BYTES]
            self.drain()
            for seq in sorted(through, key=lambda seq: seq.number):
                del self.active[seq]
                self.env.process(self.arrive(seq, done))
