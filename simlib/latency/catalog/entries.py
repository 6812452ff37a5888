"""GPUs and models by name, read from two CSV files, and the KV cache they leave room for.

The files carry the source of every number: ``gpus.csv`` one row per number, ``models.csv`` one
row per model (all from its published configuration). They are read on first use, not on import.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError

BYTES_PER_PARAMETER: Final = {"bf16": 2, "fp8": 1}
"""Bytes of one weight of a layer by precision (embedding and output matrices stay 16-bit)."""

_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: peak rates without sparsity, in SI units."""

    name: str
    dense_bf16_flops: float
    """Peak 16-bit tensor operations per second."""
    hbm_bytes_per_s: float
    """Peak memory bandwidth."""
    hbm_bytes: float
    """Memory an application can see."""
    link_bytes_per_s: float
    """Bandwidth to the other GPUs of its node, one direction."""
    dense_fp8_flops: float | None = None
    """Peak FP8 operations per second, None where the GPU has none."""
    network_bytes_per_s: float | None = None
    """Network bandwidth per GPU, one direction, of the vendor's reference server."""
    board_power_w: float | None = None
    """Most power that the board takes, watts."""

    def flops(self, precision: str) -> float:
        """Return the peak operations per second of matrix products in `precision`."""
        if precision == "fp8":
            if self.dense_fp8_flops is None:
                raise InvalidParameterError(
                    "precision", precision, "one the GPU supports: bf16", f"GPU {self.name}"
                )
            return self.dense_fp8_flops
        _check_precision(precision)
        return self.dense_bf16_flops


@dataclass(frozen=True, slots=True)
class Model:
    """A dense decoder-only transformer, by the sizes of its published configuration."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated_ffn: bool
    """True if the feed-forward block has three matrices (SwiGLU), False if two."""
    vocab: int
    tied_embedding: bool
    extra_parameters: int
    """Parameters outside the matrices that count, such as learned positions."""
    published_parameters: float
    """Size the publisher states; only a check on the numbers above."""

    @property
    def layer_parameters(self) -> int:
        """Parameters in the matrices of all layers; each is used once per token."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        ffn = (3 if self.gated_ffn else 2) * self.hidden * self.ffn
        return self.layers * (attention + ffn)

    @property
    def output_parameters(self) -> int:
        """Parameters of the output matrix, used once per sequence and iteration."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """All parameters (biases and norms, well below 0.1 %, are left out)."""
        embeddings = self.output_parameters * (1 if self.tied_embedding else 2)
        return self.layer_parameters + embeddings + self.extra_parameters


def _check_precision(precision: str) -> None:
    if precision not in BYTES_PER_PARAMETER:
        allowed = "one of " + ", ".join(BYTES_PER_PARAMETER)
        raise InvalidParameterError("precision", precision, allowed)


def _rows(file: str) -> list[dict[str, str]]:
    with (_FOLDER / file).open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


@cache
def _gpus() -> dict[str, Gpu]:
    numbers: dict[str, dict[str, float]] = {}
    for row in _rows("gpus.csv"):
        numbers.setdefault(row["gpu"], {})[row["quantity"]] = float(row["value"])
    return {name: Gpu(name, **values) for name, values in numbers.items()}


@cache
def _models() -> tuple[dict[str, Model], dict[str, str]]:
    """Return the models by name, and every name (lower case) a model is known by."""
    models: dict[str, Model] = {}
    names: dict[str, str] = {}
    for row in _rows("models.csv"):
        name = row["model"]
        models[name] = Model(
            name=name,
            layers=int(row["layers"]),
            hidden=int(row["hidden"]),
            heads=int(row["heads"]),
            kv_heads=int(row["kv_heads"]),
            head_dim=int(row["head_dim"]),
            ffn=int(row["ffn"]),
            gated_ffn=row["gated_ffn"] == "1",
            vocab=int(row["vocab"]),
            tied_embedding=row["tied_embedding"] == "1",
            extra_parameters=int(row["extra_parameters"]),
            published_parameters=float(row["published_parameters"]),
        )
        for known_as in (name, *row["huggingface_ids"].split(";")):
            names[known_as.lower()] = name
    return models, names


def gpu_names() -> list[str]:
    """Return the names of the catalog's GPUs."""
    return list(_gpus())


def model_names() -> list[str]:
    """Return the names of the catalog's models."""
    return list(_models()[0])


def gpu(name: str) -> Gpu:
    """Return a GPU by name.

    Raises
    ------
    InvalidParameterError
        If the catalog has no such GPU.
    """
    try:
        return _gpus()[name.lower()]
    except KeyError:
        allowed = "one of " + ", ".join(gpu_names())
        raise InvalidParameterError("gpu", name, allowed) from None


def model(name: str) -> Model:
    """Return a model by its catalog name or its Hugging Face identifier (any case).

    Raises
    ------
    InvalidParameterError
        If the catalog has no such model.
    """
    models, names = _models()
    try:
        return models[names[name.lower()]]
    except KeyError:
        allowed = "one of " + ", ".join(models)
        raise InvalidParameterError("model", name, allowed) from None


def huggingface_id(name: str) -> str:
    """Return the first Hugging Face identifier of a model; one that is such already stays.

    Raises
    ------
    InvalidParameterError
        If the catalog has no such model.
    """
    if "/" in name:
        return name
    known = model(name).name
    return next(
        r["huggingface_ids"].split(";")[0] for r in _rows("models.csv") if r["model"] == known
    )


def number_sources() -> dict[tuple[str, str], str]:
    """Return where each number comes from: (GPU, quantity) or (model, "*") to its source."""
    sources = {(row["gpu"], row["quantity"]): row["source"] for row in _rows("gpus.csv")}
    sources.update({(row["model"], "*"): row["source"] for row in _rows("models.csv")})
    return sources


def kv_bytes_per_token(model: Model, tensor_parallel: int = 1, kv_bytes: float = 2.0) -> float:
    """Return the KV cache bytes of one token over all GPUs of a replica.

    ``2 * layers * kv_heads * head_dim * kv_bytes``: one key and one value per layer. With more
    GPUs than KV heads each GPU still holds a whole head, so heads are replicated.

    Parameters
    ----------
    model
        The model.
    tensor_parallel
        GPUs of the replica.
    kv_bytes
        Bytes of one stored number (2 for 16-bit, 1 for FP8).
    """
    held_heads = max(model.kv_heads, tensor_parallel)
    return 2.0 * model.layers * held_heads * model.head_dim * kv_bytes


def weight_bytes(model: Model, precision: str = "bf16") -> float:
    """Return the bytes of a model's weights; embeddings and output matrix stay 16-bit."""
    _check_precision(precision)
    matrices = model.layer_parameters
    return matrices * BYTES_PER_PARAMETER[precision] + 2.0 * (model.parameters - matrices)


def kv_capacity_tokens(
    model: Model,
    gpu: Gpu,
    tensor_parallel: int,
    *,
    precision: str = "bf16",
    kv_bytes: float = 2.0,
    memory_fraction: float = 0.9,
    reserve_bytes: float = 2.5e9,
) -> int:
    """Return how many tokens of KV cache a replica holds.

    ``(fraction * HBM * TP - weights - TP * reserve) / kv_bytes_per_token``, rounded down.

    Parameters
    ----------
    model, gpu, tensor_parallel
        What the replica runs, and on how many GPUs.
    precision
        Of the weights, ``bf16`` or ``fp8``.
    kv_bytes
        Bytes of one stored key or value number.
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
    room = usable - weight_bytes(model, precision)
    tokens = int(room / kv_bytes_per_token(model, tensor_parallel, kv_bytes))
    if tokens < 1:
        allowed = f"enough GPUs: {model.name} needs {weight_bytes(model, precision) / 1e9:.1f} GB"
        where = f"{gpu.name}, {usable / 1e9:.1f} GB usable on {tensor_parallel} GPUs"
        raise InvalidParameterError("tensor_parallel", tensor_parallel, allowed, where)
    return tokens
