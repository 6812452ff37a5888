"""All formulas of latency models by name, and the functions that these call.

A new latency model is a `simlib.latency.protocol.LatencyModel` with a formula, an entry here, and
one in `simlib.latency.models.LATENCY_MODELS` if a configuration may name it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simlib.latency import affine, linear, roofline, steps, table
from simlib.latency.protocol import Formula

FORMULAS: dict[str, Formula] = {
    "linear": linear.FORMULA,
    "dense_roofline": roofline.DENSE,
    "roofline": roofline.FORMULA,
    "affine": affine.FORMULA,
    "table": table.FORMULA,
    "steps": steps.FORMULA,
}
HELPERS: tuple[Callable[..., Any], ...] = (
    roofline.layers_s,
    roofline.busiest,
    roofline.experts_s,
    roofline.decode_attention,
    table.rank,
    table.between,
    table.shared_s,
    table.surface,
    table.decode_attention,
    steps.prefill_s,
    steps.decode_steps,
)
"""In the order in which each calls only earlier ones."""
