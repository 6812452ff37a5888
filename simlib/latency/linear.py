"""The simplest latency model: an iteration's seconds are linear in what it works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from simlib.errors import InvalidParameterError


@dataclass(frozen=True, slots=True)
class LinearLatency:
    """Seconds of an iteration as a sum of linear terms; all but the first alone gives fixed steps.

    ``step_s + token_s · T + pair_s · A + sequence_s · B + context_s · C`` with T new prompt tokens,
    A pairs of a new prompt token and one before or at it (causal attention), B decoding sequences
    and C tokens of their context. With coefficients that are multiples of a power of two all sums
    are exact, so engines can be compared bit by bit.
    """

    step_s: float
    token_s: float = 0.0
    pair_s: float = 0.0
    sequence_s: float = 0.0
    context_s: float = 0.0
    kv_bytes_per_token: float = 0.0

    def __post_init__(self) -> None:
        """Refuse steps that take no time."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value >= 0 and math.isfinite(value)):
                raise InvalidParameterError(field.name, value, "finite and >= 0")
        if self.step_s == 0:
            raise InvalidParameterError("step_s", self.step_s, "> 0")

    def iteration_s(
        self, prefill: Sequence[tuple[int, int]], decode_batch: int, decode_context: int
    ) -> float:
        """Return the seconds of one iteration."""
        total = self.step_s + self.sequence_s * decode_batch + self.context_s * decode_context
        for new, before in prefill:
            total += self.token_s * new + self.pair_s * (new * (2 * before + new + 1) // 2)
        return total

    def decode_run_s(self, batch: int, context: int, steps: int) -> float:
        """Return the seconds of `steps` iterations that only decode."""
        return steps * (self.step_s + self.sequence_s * batch) + self.context_s * (
            steps * context + batch * (steps * (steps - 1) // 2)
        )

    def decode_line(self, batch: int) -> tuple[float, float]:
        """Return the constant of a decode step with this batch, and its seconds per context."""
        return self.step_s + self.sequence_s * batch, self.context_s

    def decode_steps_within(self, batch: int, context: int, budget_s: float) -> int:
        """Return the largest number of whole steps that fit in `budget_s`."""
        if budget_s < 0:
            return 0
        slope = 0.5 * self.context_s * batch
        first = self.step_s + self.sequence_s * batch + self.context_s * context - slope
        root = math.sqrt(first * first + 4.0 * slope * budget_s)
        # 2c / (b + sqrt(b² + 4ac)): the root's form without cancellation
        steps = int(2.0 * budget_s / (first + root))
        while steps > 0 and self.decode_run_s(batch, context, steps) > budget_s:
            steps -= 1
        while self.decode_run_s(batch, context, steps + 1) <= budget_s:
            steps += 1
        return steps
