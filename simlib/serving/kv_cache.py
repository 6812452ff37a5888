"""KV cache of one replica: blocks of sequences that grow together, one token each per step.

Only how many sequences there are per position within a block matters, so the blocks at any later
step follow in O(block), whatever the number of sequences.
"""

from __future__ import annotations

from typing import Any

from simlib.compiling import compiled, inlined


@inlined
def blocks_of(tokens: int, block: int) -> int:
    """Return the blocks that hold the tokens of one sequence (PagedAttention, SOSP 2023)."""
    return (tokens + block - 1) // block


@inlined
def add(replica: Any, phases: Any, held: int, block: int) -> None:
    """Take in a decoding sequence that holds `held` tokens."""
    phases[(held - replica.step) % block] += 1
    replica.batch += 1
    replica.context += held


@inlined
def remove(replica: Any, phases: Any, held: int, block: int) -> None:
    """Let go of a decoding sequence that holds `held` tokens."""
    phases[(held - replica.step) % block] -= 1
    replica.batch -= 1
    replica.context -= held


@compiled
def growing_blocks(replica: Any, phases: Any, block: int, ahead: int) -> int:
    """Return the blocks of all decoding sequences once `ahead` more steps are done: exact."""
    unused = 0
    position = (replica.step + ahead) % block
    for phase in range(block):
        over = phase + position
        if over > block:
            over -= block
        if over > 0:
            unused += phases[phase] * (block - over)
    return int((replica.context + ahead * replica.batch + unused) // block)


@inlined
def fits(replica: Any, phases: Any, block: int, ahead: int, blocks: int) -> bool:
    """Return whether the decoding sequences are within `blocks` after `ahead` more steps."""
    if replica.context + (ahead + block - 1) * replica.batch <= blocks * block:
        return True  # whatever their positions
    return bool(growing_blocks(replica, phases, block, ahead) <= blocks)


@compiled
def steps_within(replica: Any, phases: Any, block: int, most: int, blocks: int) -> int:
    """Return the most steps up to `most`, at least 1, that leave the sequences within `blocks`.

    Every sequence takes one block per `block` steps; the last of these cycles goes step by step.
    """
    if replica.context + (most + block - 1) * replica.batch <= blocks * block:
        return most
    held = growing_blocks(replica, phases, block, 0)
    cycles = max((blocks - held) // replica.batch, 0)
    steps = cycles * block
    if steps >= most:
        return most
    held += cycles * replica.batch
    while steps < most:
        held += phases[-(replica.step + steps) % block]
        if held > blocks:
            break
        steps += 1
    return int(max(steps, 1))
