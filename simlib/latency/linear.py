"""The simplest latency model: an iteration's seconds are linear in what it works on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simlib.errors import InvalidParameterError
from simlib.latency.protocol import MAX_STEPS, Formula, LatencyModel


def chunk(p: Sequence[float], new: int, before: int) -> float:
    """Return the seconds of a chunk's tokens, and of their pairs with those before."""
    return p[1] * new + p[2] * (0.5 * (new * (2 * before + new + 1)))


def iteration(
    p: Sequence[float], work: float, _tokens: int, _chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    return p[0] + p[3] * batch + p[4] * context + work


def decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, and by how much the next is longer."""
    return p[0] + p[3] * batch + p[4] * context, p[4] * batch, MAX_STEPS


FORMULA = Formula(chunk, iteration, decode)


class LinearLatency(LatencyModel):
    """Seconds of an iteration as a sum of linear terms; all but the first alone gives fixed steps.

    ``step_s + token_s · T + pair_s · A + sequence_s · B + context_s · C`` with T new prompt tokens,
    A pairs of a new prompt token and one before or at it (causal attention), B decoding sequences
    and C tokens of their context. With coefficients that are multiples of a power of two all sums
    are exact, so engines can be compared bit by bit.
    """

    __slots__ = ()

    def __init__(
        self,
        step_s: float,
        token_s: float = 0.0,
        pair_s: float = 0.0,
        sequence_s: float = 0.0,
        context_s: float = 0.0,
        kv_bytes_per_token: float = 0.0,
    ) -> None:
        given = {
            "step_s": step_s,
            "token_s": token_s,
            "pair_s": pair_s,
            "sequence_s": sequence_s,
            "context_s": context_s,
            "kv_bytes_per_token": kv_bytes_per_token,
        }
        for name, value in given.items():
            if not (value >= 0 and math.isfinite(value)):
                raise InvalidParameterError(name, value, "finite and >= 0")
        if step_s == 0:
            raise InvalidParameterError("step_s", step_s, "> 0")
        super().__init__(
            FORMULA, (step_s, token_s, pair_s, sequence_s, context_s), kv_bytes_per_token
        )
