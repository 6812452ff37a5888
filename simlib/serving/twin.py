"""Continuous batching iteration by iteration in SimPy: the readable statement of the model.

Slow on purpose: nothing is jumped, every sequence counts its own tokens and blocks. The order of
events at one time is the one of `simlib.serving.kernel`, kept by SimPy event priorities.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from simlib.core.records import TIME_STAMPS, RequestRecords, Status, records_of
from simlib.policies.disciplines import DISCIPLINES, RequestView
from simlib.policies.routers import ROUTERS, PoolView
from simlib.serving.deployment import Classes, Deployment, check_concurrency
from simlib.serving.twin_parts import (
    ARRIVAL,
    DECODE_END,
    PREFILL_END,
    Batch,
    Link,
    Reading,
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
        self.requests = requests
        self.deployment = deployment
        slo_s, priority = classes.columns(deployment, len(requests))
        refused = deployment.refused(requests)
        self.sequences = [
            Sequence(
                number,
                int(requests.prompt_tokens[number]),
                int(requests.output_tokens[number]),
                fits=not refused[number],
                ttft_slo_s=float(slo_s[number]) if len(slo_s) > 0 else 0.0,
                priority=int(priority[number]) if len(priority) > 0 else 0,
                arrival_s=float(requests.arrival_s[number]),
            )
            for number in range(len(requests))
        ]
        self.draws = deployment.routing_draws(len(requests), random_seed, replicate)
        self.turns = [0 for _ in deployment.pools]
        ends = [(PREFILL_END, self.end_prefills), (DECODE_END, self.end_mixed)]
        self.servers = [
            [Server(self.env, pool, index, *end) for index in range(pool.settings.replicas)]
            for pool, end in zip(deployment.pools, ends[-len(deployment.pools) :], strict=True)
        ]
        if deployment.link is not None:
            shared = deployment.link.scope == "shared"
            count = 1 if shared else len(self.servers[0])
            self.links = [Link(self.env, deployment.link, index) for index in range(count)]
        front_end = deployment.front_end
        self.reading = None if front_end is None else Reading(self.env, front_end)
        self.closed = False
        self.upcoming = iter(self.sequences)

    # -- arrivals

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
        """Reject a request, or hand it to the front end, if there is one, or to the router."""
        if not seq.fits:
            seq.status = Status.REJECTED
        elif self.reading is not None:
            self.env.process(self.reading.read(seq, self.route_to_entry))
        else:
            self.route_to_entry(seq)

    def route_to_entry(self, seq: Sequence) -> None:
        """Choose the replica where a request is prefilled."""
        seq.routed_s = self.env.now
        steps = 0 if self.deployment.decode is not None else self.decode_steps(seq)
        server = self.route(0, seq, seq.prompt + steps)
        seq.prefill_replica = server.index
        server.notify()

    def send_first(self, concurrency: int) -> None:
        """Let the first requests of a closed loop arrive; each that ends sends another one."""
        self.closed = True
        for _ in range(concurrency):
            self.next_closed()

    def next_closed(self) -> None:
        """Let the next request that fits arrive now."""
        for seq in self.upcoming:
            seq.arrival_s = self.env.now
            if seq.fits:
                self.plan_arrival(seq, 0.0)
                return
            seq.status = Status.REJECTED

    def decode_steps(self, seq: Sequence) -> int:
        """Return the decode steps of a request."""
        return seq.output - self.deployment.prefill_emits

    def route(self, stage: int, seq: Sequence, tokens: int) -> Server:
        """Choose a replica of a pool, and put the request in its queue."""
        settings = self.deployment.pools[stage].settings
        servers = self.servers[stage]
        u, v = [*(float(column[seq.number]) for column in self.draws[stage]), 0.0, 0.0][:2]
        outstanding = [[other.route_tokens for other in server.in_flight] for server in servers]
        view = PoolView(
            self.turns[stage],
            u,
            v,
            np.array([len(tokens) for tokens in outstanding]),
            np.array([sum(tokens) for tokens in outstanding]),
        )
        place = RequestView(
            self.turns[stage], seq.arrival_s, seq.prompt, seq.ttft_slo_s, seq.priority
        )
        server = servers[ROUTERS[settings.router].choose(view)]
        seq.key = (DISCIPLINES[settings.discipline].key(place), seq.number)
        self.turns[stage] += 1
        seq.route_tokens = tokens
        server.in_flight.append(seq)
        server.waiting.append(seq)
        return server

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
                seq.decode_replica = seq.prefill_replica
                seq.transfer_start_s = seq.transfer_end_s = self.env.now
                if self.deployment.prefill_emits:
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
            here = Sequence(seq.number, seq.prompt, seq.output, blocks=seq.blocks)
            server.elsewhere.append(here)
            seq.blocks = 0
            seq.arrived_here = False
            target = self.route(1, seq, seq.prompt + seq.output)
            seq.decode_replica = target.index
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
            size = self.deployment.entry.latency.kv_bytes_per_token * seq.prompt
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

    def records(self) -> RequestRecords:
        """Return what happened, as columns."""

        def column(name: str, kind: type[np.generic]) -> NDArray[Any]:
            return np.array([getattr(seq, name) for seq in self.sequences], kind)

        arrived = replace(self.requests, arrival_s=column("arrival_s", np.float64))
        times = {name: column(name, np.float64) for name in TIME_STAMPS}
        whole = ("prefill_replica", "decode_replica", "preemptions")
        numbers = {name: column(name, np.int32) for name in whole}
        return records_of(arrived, {**times, **numbers, "status": column("status", np.int8)})


def simulate(
    requests: Requests,
    deployment: Deployment,
    *,
    concurrency: int | None = None,
    random_seed: int = 0,
    replicate: int = 0,
    classes: Classes | None = None,
) -> RequestRecords:
    """Simulate as `simlib.serving.engine.simulate` does, one iteration after the other."""
    check_concurrency(concurrency)
    twin = Twin(requests, deployment, random_seed, replicate, classes or Classes())
    if concurrency is None:
        twin.send_all()
    else:
        twin.send_first(concurrency)
    twin.env.run()
    return twin.records()
