"""What tests of the batching engines are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simlib.core.batching import LinkConfig
from simlib.core.config import SimConfig
from simlib.core.records import RequestRecords, in_window
from simlib.core.summary import pool_gpus, service_seconds
from simlib.latency import catalog
from simlib.latency.protocol import LatencyModel
from simlib.latency.roofline import RooflineLatency
from simlib.latency.steps import StepTable
from simlib.latency.table import LatencyTable
from simlib.workload.requests import Requests


def at_once(prompt_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]) -> Requests:
    """Requests for a closed loop, which sends them."""
    return Requests(np.zeros(len(prompt_tokens)), prompt_tokens, output_tokens)


def a_link(
    bandwidth_bytes_per_s: float,
    base_latency_s: float = 0.0,
    scope: str = "per_replica",
    contention: str = "fifo",
    overlap_layers: int = 0,
) -> LinkConfig:
    return LinkConfig(
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        base_latency_s=base_latency_s,
        scope=scope,
        contention=contention,
        overlap_layers=overlap_layers,
    )


def small_table(**changes: object) -> LatencyTable:
    content = {
        "model": "m",
        "gpu": "g",
        "tensor_parallel": 1,
        "precision": "bf16",
        "backend": "b",
        "source": "made up",
        "kv_bytes_per_token": 1000.0,
        "kv_capacity_tokens": 5000,
        "tokens": [1.0, 8.0, 64.0, 512.0],
        "shared_s": [0.010, 0.0099, 0.012, 0.050],
        "chunk": [1.0, 32.0, 256.0],
        "before": [0.0, 128.0, 1024.0],
        "prefill_attention_s": [[1e-5, 2e-5, 3e-5], [1e-4, 2e-4, 6e-4], [1e-3, 2e-3, 8e-3]],
        "batch": [1.0, 4.0, 32.0],
        "context": [16.0, 100.0, 400.0, 1000.0],
        "decode_attention_s": [
            [1e-4, 1e-4, 2e-4, 8e-4],
            [1e-4, 3e-4, 6e-4, 3e-3],
            [2e-4, 1e-3, 4e-3, 9e-3],
        ],
    }
    return LatencyTable(**{**content, **changes})


def small_steps(**changes: object) -> StepTable:
    content = {
        "tokens": [1.0, 16.0, 128.0, 1024.0],
        "before": [0.0, 64.0, 512.0],
        "prefill_s": [
            [0.010, 0.010, 0.011],
            [0.011, 0.012, 0.013],
            [0.020, 0.022, 0.030],
            [0.150, 0.160, 0.200],
        ],
        "batch": [1.0, 8.0, 64.0],
        "context": [16.0, 100.0, 1000.0],
        "decode_s": [[0.010, 0.0101, 0.011], [0.0102, 0.011, 0.014], [0.013, 0.019, 0.080]],
    }
    return StepTable(**{**content, **changes})


def rooflines(**overheads: float) -> dict[str, RooflineLatency]:
    """Every part of the roofline in some model."""
    window = replace(catalog.model("gpt-oss-20b"), sliding_window=24)  # short, as tests' prompts
    gpu = catalog.gpu("h200_sxm")
    make = RooflineLatency.from_catalog
    return {
        "dense": make("llama-3.1-70b", "h100_sxm", 4, **overheads),
        "experts": make("mixtral-8x7b", "h100_sxm", 2, expert_launch_s=3e-4, **overheads),
        "latent": make(
            "deepseek-v3",
            gpu,
            8,
            precision="fp8",
            latent_launch_s=2e-4,
            latent_step_s=1e-5,
            **overheads,
        ),
        "window": make(window, gpu, 1, expert_precision="fp4", **overheads),
        "ranks": make(
            "deepseek-v3",
            gpu,
            2,
            precision="fp8",
            data_parallel_size=3,
            enable_expert_parallel=True,
            **overheads,
        ),
        "parts": make("qwen3-30b-a3b", gpu, 1, data_parallel_size=2, **overheads),
    }


def decode_run_s(latency: LatencyModel, batch: int, context: int, steps: int) -> float:
    """Return the seconds of `steps` iterations that only decode, by their formula's lines.

    Each piece is ``n a + g n (n - 1) / 2``.
    """
    seconds = 0.0
    while steps > 0:
        first_s, growth_s, piece = latency.formula.decode(latency.parameters, batch, context)
        count = min(piece, steps)
        seconds += count * (first_s + 0.5 * growth_s * (count - 1))
        steps -= count
        context += count * batch
    return seconds


def offered_load(records: RequestRecords, config: SimConfig) -> dict[str, float]:
    """Return rho of each pool: the service that the requests in the window ask for.

    Exact from the lengths; whether and when they were served does not matter.
    """
    counted = in_window(records, config.warmup_seconds, config.sim_seconds)
    available_s = config.sim_seconds - config.warmup_seconds
    gpus = pool_gpus(config)
    return {
        pool: float(seconds[counted].sum()) / (gpus[pool] * available_s)
        for pool, seconds in service_seconds(records, config).items()
    }
