"""What serves: a pool where requests enter, and, if it only prefills, one where they decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simlib.core.batching import FrontEnd, LinkConfig, ReplicaPool
from simlib.errors import InvalidParameterError
from simlib.latency.protocol import LatencyModel
from simlib.policies.disciplines import DISCIPLINES
from simlib.policies.routers import ROUTERS
from simlib.workload.requests import Requests
from simlib.workload.streams import Stream, generator

FirstToken = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of the configuration, with what hardware and model make of it."""

    settings: ReplicaPool
    latency: LatencyModel
    capacity_blocks: int
    """Blocks of KV cache of one replica, all of its ranks together."""

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of one iteration of a replica."""
        return self.settings.max_batch_tokens * self.settings.data_parallel_size

    @property
    def max_batch_size(self) -> int:
        """Sequences of one iteration of a replica."""
        return self.settings.max_batch_size * self.settings.data_parallel_size

    @property
    def rank_blocks(self) -> int:
        """Blocks of KV cache that one request may take: those of a rank."""
        return self.capacity_blocks // self.settings.data_parallel_size

    @classmethod
    def of(cls, latency: LatencyModel, kv_capacity_tokens: int, **settings: Any) -> Pool:
        """Return a pool of a given latency model and KV cache, whatever hardware has them.

        The KV cache is that of a rank, as all settings are.

        Raises
        ------
        InvalidParameterError
            As `ReplicaPool` does.
        """
        pool = ReplicaPool(kv_capacity_tokens=kv_capacity_tokens, **settings)
        blocks = kv_capacity_tokens // pool.block_size
        return cls(pool, latency, blocks * pool.data_parallel_size)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The pools by their roles, and what lies before and between them.

    Requests arrive at `entry`. With a `decode` pool, entry replicas only prefill, and KV caches
    move over `link` to decode replicas, which emit every token. Without, entry replicas do both.
    """

    entry: Pool
    decode: Pool | None = None
    link: LinkConfig | None = None
    first_token: FirstToken = "prefill"
    """Without a decode pool: which iteration emits the first token."""
    front_end: FrontEnd | None = None

    def __post_init__(self) -> None:
        """Refuse halves of a disaggregated deployment."""
        if (self.decode is None) != (self.link is None):
            raise InvalidParameterError("link", self.link, "given with a decode pool, and only so")
        if self.decode is not None and self.decode.settings.discipline != "fcfs":
            raise InvalidParameterError(
                "decode.discipline",
                self.decode.settings.discipline,
                "fcfs: KV caches come in order",
            )

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools, the one where requests arrive first."""
        return (self.entry,) if self.decode is None else (self.entry, self.decode)

    @property
    def prefill_emits(self) -> bool:
        """Whether the iteration that ends a prefill emits the first token."""
        return self.decode is None and self.first_token == "prefill"

    def decode_steps(self, requests: Requests) -> NDArray[np.int64]:
        """Return the decode steps of each request: its tokens that the prefill does not emit."""
        return requests.output_tokens - int(self.prefill_emits)

    def refused(self, requests: Requests) -> NDArray[np.bool_]:
        """Return which requests can never fit, though alone on a replica, or on one of its ranks.

        A replica that decodes must hold prompt and decode steps, one that only prefills the prompt.
        """
        prompt = requests.prompt_tokens
        both = prompt + self.decode_steps(requests)
        refused = np.zeros(len(requests), np.bool_)
        for pool, tokens in zip(self.pools, (prompt, both)[-len(self.pools) :], strict=True):
            refused |= -(-tokens // pool.settings.block_size) > pool.rank_blocks
        return refused

    def routing_draws(
        self, n: int, random_seed: int, replicate: int
    ) -> list[list[NDArray[np.float64]]]:
        """Return the columns of uniforms that each pool's router draws, entry pool first."""
        rng = generator(random_seed, replicate, Stream.ROUTING)
        return [
            [rng.random(n) for _ in range(ROUTERS[pool.settings.router].draws)]
            for pool in self.pools
        ]


@dataclass(frozen=True, slots=True)
class Classes:
    """What the disciplines that look at classes sort by; columns of one value per request."""

    ttft_slo_s: NDArray[np.float64] | None = None
    """Seconds from arrival to the TTFT deadline."""
    priority: NDArray[np.int64] | None = None
    """Priority class, the smallest served first."""

    def columns(
        self, deployment: Deployment, n: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return both columns of `n` requests, empty where there is none.

        Raises
        ------
        InvalidParameterError
            If the entry pool's discipline needs one that is missing or of another length.
        """
        key = DISCIPLINES[deployment.entry.settings.discipline].class_key
        if key is not None and (getattr(self, key) is None or len(getattr(self, key)) != n):
            raise InvalidParameterError(key, getattr(self, key), f"a column of {n} values")
        slo_s = np.asarray([] if self.ttft_slo_s is None else self.ttft_slo_s, np.float64)
        return slo_s, np.asarray([] if self.priority is None else self.priority, np.int64)


def monolithic(
    pool: Pool, first_token: FirstToken = "prefill", front_end: FrontEnd | None = None
) -> Deployment:
    """Return a deployment whose replicas do prefill and decode."""
    return Deployment(pool, first_token=first_token, front_end=front_end)


def disaggregated(
    prefill: Pool, decode: Pool, link: LinkConfig, front_end: FrontEnd | None = None
) -> Deployment:
    """Return a deployment of a prefill pool, a decode pool, and the link between them."""
    return Deployment(prefill, decode, link, front_end=front_end)


def check_concurrency(concurrency: int | None) -> None:
    """Raise `InvalidParameterError` if a closed loop would keep nothing in flight."""
    if concurrency is not None and concurrency < 1:
        raise InvalidParameterError("concurrency", concurrency, ">= 1")


def exposed_bytes(
    total_bytes: float, prefill_s: float, overlap_layers: int, bandwidth_bytes_per_s: float
) -> float:
    """Return the bytes left to send when a prefill that took `prefill_s` ends.

    With layer-wise sending, layers leave while later ones are computed: what the link could
    not carry in that time is left, and at least the last layer (Splitwise, ISCA 2024,
    doi:10.1109/ISCA59077.2024.00019). Without it (0 layers), everything is left.
    """
    if overlap_layers == 0:
        return total_bytes
    return max(total_bytes / overlap_layers, total_bytes - bandwidth_bytes_per_s * prefill_s)
