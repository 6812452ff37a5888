"""The token-rate model solved by the exact FCFS recursion: the fast engine.

In a FCFS queue with c servers a request starts when it is ready and the first server is free:
start_n = max(ready_n, earliest free time), which a heap of c free times gives in O(log c)
(Kiefer and Wolfowitz, 1955, doi:10.1090/S0002-9947-1955-0066587-0).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from simlib.core.config import ClusterDisagg, ClusterMonolithic, SimConfig
from simlib.core.records import Floats, RequestRecords, cut_at, records_of
from simlib.workload.requests import Requests

_CHUNK = 1 << 16
"""Requests turned into Python numbers at a time; bounds the memory of long runs."""
_WORTH_COMPILING = 1_000_000
"""Requests whose simulation takes about as long in plain Python as importing Numba does."""


def fcfs(ready_s: Floats, service_s: Floats, servers: int) -> tuple[Floats, NDArray[np.int32]]:
    """Serve requests first come, first served, one at a time on each of `servers` servers.

    Parameters
    ----------
    ready_s : array of shape (n,)
        When each request joins the queue, not decreasing, in seconds.
    service_s : array of shape (n,)
        How long it holds a server, in seconds, > 0.
    servers : int
        Number of identical servers; the one idle longest is taken, at first in order of index.

    Returns
    -------
    start_s : array of shape (n,)
        When each request's service starts.
    server : array of shape (n,)
        The server that it got.
    """
    if len(ready_s) >= _WORTH_COMPILING or "numba" in sys.modules:
        return _compiled_fcfs(ready_s, service_s, servers)
    return _plain_fcfs(ready_s, service_s, servers)


def _plain_fcfs(
    ready_s: Floats, service_s: Floats, servers: int
) -> tuple[Floats, NDArray[np.int32]]:
    n = len(ready_s)
    start_s = np.empty(n)
    free = [0.0] * servers
    for low in range(0, n, _CHUNK):
        chunk = slice(low, low + _CHUNK)
        starts: list[float] = []
        add = starts.append
        for ready, service in zip(ready_s[chunk].tolist(), service_s[chunk].tolist(), strict=True):
            start = free[0]
            if start < ready:  # noqa: PLR1730 - max() costs a call per request
                start = ready
            heapreplace(free, start + service)
            add(start)
        start_s[chunk] = starts
    return start_s, _servers(start_s + service_s, servers)


def _servers(finish_s: Floats, servers: int) -> NDArray[np.int32]:
    """Return who served whom: the k-th server to become free takes the k-th request to start.

    Every server is free at first, in order of index; then they become free as requests finish.
    """
    n = len(finish_s)
    if servers == 1:
        return np.zeros(n, dtype=np.int32)
    previous = np.argsort(finish_s, kind="stable")[: max(n - servers, 0)]
    taken = list(range(min(servers, n)))
    add = taken.append
    for low in range(0, len(previous), _CHUNK):
        for request in previous[low : low + _CHUNK].tolist():
            add(taken[request])
    return np.array(taken, dtype=np.int32)


def _compiled_fcfs(
    ready_s: Floats, service_s: Floats, servers: int
) -> tuple[Floats, NDArray[np.int32]]:
    """Do the same in machine code, which pays for long runs."""
    start_s = np.empty(len(ready_s))
    server = np.empty(len(ready_s), dtype=np.int32)
    order = np.arange(servers, dtype=np.int64)
    _compiled()(ready_s, service_s, np.zeros(servers), order, start_s, server)
    return start_s, server


@cache
def _compiled() -> Callable[..., None]:
    from simlib.compiling import entry_point  # imports Numba, which takes longer than a short run

    return entry_point(_serve_all)


def _serve_all(
    ready_s: Floats,
    service_s: Floats,
    free_s: Floats,
    order: NDArray[np.int64],
    start_s: Floats,
    server: NDArray[np.int32],
) -> None:
    """Fill `start_s` and `server`; `free_s` and `order` are a heap of when servers are free.

    Servers that are free at one time are taken in the order in which they became so: `order` holds
    a number that rises with each request, and the server beside it.
    """
    servers = len(free_s)
    for request in range(len(ready_s)):
        start = max(ready_s[request], free_s[0])
        taken = order[0] % servers
        start_s[request] = start
        server[request] = taken
        end = start + service_s[request]
        turn = (request + 1) * servers + taken
        at = 0
        below = 1
        while below < servers:
            other = below + 1
            if other < servers and (
                free_s[other] < free_s[below]
                or (free_s[other] == free_s[below] and order[other] < order[below])
            ):
                below = other
            if free_s[below] > end or (free_s[below] == end and order[below] > turn):
                break
            free_s[at] = free_s[below]
            order[at] = order[below]
            at = below
            below = 2 * at + 1
        free_s[at] = end
        order[at] = turn


def serve(requests: Requests, config: SimConfig) -> RequestRecords:
    """Serve `requests` with the deployment that `config` selects.

    Without a drain, what happens at or after ``config.sim_seconds`` is not seen.
    """
    cluster = config.cluster
    if isinstance(cluster, ClusterMonolithic):
        records = monolithic(requests, cluster)
    else:
        records = disaggregated(requests, cluster)
    return records if config.drain else cut_at(records, config.sim_seconds)


def monolithic(requests: Requests, cluster: ClusterMonolithic) -> RequestRecords:
    """Run the monolithic deployment: a request holds one GPU from prefill to its last token."""
    prefill_s = requests.prompt_tokens / cluster.prefill_tokens_per_s
    decode_s = requests.output_tokens / cluster.decode_tokens_per_s
    start_s, gpu = fcfs(requests.arrival_s, prefill_s + decode_s, cluster.num_gpus)
    prefill_end_s = start_s + prefill_s
    return records_of(
        requests,
        {
            "prefill_start_s": start_s,
            "prefill_end_s": prefill_end_s,
            "transfer_start_s": prefill_end_s,
            "transfer_end_s": prefill_end_s,
            "decode_start_s": prefill_end_s,
            "first_token_s": prefill_end_s + 1.0 / cluster.decode_tokens_per_s,
            "finish_s": prefill_end_s + decode_s,
            "prefill_replica": gpu,
            "decode_replica": gpu,
        },
    )


def disaggregated(requests: Requests, cluster: ClusterDisagg) -> RequestRecords:
    """Run the disaggregated deployment: prefill pool, KV transfer, decode pool.

    A prefill GPU is free once the prefill ends; transfers do not slow each other. The decode
    pool serves in order of transfer end, equal times in order of arrival.
    """
    prefill_s = requests.prompt_tokens / cluster.prefill_tokens_per_s
    decode_s = requests.output_tokens / cluster.decode_tokens_per_s
    prefill_start_s, prefill_gpu = fcfs(requests.arrival_s, prefill_s, cluster.prefill_gpus)
    prefill_end_s = prefill_start_s + prefill_s
    del prefill_s
    transfer_end_s = prefill_end_s + (
        cluster.kv_base_latency_s + requests.prompt_tokens * cluster.transfer_s_per_token
    )
    order = np.argsort(transfer_end_s, kind="stable")
    decode_start_s = np.empty_like(transfer_end_s)
    decode_gpu = np.empty(len(requests), dtype=np.int32)
    decode_start_s[order], decode_gpu[order] = fcfs(
        transfer_end_s[order], decode_s[order], cluster.decode_gpus
    )
    return records_of(
        requests,
        {
            "prefill_start_s": prefill_start_s,
            "prefill_end_s": prefill_end_s,
            "transfer_start_s": prefill_end_s,
            "transfer_end_s": transfer_end_s,
            "decode_start_s": decode_start_s,
            "first_token_s": decode_start_s + 1.0 / cluster.decode_tokens_per_s,
            "finish_s": decode_start_s + decode_s,
            "prefill_replica": prefill_gpu,
            "decode_replica": decode_gpu,
        },
    )
