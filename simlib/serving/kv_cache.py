"""KV-cache arithmetic: blocks of one sequence, and of many that grow together."""

from __future__ import annotations

from functools import cache
from operator import mul


def blocks_of(tokens: int, block_tokens: int) -> int:
    """Return the blocks that hold `tokens` tokens of one sequence (PagedAttention)."""
    return -(-tokens // block_tokens)


@cache
def _paddings(block_tokens: int) -> list[list[int]]:
    """Return the unused tokens of a last block by (steps, phase), both modulo the block."""
    return [
        [-(phase + step) % block_tokens for phase in range(block_tokens)]
        for step in range(block_tokens)
    ]


class GrowingBlocks:
    """Blocks held by decoding sequences, which all grow by one token per step.

    Only how many sequences there are per position within a block matters, so the blocks at any
    later step follow in O(block_tokens), whatever the number of sequences.
    """

    __slots__ = ("_paddings", "block_tokens", "by_phase", "sequences", "step", "tokens")

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._paddings = _paddings(block_tokens)
        self.by_phase = [0] * block_tokens
        """Sequences by (tokens held - steps done) modulo the block, constant while they decode."""
        self.sequences = 0
        self.tokens = 0
        """Tokens held by all of them now."""
        self.step = 0
        """Decode steps done so far."""

    def restore(self, step: int, sequences: int, tokens: int, by_phase: list[int]) -> None:
        """Take over a state that was kept elsewhere."""
        self.step = step
        self.sequences = sequences
        self.tokens = tokens
        self.by_phase = by_phase

    def add(self, held: int) -> None:
        """Take in a sequence that holds `held` tokens."""
        self.by_phase[(held - self.step) % self.block_tokens] += 1
        self.sequences += 1
        self.tokens += held

    def remove(self, held: int) -> None:
        """Let go a sequence that holds `held` tokens."""
        self.by_phase[(held - self.step) % self.block_tokens] -= 1
        self.sequences -= 1
        self.tokens -= held

    def advance(self, steps: int) -> None:
        """Let every sequence grow by one token, `steps` times."""
        self.step += steps
        self.tokens += steps * self.sequences

    def blocks(self, steps_ahead: int = 0) -> int:
        """Return the blocks held once `steps_ahead` more steps are done: the exact number."""
        block = self.block_tokens
        padding = self._paddings[(self.step + steps_ahead) % block]
        unused: int = sum(map(mul, self.by_phase, padding))
        return (self.tokens + steps_ahead * self.sequences + unused) // block

    def blocks_at_most(self, steps_ahead: int = 0) -> int:
        """Return an upper bound of `blocks`, in O(1)."""
        return (
            self.tokens + (steps_ahead + self.block_tokens - 1) * self.sequences
        ) // self.block_tokens

    def steps_within(self, free_blocks: int, most: int) -> int:
        """Return the largest number of steps up to `most` that leaves the blocks within bounds.

        Parameters
        ----------
        free_blocks
            Blocks that all sequences together may hold at the end.
        most
            At least 1; one step is assumed to fit.
        """
        if self.blocks_at_most(most) <= free_blocks:
            return most
        # every sequence takes one block per `block_tokens` steps; then step by step
        cycles = max((free_blocks - self.blocks()) // self.sequences, 0)
        steps = cycles * self.block_tokens
        if steps >= most:
            return most
        held = self.blocks(steps)
        while steps < most:
            held += self.by_phase[-(self.step + steps) % self.block_tokens]
            if held > free_blocks:
                break
            steps += 1
        return max(steps, 1)
