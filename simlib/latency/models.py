"""Latency models by name, and the part that models linear in the decode context share.

A latency model turns the shape of one iteration into seconds (`simlib.latency.protocol`). Three
exist: `RooflineLatency` from the catalog's constants, `AffineLatency` from fitted coefficients,
`TableLatency` from a table of measured kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simlib.errors import InvalidParameterError

if TYPE_CHECKING:
    from simlib.latency.protocol import LatencyModel

LATENCY_MODELS: Final = ("roofline", "affine", "aiconfigurator")
"""Names that `latency_model` knows."""

MAX_STEPS: Final = 2**40
"""More steps than this are not told apart; an infinite budget allows as many."""


def steps_within(first_s: float, growth_s: float, budget_s: float) -> int:
    """Return how many whole steps fit a budget when each takes `growth_s` longer than the last.

    The largest n with ``n * first_s + growth_s * n * (n - 1) / 2 <= budget_s``, from the root of
    the quadratic in its form without cancellation; callers correct its rounding by one.
    """
    if budget_s < first_s:
        return 0
    if budget_s > 1e200:  # infinite, or its square root would overflow
        return MAX_STEPS
    half = 0.5 * growth_s
    linear = first_s - half
    steps = 2.0 * budget_s / (linear + math.sqrt(linear * linear + 4.0 * half * budget_s))
    return int(min(steps, MAX_STEPS))


class LinearDecode:
    """A decode step of ``base(batch) + context * context_s``, and its sums in closed form.

    Subclasses give `_base_s` and set `_context_s`. The base of each batch size is computed once.
    """

    __slots__ = ("_bases", "_context_s", "_kv_bytes_per_token")

    def __init__(self, context_s: float, kv_bytes_per_token: float) -> None:
        self._context_s = context_s
        self._kv_bytes_per_token = kv_bytes_per_token
        self._bases: list[float] = []

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of KV cache per token, over all GPUs of a replica."""
        return self._kv_bytes_per_token

    def _base_s(self, batch: int) -> float:
        """Return the seconds of a decode step without context."""
        raise NotImplementedError

    def _base(self, batch: int) -> float:
        """Return the base of a batch beyond the list, after growing it to twice that batch."""
        bases = self._bases
        bases.extend(self._base_s(size) for size in range(len(bases), 2 * batch + 16))
        return bases[batch]

    def decode_line(self, batch: int) -> tuple[float, float]:
        """Return (a, c): a decode-only iteration takes ``a + c * context`` seconds."""
        try:
            return self._bases[batch], self._context_s
        except IndexError:
            return self._base(batch), self._context_s

    def decode_run_s(self, batch: int, context: int, steps: int) -> float:
        """Return the seconds of `steps` decode-only iterations; the context grows by `batch`."""
        try:
            first_s = self._bases[batch] + self._context_s * context
        except IndexError:
            first_s = self._base(batch) + self._context_s * context
        half_s = 0.5 * (self._context_s * batch)
        return steps * (first_s + half_s * (steps - 1))

    def decode_steps_within(self, batch: int, context: int, budget_s: float) -> int:
        """Return the largest number of steps with ``decode_run_s(…) <= budget_s``."""
        try:
            first_s = self._bases[batch] + self._context_s * context
        except IndexError:
            first_s = self._base(batch) + self._context_s * context
        growth_s = self._context_s * batch
        steps = steps_within(first_s, growth_s, budget_s)
        if steps == MAX_STEPS:
            return steps
        # the very sums of decode_run_s, so that both agree at a budget met exactly
        half_s = 0.5 * growth_s
        while (steps + 1) * (first_s + half_s * steps) <= budget_s:
            steps += 1
        while steps > 0 and steps * (first_s + half_s * (steps - 1)) > budget_s:
            steps -= 1
        return steps


def latency_model(
    kind: str,
    *,
    model: str = "",
    gpu: str = "",
    tensor_parallel: int = 1,
    precision: str = "bf16",
    coefficients: Mapping[str, float] | None = None,
    kv_bytes_per_token: float | None = None,
    table: Path | str | None = None,
    step_overhead_s: float = 0.0,
    sequence_overhead_s: float = 0.0,
) -> LatencyModel:
    """Return the latency model a configuration names.

    Parameters
    ----------
    kind
        ``roofline``, ``affine`` or ``aiconfigurator``.
    model, gpu, tensor_parallel, precision
        What runs on what (names of the catalog); for ``aiconfigurator`` the table knows.
    coefficients
        For ``affine``: its seven coefficients in seconds, instead of the catalog's fit. They
        need `kv_bytes_per_token`, or a `model` of the catalog.
    kv_bytes_per_token
        For ``affine`` with given coefficients: bytes of KV cache per token.
    table
        For ``aiconfigurator``: the file `build_latency_table` wrote.
    step_overhead_s, sequence_overhead_s
        Engine overhead (scheduling, sampling, input preparation) per iteration, and per sequence
        in its batch.

    Raises
    ------
    InvalidParameterError
        If a name is unknown, or what the kind needs is missing.
    """
    overhead = {"step_overhead_s": step_overhead_s, "sequence_overhead_s": sequence_overhead_s}
    if kind == "roofline":
        from simlib.latency.roofline import RooflineLatency

        return RooflineLatency.from_catalog(
            model, gpu, tensor_parallel, precision=precision, **overhead
        )
    if kind == "affine":
        from simlib.latency.affine import AffineLatency

        if coefficients is None:
            return AffineLatency.from_catalog(
                model, gpu, tensor_parallel, precision=precision, **overhead
            )
        if kv_bytes_per_token is None:
            from simlib.latency import catalog

            kv_bytes_per_token = catalog.kv_bytes_per_token(catalog.model(model), tensor_parallel)
        return AffineLatency.from_mapping(coefficients, kv_bytes_per_token, **overhead)
    if kind == "aiconfigurator":
        from simlib.latency.table import TableLatency

        if table is None:
            raise InvalidParameterError("table", table, "a file build_latency_table wrote")
        return TableLatency.read(table, **overhead)
    raise InvalidParameterError("latency", kind, "one of " + ", ".join(LATENCY_MODELS))


def check_overheads(step_overhead_s: float, sequence_overhead_s: float) -> None:
    """Raise `InvalidParameterError` unless both overheads are finite and not negative."""
    for name, value in (
        ("step_overhead_s", step_overhead_s),
        ("sequence_overhead_s", sequence_overhead_s),
    ):
        if not 0.0 <= value < math.inf:
            raise InvalidParameterError(name, value, "finite and >= 0")
