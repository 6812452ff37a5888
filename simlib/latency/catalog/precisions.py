"""Number formats of weights: bytes, and what their products are computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from simlib.errors import InvalidParameterError

BYTES_PER_PARAMETER: Final = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "int4": 0.51953125}
"""Bytes of one weight of a layer by precision, scales included (embedding and output matrices
stay 16-bit). ``fp4`` is NVFP4, 8 bits of scale for 16 weights (MXFP4 has half of that: 6% less);
``int4`` has 16 bits of scale and 4 of zero point for 128 weights, as GPTQ and AWQ write it
(arXiv:2210.17323, arXiv:2306.00978)."""
if TYPE_CHECKING:
    Precision = str
else:
    Precision = Literal[tuple(BYTES_PER_PARAMETER)]


def check_precision(precision: str, name: str = "precision") -> None:
    """Raise `InvalidParameterError` unless it is a key of `BYTES_PER_PARAMETER`."""
    if precision not in BYTES_PER_PARAMETER:
        allowed = "one of " + ", ".join(BYTES_PER_PARAMETER)
        raise InvalidParameterError(name, precision, allowed)
