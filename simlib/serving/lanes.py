"""The common case in tight loops: first come, first served, iterations linear in the context.

A lane is one replica's whole run as a generator. Its loop makes the decisions of
`simlib.serving.replica` with the state in local variables; the decode-only iterations are summed
in place: k steps of a batch of B with context C take
``k · (a_B + c · C) + c · B · k (k - 1) / 2``.

A lane is sent a horizon: everything delivered before it is in the lane's list `entered`. The lane
does all iteration ends at or before the horizon and all starts before it. Then it yields when it
has to be sent the next one: at the end of the jump that runs, at the start that waits, or never
(infinity) if it is idle. Deliveries elsewhere therefore never split its jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from heapq import heappop, heappush
from math import inf, sqrt

from simlib.serving.deployment import Pool
from simlib.serving.ledger import Ledger
from simlib.serving.replica import REQUEST_BITS, REQUEST_MASK, Replica

Line = tuple[list[float], float]
Steps = Generator[float, float, None]
"""What a lane's loop is: yields when it is due, is sent the horizon."""


class Lane:
    """One replica's run: what entered it, what left it, and how to move it on."""

    __slots__ = ("advance", "entered", "left")

    def __init__(self, loop: Callable[[list[int], list[int]], Steps]) -> None:
        self.entered: list[int] = []
        """Requests delivered so far, in order."""
        self.left: list[int] = []
        """Requests that left; whoever reads them may clear the list."""
        steps = loop(self.entered, self.left)
        next(steps)
        self.advance = steps.send
        """Move on to a horizon; returns when the lane is due next."""


def prefill_lane(  # noqa: PLR0912, PLR0915 - one loop, its state in locals
    entered: list[int], left: list[int], pool: Pool, ledger: Ledger
) -> Steps:
    """Run a prefill replica whose KV cache never fills; requests leave in order of entry."""
    arrival, prompt = ledger.arrival, ledger.prompt
    starts, ends = ledger.prefill_start, ledger.prefill_end
    iteration_s = pool.latency.iteration_s
    max_size, max_tokens = pool.max_batch_size, pool.max_batch_tokens
    whole = pool.policy == "prefill_first"
    head = 0
    request, before, tokens = -1, 0, 0  # the prompt in progress
    now = 0.0
    following = inf
    horizon = yield inf
    while True:
        if following == inf and head < len(entered):
            following = arrival[entered[head]]
        if now >= horizon:
            horizon = yield now
            continue
        if request < 0 and following > now:
            if following == inf:
                horizon = yield inf
            else:
                now = following
            continue
        budget = max_tokens
        chunks: list[tuple[int, int]] = []
        done: list[int] = []
        if request >= 0:
            new = tokens - before
            new = min(new, budget)
            chunks.append((new, before))
            budget -= new
            before += new
            if before == tokens:
                done.append(request)
                request = -1
        room = max_size - len(chunks)
        while following <= now and budget > 0 and room > 0 and request < 0:
            candidate = entered[head]
            tokens = new = prompt[candidate]
            if new > budget:
                if not whole:
                    new = budget
                elif chunks:
                    break
            head += 1
            following = arrival[entered[head]] if head < len(entered) else inf
            starts[candidate] = now
            chunks.append((new, 0))
            budget -= new
            room -= 1
            if new == tokens:
                done.append(candidate)
            else:
                request, before = candidate, new
        now += iteration_s(chunks, 0, 0)
        while now > horizon:
            horizon = yield now
        for candidate in done:
            ends[candidate] = now
        left += done


def decode_lane(  # noqa: PLR0912, PLR0915 - one loop, its state in locals
    entered: list[int], left: list[int], pool: Pool, ledger: Ledger, line: Line
) -> Steps:
    """Run a decode replica whose KV cache never fills, on caches in order of `transfer_end`."""
    prompt, steps, ready = ledger.prompt, ledger.steps, ledger.transfer_end
    starts, firsts, finish = ledger.decode_start, ledger.first_token, ledger.finish
    constants, slope = line
    max_size = pool.max_batch_size
    heap: list[int] = []
    batch = context = step = head = 0
    now = 0.0
    following = inf
    horizon = yield inf
    while True:
        if following == inf and head < len(entered):
            following = ready[entered[head]]
        if now >= horizon:
            horizon = yield now
            continue
        joined = head
        while following <= now and batch < max_size:
            request = entered[head]
            heappush(heap, (step + steps[request]) << REQUEST_BITS | request)
            context += prompt[request]
            batch += 1
            head += 1
            following = ready[entered[head]] if head < len(entered) else inf
        if batch == 0:
            if following == inf:
                horizon = yield inf
            else:
                now = following
            continue
        first = constants[batch] + slope * context
        if joined < head:
            for request in entered[joined:head]:
                starts[request] = now
                firsts[request] = now + first
        jump = (heap[0] >> REQUEST_BITS) - step
        half = 0.5 * slope * batch
        end = now + jump * (first + half * (jump - 1))
        known = following < inf
        while True:
            if known and following < end and batch < max_size:
                jump = _steps_to(following, now, first, half, jump)
                end = now + jump * (first + half * (jump - 1))
            if end <= horizon:
                break
            horizon = yield end
            known = following == inf and head < len(entered)
            if known:
                following = ready[entered[head]]
        now = end
        step += jump
        context += jump * batch
        limit = (step + 1) << REQUEST_BITS
        while heap and heap[0] < limit:
            request = heappop(heap) & REQUEST_MASK
            finish[request] = now
            context -= prompt[request] + steps[request]
            batch -= 1
            left.append(request)


def mixed_lane(  # noqa: PLR0912, PLR0915 - one loop, its state in locals
    entered: list[int], left: list[int], replica: Replica, line: Line
) -> Steps:
    """Run a replica that prefills in chunks and decodes; where blocks run short, step by step."""
    ledger = replica.ledger
    arrival, prompt, steps = ledger.arrival, ledger.prompt, ledger.steps
    starts, ends, finish = ledger.prefill_start, ledger.prefill_end, ledger.finish
    constants, slope = line
    iteration_s = replica.latency.iteration_s
    max_size, max_tokens = replica.max_size, replica.max_tokens
    block = replica.block
    room_tokens = replica.capacity * block
    slack = block - 1
    stamp_first = replica.stamp_first
    heap: list[int] = []
    fresh: list[int] = []
    batch = context = step = head = 0
    fixed = 0  # tokens in blocks of the prompts in the iteration
    now = 0.0
    following = inf
    request, before, tokens = -1, 0, 0  # the prompt in progress
    done: list[int] = []
    chunks: list[tuple[int, int]] = []
    horizon = yield inf
    while True:
        if following == inf and head < len(entered):
            following = arrival[entered[head]]
        if now >= horizon:
            horizon = yield now
            continue
        if request >= 0 or (following <= now and batch < max_size):
            budget = max_tokens - batch
            room = max_size - batch
            short = context + block * batch + fixed > room_tokens
            mark = (head, fixed, request, before)
            if request >= 0 and not short:
                new = tokens - before
                new = min(new, budget)
                chunks.append((new, before))
                budget -= new
                room -= 1
                if before + new == tokens:
                    done.append(request)
                    request = -1
                before += new
            while following <= now and budget > 0 and room > 0 and not short:
                candidate = entered[head]
                size = prompt[candidate]
                held = size + (-size) % block
                if context + block * batch + fixed + held > room_tokens:
                    short = True
                    break
                head += 1
                following = arrival[entered[head]] if head < len(entered) else inf
                fixed += held
                starts[candidate] = now
                room -= 1
                if size > budget:
                    chunks.append((budget, 0))
                    request, before, tokens = candidate, budget, size
                    budget = 0
                else:
                    chunks.append((size, 0))
                    budget -= size
                    done.append(candidate)
            if short:
                # the bound does not decide: let the replica form this batch from the start
                head, fixed, request, before = mark
                chunks = []
                done = []
                tokens = prompt[request] if request >= 0 else 0
                jump = 0
            else:
                end = now + iteration_s(chunks, batch, context)
                chunks = []
                if fresh:
                    _stamp(ledger, fresh, now, end)
                    fresh = []
                while end > horizon:
                    horizon = yield end
                jump = 1
        elif batch:
            jump = (heap[0] >> REQUEST_BITS) - step
            first = constants[batch] + slope * context
            half = 0.5 * slope * batch
            end = now + jump * (first + half * (jump - 1))
            known = following < inf
            while True:
                if known and following < end and batch < max_size:
                    jump = _steps_to(following, now, first, half, jump)
                    end = now + jump * (first + half * (jump - 1))
                if context + (jump + slack) * batch > room_tokens:
                    jump = 0
                    break
                if end <= horizon:
                    break
                horizon = yield end
                known = following == inf and head < len(entered)
                if known:
                    following = arrival[entered[head]]
            if fresh and jump:
                _stamp(ledger, fresh, now, now + first)
                fresh = []
        else:
            if following == inf:
                horizon = yield inf
            else:
                now = following
            continue
        if jump == 0:  # blocks may run short
            state = (now, batch, context, step, heap, fixed, request, before, tokens)
            now, batch, context, step, head, horizon = yield from _step_by_step(
                replica, entered, left, head, state, fresh, horizon
            )
            fixed = 0
            fresh = []
            request = -1
            following = inf
            continue
        step += jump
        context += jump * batch
        now = end
        limit = (step + 1) << REQUEST_BITS
        while heap and heap[0] < limit:
            ended = heappop(heap) & REQUEST_MASK
            finish[ended] = now
            context -= prompt[ended] + steps[ended]
            batch -= 1
            left.append(ended)
        if done:
            for ended in done:
                ends[ended] = now
                size = prompt[ended]
                fixed -= size + (-size) % block
                if steps[ended]:
                    heappush(heap, (step + steps[ended]) << REQUEST_BITS | ended)
                    batch += 1
                    context += size
                else:
                    finish[ended] = now
                    left.append(ended)
            if stamp_first:
                fresh += done
            done = []


def _steps_to(time_s: float, now: float, first: float, half: float, most: int) -> int:
    """Return the fewest steps, up to `most`, that end at or after `time_s`.

    The root of ``half · k² + (first - half) · k = time_s - now`` in its form without cancellation,
    rounded down and corrected by the very sums that the lanes use.
    """
    base = first - half
    budget = time_s - now
    steps = int(2.0 * budget / (base + sqrt(base * base + 4.0 * half * budget)))
    while steps < 1 or now + steps * (first + half * (steps - 1)) < time_s:
        steps += 1
    return min(steps, most)


def _stamp(ledger: Ledger, fresh: list[int], now: float, end: float) -> None:
    for request in fresh:
        ledger.decode_start[request] = now
        ledger.first_token[request] = end


def _step_by_step(
    replica: Replica,
    entered: Sequence[int],
    left: list[int],
    head: int,
    state: tuple[float, int, int, int, list[int], int, int, int, int],
    fresh: list[int],
    horizon: float,
) -> Generator[float, float, tuple[float, int, int, int, int, float]]:
    """Let the replica go on from a lane's state until nothing waits there any more."""
    replica.watched = True
    now, batch, context, step, heap, fixed, request, before, tokens = state
    ledger = replica.ledger
    arrival = ledger.arrival
    growing = replica.growing
    growing.restore(step, batch, context, _phases(ledger, heap, replica.block))
    replica.until_step = heap
    replica.fixed_blocks = fixed // replica.block
    replica.partial = (request, before, tokens) if request >= 0 else None
    replica.fresh = fresh
    replica.now, replica.end = now, inf
    while True:
        while now >= horizon:
            horizon = yield now
        while head < len(entered) and arrival[entered[head]] <= now:
            replica.queue.append(entered[head])
            head += 1
        replica.start()
        if replica.end == inf:
            break
        while True:
            while head < len(entered) and arrival[entered[head]] < replica.end:
                replica.deliver(entered[head], arrival[entered[head]])
                head += 1
            if replica.end <= horizon:
                break
            horizon = yield replica.end
        replica.complete()
        now = replica.now
        left += replica.departed
        replica.departed.clear()
        if not replica.queue and replica.partial is None and not replica.fresh:
            break
    return now, growing.sequences, growing.tokens, growing.step, head, horizon


def _phases(ledger: Ledger, heap: list[int], block: int) -> list[int]:
    """Return the sequences by (tokens held - steps done) modulo the block."""
    phases = [0] * block
    for entry in heap:
        request = entry & REQUEST_MASK
        phases[
            (ledger.prompt[request] + ledger.steps[request] - (entry >> REQUEST_BITS)) % block
        ] += 1
    return phases
