"""The event loop: arrival, routing, iterations, transfers, in the order of a request's life.

Events of one time happen in this order, which the step-by-step twin (`simlib.serving.twin`) keeps:

1. iteration ends of the decode pool, by replica; each frees blocks, then reserves for waiting KV
   caches;
2. iteration ends of the entry pool, by replica; each finished prefill is routed to a decode
   replica, in the order of its chunks, reserves blocks there if it can, and asks its link for the
   transfer;
3. last bytes sent on fairly shared links, by link, then by request;
4. transfer ends, by request: the prefill side frees its blocks, the decode side may begin;
5. requests that the front end has read, by request;
6. arrivals, by request;
7. iteration starts.

The calendar has a place for each of these, in this order.
"""

from __future__ import annotations

from math import inf
from typing import Final

from simlib.compiling import compiled, entry_point, inlined
from simlib.policies.disciplines import RequestView
from simlib.policies.routers import PoolView
from simlib.serving import notes
from simlib.serving.deployment import exposed_bytes
from simlib.serving.iterations import complete, cut, leave, mark_to_start, start
from simlib.serving.jumps import steps_begun
from simlib.serving.kv_cache import blocks_of, fits
from simlib.serving.policies import choose_replica, queue_key
from simlib.serving.queues import pop, push, schedule
from simlib.serving.state import (
    ARRIVAL,
    DECODE_REPLICA,
    NOBODY,
    PREFILL_END,
    PREFILL_REPLICA,
    PREFILL_START,
    ROUTED,
    TRANSFER_END,
    TRANSFER_START,
    State,
)

TOGETHER_BYTES: Final = 1e-6
"""Transfers on a fair link that are this close to their last byte end together: rounding alone
does not order them."""


@entry_point
def run_events(s: State, rows_to_spare: int) -> bool:
    """Go on until nothing is left to happen; return whether tables of the timeline are full first.

    They are when one of them has fewer than `rows_to_spare` rows left.
    """
    run = s.run[0]
    noting = run.noted_until_s > -inf
    send(s)
    while True:
        if noting and (
            run.jumps + rows_to_spare > len(s.jumps)
            or run.moves + rows_to_spare > len(s.moves)
            or run.gaps + rows_to_spare > len(s.gaps)
        ):
            return True
        place = s.winners[1]
        time_s = s.next_s[place]
        if run.starting > 0 and time_s > run.now_s:
            run.starting -= 1
            at = s.starting[run.starting]
            s.replicas[at].starts = False
            if s.replicas[at].end_s == inf:
                start(s, at)
            continue
        if time_s == inf:
            return False
        run.now_s = time_s
        pool, entering = 0, 0
        if place < run.first_link:
            end_iteration(s, place)
            pool, entering = 1, hand_over(s, place)
        elif place < run.transfers:
            end_sending(s, place - run.first_link)
        elif place == run.transfers:
            end_transfer(s)
        else:
            request = leave_front_end(s) if place == run.reading else arrive(s)
            if request != NOBODY:
                s.stamps[ROUTED, request] = time_s
                s.entering[0] = request
                entering = 1
        for one in range(entering):
            enter(s, pool, s.entering[one])


# ---------------------------------------------------------------- arrivals


@compiled
def send(s: State) -> None:
    """Send requests of a closed loop into vacant places; one that can never fit takes none."""
    run = s.run[0]
    while run.vacant > 0 and run.sent < len(s.requests):
        s.stamps[ARRIVAL, run.sent] = run.now_s
        run.vacant -= not s.requests[run.sent].refused
        run.sent += 1
    plan_arrival(s)


@inlined
def plan_arrival(s: State) -> None:
    """Set the calendar to the next request that was sent and can be served."""
    run = s.run[0]
    while run.upcoming < run.sent and s.requests[run.upcoming].refused:
        run.upcoming += 1
    time_s = s.stamps[ARRIVAL, run.upcoming] if run.upcoming < run.sent else inf
    schedule(s.next_s, s.winners, run.arrivals, time_s)


@inlined
def arrive(s: State) -> int:
    """Let the next request arrive; return it, or nobody if a front end reads it first."""
    run = s.run[0]
    request = run.upcoming
    run.upcoming += 1
    plan_arrival(s)
    if len(s.workers_s) == 0:
        return int(request)
    worker = s.workers_s.argmin()
    begin_s = max(s.workers_s[worker], run.now_s)
    read_s = begin_s + (run.request_s + run.token_s * s.requests[request].prompt)
    s.workers_s[worker] = read_s
    s.due[request] = read_s
    run.read = push(s.requests, s.due, run.read, request)
    plan_first(s, run.reading, run.read)
    return NOBODY


@inlined
def leave_front_end(s: State) -> int:
    """Return the request that has been read."""
    run = s.run[0]
    request = run.read
    run.read = pop(s.requests, s.due, request)
    plan_first(s, run.reading, run.read)
    return int(request)


@inlined
def plan_first(s: State, place: int, first: int) -> None:
    """Set a place of the calendar to when the first request of a heap by `due` is due."""
    schedule(s.next_s, s.winners, place, s.due[first] if first != NOBODY else inf)


@inlined
def enter(s: State, which: int, request: int) -> None:
    """Route a request to a replica of a pool, and put it in the queue there."""
    pool = s.pools[which]
    row = s.requests[request]
    first, end = pool.first, pool.first + pool.replicas
    u = s.uniforms[pool.first_draw, request] if pool.draws > 0 else 0.0
    v = s.uniforms[pool.first_draw + 1, request] if pool.draws > 1 else 0.0
    view = PoolView(pool.turn, u, v, s.outstanding[0, first:end], s.outstanding[1, first:end])
    chosen = choose_replica(pool.router, view)
    tokens = int(row.prompt) + (0 if pool.hands_over else int(row.steps))
    at = first + chosen
    s.outstanding[0, at] += 1
    s.outstanding[1, at] += tokens
    s.counts[DECODE_REPLICA if pool.receives else PREFILL_REPLICA, request] = chosen
    place = RequestView(
        pool.turn,
        s.stamps[ARRIVAL, request],
        int(row.prompt),
        s.slo_s[request] if len(s.slo_s) > 0 else 0.0,
        s.priority[request] if len(s.priority) > 0 else 0,
    )
    s.key[request] = queue_key(pool.discipline, place)
    pool.turn += 1
    replica = s.replicas[at]
    was_empty = replica.waiting == NOBODY
    replica.waiting = push(s.requests, s.key, replica.waiting, request)
    replica.queued += 1
    if pool.receives:
        replica.unreserved += 1
        reserve_waiting(s, at)
    elif replica.end_s == inf:
        mark_to_start(s, at)
    elif (
        replica.steps > 1
        and replica.partial == NOBODY  # chunks of one prompt: it goes first
        and (was_empty or not pool.in_order)
        and replica.batch < pool.max_batch_size
    ):
        cut(s, at)


# ---------------------------------------------------------------- iterations


@inlined
def end_iteration(s: State, at: int) -> None:
    """End a jump, and let happen what follows from it elsewhere."""
    replica = s.replicas[at]
    complete(s, at)
    schedule(s.next_s, s.winners, at, inf)
    mark_to_start(s, at)
    if s.run[0].sent < len(s.requests):
        send(s)
    if replica.unreserved > 0:
        reserve_waiting(s, at)


@inlined
def hand_over(s: State, at: int) -> int:
    """Let prompts that end with an iteration enter the decode pool; return how many."""
    replica = s.replicas[at]
    if not s.pools[replica.pool].hands_over:
        return 0
    count = int(replica.ending)
    for place in range(count):
        s.entering[place] = s.ending[at, place]
        leave(s, at, int(s.requests[s.ending[at, place]].prompt))
    replica.ending = 0
    return count


# ---------------------------------------------------------------- transfers


@inlined
def reserve_waiting(s: State, at: int) -> None:
    """Give waiting KV caches their blocks, in order, and ask for their transfers."""
    replica = s.replicas[at]
    pool = s.pools[replica.pool]
    steps = replica.steps if replica.end_s != inf else 0
    before = replica.fixed_blocks
    while replica.unreserved > 0 and not replica.blocked:
        request = replica.waiting
        if s.requests[request].recomputes:
            break
        blocks = blocks_of(int(s.requests[request].prompt), pool.block_tokens)
        # after all steps of the running jump, else after those that have begun
        if not fits(s, at, steps, blocks) and not fits(s, at, steps_begun(s, at), blocks):
            replica.blocked = True
            break
        replica.fixed_blocks += blocks
        replica.unreserved -= 1
        replica.queued -= 1
        replica.waiting = pop(s.requests, s.key, request)
        transfer(s, request)
    if replica.fixed_blocks != before:
        notes.moved(s, at, replica.fixed_blocks - before)
        if steps > 1 and not fits(s, at, steps, 0):
            cut(s, at)


@inlined
def transfer(s: State, request: int) -> None:
    """Ask the link of a request's prefill replica for its transfer."""
    run = s.run[0]
    took_s = s.stamps[PREFILL_END, request] - s.stamps[PREFILL_START, request]
    size = run.token_bytes * s.requests[request].prompt
    size = exposed_bytes(size, took_s, run.overlap_layers, run.bandwidth)
    which = s.counts[PREFILL_REPLICA, request] if len(s.links) > 1 else 0
    link = s.links[which]
    if run.fair:
        s.stamps[TRANSFER_START, request] = run.now_s
        share_link(s, which, request, size)
    else:
        begin_s = max(link.free_s, run.now_s)
        link.free_s = begin_s + size / run.bandwidth
        s.stamps[TRANSFER_START, request] = begin_s
        end_in(s, request, link.free_s + run.base_latency_s)


@compiled
def share_link(s: State, which: int, request: int, size: float) -> None:
    """Begin a transfer on a fair link: all present have an equal share (processor sharing).

    A virtual clock counts the bytes that every transfer present has been sent; a transfer is
    through when the clock has moved on by its size.
    """
    run = s.run[0]
    link = s.links[which]
    if link.active > 0:
        share = run.bandwidth / link.active
        link.sent_bytes += (run.now_s - link.last_s) * share
    else:
        link.sent_bytes = 0.0
    link.last_s = run.now_s
    s.due[request] = link.sent_bytes + size
    link.first = push(s.requests, s.due, link.first, request)
    link.active += 1
    plan_link(s, which)


@compiled
def plan_link(s: State, which: int) -> None:
    """Set the calendar to when the next transfer on a fair link is through if none is added."""
    run = s.run[0]
    link = s.links[which]
    time_s = inf
    if link.active > 0:
        left = max(s.due[link.first] - link.sent_bytes, 0.0)
        time_s = link.last_s + left / (run.bandwidth / link.active)
    schedule(s.next_s, s.winners, run.first_link + which, time_s)


@inlined
def end_sending(s: State, which: int) -> None:
    """Take those that are through off a fair link."""
    run = s.run[0]
    link = s.links[which]
    goal = s.due[link.first]
    while link.active > 0 and s.due[link.first] <= goal + TOGETHER_BYTES:
        request = link.first
        link.first = pop(s.requests, s.due, request)
        link.active -= 1
        end_in(s, request, run.now_s + run.base_latency_s)
    link.sent_bytes = goal
    link.last_s = run.now_s
    plan_link(s, which)


@inlined
def end_in(s: State, request: int, time_s: float) -> None:
    """Let a transfer end at a time."""
    run = s.run[0]
    s.stamps[TRANSFER_END, request] = time_s
    s.due[request] = time_s
    run.in_transfer = push(s.requests, s.due, run.in_transfer, request)
    plan_first(s, run.transfers, run.in_transfer)


@inlined
def end_transfer(s: State) -> None:
    """Free the prefill side, let the decode side begin."""
    run = s.run[0]
    request = run.in_transfer
    run.in_transfer = pop(s.requests, s.due, request)
    plan_first(s, run.transfers, run.in_transfer)

    entry, decode = s.pools[0], s.pools[1]
    at = entry.first + s.counts[PREFILL_REPLICA, request]
    source = s.replicas[at]
    freed = blocks_of(int(s.requests[request].prompt), entry.block_tokens)
    source.fixed_blocks -= freed
    notes.moved(s, at, -freed)
    if source.end_s == inf and source.waiting != NOBODY:
        mark_to_start(s, at)

    at = decode.first + s.counts[DECODE_REPLICA, request]
    target = s.replicas[at]
    s.requests[request].sibling = NOBODY
    if target.ready == NOBODY:
        target.ready = request
    else:
        s.requests[target.last_ready].sibling = request
    target.last_ready = request
    if target.end_s == inf:
        mark_to_start(s, at)
    elif target.steps > 1 and target.batch < decode.max_batch_size:
        cut(s, at)
