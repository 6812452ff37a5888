"""Latency models by the names that a configuration may give them.

A latency model turns the shape of one iteration into seconds (`simlib.latency.protocol`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.affine import AffineLatency
from simlib.latency.experts import EXPERT_IMBALANCE
from simlib.latency.protocol import LatencyModel
from simlib.latency.roofline import RooflineLatency
from simlib.latency.steps import StepTable, StepTableLatency
from simlib.latency.table import TableLatency

KV_BYTES = {"bf16": 2.0, "fp8": 1.0}
"""Bytes of a stored key or value number, by ``kv_cache_dtype``."""
if TYPE_CHECKING:
    KvCacheDtype = str
else:
    KvCacheDtype = Literal[tuple(KV_BYTES)]


def _roofline(asked: Mapping[str, Any], overheads: Mapping[str, Any]) -> LatencyModel:
    """From the catalog's constants."""
    return RooflineLatency.from_catalog(**_catalogued(asked), **overheads)


def _affine(asked: Mapping[str, Any], overheads: Mapping[str, Any]) -> LatencyModel:
    """From fitted coefficients: given ones, or the catalog's."""
    _one_rank(asked, "affine")
    coefficients, kv_bytes_per_token = asked["coefficients"], asked["kv_bytes_per_token"]
    if coefficients is None:
        names = ("model", "gpu", "tensor_parallel", "precision", "kv_bytes")
        where = {name: _catalogued(asked)[name] for name in names}
        return AffineLatency.from_catalog(**where, **overheads)
    if kv_bytes_per_token is None:
        kv_bytes_per_token = catalog.kv_bytes_per_token(
            _known(asked["model"]),
            asked["tensor_parallel"],
            KV_BYTES[asked["kv_cache_dtype"]],
        )
    return AffineLatency.from_mapping(coefficients, kv_bytes_per_token, **overheads)


def _aiconfigurator(asked: Mapping[str, Any], overheads: Mapping[str, Any]) -> LatencyModel:
    """From a table of measured kernels, which the workflow makes."""
    if asked["data_parallel_size"] != 1:
        got, allowed = asked["data_parallel_size"], "1 with latency.kind aiconfigurator"
        raise InvalidParameterError("data_parallel_size", got, allowed)
    if asked["table"] is None:
        raise InvalidParameterError("table", None, "a file build_latency_table wrote")
    if asked["kv_cache_dtype"] != "bf16":
        raise InvalidParameterError(
            "kv_cache_dtype", asked["kv_cache_dtype"], "bf16, which the tables were measured with"
        )
    return TableLatency.read(asked["table"], **overheads)


def _table(asked: Mapping[str, Any], overheads: Mapping[str, Any]) -> LatencyModel:
    """From a CSV file of measured iterations."""
    if asked["path"] is None:
        raise InvalidParameterError("path", None, "a CSV file of measured iterations (kind: table)")
    kv_bytes_per_token = asked["kv_bytes_per_token"]
    if kv_bytes_per_token is None:
        kv_bytes_per_token = catalog.kv_bytes_per_token(
            _known(asked["model"]), asked["tensor_parallel"], KV_BYTES[asked["kv_cache_dtype"]]
        )
    return StepTableLatency(StepTable.read(asked["path"]), kv_bytes_per_token, **overheads)


def _catalogued(asked: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "gpu", "tensor_parallel", "precision", *_OF_EXPERTS)
    return {
        **{name: asked[name] for name in names},
        "kv_bytes": KV_BYTES[asked["kv_cache_dtype"]],
    }


_OF_EXPERTS = (
    "expert_precision",
    "data_parallel_size",
    "enable_expert_parallel",
    "expert_imbalance",
    "expert_launch_s",
    "latent_launch_s",
    "latent_step_s",
)


def _known(model: str | catalog.Model) -> catalog.Model:
    return catalog.model(model) if isinstance(model, str) else model


def _one_rank(asked: Mapping[str, Any], kind: str) -> None:
    """Refuse attention ranks where a kind does not know of them."""
    for name, plain in (("data_parallel_size", 1), ("enable_expert_parallel", False)):
        if asked[name] != plain:
            raise InvalidParameterError(name, asked[name], f"{plain} with latency.kind {kind}")


LATENCY_MODELS: dict[
    str, Callable[[Mapping[str, Any], Mapping[str, Any]], LatencyModel]
] = {
    "roofline": _roofline,
    "affine": _affine,
    "aiconfigurator": _aiconfigurator,
    "table": _table,
}  # fmt: skip

if TYPE_CHECKING:
    LatencyKind = str
else:
    LatencyKind = Literal[tuple(LATENCY_MODELS)]


def latency_model(
    kind: str,
    *,
    model: str | catalog.Model = "",
    gpu: str | catalog.Gpu = "",
    tensor_parallel: int = 1,
    precision: str = "bf16",
    kv_cache_dtype: str = "bf16",
    coefficients: Mapping[str, float] | None = None,
    kv_bytes_per_token: float | None = None,
    table: Path | str | None = None,
    path: Path | str | None = None,
    step_overhead_s: float = 0.0,
    sequence_overhead_s: float = 0.0,
    expert_precision: str | None = None,
    data_parallel_size: int = 1,
    enable_expert_parallel: bool = False,
    expert_imbalance: float = EXPERT_IMBALANCE,
    expert_launch_s: float = 0.0,
    latent_launch_s: float = 0.0,
    latent_step_s: float = 0.0,
) -> LatencyModel:
    """Return the latency model a configuration names.

    Parameters
    ----------
    kind
        A name of `LATENCY_MODELS`.
    model, gpu, tensor_parallel, precision
        What runs on what, by the catalog's names or as values of one's own; for
        ``aiconfigurator`` the table knows.
    kv_cache_dtype
        Type of the stored keys and values, ``bf16`` or ``fp8``: bytes per token, and the time to
        read them.
    coefficients
        For ``affine``: its seven coefficients in seconds, instead of the catalog's fit. They
        need `kv_bytes_per_token`, or a `model` of the catalog.
    kv_bytes_per_token
        For ``affine`` with given coefficients, and ``table``: bytes of KV cache per token.
    table
        For ``aiconfigurator``: the file `build_latency_table` wrote.
    path
        For ``table``: a CSV file that `simlib.latency.steps.StepTable` reads; the model gives the
        size of the KV cache.
    step_overhead_s, sequence_overhead_s
        Engine overhead (scheduling, sampling, input preparation) per iteration, and per sequence
        in its batch.
    expert_precision, data_parallel_size, enable_expert_parallel, expert_imbalance
        For ``roofline``: of a mixture of experts, as in
        `simlib.latency.roofline.RooflineLatency`.
    expert_launch_s, latent_launch_s, latent_step_s
        For ``roofline``: what layers of experts and of latent attention cost beside their kernels.

    Raises
    ------
    InvalidParameterError
        If a name is unknown, or what the kind needs is missing.
    """
    if kind not in LATENCY_MODELS:
        raise InvalidParameterError("latency", kind, "one of " + ", ".join(LATENCY_MODELS))
    if kv_cache_dtype not in KV_BYTES:
        raise InvalidParameterError(
            "kv_cache_dtype", kv_cache_dtype, "one of " + ", ".join(KV_BYTES)
        )
    asked = {
        "model": model,
        "gpu": gpu,
        "tensor_parallel": tensor_parallel,
        "precision": precision,
        "kv_cache_dtype": kv_cache_dtype,
        "coefficients": coefficients,
        "kv_bytes_per_token": kv_bytes_per_token,
        "table": table,
        "path": path,
        "expert_precision": expert_precision,
        "data_parallel_size": data_parallel_size,
        "enable_expert_parallel": enable_expert_parallel,
        "expert_imbalance": expert_imbalance,
        "expert_launch_s": expert_launch_s,
        "latent_launch_s": latent_launch_s,
        "latent_step_s": latent_step_s,
    }
    overheads = {"step_overhead_s": step_overhead_s, "sequence_overhead_s": sequence_overhead_s}
    return LATENCY_MODELS[kind](asked, overheads)
