"""What a latency model is: a formula of plain functions, and its parameters as numbers.

Engines ask for the seconds of one iteration, and of many alike that only decode. All of it follows
from the three functions of a `Formula`: the compiled engine calls them with the parameters in an
array, `LatencyModel` calls the very same ones from Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from simlib.errors import InvalidParameterError

MAX_STEPS: Final = 2**40
"""More steps than this are not told apart; an infinite budget allows as many."""


class Formula(NamedTuple):
    """Seconds of an iteration; the first argument of each function holds the parameters.

    The engine compiles them (Numba): they use numbers and loops only, and call nothing of this
    package. All times must be finite and above zero, and not fall as context grows.
    """

    chunk: Callable[[Any, int, int], float]
    """(new tokens, tokens of context before them) of a chunk of a prompt: its own share of the
    work, of which `iteration` gets the sum over the chunks."""
    iteration: Callable[[Any, float, int, int, int, int], float]
    """(sum of the chunks' work, their new tokens, number of chunks, decoding sequences, their
    tokens of context): seconds of an iteration that prefills."""
    decode: Callable[[Any, int, int], tuple[float, float, int]]
    """(sequences, at least 1, and their tokens of context, at least as many): seconds of an
    iteration that only decodes, by how much each of the following ones is longer, as every
    sequence grows by a token, and for how many iterations that holds."""


class Limits(NamedTuple):
    """How far a latency model's measurements go; beyond, it says nothing."""

    tokens: float
    """Tokens of an iteration that prefills."""
    before: float
    """Tokens of context before a chunk."""
    batch: float
    """Decoding sequences."""
    context: float
    """Tokens of context of a decoding sequence."""


class LatencyModel:
    """Seconds of an iteration (one forward pass of a replica) from the shape of its batch.

    A decoding sequence adds one token of context per iteration, so over steps k = 0, 1, … of an
    unchanged batch the total context is ``context + k * batch``.
    """

    __slots__ = ("formula", "kv_bytes_per_token", "limits", "parameters")

    def __init__(
        self,
        formula: Formula,
        parameters: Sequence[float],
        kv_bytes_per_token: float,
        limits: Limits | None = None,
    ) -> None:
        self.formula = formula
        self.parameters = tuple(map(float, parameters))
        """What the functions of `formula` read."""
        self.kv_bytes_per_token = kv_bytes_per_token
        """Bytes of KV cache per token, over all GPUs that hold it."""
        self.limits = limits
        """Where the model ends, None if it goes on."""

    def iteration_s(
        self, prefill: Sequence[tuple[int, int]], decode_batch: int, decode_context: int
    ) -> float:
        """Return the seconds of one iteration.

        Parameters
        ----------
        prefill
            Chunks of prompts in the batch, each (new tokens, tokens of context before them).
        decode_batch
            Number of sequences that decode one token each; at least 1 without chunks.
        decode_context
            Total tokens of context of those sequences.
        """
        formula, parameters = self.formula, self.parameters
        if not prefill:
            return formula.decode(parameters, decode_batch, decode_context)[0]
        work = 0.0
        for new, before in prefill:
            work += formula.chunk(parameters, new, before)
        tokens = sum(new for new, _ in prefill)
        return formula.iteration(
            parameters, work, tokens, len(prefill), decode_batch, decode_context
        )

    def decode_run_s(self, batch: int, context: int, steps: int) -> float:
        """Return the seconds of `steps` iterations that only decode, in closed form.

        Equals the sum of ``iteration_s([], batch, context + k * batch)`` over
        k = 0 … steps - 1, within 1e-9 relative.
        """
        return decode_run_s(self.formula.decode, self.parameters, batch, context, steps)

    def decode_steps_within(self, batch: int, context: int, budget_s: float) -> int:
        """Return the largest number of whole steps with ``decode_run_s(…) <= budget_s``."""
        return decode_steps_within(self.formula.decode, self.parameters, batch, context, budget_s)


def decode_run_s(decode: Any, parameters: Any, batch: int, context: int, steps: int) -> float:
    """Return the seconds of `steps` iterations: each piece is ``n a + g n (n - 1) / 2``."""
    seconds = 0.0
    while steps > 0:
        first_s, growth_s, piece = decode(parameters, batch, context)
        count = min(piece, steps)
        seconds += count * (first_s + 0.5 * growth_s * (count - 1))
        steps -= count
        context += count * batch
    return seconds


def decode_steps_within(
    decode: Any, parameters: Any, batch: int, context: int, budget_s: float
) -> int:
    """Return the most steps whose `decode_run_s` is within a budget; never above `MAX_STEPS`.

    Within a piece the number is the root of a quadratic, in its form without cancellation. The
    very sums of `decode_run_s` decide in the end, so that both agree at a budget met exactly.
    """
    steps = 0
    spent_s = 0.0
    if budget_s > 1e200:  # infinite, or its square root would overflow
        return MAX_STEPS
    while True:
        first_s, growth_s, piece = decode(parameters, batch, context)
        half_s = 0.5 * growth_s
        if spent_s + piece * (first_s + half_s * (piece - 1)) > budget_s:
            linear = first_s - half_s
            left_s = max(budget_s - spent_s, 0.0)
            root = math.sqrt(linear * linear + 4.0 * half_s * left_s)
            count = int(min(2.0 * left_s / (linear + root), piece - 1))
            while spent_s + (count + 1) * (first_s + half_s * count) <= budget_s:
                count += 1
            while count > 0 and spent_s + count * (first_s + half_s * (count - 1)) > budget_s:
                count -= 1
            return steps + count
        steps += piece
        if steps >= MAX_STEPS:
            return MAX_STEPS
        spent_s += piece * (first_s + half_s * (piece - 1))
        context += piece * batch


def check_seconds(**named: float) -> None:
    """Raise `InvalidParameterError` unless all are finite and not negative, such as overheads."""
    for name, value in named.items():
        if not 0.0 <= value < math.inf:
            raise InvalidParameterError(name, value, "finite and >= 0")
