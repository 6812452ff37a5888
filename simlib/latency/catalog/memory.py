"""What a replica's memory holds: weights, and the KV cache that they leave room for."""

from __future__ import annotations

from simlib.errors import InvalidParameterError
from simlib.latency.catalog.gpus import Gpu
from simlib.latency.catalog.models import Model
from simlib.latency.catalog.precisions import BYTES_PER_PARAMETER, check_precision


def kv_bytes_per_token(model: Model, tensor_parallel: int = 1, kv_bytes: float = 2.0) -> float:
    """Return the KV cache bytes of one token over all GPUs that hold it.

    ``2 * layers * kv_heads * head_dim * kv_bytes``: one key and one value per layer. With more
    GPUs than KV heads each GPU still holds a whole head, so heads are replicated. Latent attention
    stores ``layers * (kv_lora_rank + qk_rope_head_dim) * kv_bytes`` on each GPU, whatever their
    number. Layers with a sliding window count in full: not every engine frees what lies behind it.

    Parameters
    ----------
    model
        The model.
    tensor_parallel
        GPUs of the replica, or of one of its data-parallel ranks: a token is on one of them.
    kv_bytes
        Bytes of one stored number (2 for 16-bit, 1 for FP8).
    """
    if model.kv_lora_rank:
        latent = model.kv_lora_rank + model.qk_rope_head_dim
        return float(model.layers * latent * tensor_parallel) * kv_bytes
    held_heads = max(model.kv_heads, tensor_parallel)
    return 2.0 * model.layers * held_heads * model.head_dim * kv_bytes


def weight_bytes(
    model: Model,
    precision: str = "bf16",
    expert_precision: str | None = None,
    *,
    data_parallel_size: int = 1,
) -> float:
    """Return the bytes of a model's weights; embeddings and output matrix stay 16-bit.

    Parameters
    ----------
    model
        The model.
    precision, expert_precision
        Of the layers, and of their routed experts (by default the same).
    data_parallel_size
        Return what one of so many attention ranks holds: all but the experts, and its share of
        these.
    """
    check_precision(precision)
    check_precision(expert_precision or precision, "expert_precision")
    everyone, matrices = model.everyone_parameters, model.layer_parameters
    experts = BYTES_PER_PARAMETER[expert_precision or precision] * model.expert_parameters
    held = everyone * BYTES_PER_PARAMETER[precision] + experts / data_parallel_size
    return held + 2.0 * (model.parameters - matrices)


def kv_capacity_tokens(
    model: Model,
    gpu: Gpu,
    tensor_parallel: int,
    *,
    precision: str = "bf16",
    expert_precision: str | None = None,
    kv_bytes: float = 2.0,
    data_parallel_size: int = 1,
    memory_fraction: float = 0.9,
    reserve_bytes: float = 2.5e9,
) -> int:
    """Return how many tokens of KV cache a replica, or one of its attention ranks, holds.

    ``(fraction * HBM * TP - weights - TP * reserve) / kv_bytes_per_token``, rounded down.

    Parameters
    ----------
    model, gpu, tensor_parallel
        What the replica runs, and on how many GPUs.
    precision, expert_precision
        Of the weights, and of routed experts (by default the same).
    kv_bytes
        Bytes of one stored key or value number.
    data_parallel_size
        Attention ranks of the replica, `tensor_parallel` GPUs each, which share the experts. The
        capacity is that of one rank.
    memory_fraction
        Share of the memory the engine may use (vLLM's ``gpu_memory_utilization``, default 0.9).
    reserve_bytes
        Per GPU: activations at the largest batch, CUDA graphs, communication buffers. The
        default is of the size vLLM reports for 8,192 tokens a batch.

    Raises
    ------
    InvalidParameterError
        If the weights leave no room for one token.
    """
    if not 0 < memory_fraction <= 1:
        raise InvalidParameterError("memory_fraction", memory_fraction, "in (0, 1]")
    if tensor_parallel < 1:
        raise InvalidParameterError("tensor_parallel", tensor_parallel, ">= 1")
    usable = memory_fraction * gpu.hbm_bytes * tensor_parallel - tensor_parallel * reserve_bytes
    weights = weight_bytes(
        model, precision, expert_precision, data_parallel_size=data_parallel_size
    )
    tokens = int((usable - weights) / kv_bytes_per_token(model, tensor_parallel, kv_bytes))
    if tokens < 1:
        allowed = f"enough GPUs: {model.name} needs {weights / 1e9:.1f} GB"
        rank = " of a rank" if data_parallel_size > 1 else ""
        where = f"{gpu.name}, {usable / 1e9:.1f} GB usable on {tensor_parallel} GPUs{rank}"
        raise InvalidParameterError("tensor_parallel", tensor_parallel, allowed, where)
    return tokens
