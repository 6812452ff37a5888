"""Continuous batching on whole deployments: the fast engine, one compiled algorithm for every case.

It gives what the step-by-step twin (`simlib.serving.twin`) gives. `simlib.serving.kernel` is the
algorithm, `simlib.serving.state` all that it knows.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import RequestRecords, Status, records_of
from simlib.latency.formulas import FORMULAS
from simlib.policies.batching import BATCH_POLICIES
from simlib.policies.disciplines import DISCIPLINES
from simlib.policies.routers import ROUTERS
from simlib.serving import state
from simlib.serving.deployment import Classes, Deployment, Pool, check_concurrency
from simlib.serving.kernel import run_events
from simlib.serving.state import State
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests

__all__ = ["Classes", "simulate"]

_ROWS = 1 << 13
"""Rows of a timeline's tables that are noted before they are taken out."""


def simulate(
    requests: Requests,
    deployment: Deployment,
    *,
    concurrency: int | None = None,
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
        The pools, and what lies before and between them.
    concurrency
        If given, a closed loop, in which arrival times are not read: so many requests arrive at
        0, and each completion lets the next one arrive at the same instant, from which its
        deadline counts. At least 1; rejected requests take no place.
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
        If concurrency is below 1, or a discipline lacks its column.
    """
    check_concurrency(concurrency)
    draws = deployment.routing_draws(len(requests), random_seed, replicate)
    s = _state(requests, deployment, draws, classes or Classes(), timeline)
    if concurrency is None:
        s.run[0].sent = len(requests)
    else:
        s.run[0].vacant = concurrency
    rows_to_spare = s.ends.shape[1] + 8  # what one event may note at most
    while run_events(s, rows_to_spare):
        assert timeline is not None
        timeline.take(s)
    if timeline is not None:
        timeline.take(s)
    return _records(s, requests, deployment)


# ---------------------------------------------------------------- the state at the beginning


def _state(
    requests: Requests,
    deployment: Deployment,
    draws: list[list[NDArray[np.float64]]],
    classes: Classes,
    timeline: Timeline | None,
) -> State:
    n = len(requests)
    pools = _pools(deployment)
    count = int(pools.replicas.sum())
    batch = int(min(pools.max_batch_size.max(), max(n, 1)))
    links = _links(deployment)
    places = 1 << (count + len(links) + 2).bit_length()
    slo_s, priority = classes.columns(deployment, n)
    rows = 0 if timeline is None else max(_ROWS, 4 * (batch + 8))
    uniforms = [column for pool in draws for column in pool]
    moves_on = deployment.decode is not None or deployment.front_end is not None
    return State(
        run=_run_record(deployment, count, len(links), timeline),
        pools=pools,
        replicas=_replicas(pools, count),
        requests=_request_rows(requests, deployment),
        links=links,
        workers_s=np.zeros(deployment.front_end.workers if deployment.front_end else 0),
        stamps=_stamps(requests, deployment, timeline),
        counts=np.array([[-1], [-1], [0]], np.int32).repeat(n, axis=1),
        key=np.empty(n),
        due=np.empty(n if moves_on else 0),
        slo_s=slo_s,
        priority=priority,
        uniforms=np.array(uniforms).reshape(len(uniforms), n),
        ends=np.empty((count, batch), np.int64),
        joined=np.empty((count, batch), np.int32),
        ending=np.empty((count, batch), np.int32),
        entering=np.empty(batch, np.int32),
        phases=np.zeros((count, int(pools.block_tokens.max())), np.int64),
        outstanding=np.zeros((2, count), np.int64),
        starting=np.empty(count, np.int64),
        parameters=_parameters(deployment.pools),
        next_s=np.full(places, inf),
        winners=_winners(places),
        jumps=np.empty(rows, state.JUMP).view(np.recarray),
        moves=np.empty(rows, state.MOVE).view(np.recarray),
        gaps=np.empty(rows, state.GAP).view(np.recarray),
    )


def _run_record(
    deployment: Deployment, replicas: int, links: int, timeline: Timeline | None
) -> Any:
    run = np.zeros(1, state.RUN).view(np.recarray)
    run.first_link = replicas
    run.transfers = replicas + links
    run.reading = run.transfers + 1
    run.arrivals = run.reading + 1
    run.in_transfer = run.read = state.NOBODY
    run.prefill_emits = deployment.prefill_emits
    if deployment.front_end is not None:
        run.request_s = deployment.front_end.request_s
        run.token_s = deployment.front_end.token_s
    if deployment.link is not None:
        run.token_bytes = deployment.entry.latency.kv_bytes_per_token
        run.bandwidth = deployment.link.bandwidth_bytes_per_s
        run.base_latency_s = deployment.link.base_latency_s
        run.overlap_layers = deployment.link.overlap_layers
        run.fair = deployment.link.contention == "fair"
    run.noted_until_s = -inf if timeline is None else timeline.until_s
    return run


def _pools(deployment: Deployment) -> Any:
    """Return the pools; replicas of the last one come first."""
    pools = np.zeros(len(deployment.pools), state.POOL).view(np.recarray)
    draws = 0
    for row, pool in zip(pools, deployment.pools, strict=True):
        settings = pool.settings
        row.replicas = settings.replicas
        row.max_batch_tokens = pool.max_batch_tokens
        row.max_batch_size = pool.max_batch_size
        row.capacity_blocks = pool.capacity_blocks
        row.block_tokens = settings.block_size
        row.router = list(ROUTERS).index(settings.router)
        row.discipline = list(DISCIPLINES).index(settings.discipline)
        row.policy = list(BATCH_POLICIES).index(settings.policy)
        row.mixes = BATCH_POLICIES[settings.policy].mixes
        row.in_order = settings.discipline == "fcfs"
        row.formula = list(FORMULAS.values()).index(pool.latency.formula)
        row.first_draw = draws
        row.draws = ROUTERS[settings.router].draws
        draws += row.draws
    if deployment.decode is not None:
        pools[0].hands_over = True
        pools[1].receives = True
        pools[0].first = pools[1].replicas
    return pools


def _replicas(pools: Any, count: int) -> Any:
    replicas = np.zeros(count, state.REPLICA).view(np.recarray)
    for number, pool in enumerate(pools):
        replicas.pool[pool.first : pool.first + pool.replicas] = number
    replicas.end_s = inf
    for queue in ("partial", "waiting", "ready"):
        replicas[queue] = state.NOBODY
    return replicas


def _request_rows(requests: Requests, deployment: Deployment) -> Any:
    rows = np.zeros(len(requests), state.REQUEST).view(np.recarray)
    rows.prompt = requests.prompt_tokens
    rows.steps = deployment.decode_steps(requests)
    rows.refused = deployment.refused(requests)
    return rows


def _links(deployment: Deployment) -> Any:
    count = 0
    if deployment.link is not None:
        shared = deployment.link.scope == "shared"
        count = 1 if shared else deployment.entry.settings.replicas
    links = np.zeros(count, state.LINK).view(np.recarray)
    links.first = state.NOBODY
    return links


def _stamps(
    requests: Requests, deployment: Deployment, timeline: Timeline | None
) -> NDArray[np.float64]:
    """Return all stamps as not yet made; rows that nobody will touch take no memory."""
    stamps = np.empty((len(state.STAMPS), len(requests)))
    made = [state.ROUTED, state.PREFILL_START, state.PREFILL_END, state.FINISH]
    if not deployment.prefill_emits:
        made += [state.DECODE_START, state.FIRST_TOKEN]
    if deployment.decode is not None:
        made += [state.TRANSFER_START, state.TRANSFER_END]
    if timeline is not None:
        made.append(state.LAST_TOKEN)
    for row in made:
        stamps[row] = np.nan
    stamps[state.ARRIVAL] = requests.arrival_s
    return stamps


def _parameters(pools: tuple[Pool, ...]) -> NDArray[np.float64]:
    rows = [pool.latency.parameters for pool in pools]
    parameters = np.zeros((len(rows), max(map(len, rows))))
    for row, values in zip(parameters, rows, strict=True):
        row[: len(values)] = values
    return parameters


def _winners(places: int) -> NDArray[np.int64]:
    """Return the tournament when nothing is due anywhere: the lowest place wins."""
    winners = np.arange(-places, places)
    for node in range(places - 1, 0, -1):
        winners[node] = winners[2 * node]
    return winners


# ---------------------------------------------------------------- the records at the end


def _records(s: State, requests: Requests, deployment: Deployment) -> RequestRecords:
    stamps = dict(zip(state.STAMPS, s.stamps, strict=True))
    del stamps["last_token_s"]
    arrival_s = stamps.pop("arrival_s")
    prefill_end_s = stamps["prefill_end_s"]
    decode_replica = s.counts[state.DECODE_REPLICA]
    if deployment.decode is None:
        decode_replica = s.counts[state.PREFILL_REPLICA]
        stamps["transfer_start_s"] = stamps["transfer_end_s"] = prefill_end_s
    if deployment.prefill_emits:
        stamps["decode_start_s"] = stamps["first_token_s"] = prefill_end_s
    status = np.full(len(requests), Status.FINISHED, np.int8)
    status[np.isnan(stamps["finish_s"])] = Status.UNFINISHED
    status[s.requests.refused] = Status.REJECTED
    return records_of(
        Requests(arrival_s, requests.prompt_tokens, requests.output_tokens),
        {
            **stamps,
            "prefill_replica": s.counts[state.PREFILL_REPLICA],
            "decode_replica": decode_replica,
            "preemptions": s.counts[state.PREEMPTIONS],
            "status": status,
        },
    )
