"""Affine latency: a quadratic prefill and a linear decode step from seven coefficients."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.protocol import MAX_STEPS, Formula, LatencyModel, check_seconds

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


def chunk(_p: Any, new: int, before: int) -> float:
    """Return a chunk's part of the squared length of its prompt."""
    return float(new) * (new + 2 * before)


def iteration(
    p: Sequence[float], squares: float, tokens: int, chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    floor_s = p[0] + batch * p[5]
    prompt_s = p[1] + tokens * p[2] + squares * p[3] + batch * p[7]
    return p[8] + max(prompt_s, floor_s) + (batch + chunks) * p[9] + p[6] * context


def decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, and by how much the next is longer."""
    base_s = p[8] + p[4] + batch * (p[5] + p[9])
    return base_s + p[6] * context, p[6] * batch, MAX_STEPS


FORMULA = Formula(chunk, iteration, decode)


class AffineLatency(LatencyModel):
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

    __slots__ = ("coefficients",)

    def __init__(
        self,
        coefficients: AffineCoefficients,
        kv_bytes_per_token: float,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> None:
        check_seconds(step_overhead_s=step_overhead_s, sequence_overhead_s=sequence_overhead_s)
        if not 0 < kv_bytes_per_token < math.inf:
            raise InvalidParameterError("kv_bytes_per_token", kv_bytes_per_token, "> 0")
        self.coefficients = coefficients
        mixed_s = max(coefficients.decode_sequence_s, coefficients.prefill_token_s)
        own = (*astuple(coefficients), mixed_s, step_overhead_s, sequence_overhead_s)
        super().__init__(FORMULA, own, kv_bytes_per_token)

    @classmethod
    def from_catalog(
        cls,
        model: str | catalog.Model,
        gpu: str | catalog.Gpu,
        tensor_parallel: int = 1,
        *,
        precision: str = "bf16",
        kv_bytes: float = 2.0,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> AffineLatency:
        """Return the model with the catalog's fitted coefficients (see `affine_coefficients`).

        They were fitted with 16-bit KV caches; with other `kv_bytes` of a stored number reading
        the context takes as much more or less time.
        """
        found = catalog.model(model) if isinstance(model, str) else model
        name = gpu if isinstance(gpu, str) else gpu.name
        fit = affine_coefficients(found.name, name, tensor_parallel, precision)
        return cls(
            replace(fit, decode_context_s=fit.decode_context_s * (kv_bytes / 2.0)),
            catalog.kv_bytes_per_token(found, tensor_parallel, kv_bytes),
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
