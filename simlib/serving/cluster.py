"""Continuous batching on whole deployments: the fast engine.

Three ways lead to the same result, that of the step-by-step twin (`simlib.serving.twin`): replicas
that do not interact run as lanes, one after the other; monolithic replicas behind a router that
looks at them are advanced from arrival to arrival; all else goes event by event
(`simlib.serving.events`, which states the order of events at one time).
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import RequestRecords
from simlib.errors import InvalidParameterError
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic
from simlib.serving.dispatch import Classes, pools_of
from simlib.serving.events import Run
from simlib.serving.lanes import Line, mixed_lane
from simlib.serving.pipeline import run_apart
from simlib.serving.protocol import decode_lines
from simlib.serving.router import STATELESS
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests

__all__ = ["Classes", "simulate", "simulate_closed_loop"]


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
    run = Run(requests, deployment, random_seed, replicate, classes, timeline)
    line = _lane_lines(run)
    if line is not None:
        if _lanes(run, line):
            return run.ledger.records(requests, run.lost)
        del run  # its columns, before those of another run are made
        run = Run(requests, deployment, random_seed, replicate, classes, timeline)
    if isinstance(deployment, Monolithic):
        _monolithic(run)
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
    run = Run(requests, deployment, random_seed, replicate, Classes(), timeline)
    run.events(concurrency)
    arrived = Requests(np.array(run.ledger.arrival), prompt_tokens, output_tokens)
    return run.ledger.records(arrived, run.lost)


def _lane_lines(run: Run) -> Line | None:
    """Return the decode pool's lines if its replicas can run as lanes, else None."""
    pools = pools_of(run.deployment)
    last = pools[-1]
    plain = all(
        pool.discipline == "fcfs" and (pool.router in STATELESS or pool.replicas == 1)
        for pool in pools
    )
    if not plain or run.timeline is not None:
        return None
    if len(pools) == 1 and last.policy != "chunked_prefill":
        return None
    return decode_lines(last.latency, last.max_batch_size)


def _lanes(run: Run, line: Line) -> bool:
    """Run each replica on its own; return False if KV caches could fill and couple them."""
    ledger = run.ledger
    entry: list[list[int]] = [[] for _ in run.entry]
    place = ledger.prefill_replica
    choose = run.entry_router.choose
    for request in run.waiting:
        at = choose(request, 0)
        place[request] = at
        entry[at].append(request)
    if isinstance(run.deployment, Disaggregated):
        return run_apart(entry, run.deployment, ledger, run.decode_router.choose, line)
    for replica, requests in zip(run.entry, entry, strict=True):
        mixed_lane(replica, requests, line)
    return True


def _monolithic(run: Run) -> None:
    """Run independent replicas: each is advanced only when something depends on it."""
    ledger, router, replicas = run.ledger, run.entry_router, run.entry
    arrival, prompt, steps = ledger.arrival, ledger.prompt, ledger.steps
    place = ledger.prefill_replica
    alike = router.stateless
    for replica in replicas:
        replica.watched = not alike
    for request in run.waiting:
        now = arrival[request]
        tokens = prompt[request] + steps[request]
        if not alike:
            for replica in replicas:
                if replica.end <= now or (replica.end == inf and replica.now < now):
                    replica.advance(now)
                    if replica.departed:
                        run.left(replica, router)
        at = router.choose(request, tokens)
        replica = replicas[at]
        place[request] = at
        if alike:
            replica.advance(now)
        replica.deliver(request, now)
    for replica in replicas:
        replica.advance(inf)
