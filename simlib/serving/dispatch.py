"""Who gets what: queue keys, routing draws, and the count of what is outstanding."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.serving.deployment import Deployment, Monolithic, Pool
from simlib.serving.router import DRAWS, ROUTERS, STATELESS, Route
from simlib.workload.requests import Requests
from simlib.workload.streams import Stream, generator


@dataclass(frozen=True, slots=True)
class Classes:
    """What the disciplines ``edf`` and ``priority`` sort by; columns of one value per request."""

    ttft_slo_s: NDArray[np.float64] | None = None
    """Seconds from arrival to the TTFT deadline."""
    priority: NDArray[np.int64] | None = None
    """Priority class, the smallest served first."""


def routing_draws(
    n: int, deployment: Deployment, random_seed: int, replicate: int
) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Return two columns of uniforms per pool, entry pool first; empty where not needed."""
    rng = generator(random_seed, replicate, Stream.ROUTING)
    columns: list[tuple[Sequence[float], Sequence[float]]] = []
    for pool in pools_of(deployment):
        draws = [array("d", rng.random(n).tobytes()) for _ in range(DRAWS.get(pool.router, 0))]
        draws += [array("d")] * (2 - len(draws))
        columns.append((draws[0], draws[1]))
    return columns


def pools_of(deployment: Deployment) -> tuple[Pool, ...]:
    """Return the pools of a deployment, the one where requests arrive first."""
    if isinstance(deployment, Monolithic):
        return (deployment.pool,)
    return (deployment.prefill, deployment.decode)


def entry_keys(requests: Requests, pool: Pool, classes: Classes) -> array[float]:
    """Return what the entry pool's discipline sorts by, per request.

    Prompt tokens, TTFT deadline, or class; without one of these all are alike, which leaves the
    order to the request number, that is the order of arrival.

    Raises
    ------
    InvalidParameterError
        If the discipline's column is missing or of another length.
    """
    n = len(requests)
    if pool.discipline == "fcfs":
        keys = np.zeros(n)
    elif pool.discipline == "sjf":
        keys = requests.prompt_tokens.astype(np.float64)
    elif pool.discipline == "edf":
        keys = requests.arrival_s + _column("ttft_slo_s", classes.ttft_slo_s, n)
    else:
        keys = _column("priority", classes.priority, n).astype(np.float64)
    return array("d", keys.tobytes())


def _column(
    name: str, column: NDArray[np.float64] | NDArray[np.int64] | None, n: int
) -> NDArray[Any]:
    if column is None or len(column) != n:
        raise InvalidParameterError(name, column, f"a column of {n} values")
    return column


class Router:
    """Chooses replicas and counts what is outstanding."""

    __slots__ = ("first", "requests", "route", "second", "stateless", "tokens", "turn")

    def __init__(self, pool: Pool, draws: tuple[Sequence[float], Sequence[float]]) -> None:
        self.route: Route = ROUTERS[pool.router]
        self.stateless = pool.router in STATELESS or pool.replicas == 1
        self.first, self.second = draws
        self.requests = [0] * pool.replicas
        self.tokens = [0] * pool.replicas
        self.turn = 0

    def choose(self, request: int, tokens: int) -> int:
        """Return the replica for a request of so many tokens, which counts there from now on."""
        u = self.first[request] if self.first else 0.0
        v = self.second[request] if self.second else 0.0
        at = self.route(self.turn, u, v, self.requests, self.tokens)
        self.turn += 1
        self.requests[at] += 1
        self.tokens[at] += tokens
        return at

    def choose_all(self, requests: Sequence[int]) -> list[int]:
        """Return the replicas for all requests, in this order, if the router is stateless."""
        assert self.stateless
        if len(self.requests) == 1:
            return [0] * len(requests)
        return [self.choose(request, 0) for request in requests]

    def leave(self, at: int, requests: int, tokens: int) -> None:
        """Count so many requests, of so many tokens in all, no longer."""
        self.requests[at] -= requests
        self.tokens[at] -= tokens


class ArrivalOrder(Sequence[float]):
    """The key of a first-come-first-served queue: the request number alone decides."""

    def __getitem__(self, index: object) -> float:  # type: ignore[override]
        return 0.0

    def __len__(self) -> int:
        return 0
