"""The configuration of deployments that serve by continuous batching.

Only values stand here; `simlib.serving.assemble` turns them into pools with a latency model.
"""

from __future__ import annotations

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from simlib.core.validation import (
    ConfigModel,
    GpuCount,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)
from simlib.errors import InvalidParameterError
from simlib.files import canonical_json

BLOCK_TOKENS = 16
"""Tokens of one block of KV cache."""


class LatencyConfig(ConfigModel):
    """How long an iteration takes: the model served, and how its latency is computed."""

    kind: Literal["roofline", "affine", "aiconfigurator"] = "roofline"
    """``roofline`` from the catalog's constants, ``affine`` from fitted coefficients,
    ``aiconfigurator`` from a table of measured kernels, which the workflow makes."""
    model: str = Field(default="llama-3.1-70b", min_length=1, max_length=200)
    """Model of the catalog; for ``aiconfigurator`` its Hugging Face identifier."""
    precision: Literal["bf16", "fp8"] = "bf16"
    step_overhead_s: NonNegativeFloat = 0.0
    """Engine overhead of each iteration (scheduling, sampling), seconds."""
    sequence_overhead_s: NonNegativeFloat = 0.0
    """Engine overhead of each sequence in an iteration's batch, seconds."""

    def table_request(self, pool: ReplicaPool) -> dict[str, str | int]:
        """Return what a table of measured kernels of a pool's replica depends on."""
        return {
            "model": self.model,
            "gpu": pool.gpu,
            "tensor_parallel": pool.tensor_parallel,
            "precision": self.precision,
        }

    def table_name(self, pool: ReplicaPool) -> str:
        """Return the name of the file with that table: a hash, for names are no paths."""
        request = canonical_json(self.table_request(pool))
        return f"{hashlib.sha256(request.encode()).hexdigest()[:16]}.json"


class ReplicaPool(ConfigModel):
    """Identical replicas of the model behind one router."""

    replicas: GpuCount = 1
    gpu: str = Field(default="h100_sxm", min_length=1, max_length=200)
    """GPU of the catalog."""
    tensor_parallel: GpuCount = 4
    """GPUs of one replica."""
    kv_capacity_tokens: PositiveInt | None = None
    """KV cache of one replica, tokens; default: what its memory leaves beside the weights."""
    max_batch_tokens: PositiveInt = 8192
    """Tokens of one iteration."""
    max_batch_size: PositiveInt = 256
    """Sequences of one iteration."""
    policy: Literal["chunked_prefill", "prefill_first"] = "chunked_prefill"
    """``chunked_prefill`` mixes chunks with decodes (Sarathi-Serve, vLLM V1);
    ``prefill_first`` runs whole prompts while decodes wait (vLLM V0)."""
    discipline: Literal["fcfs", "sjf", "edf", "priority"] = "fcfs"
    """Which waiting prompt is next: first come, shortest, earliest TTFT deadline, or that of the
    first priority; the last two need ``request_classes``."""
    router: Literal["round_robin", "random", "least_requests", "least_tokens", "power_of_two"] = (
        "round_robin"
    )

    @model_validator(mode="after")
    def _can_serve(self) -> Self:
        if self.kv_capacity_tokens is not None and self.kv_capacity_tokens < BLOCK_TOKENS:
            raise InvalidParameterError(
                "kv_capacity_tokens",
                self.kv_capacity_tokens,
                f"at least one block of {BLOCK_TOKENS} tokens",
            )
        if self.policy == "chunked_prefill" and self.max_batch_tokens < self.max_batch_size:
            raise InvalidParameterError(
                "max_batch_tokens",
                self.max_batch_tokens,
                f">= max_batch_size ({self.max_batch_size}) with chunked_prefill",
            )
        return self

    @property
    def total_gpus(self) -> int:
        """GPUs of the pool."""
        return self.replicas * self.tensor_parallel


class MonolithicPool(ReplicaPool):
    """The pool of a monolithic deployment; by default two replicas, as many as disaggregated."""

    replicas: GpuCount = 2


class LinkConfig(ConfigModel):
    """How KV caches move from prefill to decode replicas."""

    bandwidth_bytes_per_s: PositiveFloat = 50e9
    base_latency_s: NonNegativeFloat = 0.0
    scope: Literal["per_replica", "shared"] = "per_replica"
    contention: Literal["fifo", "fair"] = "fifo"
    overlap_layers: int = Field(default=0, ge=0, le=10_000)
    """Layers sent one by one while the prefill runs; 0 sends all after it."""


class BatchingMono(ConfigModel):
    """One pool whose replicas do prefill and decode."""

    pool: MonolithicPool = Field(default_factory=MonolithicPool)
    first_token: Literal["prefill", "decode"] = "prefill"
    """Which iteration emits the first token: the prefill's last, as vLLM does, or a decode."""

    @property
    def total_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.pool.total_gpus

    @property
    def gpus_by_pool(self) -> dict[str, int]:
        """GPUs of each pool."""
        return {"gpu": self.pool.total_gpus}

    @property
    def pools(self) -> dict[str, ReplicaPool]:
        """The pools by name, the one where requests arrive first."""
        return {"gpu": self.pool}

    @property
    def discipline(self) -> str:
        """The order in which arriving requests are taken."""
        return self.pool.discipline


class BatchingDisagg(ConfigModel):
    """A prefill pool, a decode pool, and the link between them."""

    prefill: ReplicaPool = Field(default_factory=ReplicaPool)
    decode: ReplicaPool = Field(default_factory=ReplicaPool)
    link: LinkConfig = Field(default_factory=LinkConfig)

    @model_validator(mode="after")
    def _caches_come_in_order(self) -> Self:
        if self.decode.discipline != "fcfs":
            raise InvalidParameterError("decode.discipline", self.decode.discipline, "fcfs")
        return self

    @property
    def total_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.prefill.total_gpus + self.decode.total_gpus

    @property
    def gpus_by_pool(self) -> dict[str, int]:
        """GPUs of each pool."""
        return {"prefill": self.prefill.total_gpus, "decode": self.decode.total_gpus}

    @property
    def pools(self) -> dict[str, ReplicaPool]:
        """The pools by name, the one where requests arrive first."""
        return {"prefill": self.prefill, "decode": self.decode}

    @property
    def discipline(self) -> str:
        """The order in which arriving requests are taken."""
        return self.prefill.discipline
