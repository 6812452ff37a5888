"""Catalog of GPUs and models: published constants, each with its source, and what follows."""

from simlib.latency.catalog.entries import (
    BYTES_PER_PARAMETER,
    Gpu,
    Model,
    gpu,
    gpu_names,
    huggingface_id,
    kv_bytes_per_token,
    kv_capacity_tokens,
    model,
    model_names,
    number_sources,
    weight_bytes,
)

__all__ = [
    "BYTES_PER_PARAMETER",
    "Gpu",
    "Model",
    "gpu",
    "gpu_names",
    "huggingface_id",
    "kv_bytes_per_token",
    "kv_capacity_tokens",
    "model",
    "model_names",
    "number_sources",
    "weight_bytes",
]
