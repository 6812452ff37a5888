"""GPUs by name, read from ``gpus.csv``: one row per number, with its source."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError
from simlib.latency.catalog.precisions import check_precision

_FILE: Final = Path(__file__).parent / "gpus.csv"


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
    dense_fp4_flops: float | None = None
    """Peak FP4 operations per second, None where the GPU has none."""
    network_bytes_per_s: float | None = None
    """Network bandwidth per GPU, one direction, of the vendor's reference server."""
    board_power_w: float | None = None
    """Most power that the board takes, watts."""
    link_gpus: float = 8
    """GPUs that the link joins: those of a node, or of a rack."""

    def computed_in(self, precision: str) -> str:
        """Return the precision that products of such weights are computed in.

        Weights of 4 bits are unpacked to 16 where the GPU does not compute with them (``int4``
        everywhere, ``fp4`` before Blackwell); FP8 weights are not, for want of measurements.

        Raises
        ------
        InvalidParameterError
            For a precision that does not exist, or FP8 on a GPU without it.
        """
        check_precision(precision)
        if precision == "fp8" and self.dense_fp8_flops is None:
            allowed = "one the GPU supports: bf16, fp4, int4"
            raise InvalidParameterError("precision", precision, allowed, f"GPU {self.name}")
        if precision == "int4" or (precision == "fp4" and self.dense_fp4_flops is None):
            return "bf16"
        return precision

    def flops(self, precision: str) -> float:
        """Return the peak operations per second of matrix products with weights in `precision`."""
        rates = {
            "bf16": self.dense_bf16_flops,
            "fp8": self.dense_fp8_flops,
            "fp4": self.dense_fp4_flops,
        }
        return rates[self.computed_in(precision)] or self.dense_bf16_flops


def _rows() -> list[dict[str, str]]:
    with _FILE.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


@cache
def _gpus() -> dict[str, Gpu]:
    numbers: dict[str, dict[str, float]] = {}
    for row in _rows():
        numbers.setdefault(row["gpu"], {})[row["quantity"]] = float(row["value"])
    return {name: Gpu(name, **values) for name, values in numbers.items()}


def gpu_names() -> list[str]:
    """Return the names of the catalog's GPUs."""
    return list(_gpus())


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


def gpu_sources() -> dict[tuple[str, str], str]:
    """Return where each number comes from, by (GPU, quantity)."""
    return {(row["gpu"], row["quantity"]): row["source"] for row in _rows()}
