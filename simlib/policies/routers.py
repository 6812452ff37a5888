"""Which replica of a pool gets a request: a function of what is outstanding on its replicas.

A request is outstanding from its routing until it leaves the replica: at its last token, or on a
prefill replica at the end of its prefill. Its tokens count in full until then: the prompt on a
prefill replica, prompt and decode steps elsewhere, which is what it holds of the KV cache.

A new router is a function and an entry in `ROUTERS`. The engine compiles the function (Numba), so
it uses numbers, arrays and loops only, and calls no function of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


class PoolView(NamedTuple):
    """What a router may see."""

    turn: int
    """Requests that the pool has been given before."""
    u: float
    """Uniform in [0, 1) drawn for this request, if the router draws any."""
    v: float
    """A second one."""
    requests: NDArray[np.int64]
    """Outstanding requests by replica."""
    tokens: NDArray[np.int64]
    """Outstanding tokens by replica."""


class Router(NamedTuple):
    """A routing policy."""

    choose: Callable[[Any], int]
    """Return the index of a replica from a `PoolView`; ties go to the lowest one."""
    draws: int = 0
    """Uniforms that it needs for each request."""


def round_robin(pool: PoolView) -> int:
    """Take the replicas in turn."""
    return pool.turn % len(pool.requests)


def random(pool: PoolView) -> int:
    """Take any replica with equal chances."""
    return int(pool.u * len(pool.requests))


def least_requests(pool: PoolView) -> int:
    """Take the replica with the fewest outstanding requests."""
    return int(pool.requests.argmin())


def least_tokens(pool: PoolView) -> int:
    """Take the replica with the fewest outstanding tokens."""
    return int(pool.tokens.argmin())


def power_of_two(pool: PoolView) -> int:
    """Draw two replicas and take the one with fewer requests (doi:10.1109/71.963420)."""
    n = len(pool.requests)
    if n == 1:
        return 0
    first = int(pool.u * n)
    second = int(pool.v * (n - 1))
    if second >= first:
        second += 1
    low, high = min(first, second), max(first, second)
    return high if pool.requests[high] < pool.requests[low] else low


ROUTERS: dict[str, Router] = {
    "round_robin": Router(round_robin),
    "random": Router(random, draws=1),
    "least_requests": Router(least_requests),
    "least_tokens": Router(least_tokens),
    "power_of_two": Router(power_of_two, draws=2),
}

if TYPE_CHECKING:
    RouterName = str
else:
    RouterName = Literal[tuple(ROUTERS)]
