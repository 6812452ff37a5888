"""What replicas do over time, noted while they do it: rows of the tables of a timeline.

A row per jump, not per iteration, and still each gap between two tokens exactly: within a jump all
sequences share the iterations, so only the first gap can differ between them. Those that decoded in
the replica's jump before share that one, too; whoever joined since has one of its own. Later gaps
grow with the context, each by the same time, so they are one row per linear piece.
"""

from __future__ import annotations

from math import inf, isnan
from typing import Any

from simlib.compiling import compiled, inlined
from simlib.serving.jumps import steps_begun
from simlib.serving.kv_cache import held_blocks
from simlib.serving.policies import decode_line
from simlib.serving.state import LAST_TOKEN, State


@inlined
def noted(s: State, time_s: float) -> bool:
    """Return whether there is a timeline, and what begins at a time is part of it."""
    return bool(time_s < s.run[0].noted_until_s)


@inlined
def starts(s: State, at: int, prefill_tokens: int, first_s: float) -> None:
    """Note a jump that starts, with a first iteration until `first_s`."""
    replica = s.replicas[at]
    if noted(s, replica.start_s):
        replica.prefill_tokens = prefill_tokens
        replica.first_waiting = replica.queued
        replica.first_blocks = held_blocks(s, at, 1 if replica.steps > 0 else 0)
        if replica.steps > 0:
            first_gaps(s, at, first_s)


@inlined
def first_gaps(s: State, at: int, first_s: float) -> None:
    """Note the gaps that end with the first iteration of a jump, at `first_s`."""
    replica = s.replicas[at]
    sharing = replica.batch - replica.joined
    if sharing > 0:
        note_gaps(s.run, s.gaps, first_s, first_s - replica.decoded_s, 0.0, 1, sharing)
    for place in range(replica.joined):
        last_s = s.stamps[LAST_TOKEN, s.joined[at, place]]
        if not isnan(last_s):
            note_gaps(s.run, s.gaps, first_s, first_s - last_s, 0.0, 1, 1)


@compiled
def note_gaps(
    runs: Any,
    gaps: Any,
    time_s: float,
    gap_s: float,
    growth_s: float,
    count: int,
    sequences: int,
) -> None:
    """Note a run of gaps, each longer than the one before by the same time."""
    run = runs[0]
    row = gaps[run.gaps]
    row.time_s = time_s
    row.gap_s = gap_s
    row.growth_s = growth_s
    row.count = count
    row.sequences = sequences
    run.gaps += 1


@inlined
def ends(s: State, at: int) -> None:
    """Note a jump that ends, before anything ends with it."""
    run = s.run[0]
    replica = s.replicas[at]
    if not noted(s, replica.start_s):
        return
    pool = s.pools[replica.pool]
    row = s.jumps[run.jumps]
    row.pool = 1 if pool.receives else 0
    row.replica = at - pool.first
    row.start_s = replica.start_s
    row.end_s = replica.end_s
    row.steps = replica.steps
    row.prefill_tokens = replica.prefill_tokens
    row.decode_batch = replica.batch if replica.steps > 0 else 0
    row.decode_context = replica.context if replica.steps > 0 else 0
    row.waiting = replica.first_waiting
    row.first_blocks = replica.first_blocks
    row.blocks = held_blocks(s, at, replica.steps)
    if replica.steps > 1:
        later_gaps(s, at)


@inlined
def later_gaps(s: State, at: int) -> None:
    """Note the gaps after the first one of a jump that ends."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    parameters = s.parameters[replica.pool]
    batch, context, time_s, steps = replica.batch, replica.context, replica.start_s, replica.steps
    first = True
    while steps > 0:
        gap_s, growth_s, piece = decode_line(pool.formula, parameters, batch, context)
        count = min(piece, steps)
        steps -= count
        context += count * batch
        after_s = time_s + count * (gap_s + 0.5 * growth_s * (count - 1))
        if first:  # it has been noted at the start
            first = False
            time_s += gap_s
            gap_s += growth_s
            count -= 1
        if count > 0:
            note_gaps(s.run, s.gaps, time_s + gap_s, gap_s, growth_s, count, batch)
        time_s = after_s


@inlined
def leaves(s: State, at: int) -> None:
    """Note the blocks that are still held after what ended with the jump noted last."""
    run = s.run[0]
    if noted(s, s.replicas[at].start_s):
        s.jumps[run.jumps].left_blocks = held_blocks(s, at, 0)
        run.jumps += 1


@inlined
def moved(s: State, at: int, taken: int) -> None:
    """Note that blocks were taken (or freed) for a transfer, at a time when a jump may run."""
    run = s.run[0]
    if not noted(s, run.now_s):
        return
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    row = s.moves[run.moves]
    after = held_blocks(s, at, steps_begun(s, at))
    row.pool = 1 if pool.receives else 0
    row.running = replica.end_s != inf
    row.replica = at - pool.first
    row.time_s = run.now_s
    row.before = after - taken
    row.after = after
    run.moves += 1
