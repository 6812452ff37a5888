"""Routed experts on a replica's GPUs: how fast they compute, and what it takes to reach them."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError
from simlib.latency.catalog import BYTES_PER_PARAMETER, Gpu, Model

_FILE: Final = Path(__file__).parent / "calibration" / "experts.csv"
UNPACKED: Final = "w4a16"
"""Weights of 4 bits whose products are computed in 16."""
EXPERT_IMBALANCE: Final = 1.2
"""Tokens of the busiest GPU's experts over the mean, with expert parallelism. Measured systems lie
between 1.05, balanced by redundant experts, and 1.3 and more without (DeepSeek-V3, section 3.4,
arXiv:2412.19437, states the goal; operators of wide expert parallelism the range)."""
ALLTOALL_BANDWIDTH: Final = 0.77
"""Share of a link's bandwidth that all-to-all exchanges reach: DeepEP states 153 of NVLink's
200 GB/s on an H800, and 43 of 50 GB/s on its network."""


@dataclass(frozen=True, slots=True)
class ExpertCalibration:
    """Efficiencies of routed experts on one kind of GPU, fitted to measured kernels."""

    mfu: float
    """Share of the peak operations that grouped matrix products reach, (0, 1]."""
    weight_bandwidth: float
    """Share of the memory bandwidth at which the weights of experts are read, (0, 1]."""
    layer_s: float
    """Seconds of a layer's router and launches, beyond those of a dense layer."""


@cache
def _calibrations() -> dict[tuple[str, str], ExpertCalibration]:
    names = [field.name for field in fields(ExpertCalibration)]
    with _FILE.open(newline="", encoding="utf-8") as text:
        return {
            (row["gpu"], row["computed_in"]): ExpertCalibration(
                **{name: float(row[name]) for name in names}
            )
            for row in csv.DictReader(text)
        }


def expert_calibration(gpu: Gpu, precision: str) -> ExpertCalibration:
    """Return the fitted efficiencies of experts; those of ``default`` if none were fitted.

    The fit error of each row stands beside it in ``calibration/experts.csv``.
    """
    kind = gpu.computed_in(precision)
    if kind == "bf16" and BYTES_PER_PARAMETER[precision] < 1:
        kind = UNPACKED
    known = _calibrations()
    return known.get((gpu.name, kind)) or known["default", kind]


def check_ranks(
    model: Model, tensor_parallel: int, data_parallel_size: int, enable_expert_parallel: bool
) -> None:
    """Refuse attention ranks, or experts spread over GPUs, that a model cannot have.

    Raises
    ------
    InvalidParameterError
        For a dense model, or more GPUs than experts.
    """
    if data_parallel_size < 1:
        raise InvalidParameterError("data_parallel_size", data_parallel_size, ">= 1")
    if not model.experts:
        if data_parallel_size > 1:
            allowed = f"1: {model.name} has no experts to share (give it more replicas)"
            raise InvalidParameterError("data_parallel_size", data_parallel_size, allowed)
        if enable_expert_parallel:
            allowed = f"false: {model.name} has no experts"
            raise InvalidParameterError("enable_expert_parallel", True, allowed)
    gpus = tensor_parallel * data_parallel_size
    if enable_expert_parallel and gpus > model.experts:
        allowed = f"at most the {model.experts} experts of {model.name}, with tensor parallelism"
        raise InvalidParameterError("data_parallel_size", data_parallel_size, allowed)


def exchange_s(
    model: Model,
    gpu: Gpu,
    tensor_parallel: int,
    data_parallel_size: int,
    *,
    enable_expert_parallel: bool,
    dispatch_bytes: float,
    imbalance: float,
) -> float:
    """Return the seconds that a token of the busiest attention rank spends on the way to experts.

    One rank alone has its tokens on all of its GPUs: nothing is sent. With more, and experts
    spread over the GPUs, a token goes to the GPUs that have its experts, on average
    ``(R - 1) (1 - (1 - 1/R)^k)`` others out of R, and its result comes back in 16 bits. Where
    every GPU has a part of every expert, all tokens are gathered on all ranks instead.

    Parameters
    ----------
    model, gpu
        What runs where.
    tensor_parallel, data_parallel_size
        GPUs of an attention rank, and how many ranks.
    enable_expert_parallel
        Whether GPUs have whole experts.
    dispatch_bytes
        Bytes of a number sent to an expert.
    imbalance
        Tokens of the busiest GPU over the mean.

    Raises
    ------
    InvalidParameterError
        If the GPUs are more than the link joins, and the network's bandwidth is not known.
    """
    if data_parallel_size == 1:
        return 0.0
    gpus, k = tensor_parallel * data_parallel_size, model.experts_per_token
    if enable_expert_parallel:
        copies = (gpus - 1) * (1.0 - (1.0 - 1.0 / gpus) ** k) * imbalance
    else:
        copies = float(data_parallel_size - 1)
    sent = copies * model.moe_layers * model.hidden * (dispatch_bytes + 2.0) / tensor_parallel
    inside_s = sent / (gpu.link_bytes_per_s * ALLTOALL_BANDWIDTH)
    if gpus <= gpu.link_gpus:
        return inside_s
    if gpu.network_bytes_per_s is None:
        allowed = f"at most {gpu.link_gpus:g} GPUs of {gpu.name}: its network is not known"
        raise InvalidParameterError("data_parallel_size", data_parallel_size, allowed)
    outside = (gpus - gpu.link_gpus) / (gpus - 1)
    outside_s = sent * outside / (gpu.network_bytes_per_s * ALLTOALL_BANDWIDTH)
    return max(inside_s * (1.0 - outside), outside_s)  # both links at one time
