"""Affine latency: a quadratic prefill and a linear decode step from seven coefficients."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.models import LinearDecode, check_overheads

_FILE: Final = Path(__file__).parent / "calibration" / "affine.csv"


@dataclass(frozen=True, slots=True)
class AffineCoefficients:
    """Coefficients of `AffineLatency`, all in seconds (per token where a token is named)."""

    prefill_floor_s: float
    """Shortest iteration with a prompt chunk."""
    prefill_base_s: float
    """Constant of the prefill line; may be negative, the floor keeps the time positive."""
    prefill_token_s: float
    """Per prompt token."""
    prefill_token2_s: float
    """Per squared prompt token (attention)."""
    decode_base_s: float
    """Constant of a decode step."""
    decode_sequence_s: float
    """Per decoding sequence."""
    decode_context_s: float
    """Per token of context of the decoding sequences."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InvalidParameterError(field.name, value, "a finite number")
            if value < 0 and field.name != "prefill_base_s":
                raise InvalidParameterError(field.name, value, ">= 0")
        for name in ("prefill_floor_s", "decode_base_s"):
            if getattr(self, name) <= 0:
                raise InvalidParameterError(name, getattr(self, name), "> 0")


@cache
def _fits() -> dict[tuple[str, str, int, str], AffineCoefficients]:
    names = [field.name for field in fields(AffineCoefficients)]
    with _FILE.open(newline="", encoding="utf-8") as text:
        return {
            (row["model"], row["gpu"], int(row["tensor_parallel"]), row["precision"]): (
                AffineCoefficients(**{name: float(row[name]) for name in names})
            )
            for row in csv.DictReader(text)
        }


def affine_fits() -> list[tuple[str, str, int, str]]:
    """Return what the catalog has fitted coefficients for: (model, GPU, TP, precision)."""
    return list(_fits())


def affine_coefficients(
    model: str, gpu: str, tensor_parallel: int, precision: str = "bf16"
) -> AffineCoefficients:
    """Return fitted coefficients; their fit error stands in ``calibration/affine.csv``.

    Raises
    ------
    InvalidParameterError
        If none were fitted for this model, GPU, tensor parallelism and precision.
    """
    key = (catalog.model(model).name, catalog.gpu(gpu).name, tensor_parallel, precision)
    try:
        return _fits()[key]
    except KeyError:
        same = [f"TP {tp} {kind}" for m, g, tp, kind in _fits() if (m, g) == key[:2]]
        allowed = "one with fitted coefficients" + (f" ({', '.join(same)})" if same else "")
        raise InvalidParameterError("affine", key, allowed) from None


class AffineLatency(LinearDecode):
    """Seconds of an iteration from seven coefficients.

    With n new prompt tokens, q the sum over chunks of ``new * (new + 2 * before)`` (so the chunks
    of one prompt sum to its length squared), a batch of B decoding sequences with context C:

    - only decode: ``decode_base + B * decode_sequence + C * decode_context``;
    - with a prompt: ``max(floor + B * decode_sequence, base + n * token + q * token2
      + B * max(decode_sequence, token)) + C * decode_context``, as decoding sequences share the
      pass over the weights with the prompt, and cost a token of its matrix products each where
      those are what takes the time.

    Parameters
    ----------
    coefficients
        The seven coefficients.
    kv_bytes_per_token
        Bytes of KV cache per token over the replica's GPUs.
    step_overhead_s, sequence_overhead_s
        Engine overhead per iteration, and per sequence in it.

    Notes
    -----
    The form of DistServe's latency model (Zhong et al. 2024, arXiv:2401.09670, appendix A).
    """

    __slots__ = ("_fixed_s", "_mixed_s", "_sequence_overhead_s", "coefficients")

    def __init__(
        self,
        coefficients: AffineCoefficients,
        kv_bytes_per_token: float,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> None:
        check_overheads(step_overhead_s, sequence_overhead_s)
        if not 0 < kv_bytes_per_token < math.inf:
            raise InvalidParameterError("kv_bytes_per_token", kv_bytes_per_token, "> 0")
        super().__init__(coefficients.decode_context_s, kv_bytes_per_token)
        self.coefficients = coefficients
        self._fixed_s = step_overhead_s
        self._sequence_overhead_s = sequence_overhead_s
        self._mixed_s = max(coefficients.decode_sequence_s, coefficients.prefill_token_s)

    @classmethod
    def from_catalog(
        cls,
        model: str,
        gpu: str,
        tensor_parallel: int = 1,
        *,
        precision: str = "bf16",
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> AffineLatency:
        """Return the model with the catalog's fitted coefficients (see `affine_coefficients`)."""
        return cls(
            affine_coefficients(model, gpu, tensor_parallel, precision),
            catalog.kv_bytes_per_token(catalog.model(model), tensor_parallel),
            step_overhead_s=step_overhead_s,
            sequence_overhead_s=sequence_overhead_s,
        )

    @classmethod
    def from_mapping(
        cls,
        coefficients: Mapping[str, float],
        kv_bytes_per_token: float,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> AffineLatency:
        """Return the model with the coefficients of a configuration, by their field names.

        Raises
        ------
        InvalidParameterError
            If a coefficient is missing, unknown, not finite or negative.
        """
        names = {field.name for field in fields(AffineCoefficients)}
        if set(coefficients) != names:
            allowed = "exactly " + ", ".join(sorted(names))
            raise InvalidParameterError("coefficients", sorted(coefficients), allowed)
        return cls(
            AffineCoefficients(**coefficients),
            kv_bytes_per_token,
            step_overhead_s=step_overhead_s,
            sequence_overhead_s=sequence_overhead_s,
        )

    def _base_s(self, batch: int) -> float:
        """Return the seconds of a decode step without context."""
        k = self.coefficients
        per_sequence = k.decode_sequence_s + self._sequence_overhead_s
        return self._fixed_s + k.decode_base_s + batch * per_sequence

    def iteration_s(
        self, prefill: Sequence[tuple[int, int]], decode_batch: int, decode_context: int
    ) -> float:
        """Return the seconds of one iteration (see `simlib.latency.protocol.LatencyModel`)."""
        context_s = self._context_s * decode_context
        if not prefill:
            try:
                return self._bases[decode_batch] + context_s
            except IndexError:
                return self._base(decode_batch) + context_s
        tokens = squares = 0
        for new, before in prefill:
            tokens += new
            squares += new * (new + 2 * before)
        k = self.coefficients
        floor_s = k.prefill_floor_s + decode_batch * k.decode_sequence_s
        prompt_s = (
            k.prefill_base_s
            + tokens * k.prefill_token_s
            + squares * k.prefill_token2_s
            + decode_batch * self._mixed_s
        )
        return (
            self._fixed_s
            + (prompt_s if prompt_s > floor_s else floor_s)
            + (decode_batch + len(prefill)) * self._sequence_overhead_s
            + context_s
        )
