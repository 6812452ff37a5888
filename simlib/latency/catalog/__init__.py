"""Catalog of GPUs and models: published constants, each with its source, and what follows."""

from simlib.latency.catalog.gpus import Gpu, gpu, gpu_names, gpu_sources
from simlib.latency.catalog.huggingface import is_model_file, model_of_file, model_path
from simlib.latency.catalog.memory import kv_bytes_per_token, kv_capacity_tokens, weight_bytes
from simlib.latency.catalog.models import (
    Model,
    huggingface_id,
    model,
    model_names,
    model_sources,
)
from simlib.latency.catalog.precisions import BYTES_PER_PARAMETER, Precision, check_precision

__all__ = [
    "BYTES_PER_PARAMETER",
    "Gpu",
    "Model",
    "Precision",
    "check_precision",
    "gpu",
    "gpu_names",
    "huggingface_id",
    "is_model_file",
    "kv_bytes_per_token",
    "kv_capacity_tokens",
    "model",
    "model_names",
    "model_of_file",
    "model_path",
    "number_sources",
    "weight_bytes",
]


def number_sources() -> dict[tuple[str, str], str]:
    """Return where each number comes from: (GPU, quantity) or (model, "*") to its source."""
    return {**gpu_sources(), **model_sources()}
