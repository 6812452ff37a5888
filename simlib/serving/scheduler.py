"""How a replica forms the batch of its next iteration, as vLLM's scheduler does.

1. Transferred requests join the running ones while max_batch_size allows, in order of transfer.
2. Running sequences decode one token each; while their blocks do not fit, the running request that
   is last in the queue's order is preempted: it frees its blocks and returns to the queue, to
   recompute the KV cache of its prompt and of the tokens decoded so far.
3. A prompt begun before gets its next chunk.
4. If nothing was preempted, waiting requests are admitted in the queue's order, as long as the
   first one's blocks fit, and batch size and tokens allow. If preemption left nothing to run, it
   starts again at 1.

A batch policy that does not mix (``prefill_first``) takes prompts before 2, which then waits until
no prompt can be admitted.
"""

from __future__ import annotations

from math import isnan

from simlib.compiling import compiled, inlined
from simlib.serving.kv_cache import add, blocks_of, fits, remove
from simlib.serving.policies import chunk_tokens, chunk_work
from simlib.serving.queues import pop, push, sift_up, take_out
from simlib.serving.state import (
    LAST_TOKEN,
    NOBODY,
    PREEMPTIONS,
    PREFILL_START,
    State,
)

REQUEST_BITS = 32
REQUEST_MASK = (1 << REQUEST_BITS) - 1


@inlined
def join(s: State, at: int) -> None:
    """Let transferred requests decode, in order of transfer, while there is room in the batch."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    room = pool.max_batch_size - replica.batch - (replica.partial != NOBODY)
    while replica.ready != NOBODY and room > 0:
        request = replica.ready
        replica.ready = s.requests[request].sibling
        held = int(s.requests[request].prompt)
        replica.fixed_blocks -= blocks_of(held, pool.block_tokens)
        decode_from_now(s, at, request, held, int(s.requests[request].steps))
        room -= 1


@inlined
def decode_from_now(s: State, at: int, request: int, held: int, steps: int) -> None:
    """Take a request that holds so many tokens, and has so many steps to go, into the batch."""
    replica = s.replicas[at]
    ends = s.ends[at]
    ends[replica.batch] = (replica.step + steps) << REQUEST_BITS | request
    sift_up(ends, replica.batch)
    add(s, at, held)
    s.joined[at, replica.joined] = request
    replica.joined += 1


@compiled
def make_room(s: State, at: int) -> bool:
    """Preempt until the decodes can grow by one token; return whether any was preempted."""
    preempted = False
    while s.replicas[at].batch > 0 and not fits(s, at, 1, 0):
        preempt_last(s, at)
        preempted = True
    return preempted


@inlined
def preempt_last(s: State, at: int) -> None:
    """Send the running request that is last in the queue's order back to the queue."""
    replica = s.replicas[at]
    ends, key = s.ends[at], s.key
    place = 0
    request = ends[0] & REQUEST_MASK
    for other_place in range(1, replica.batch):
        other = ends[other_place] & REQUEST_MASK
        if key[other] > key[request] or (key[other] == key[request] and other > request):
            place, request = other_place, other
    partial = replica.partial
    if partial != NOBODY and (
        key[partial] > key[request] or (key[partial] == key[request] and partial > request)
    ):
        request = partial
        replica.partial = NOBODY
        replica.fixed_blocks -= blocks_of(replica.tokens, s.pools[replica.pool].block_tokens)
    else:
        row = s.requests[request]
        row.decoded = row.steps - ((ends[place] >> REQUEST_BITS) - replica.step)
        take_out(ends, place, replica.batch)
        remove(s, at, int(row.prompt) + int(row.decoded))
        s.stamps[LAST_TOKEN, request] = last_token_s(s, at, request)
    s.requests[request].recomputes = True
    s.counts[PREEMPTIONS, request] += 1
    replica.blocked = False
    replica.waiting = push(s.requests, key, replica.waiting, request)
    replica.queued += 1


@inlined
def last_token_s(s: State, at: int, request: int) -> float:
    """Return when a preempted request had its last token; forget that it joined the batch."""
    replica = s.replicas[at]
    for place in range(replica.joined):
        if s.joined[at, place] == request:
            replica.joined -= 1
            s.joined[at, place] = s.joined[at, replica.joined]
            return float(s.stamps[LAST_TOKEN, request])
    return float(replica.decoded_s)


@inlined
def form_batch(s: State, at: int, now_s: float) -> tuple[int, int, float, bool]:
    """Form the next batch.

    Returns
    -------
    chunks, tokens, work, preempted
        Chunks of prompts, their tokens, the sum of their work (`Formula.chunk`), and whether room
        was made by preemption. Prompts that end with the iteration are in ``ending``.
    """
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    preempted = False
    if pool.mixes and not fits(s, at, 1, 0):
        preempted = make_room(s, at)
    chunks, tokens, work = 0, 0, 0.0
    if replica.partial != NOBODY or replica.waiting != NOBODY:
        chunks, tokens, work = take_prompts(s, at, now_s, not preempted)
    if not pool.mixes and chunks == 0:
        preempted = make_room(s, at)
    return chunks, tokens, work, preempted


@inlined
def take_prompts(s: State, at: int, now_s: float, admit: bool) -> tuple[int, int, float]:
    """Fill an iteration with chunks: the prompt in progress, then waiting ones if they may."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    parameters = s.parameters[replica.pool]
    budget = pool.max_batch_tokens - (replica.batch if pool.mixes else 0)
    room = pool.max_batch_size - replica.batch
    chunks, taken, work = 0, 0, 0.0
    if replica.partial != NOBODY:
        new = chunk_tokens(pool.policy, replica.tokens - replica.before, budget, True)
        work += chunk_work(pool.formula, parameters, new, replica.before)
        chunks, taken = 1, new
        replica.before += new
        if replica.before == replica.tokens:
            end_with_iteration(s, at, replica.partial)
            replica.partial = NOBODY
    while admit and replica.waiting != NOBODY and chunks < room and replica.partial == NOBODY:
        request = replica.waiting
        row = s.requests[request]
        if pool.receives and not row.recomputes:
            break  # its KV cache comes from elsewhere
        tokens = int(row.prompt) + int(row.decoded)
        new = chunk_tokens(pool.policy, tokens, budget - taken, chunks == 0)
        blocks = blocks_of(tokens, pool.block_tokens)
        ahead = 1 if pool.mixes and replica.batch > 0 else 0
        if new == 0 or not fits(s, at, ahead, blocks):
            break
        replica.waiting = pop(s.requests, s.key, request)
        replica.queued -= 1
        replica.fixed_blocks += blocks
        if isnan(s.stamps[PREFILL_START, request]):
            s.stamps[PREFILL_START, request] = now_s
        work += chunk_work(pool.formula, parameters, new, 0)
        chunks += 1
        taken += new
        if new == tokens:
            end_with_iteration(s, at, request)
        else:
            replica.partial, replica.before, replica.tokens = request, new, tokens
    return chunks, taken, work


@inlined
def end_with_iteration(s: State, at: int, request: int) -> None:
    """Note that a prompt ends with the iteration that is formed."""
    replica = s.replicas[at]
    s.ending[at, replica.ending] = request
    replica.ending += 1
