"""What is deployed: pools of replicas, and the link between a prefill and a decode pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from simlib.errors import InvalidParameterError
from simlib.latency.protocol import LatencyModel
from simlib.serving.router import ROUTERS, RouterName
from simlib.serving.scheduler import Discipline, Policy

FirstToken = Literal["prefill", "decode"]
LinkScope = Literal["per_replica", "shared"]
Contention = Literal["fifo", "fair"]


def _one_of(name: str, got: str, allowed: object) -> None:
    values = get_args(allowed)
    if got not in values:
        raise InvalidParameterError(name, got, "one of " + ", ".join(values))


@dataclass(frozen=True, slots=True)
class Pool:
    """Identical replicas behind one router."""

    latency: LatencyModel
    kv_capacity_tokens: int
    """KV cache of one replica in tokens; whole blocks of it are used, at least one."""
    replicas: int = 1
    max_batch_tokens: int = 8192
    """Tokens of one iteration; at least `max_batch_size` with chunked prefill, as in vLLM."""
    max_batch_size: int = 256
    """Sequences of one iteration."""
    block_tokens: int = 16
    policy: Policy = "chunked_prefill"
    discipline: Discipline = "fcfs"
    router: RouterName = "round_robin"

    def __post_init__(self) -> None:
        """Refuse pools that cannot serve."""
        for name in ("replicas", "max_batch_tokens", "max_batch_size", "block_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise InvalidParameterError(name, value, ">= 1")
        if self.capacity_blocks < 1:
            raise InvalidParameterError(
                "kv_capacity_tokens",
                self.kv_capacity_tokens,
                f"at least one block of {self.block_tokens} tokens",
            )
        _one_of("policy", self.policy, Policy)
        _one_of("discipline", self.discipline, Discipline)
        if self.router not in ROUTERS:
            raise InvalidParameterError("router", self.router, "one of " + ", ".join(ROUTERS))
        if self.policy == "chunked_prefill" and self.max_batch_tokens < self.max_batch_size:
            raise InvalidParameterError(
                "max_batch_tokens",
                self.max_batch_tokens,
                f">= max_batch_size ({self.max_batch_size}) with chunked_prefill",
            )

    @property
    def capacity_blocks(self) -> int:
        """Whole blocks of one replica's KV cache."""
        return int(self.kv_capacity_tokens) // self.block_tokens


@dataclass(frozen=True, slots=True)
class TransferLink:
    """How KV caches move from prefill to decode replicas."""

    bandwidth_bytes_per_s: float
    base_latency_s: float = 0.0
    """Seconds from the last byte sent to the transfer's end; does not occupy the link."""
    scope: LinkScope = "per_replica"
    """One link per prefill replica, or one link shared by all."""
    contention: Contention = "fifo"
    """One transfer at a time, or all at once with equal shares of the bandwidth."""
    overlap_layers: int = 0
    """Layers sent one by one while the prefill runs; 0 sends all after the prefill."""

    def __post_init__(self) -> None:
        """Refuse links that carry nothing."""
        if not 0 < self.bandwidth_bytes_per_s < math.inf:
            raise InvalidParameterError(
                "bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, "finite and > 0"
            )
        if not (self.base_latency_s >= 0 and math.isfinite(self.base_latency_s)):
            raise InvalidParameterError("base_latency_s", self.base_latency_s, "finite and >= 0")
        if self.overlap_layers < 0:
            raise InvalidParameterError("overlap_layers", self.overlap_layers, ">= 0")
        _one_of("scope", self.scope, LinkScope)
        _one_of("contention", self.contention, Contention)

    def exposed_bytes(self, total_bytes: float, prefill_s: float) -> float:
        """Return the bytes left to send when a prefill that took `prefill_s` ends.

        With layer-wise sending, layers leave while later ones are computed: what the link could
        not carry in that time is left, and at least the last layer (Splitwise, ISCA 2024,
        doi:10.1109/ISCA59077.2024.00019). Without it, everything is left.
        """
        if self.overlap_layers == 0:
            return total_bytes
        return max(
            total_bytes / self.overlap_layers,
            total_bytes - self.bandwidth_bytes_per_s * prefill_s,
        )


@dataclass(frozen=True, slots=True)
class Monolithic:
    """One pool whose replicas do prefill and decode."""

    pool: Pool
    first_token: FirstToken = "prefill"
    """Which iteration emits the first token: the prefill's last, as vLLM does, leaving
    ``output_tokens - 1`` decode steps; or a decode step, as in the token-rate model."""

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        _one_of("first_token", self.first_token, FirstToken)


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """A prefill pool and a decode pool; the decode side emits every token, the first included."""

    prefill: Pool
    decode: Pool
    link: TransferLink

    def __post_init__(self) -> None:
        """Refuse what the decode pool does not know."""
        if self.decode.discipline != "fcfs":
            raise InvalidParameterError(
                "decode.discipline", self.decode.discipline, "fcfs: KV caches come in order"
            )


Deployment = Monolithic | Disaggregated
