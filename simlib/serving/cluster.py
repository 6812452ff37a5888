"""Continuous batching on whole deployments: the fast engine.

Three ways lead to the same result, that of the step-by-step twin (`simlib.serving.twin`): first
come, first served with iterations linear in the context runs as lanes (`simlib.serving.lanes`);
other monolithic replicas are advanced from arrival to arrival; all else goes event by event
(`simlib.serving.events`, which states the order of events at one time).
"""

from __future__ import annotations

from functools import partial
from math import inf

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import RequestRecords
from simlib.errors import InvalidParameterError
from simlib.latency.protocol import decode_lines
from simlib.serving.closed_loop import run_closed
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic
from simlib.serving.dispatch import Classes, pools_of
from simlib.serving.events import Run
from simlib.serving.lane_pool import LanePool
from simlib.serving.lanes import Line
from simlib.serving.pipeline import run_apart
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
    begin = partial(Run, requests, deployment, random_seed, replicate, classes, timeline)
    run = begin()
    line = _lane_lines(run)
    if line is not None:
        if _lanes(run, line):
            return run.ledger.records(requests, run.lost)
        del run  # its columns, before those of another run are made
        run = begin()
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
    classes: Classes | None = None,
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
    deployment, random_seed, replicate, classes, timeline
        As in `simulate`; a deadline counts from when the request is sent.

    Raises
    ------
    InvalidParameterError
        If concurrency is below 1, or a discipline lacks its column.
    """
    if concurrency < 1:
        raise InvalidParameterError("concurrency", concurrency, ">= 1")
    requests = Requests(np.zeros(len(prompt_tokens)), prompt_tokens, output_tokens)
    classes = classes or Classes()
    begin = partial(Run, requests, deployment, random_seed, replicate, classes, timeline)
    run = begin()
    line = None if _shares_links(deployment) else _lane_lines(run)
    if line is None:
        run.events(concurrency)
    elif not run_closed(run, line, concurrency):
        del run
        run = begin()
        run.events(concurrency)
    arrived = Requests(np.array(run.ledger.arrival), prompt_tokens, output_tokens)
    return run.ledger.records(arrived, run.lost)


def _shares_links(deployment: Deployment) -> bool:
    return isinstance(deployment, Disaggregated) and deployment.link.contention == "fair"


def _lane_lines(run: Run) -> Line | None:
    """Return the decode pool's lines if its replicas can run as lanes, else None."""
    pools = pools_of(run.deployment)
    last = pools[-1]
    if run.timeline is not None or any(pool.discipline != "fcfs" for pool in pools):
        return None
    if len(pools) == 1 and last.policy != "chunked_prefill":
        return None
    return decode_lines(last.latency, last.max_batch_size)


def _lanes(run: Run, line: Line) -> bool:
    """Run as lanes; return False if KV caches could fill and couple the pools."""
    if isinstance(run.deployment, Disaggregated):
        return run_apart(run, line)
    ledger = run.ledger
    pool = LanePool.mixed(run.entry, ledger, run.entry_router, line)
    pool.run(run.waiting, ledger.arrival, run.waiting, ledger.arrival)
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
