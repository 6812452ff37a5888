"""Continuous batching iteration by iteration in SimPy: the readable statement of the model.

Slow on purpose: nothing is jumped, every sequence counts its own tokens and blocks. The order of
events at one time is the one of `simlib.serving.events`, kept by SimPy event priorities.
"""

from __future__ import annotations

import numpy as np
import simpy
from numpy.typing import NDArray

from simlib.core.records import RequestRecords, Status, records_of
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic
from simlib.serving.dispatch import Classes, entry_keys, pools_of, routing_draws
from simlib.serving.kv_cache import blocks_of
from simlib.serving.router import ROUTERS
from simlib.serving.twin_parts import (
    ARRIVAL,
    DECODE_END,
    PREFILL_END,
    Batch,
    Link,
    Sequence,
    Server,
    after,
)
from simlib.workload.requests import Requests


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
            for pool, rank in zip(pools, (PREFILL_END, DECODE_END), strict=False)
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
        event = after(self.env, delay_s, ARRIVAL + seq.number)
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
            if self.pools[0].discipline == "edf":
                seq.key = (seq.key[0] + self.env.now, seq.number)
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
    classes: Classes | None = None,
) -> RequestRecords:
    """Simulate as `simlib.serving.cluster.simulate_closed_loop` does, step by step."""
    requests = Requests(np.zeros(len(prompt_tokens)), prompt_tokens, output_tokens)
    twin = Twin(requests, deployment, random_seed, replicate, classes or Classes())
    twin.closed = True
    for _ in range(concurrency):
        twin.next_closed()
    twin.env.run()
    return twin.records(requests)
