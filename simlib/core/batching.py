"""The configuration of deployments that serve by continuous batching.

Only values stand here; `simlib.serving.assemble` adds what hardware and model make of them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Self

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
from simlib.latency.catalog import Precision
from simlib.latency.catalog.engines import EngineName
from simlib.latency.experts import EXPERT_IMBALANCE
from simlib.latency.models import KvCacheDtype, LatencyKind
from simlib.policies.batching import BATCH_POLICIES, BatchPolicyName
from simlib.policies.disciplines import DisciplineName
from simlib.policies.routers import RouterName

BLOCK_TOKENS = 16
"""Tokens of one block of KV cache."""
DEFAULT_GPU = "h100_sxm"
MEMORY_FRACTION = 0.9
"""Share of the memory that engines use (vLLM's default)."""
ADDED_KEYS: dict[str, Any] = {
    "kv_cache_dtype": "bf16",
    "num_gpu_blocks_override": None,
    "block_size": BLOCK_TOKENS,
    "front_end": None,
    "backend": "vllm",
    "path": None,
    "expert_precision": None,
    "expert_imbalance": EXPERT_IMBALANCE,
    "data_parallel_size": 1,
    "enable_expert_parallel": False,
    "gpu_memory_utilization": MEMORY_FRACTION,
    "engine": None,
    "expert_launch_s": 0.0,
    "latent_launch_s": 0.0,
    "latent_step_s": 0.0,
}
"""Keys that the first results did not know, with the value that means what they had; with it, a
key is no part of a point's identity, so that these results stay valid."""


class LatencyConfig(ConfigModel):
    """How long an iteration takes: the model served, and how its latency is computed."""

    kind: LatencyKind = "roofline"
    """``roofline`` from the catalog's constants, ``affine`` from fitted coefficients,
    ``aiconfigurator`` from a table of measured kernels, which the workflow makes, ``table`` from
    a file of one's own measurements."""
    model: str = Field(default="llama-3.1-70b", min_length=1, max_length=200)
    """Model of the catalog or of ``models``, or the path of a ``config.json`` (or of its folder,
    ending in /); for ``aiconfigurator`` its Hugging Face identifier."""
    precision: Precision = "bf16"
    """Of the weights and their products: ``bf16``, ``fp8``, or of 4 bits ``fp4`` and ``int4``,
    which GPUs without such products unpack to 16."""
    expert_precision: Precision | None = None
    """Of the routed experts of a mixture; default: as ``precision``."""
    expert_imbalance: float = Field(default=EXPERT_IMBALANCE, ge=1, allow_inf_nan=False)
    """Tokens of the busiest GPU's experts over the mean, with ``enable_expert_parallel``."""
    kv_cache_dtype: KvCacheDtype = "bf16"
    """Of stored keys and values: ``fp8`` halves a token's bytes and the time to read them."""
    backend: Literal["vllm", "sglang", "trtllm"] = "vllm"
    """``aiconfigurator``: the engine whose kernels were measured."""
    path: str | None = None
    """``table``: a CSV file of measured iterations."""
    engine: EngineName | None = None
    """The serving engine whose defaults and costs are taken for what is not given: overheads,
    front end, limits of a batch, how it is formed, type of the KV cache."""
    step_overhead_s: NonNegativeFloat = 0.0
    """Engine overhead of each iteration (scheduling, sampling), seconds."""
    sequence_overhead_s: NonNegativeFloat = 0.0
    """Engine overhead of each sequence in an iteration's batch, seconds."""
    expert_launch_s: NonNegativeFloat = 0.0
    """``roofline``: seconds to launch a layer of experts in an iteration that prefills."""
    latent_launch_s: NonNegativeFloat = 0.0
    """``roofline``: the same of a layer of latent attention (MLA)."""
    latent_step_s: NonNegativeFloat = 0.0
    """``roofline``: seconds of a layer of latent attention in every iteration, beside kernels."""

    @model_validator(mode="after")
    def _tables_are_files(self) -> Self:
        if self.kind == "table" and not self.path:
            allowed = "a CSV file of measured iterations (kind: table)"
            raise InvalidParameterError("path", self.path, allowed)
        return self

    def table_request(self, pool: ReplicaPool) -> dict[str, str | int]:
        """Return what a table of measured kernels of a pool's replica depends on."""
        request: dict[str, str | int] = {
            "model": self.model,
            "gpu": pool.gpu,
            "tensor_parallel": pool.tensor_parallel,
            "precision": self.precision,
        }
        if self.backend != "vllm":
            request["backend"] = self.backend
        if self.expert_precision is not None:
            request["expert_precision"] = self.expert_precision
        if pool.enable_expert_parallel:
            request["expert_parallel"] = pool.tensor_parallel
        return request

    def table_name(self, pool: ReplicaPool) -> str:
        """Return the name of the file with that table: a hash, for names are no paths."""
        request = canonical_json(self.table_request(pool))
        return f"{hashlib.sha256(request.encode()).hexdigest()[:16]}.json"


class ReplicaPool(ConfigModel):
    """Identical replicas of the model behind one router."""

    replicas: GpuCount = 1
    gpu: str = Field(default=DEFAULT_GPU, min_length=1, max_length=200)
    """GPU of the catalog or of ``gpus``."""
    tensor_parallel: GpuCount = 4
    """GPUs of one replica, or of each of its data-parallel ranks."""
    data_parallel_size: GpuCount = 1
    """Ranks of one replica of a mixture of experts: each has ``tensor_parallel`` GPUs and attends
    to its own sequences, all share the experts and go in step (vLLM's data parallel attention).
    Settings of the scheduler and of the KV cache are those of a rank."""
    enable_expert_parallel: bool = False
    """Whether the GPUs of a replica have whole experts; else each has a part of every expert."""
    kv_capacity_tokens: PositiveInt | None = None
    """KV cache of one rank, tokens; default: what its memory leaves beside the weights."""
    num_gpu_blocks_override: PositiveInt | None = None
    """The same as a number of blocks, as vLLM reports it."""
    gpu_memory_utilization: PositiveFloat = Field(default=MEMORY_FRACTION, le=1)
    """Share of the memory that the engine uses."""
    block_size: PositiveInt = BLOCK_TOKENS
    """Tokens of one block of KV cache."""
    max_batch_tokens: PositiveInt = 8192
    """Tokens of one iteration."""
    max_batch_size: PositiveInt = 256
    """Sequences of one iteration."""
    policy: BatchPolicyName = "chunked_prefill"
    """``chunked_prefill`` mixes chunks with decodes (Sarathi-Serve, vLLM V1);
    ``whole_prompts`` mixes whole prompts; ``chunks_first`` runs chunks while decodes wait (SGLang),
    ``prefill_first`` whole prompts (vLLM V0)."""
    discipline: DisciplineName = "fcfs"
    """Which waiting prompt is next: first come, shortest, earliest TTFT deadline, or that of the
    first priority; the last two need ``request_classes``."""
    router: RouterName = "round_robin"

    @model_validator(mode="after")
    def _can_serve(self) -> Self:
        if self.kv_capacity_tokens is not None:
            if self.num_gpu_blocks_override is not None:
                raise InvalidParameterError(
                    "num_gpu_blocks_override",
                    self.num_gpu_blocks_override,
                    "left out where kv_capacity_tokens is given",
                )
            if self.kv_capacity_tokens < self.block_size:
                raise InvalidParameterError(
                    "kv_capacity_tokens",
                    self.kv_capacity_tokens,
                    f"at least one block of {self.block_size} tokens",
                )
        mixes = BATCH_POLICIES[self.policy].mixes
        if mixes and self.max_batch_tokens < self.max_batch_size:
            raise InvalidParameterError(
                "max_batch_tokens",
                self.max_batch_tokens,
                f">= max_batch_size ({self.max_batch_size}) with {self.policy}",
            )
        return self

    @property
    def total_gpus(self) -> int:
        """GPUs of the pool."""
        return self.replicas * self.replica_gpus

    @property
    def replica_gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel * self.data_parallel_size


class MonolithicPool(ReplicaPool):
    """The pool of a monolithic deployment; by default two replicas, as many as disaggregated."""

    replicas: GpuCount = 2


class LinkConfig(ConfigModel):
    """How KV caches move from prefill to decode replicas."""

    bandwidth_bytes_per_s: PositiveFloat = 50e9
    base_latency_s: NonNegativeFloat = 0.0
    """Seconds from the last byte sent to the transfer's end; does not occupy the link."""
    scope: Literal["per_replica", "shared"] = "per_replica"
    """One link per prefill replica, or one that all share."""
    contention: Literal["fifo", "fair"] = "fifo"
    """``fifo``: one transfer at a time; ``fair``: all at once, with equal shares."""
    overlap_layers: int = Field(default=0, ge=0, le=10_000)
    """Layers sent one by one while the prefill runs; 0 sends all after it."""


class FrontEnd(ConfigModel):
    """What reads and tokenises requests, first come, first served, before the router sees them."""

    request_s: NonNegativeFloat = 0.0
    """Seconds that a request takes, whatever its length."""
    token_s: NonNegativeFloat = 0.0
    """Seconds that a prompt token takes."""
    workers: PositiveInt = 1
    """Requests that are read at one time."""


class BatchingMono(ConfigModel):
    """One pool whose replicas do prefill and decode."""

    pool: MonolithicPool = Field(default_factory=MonolithicPool)
    first_token: Literal["prefill", "decode"] = "prefill"
    """Which iteration emits the first token: the prefill's last, as vLLM does, leaving
    ``output_tokens - 1`` decode steps; or a decode."""
    front_end: FrontEnd | None = None

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
    front_end: FrontEnd | None = None

    @model_validator(mode="after")
    def _caches_come_in_order(self) -> Self:
        if self.decode.discipline != "fcfs":
            raise InvalidParameterError(
                "decode.discipline", self.decode.discipline, "fcfs: KV caches come in order"
            )
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
