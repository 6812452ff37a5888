"""Which replica of a pool gets a request: policies as functions of what is outstanding.

A request is outstanding from its routing until it leaves the replica: at its last token, or on a
prefill replica at the end of its prefill. Its tokens count in full until then (prompt on a prefill
replica, prompt and output elsewhere). Ties go to the replica with the lowest index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

RouterName = Literal[
    "round_robin",
    "random",
    "least_requests",
    "least_tokens",
    "power_of_two",
]
Route = Callable[[int, float, float, Sequence[int], Sequence[int]], int]
"""(number of requests routed before, two uniforms in [0, 1), outstanding requests and tokens per
replica) to the index of a replica."""


def round_robin(
    turn: int, _u: float, _v: float, requests: Sequence[int], _tokens: Sequence[int]
) -> int:
    """Take the replicas in turn."""
    return turn % len(requests)


def random(_turn: int, u: float, _v: float, requests: Sequence[int], _tokens: Sequence[int]) -> int:
    """Take any replica with equal chances."""
    return int(u * len(requests))


def least_requests(
    _turn: int, _u: float, _v: float, requests: Sequence[int], _tokens: Sequence[int]
) -> int:
    """Take the replica with the fewest outstanding requests."""
    return requests.index(min(requests))


def least_tokens(
    _turn: int, _u: float, _v: float, _requests: Sequence[int], tokens: Sequence[int]
) -> int:
    """Take the replica with the fewest outstanding tokens."""
    return tokens.index(min(tokens))


def power_of_two(
    _turn: int, u: float, v: float, requests: Sequence[int], _tokens: Sequence[int]
) -> int:
    """Draw two replicas and take the one with fewer requests (doi:10.1109/71.963420)."""
    n = len(requests)
    if n == 1:
        return 0
    first = int(u * n)
    second = int(v * (n - 1))
    second += second >= first
    return min((requests[first], first), (requests[second], second))[1]


ROUTERS: dict[RouterName, Route] = {
    "round_robin": round_robin,
    "random": random,
    "least_requests": least_requests,
    "least_tokens": least_tokens,
    "power_of_two": power_of_two,
}
DRAWS: dict[RouterName, int] = {"random": 1, "power_of_two": 2}
"""Uniforms that a router needs per request; none where not named."""
STATELESS: frozenset[RouterName] = frozenset({"round_robin", "random"})
"""Routers that do not look at what is outstanding."""
