"""KV cache of a replica: blocks of sequences that grow together, one token each per step.

Only how many sequences there are per position within a block matters, so the blocks at any later
step follow in O(block), whatever the number of sequences.
"""

from __future__ import annotations

from typing import Any

from simlib.compiling import compiled, inlined
from simlib.serving.state import State


@inlined
def blocks_of(tokens: int, block: int) -> int:
    """Return the blocks that hold the tokens of one sequence (PagedAttention, SOSP 2023)."""
    return (tokens + block - 1) // block


@inlined
def add(s: State, at: int, held: int) -> None:
    """Take in a decoding sequence that holds `held` tokens."""
    replica = s.replicas[at]
    phase = (held - replica.step) % s.pools[replica.pool].block_tokens
    s.phases[at, phase] += 1
    replica.phase_sum += phase
    replica.batch += 1
    replica.context += held


@inlined
def remove(s: State, at: int, held: int) -> None:
    """Let go of a decoding sequence that holds `held` tokens."""
    replica = s.replicas[at]
    phase = (held - replica.step) % s.pools[replica.pool].block_tokens
    s.phases[at, phase] -= 1
    replica.phase_sum -= phase
    replica.batch -= 1
    replica.context -= held


@compiled
def growing_blocks(replica: Any, phases: Any, block: int, ahead: int) -> int:
    """Return the blocks of all decoding sequences once `ahead` more steps are done: exact."""
    full = -(replica.step + ahead) % block  # the phase of those whose last block is full then
    wrapped = 0
    for phase in range(block):
        wrapped += phases[phase] if phase > full else 0
    unused = full * replica.batch - replica.phase_sum + wrapped * block
    return int((replica.context + ahead * replica.batch + unused) // block)


@inlined
def held_blocks(s: State, at: int, ahead: int) -> int:
    """Return all blocks that the replica holds once `ahead` more steps are done."""
    replica = s.replicas[at]
    block = s.pools[replica.pool].block_tokens
    return int(replica.fixed_blocks + growing_blocks(replica, s.phases[at], block, ahead))


@inlined
def fits(s: State, at: int, ahead: int, more: int) -> bool:
    """Return whether there is room for `more` blocks after `ahead` more steps."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    left = pool.capacity_blocks - replica.fixed_blocks - more
    block = pool.block_tokens
    if replica.context + (ahead + block - 1) * replica.batch <= left * block:
        return True  # whatever their positions
    return bool(growing_blocks(replica, s.phases[at], block, ahead) <= left)


@inlined
def steps_within(s: State, at: int, most: int) -> int:
    """Return the most steps up to `most`, at least 1, for which there are blocks.

    Every sequence takes one block per `block` steps; the last of these cycles goes step by step.
    """
    replica, phases = s.replicas[at], s.phases[at]
    pool = s.pools[replica.pool]
    block = pool.block_tokens
    left = pool.capacity_blocks - replica.fixed_blocks
    if replica.context + (most + block - 1) * replica.batch <= left * block:
        return most
    held = growing_blocks(replica, phases, block, 0)
    cycles = max((left - held) // replica.batch, 0)
    steps = cycles * block
    if steps >= most:
        return most
    held += cycles * replica.batch
    while steps < most:
        held += phases[-(replica.step + steps) % block]
        if held > left:
            break
        steps += 1
    return int(max(steps, 1))
