"""What an engine asks of a latency model: the seconds of one iteration, and of many alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class LatencyModel(Protocol):
    """Seconds of an iteration (one forward pass of a replica) from the shape of its batch.

    All times must be finite and above zero, and grow with context. A decoding sequence adds one
    token of context per iteration, so over steps k = 0, 1, … of an unchanged batch the total
    context is ``context + k * batch``; the run methods exploit that.

    Precondition of all methods: every decoding sequence has at least one token of context, so a
    batch's total context is never below the batch. Less is not checked, and has no meaning.
    """

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of KV cache per token, over all GPUs of a replica."""

    def iteration_s(
        self, prefill: Sequence[tuple[int, int]], decode_batch: int, decode_context: int
    ) -> float:
        """Return the seconds of one iteration.

        Parameters
        ----------
        prefill
            Chunks of prompts in the batch, each (new tokens, tokens of context before them).
        decode_batch
            Number of sequences that decode one token each.
        decode_context
            Total tokens of context of those sequences.
        """

    def decode_run_s(self, batch: int, context: int, steps: int) -> float:
        """Return the seconds of `steps` iterations that only decode, in closed form.

        Equals the sum of ``iteration_s([], batch, context + k * batch)`` over
        k = 0 … steps - 1, within 1e-9 relative.
        """

    def decode_steps_within(self, batch: int, context: int, budget_s: float) -> int:
        """Return the largest number of whole steps with ``decode_run_s(…) <= budget_s``."""


@runtime_checkable
class DecodeLine(Protocol):
    """A latency model whose decode-only iterations are linear in the context.

    Engines then sum iterations in place instead of asking for every run.
    """

    def decode_line(self, batch: int) -> tuple[float, float]:
        """Return (a, c): a decode-only iteration takes ``a + c * context`` seconds."""


def decode_lines(latency: LatencyModel, max_batch: int) -> tuple[list[float], float] | None:
    """Return the constants per batch size up to `max_batch`, and the seconds per context token.

    None if the model is not linear, or the seconds per token depend on the batch.
    """
    if not isinstance(latency, DecodeLine):
        return None
    lines = [latency.decode_line(batch) for batch in range(max_batch + 1)]
    slopes = {slope for _, slope in lines}
    if len(slopes) != 1:
        return None
    return [constant for constant, _ in lines], slopes.pop()
