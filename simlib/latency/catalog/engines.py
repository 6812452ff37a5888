"""Serving engines by name: what their servers do unless told otherwise, and what they cost.

``engines.csv`` has a row per engine: how its scheduler forms batches, and constants that
``benchmarks/fit_engines.py`` fitted to measured servers, each with its spread. What the engine lets
into a batch, by GPU and memory, stands in ``engine_limits.csv`` with the source of each number.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

_FOLDER: Final = Path(__file__).parent
_GIB: Final = 2.0**30


@dataclass(frozen=True, slots=True)
class ServingEngine:
    """One serving engine: the scheduler's defaults, and the time that it spends beside kernels."""

    policy: str
    """How batches are formed, a name of `simlib.policies.batching.BATCH_POLICIES`."""
    fp8_kv_cache_dtype: str
    """Type of stored keys and values where weights are FP8."""
    gpu_memory_utilization: float
    """Share of the memory that the engine uses, (0, 1]."""
    step_overhead_s: float
    """Seconds of an iteration beside its kernels."""
    sequence_overhead_s: float
    """The same for each sequence in it."""
    front_end_request_s: float
    """Seconds in which the front end reads a request, whatever its length."""
    front_end_token_s: float
    """Seconds in which it reads a prompt token."""
    expert_launch_s: float
    """Seconds in which it launches a layer of experts in an iteration that prefills."""
    latent_launch_s: float
    """The same of a layer of latent attention."""
    latent_step_s: float
    """Seconds of a layer of latent attention in every iteration, beside its kernels."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What an engine lets into an iteration's batch on one kind of GPU."""

    max_batch_tokens: int
    max_batch_size: int


@cache
def _rows(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


@cache
def serving_engines() -> dict[str, ServingEngine]:
    """Return the engines by name."""
    numbers = [field.name for field in fields(ServingEngine)][2:]
    return {
        row["engine"]: ServingEngine(
            row["policy"], row["fp8_kv_cache_dtype"], *(float(row[name]) for name in numbers)
        )
        for row in _rows("engines.csv")
    }


def batch_limits(engine: str, gpu: str, memory_bytes: float) -> BatchLimits:
    """Return the limits of a batch that an engine sets on a GPU: of the first row that fits.

    Parameters
    ----------
    engine
        Name of an engine of the catalog.
    gpu
        Name of the GPU.
    memory_bytes
        Its memory.
    """
    row = next(
        row
        for row in _rows("engine_limits.csv")
        if row["engine"] == engine
        and fnmatch(gpu.lower(), row["gpus"])
        and memory_bytes >= float(row["from_memory_gib"]) * _GIB
    )
    return BatchLimits(int(row["max_batch_tokens"]), int(row["max_batch_size"]))


if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(serving_engines())]
