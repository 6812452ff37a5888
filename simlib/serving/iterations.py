"""A replica's iterations: starting one, cutting a run of them short, ending it.

An iteration that only decodes repeats itself until a sequence ends, blocks run out or something
is delivered that the batch has room for. All of these are one jump, with their time in closed form.
"""

from __future__ import annotations

from math import inf, isnan
from typing import Any

from simlib.compiling import compiled, inlined
from simlib.serving import notes
from simlib.serving.kv_cache import blocks_of, remove, steps_within
from simlib.serving.policies import decode_line, prefill_s
from simlib.serving.queues import schedule, sift_down
from simlib.serving.scheduler import (
    REQUEST_BITS,
    REQUEST_MASK,
    decode_from_now,
    form_batch,
    join,
)
from simlib.serving.state import (
    DECODE_START,
    FINISH,
    FIRST_TOKEN,
    LAST_TOKEN,
    NOBODY,
    PREFILL_END,
    State,
)


@inlined
def mark_to_start(s: State, at: int) -> None:
    """Let a replica start an iteration once all events of this time have happened."""
    replica = s.replicas[at]
    if not replica.starts:
        replica.starts = True
        run = s.run[0]
        s.starting[run.starting] = at
        run.starting += 1


@compiled
def run_s(replica: Any, pool: Any, parameters: Any, steps: int) -> float:
    """Return the seconds of so many decode-only iterations of a replica's batch."""
    seconds = 0.0
    batch, context = replica.batch, replica.context
    while steps > 0:
        first_s, growth_s, piece = decode_line(pool.formula, parameters, batch, context)
        count = min(piece, steps)
        seconds += count * (first_s + 0.5 * growth_s * (count - 1))
        steps -= count
        context += count * batch
    return seconds


@inlined
def start(s: State, at: int) -> None:  # noqa: PLR0912 - one decision after the other
    """Begin the next iteration, or jump; with nothing to do, become idle."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    now_s = s.run[0].now_s
    while True:
        if replica.ready != NOBODY:
            join(s, at)
        chunks, tokens, work, preempted = form_batch(s, at, now_s)
        if chunks > 0 or replica.batch > 0 or not preempted:
            break  # else begin again: with those that were transferred, or were just preempted
    batch = replica.batch
    if chunks > 0:
        decodes = batch if pool.mixes else 0
        context = replica.context if decodes > 0 else 0
        replica.steps = 1 if decodes > 0 else 0
        seconds = prefill_s(
            pool.formula, s.parameters[replica.pool], work, tokens, chunks, decodes, context
        )
        first_s = seconds
    elif batch > 0:
        steps = 1
        if not preempted:
            steps = (s.ends[at, 0] >> REQUEST_BITS) - replica.step
            if steps > 1:
                left = pool.capacity_blocks - replica.fixed_blocks
                steps = steps_within(replica, s.phases[at], pool.block_tokens, steps, left)
        replica.steps = steps
        parameters = s.parameters[replica.pool]
        first_s, growth_s, piece = decode_line(pool.formula, parameters, batch, replica.context)
        if steps <= piece:
            seconds = steps * (first_s + 0.5 * growth_s * (steps - 1))
        else:
            seconds = run_s(replica, pool, parameters, steps)
    else:
        return
    replica.start_s = now_s
    replica.end_s = now_s + seconds
    schedule(s.next_s, s.winners, at, replica.end_s)
    if now_s < s.run[0].noted_until_s:
        notes.starts(s, at, tokens)
    if replica.steps > 0:
        if now_s < s.run[0].noted_until_s:
            notes.first_gaps(s, at, now_s + first_s)
        if replica.joined > 0:
            first_steps(s, at, now_s, now_s + first_s)


@inlined
def first_steps(s: State, at: int, now_s: float, end_s: float) -> None:
    """Stamp those whose first step since they joined the batch begins, and ends at `end_s`."""
    replica = s.replicas[at]
    if not s.run[0].prefill_emits:
        for place in range(replica.joined):
            request = s.joined[at, place]
            if isnan(s.stamps[FIRST_TOKEN, request]):
                s.stamps[DECODE_START, request] = now_s
                s.stamps[FIRST_TOKEN, request] = end_s
    replica.joined = 0


@compiled
def steps_begun(replica: Any, pool: Any, parameters: Any, time_s: float) -> int:
    """Return the decode steps of the running jump that begin before a time."""
    if replica.end_s == inf or replica.steps <= 1:
        return 0 if replica.end_s == inf else int(replica.steps)
    batch, context, start_s = replica.batch, replica.context, replica.start_s
    steps, spent_s = 0, 0.0
    while True:
        first_s, growth_s, piece = decode_line(pool.formula, parameters, batch, context)
        half_s = 0.5 * growth_s
        piece = min(piece, replica.steps - steps)
        whole_s = spent_s + piece * (first_s + half_s * (piece - 1))
        if steps + piece == replica.steps or start_s + whole_s >= time_s:
            break
        steps += piece
        context += piece * batch
        spent_s = whole_s
    # the root of a quadratic, without cancellation; then the very sums that give the jump's end
    linear = first_s - half_s
    left_s = max(time_s - start_s - spent_s, 0.0)
    root = (linear * linear + 4.0 * half_s * left_s) ** 0.5
    count = min(max(int(2.0 * left_s / (linear + root)), 1), piece)
    while count < piece and start_s + (spent_s + count * (first_s + half_s * (count - 1))) < time_s:
        count += 1
    return int(steps + count)


@inlined
def cut(s: State, at: int, time_s: float) -> None:
    """End the running jump with the iteration that runs, or ends, at a time."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    parameters = s.parameters[replica.pool]
    steps = steps_begun(replica, pool, parameters, time_s)
    if steps < replica.steps:
        replica.steps = steps
        replica.end_s = replica.start_s + run_s(replica, pool, parameters, steps)
        schedule(s.next_s, s.winners, at, replica.end_s)


@inlined
def leave(s: State, at: int, tokens: int) -> None:
    """Count a request that leaves a replica as outstanding no longer."""
    s.outstanding[0, at] -= 1
    s.outstanding[1, at] -= tokens


@inlined
def finish(s: State, at: int, request: int, now_s: float) -> int:
    """Stamp the end of a request; return how many may be sent in its place."""
    row = s.requests[request]
    s.stamps[FINISH, request] = now_s
    leave(s, at, int(row.prompt) + int(row.steps))
    return 1


@inlined
def complete(s: State, at: int) -> int:
    """End the running jump: tokens, completions, prefills done; return how many requests ended.

    Prompts that move on stay in ``ending``: the caller hands them over.
    """
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    now_s = replica.end_s
    noted = replica.start_s < s.run[0].noted_until_s
    if noted:
        notes.ends(s, at, now_s)
    replica.end_s = inf
    replica.blocked = False
    ended = 0
    if replica.steps > 0:
        replica.step += replica.steps
        replica.context += replica.steps * replica.batch
        replica.decoded_s = now_s
        ends = s.ends[at]
        limit = (replica.step + 1) << REQUEST_BITS
        while replica.batch > 0 and ends[0] < limit:
            request = ends[0] & REQUEST_MASK
            size = replica.batch - 1
            ends[0] = ends[size]
            sift_down(ends, 0, size)
            row = s.requests[request]
            held = int(row.prompt) + int(row.steps)
            remove(replica, s.phases[at], held, pool.block_tokens)
            ended += finish(s, at, request, now_s)
    if replica.ending > 0:
        ended += end_prefills(s, at, now_s)
    if noted:
        notes.leaves(s, at)
    return ended


@inlined
def end_prefills(s: State, at: int, now_s: float) -> int:
    """Let prompts that have been computed decode, or leave; return how many requests ended."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    ended = 0
    for place in range(replica.ending):
        request = s.ending[at, place]
        row = s.requests[request]
        row.recomputes = False
        if isnan(s.stamps[PREFILL_END, request]):
            s.stamps[PREFILL_END, request] = now_s
            if s.run[0].prefill_emits:
                s.stamps[LAST_TOKEN, request] = now_s
        if pool.hands_over:
            continue
        held = int(row.prompt) + int(row.decoded)
        replica.fixed_blocks -= blocks_of(held, pool.block_tokens)
        left = int(row.steps) - int(row.decoded)
        if left == 0:
            ended += finish(s, at, request, now_s)
        else:
            decode_from_now(s, at, request, held, left)
    if not pool.hands_over:
        replica.ending = 0
    return ended
