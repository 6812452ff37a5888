"""A replica's iterations: starting one, cutting a run of them short, ending it.

An iteration that only decodes repeats itself until a sequence ends, blocks run out or something
is delivered that the batch has room for. All of these are one jump, with their time in closed form.
The chunks of a long prompt, which leave room for nobody, are another kind of jump.
"""

from __future__ import annotations

from math import inf, isnan

from simlib.compiling import compiled, inlined
from simlib.latency.protocol import MAX_STEPS
from simlib.serving import notes
from simlib.serving.jumps import decode_s, shorten
from simlib.serving.kv_cache import blocks_of, remove, steps_within
from simlib.serving.policies import chunk_tokens, chunk_work, prefill_s
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


@inlined
def start(s: State, at: int) -> None:
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
    if chunks > 0:
        decodes = replica.batch if pool.mixes else 0
        context = replica.context if decodes > 0 else 0
        replica.steps = 1 if decodes > 0 else 0
        parameters = s.parameters[replica.pool]
        first_s = prefill_s(pool.formula, parameters, work, tokens, chunks, decodes, context)
        end_s = now_s + first_s
        if replica.partial != NOBODY and replica.ending == 0 and not pool.receives:
            end_s = later_chunks(s, at, end_s)
    elif replica.batch > 0:
        steps = 1
        if not preempted:
            steps = (s.ends[at, 0] >> REQUEST_BITS) - replica.step
            if steps > 1:
                steps = steps_within(s, at, steps)
        replica.steps = steps
        first_s, seconds = decode_s(replica, pool.formula, s.parameters[replica.pool], steps)
        end_s = now_s + seconds
    else:
        return
    replica.start_s = now_s
    replica.end_s = end_s
    schedule(s.next_s, s.winners, at, replica.end_s)
    notes.starts(s, at, tokens, now_s + first_s)
    if replica.steps > 0 and replica.joined > 0:
        first_steps(s, at, now_s, now_s + first_s)


@compiled
def later_chunks(s: State, at: int, end_s: float) -> float:
    """Return when the jump ends that began with a chunk, if it goes on while all is alike.

    All but the last chunk of a prompt leave room for nobody, whoever comes: only the ends of those
    that decode along, and the blocks they take, matter to them. A timeline has a row for each.
    """
    replica = s.replicas[at]
    pool, parameters = s.pools[replica.pool], s.parameters[replica.pool]
    if notes.noted(s, s.run[0].now_s):
        return end_s
    decodes, most = 0, MAX_STEPS
    if replica.steps > 0:
        decodes = replica.batch
        most = (s.ends[at, 0] >> REQUEST_BITS) - replica.step
        if most > 1:
            most = steps_within(s, at, most)
    budget = pool.max_batch_tokens - decodes
    count = 1
    while count < most:
        left = replica.tokens - replica.before
        new = chunk_tokens(pool.policy, left, budget, True)
        if new == left:
            break
        work = chunk_work(pool.formula, parameters, new, replica.before)
        context = replica.context + count * decodes if decodes > 0 else 0
        end_s += prefill_s(pool.formula, parameters, work, new, 1, decodes, context)
        replica.before += new
        count += 1
    if decodes > 0:
        replica.steps = count
    return end_s


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


@inlined
def cut(s: State, at: int) -> None:
    """End the running jump with the iteration that runs, or ends, now."""
    replica = s.replicas[at]
    formula, parameters = s.pools[replica.pool].formula, s.parameters[replica.pool]
    if shorten(replica, formula, parameters, s.run[0].now_s):
        schedule(s.next_s, s.winners, at, replica.end_s)


@inlined
def complete(s: State, at: int) -> None:
    """End the running jump: tokens, completions, prefills done.

    Prompts that move on stay in ``ending``: the caller hands them over.
    """
    replica = s.replicas[at]
    notes.ends(s, at)
    replica.end_s = inf
    replica.blocked = False
    if replica.steps > 0:
        replica.step += replica.steps
        replica.context += replica.steps * replica.batch
        replica.decoded_s = s.run[0].now_s
        ends = s.ends[at]
        limit = (replica.step + 1) << REQUEST_BITS
        while replica.batch > 0 and ends[0] < limit:
            request = ends[0] & REQUEST_MASK
            size = replica.batch - 1
            ends[0] = ends[size]
            sift_down(ends, 0, size)
            row = s.requests[request]
            remove(s, at, int(row.prompt) + int(row.steps))
            finish(s, at, request)
    if replica.ending > 0:
        end_prefills(s, at)
    notes.leaves(s, at)


@inlined
def end_prefills(s: State, at: int) -> None:
    """Let prompts that have been computed decode, or leave."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    now_s = s.run[0].now_s
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
            finish(s, at, request)
        else:
            decode_from_now(s, at, request, held, left)
    if not pool.hands_over:
        replica.ending = 0


@inlined
def finish(s: State, at: int, request: int) -> None:
    """End a request; a closed loop may send another one in its place."""
    row = s.requests[request]
    s.stamps[FINISH, request] = s.run[0].now_s
    leave(s, at, int(row.prompt) + int(row.steps))
    s.run[0].vacant += 1


@inlined
def leave(s: State, at: int, tokens: int) -> None:
    """Count a request that leaves a replica as outstanding no longer."""
    s.outstanding[0, at] -= 1
    s.outstanding[1, at] -= tokens
