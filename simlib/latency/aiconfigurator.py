"""Latency tables from the measured kernels of `aiconfigurator-core` (an optional extra).

Only whoever builds a table needs that package; `simlib.latency.table` reads the result.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.table import LatencyTable

_PACKAGE: Final = "aiconfigurator-core"

# Steps of at most a fifth keep the error of linear interpolation of a square below half a percent.
_FINE: Final = [round(128 * 1.2**k) for k in range(1, 34)]
# Kernels work in tiles, so the seconds of few tokens are a staircase: follow it more closely.
_TOKENS: Final = [
    *(*range(1, 65), *range(72, 257, 8), *range(272, 1025, 16), *range(1056, 2049, 32)),
    *(round(2048 * 1.05**k) for k in range(1, 67)),
]
_CHUNK: Final = [1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, *_FINE]
_BEFORE: Final = [0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]
_BATCH: Final = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
_CONTEXT: Final = [
    *(1, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192),
    *(12288, 16384, 24576, 32768, 49152, 65536, 98304, 131072),
]


def _is_latent(model: str) -> bool:
    """Return whether the catalog knows a model, and as one of latent attention."""
    try:
        return catalog.model(model).kv_lora_rank > 0
    except InvalidParameterError:
        return False


def _options(
    model: str,
    tensor_parallel: int,
    expert_parallel: int,
    precision: str,
    expert_precision: str | None,
) -> dict[str, Any]:
    """Return what the package's functions take alike; the expert sizes are for mixtures only."""
    options: dict[str, Any] = {
        "tp_size": tensor_parallel,
        "moe_ep_size": expert_parallel,
        "moe_tp_size": tensor_parallel // expert_parallel,
    }
    if precision != "bf16":
        options["gemm_quant_mode"] = options["moe_quant_mode"] = precision
    if expert_precision is not None:
        options["moe_quant_mode"] = expert_precision
    if _is_latent(model):  # whose FP8 attention was measured with few engines
        options["fmha_quant_mode"] = "bfloat16"
    return options


def _engine(model: str, gpu: str, backend: str, options: dict[str, Any]) -> Any:
    try:
        from aiconfigurator_core.sdk.engine import EngineHandle
    except ImportError as error:
        allowed = f"used with the optional package {_PACKAGE} installed"
        raise InvalidParameterError("latency", "aiconfigurator", allowed) from error
    return EngineHandle.compile(model, gpu, backend, **options)


def _kv_cache(
    model: str, gpu: str, backend: str, options: dict[str, Any], max_tokens: int
) -> tuple[float, int]:
    """Return KV cache bytes per token over the replica, and its capacity in tokens."""
    from aiconfigurator_core.sdk.memory import estimate_kv_cache

    estimate = estimate_kv_cache(
        model,
        gpu,
        backend,
        "current",
        max_num_tokens=max_tokens,
        max_batch_size=256,
        # TensorRT-LLM counts its fraction from what the weights leave free
        memory_fraction_kind="of_free" if backend == "trtllm" else "of_total",
        memory_fraction_value=0.9,
        **options,
    )
    per_gpu = float(estimate["kv_size_per_token_bytes"])
    return per_gpu * int(options["tp_size"]), int(estimate["total_kv_size_tokens"])


def _chunk_attention_ms(engine: Any, new: int, before: int) -> float:
    """Return the attention of a chunk: the whole of its prefill less all that is shared."""
    whole = engine.predict_prefill_latency(1, new + before, before)
    return float(max(whole - engine.mixed_step_breakdown(new, 0, new, 2)[1], 0.0))


def build_latency_table(
    model: str,
    gpu: str,
    tensor_parallel: int,
    path: Path | str,
    *,
    backend: str = "vllm",
    precision: str = "bf16",
    expert_parallel: int = 1,
    expert_precision: str | None = None,
    max_batch_tokens: int = 8192,
) -> LatencyTable:
    """Ask `aiconfigurator-core` for the latencies of one replica and write them to a file.

    Parameters
    ----------
    model
        Hugging Face identifier, of any model that package knows (mixture of experts included).
    gpu
        Its name of the GPU, such as ``h100_sxm``.
    tensor_parallel
        GPUs of the replica.
    path
        File to write.
    backend
        Engine whose kernels were measured: ``vllm``, ``sglang`` or ``trtllm``.
    precision
        Of the matrix products: ``bf16`` leaves that of the checkpoint, other names (``fp8``, …)
        are the package's.
    expert_parallel
        GPUs over which a mixture of experts spreads whole experts; the rest of the tensor
        parallelism splits each expert.
    expert_precision
        Of the matrix products of routed experts; default: as `precision`.
    max_batch_tokens
        Largest iteration the engine reserves memory for; sets the KV cache capacity.

    Returns
    -------
    LatencyTable
        What was written.

    Raises
    ------
    InvalidParameterError
        If the package is not installed, or has no data for the combination, or the parallelism
        does not divide.
    """
    if tensor_parallel < 1:
        raise InvalidParameterError("tensor_parallel", tensor_parallel, ">= 1")
    if expert_parallel < 1 or tensor_parallel % expert_parallel:
        allowed = f"a divisor of tensor_parallel ({tensor_parallel})"
        raise InvalidParameterError("expert_parallel", expert_parallel, allowed)
    try:
        options = _options(model, tensor_parallel, expert_parallel, precision, expert_precision)
        engine = _engine(model, gpu, backend, options)
        kv_bytes, kv_tokens = _kv_cache(model, gpu, backend, options, max_batch_tokens)
        shared = [engine.mixed_step_breakdown(n, 0, n, 2)[1] for n in _TOKENS]
        # attention of a chunk after context: its mixed step would scale that of the whole prompt
        prefill = [[_chunk_attention_ms(engine, n, before) for before in _BEFORE] for n in _CHUNK]
        # its context of a decode step is isl + 1 for two output tokens
        decode = [
            [engine.mixed_step_breakdown(0, size, max(c - 1, 1), 2)[3] for c in _CONTEXT]
            for size in _BATCH
        ]
        if _is_latent(model):
            shared, prefill, decode = _latent(engine, shared)
    except InvalidParameterError:
        raise
    except Exception as error:  # its errors share no base class
        name = f"{model} on {tensor_parallel} {gpu}, {backend} {precision}"
        allowed = f"a combination that {_PACKAGE} has data for"
        raise InvalidParameterError("aiconfigurator", name, allowed, str(error)) from error
    table = LatencyTable(
        model=model,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        precision=precision,
        backend=backend,
        source=f"{_PACKAGE} {metadata.version(_PACKAGE)}",
        kv_bytes_per_token=kv_bytes,
        kv_capacity_tokens=kv_tokens,
        tokens=[float(n) for n in _TOKENS],
        shared_s=[ms / 1e3 for ms in shared],
        chunk=[float(n) for n in _CHUNK],
        before=[float(n) for n in _BEFORE],
        prefill_attention_s=[_rising([ms / 1e3 for ms in row]) for row in prefill],
        batch=[float(n) for n in _BATCH],
        context=[float(n) for n in _CONTEXT],
        decode_attention_s=[_rising([ms / 1e3 for ms in row]) for row in decode],
    )
    table.write(path)
    return table


def _latent(
    engine: Any, shared: list[float]
) -> tuple[list[float], list[list[float]], list[list[float]]]:
    """Return the three parts of latent attention, in milliseconds.

    It was measured in one with its projections, for prompts and for decodes. So what all tokens
    share is the least of both, and attention is what each takes more.
    """
    shared = [
        min(ms, engine.decode_step_latency(n, 1, 2)) if n <= _BATCH[-1] else ms
        for n, ms in zip(_TOKENS, shared, strict=True)
    ]
    of_chunk, of_batch = (np.interp(sizes, _TOKENS, shared) for sizes in (_CHUNK, _BATCH))
    prefill = [
        [max(engine.predict_prefill_latency(1, n + b, b) - float(ms), 0.0) for b in _BEFORE]
        for n, ms in zip(_CHUNK, of_chunk, strict=True)
    ]
    decode = [
        [max(engine.decode_step_latency(n, max(c - 1, 1), 2) - float(ms), 0.0) for c in _CONTEXT]
        for n, ms in zip(_BATCH, of_batch, strict=True)
    ]
    return shared, prefill, decode


def _rising(values: list[float]) -> list[float]:
    """Return the running maximum: measurement noise must not make more context faster."""
    out: list[float] = []
    for value in values:
        out.append(max(value, out[-1]) if out else value)
    return out
