"""How an iteration's batch is formed: what of a prompt it takes, and whether decodes go along.

A new policy is a function and an entry in `BATCH_POLICIES`; the engine compiles the function
(Numba).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple


class BatchPolicy(NamedTuple):
    """A batch forming policy."""

    chunk: Callable[[int, int, bool], int]
    """Return how many tokens of a prompt an iteration takes, 0 if it must wait, from the tokens
    left of it, the tokens left in the batch, and whether it is the first one in the batch."""
    mixes: bool
    """Whether running sequences decode in an iteration that prefills; they come first then."""


def chunked_prefill(left: int, budget: int, _first: bool) -> int:
    """Take what fits: a chunk (Sarathi-Serve, OSDI 2024, arXiv:2403.02310; vLLM V1)."""
    return max(min(left, budget), 0)


def prefill_first(left: int, budget: int, first: bool) -> int:
    """Take whole prompts, the first one in any case (vLLM V0)."""
    return left if first or left <= budget else 0


BATCH_POLICIES: dict[str, BatchPolicy] = {
    "chunked_prefill": BatchPolicy(chunked_prefill, mixes=True),
    "prefill_first": BatchPolicy(prefill_first, mixes=False),
    "chunks_first": BatchPolicy(chunked_prefill, mixes=False),
    "whole_prompts": BatchPolicy(prefill_first, mixes=True),
}

if TYPE_CHECKING:
    BatchPolicyName = str
else:
    BatchPolicyName = Literal[tuple(BATCH_POLICIES)]
