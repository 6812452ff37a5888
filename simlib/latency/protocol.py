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


def check_seconds(**named: float) -> None:
    """Raise `InvalidParameterError` unless all are finite and not negative, such as overheads."""
    for name, value in named.items():
        if not 0.0 <= value < math.inf:
            raise InvalidParameterError(name, value, "finite and >= 0")
