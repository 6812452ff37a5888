"""The common case in tight loops: first come, first served, replicas that do not interact.

A lane is one replica's whole run. Its loops make the decisions of `simlib.serving.replica`, with
the state in local variables and the decode-only iterations summed in place:
k steps of a batch of B with context C take ``k · (a_B + c · C) + c · B · k (k - 1) / 2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf, sqrt

from simlib.serving.deployment import Pool
from simlib.serving.ledger import Ledger
from simlib.serving.replica import REQUEST_BITS, REQUEST_MASK, Replica

Line = tuple[list[float], float]


def prefill_lane(requests: Sequence[int], pool: Pool, ledger: Ledger) -> list[int]:
    """Run a prefill replica whose KV cache never fills; return requests in order of their end."""
    arrival, prompt = ledger.arrival, ledger.prompt
    starts, ends = ledger.prefill_start, ledger.prefill_end
    iteration_s = pool.latency.iteration_s
    max_size, max_tokens = pool.max_batch_size, pool.max_batch_tokens
    whole = pool.policy == "prefill_first"
    left: list[int] = []
    head, count = 0, len(requests)
    request, before, tokens = -1, 0, 0  # the prompt in progress
    now = 0.0
    while head < count or request >= 0:
        budget = max_tokens
        chunks: list[tuple[int, int]] = []
        done = len(left)
        if request >= 0:
            new = tokens - before
            new = min(new, budget)
            chunks.append((new, before))
            budget -= new
            before += new
            if before == tokens:
                left.append(request)
                request = -1
        elif arrival[requests[head]] > now:
            now = arrival[requests[head]]
        room = max_size - len(chunks)
        while budget > 0 and room > 0 and head < count and request < 0:
            following = requests[head]
            if arrival[following] > now:
                break
            tokens = new = prompt[following]
            if new > budget:
                if not whole:
                    new = budget
                elif chunks:
                    break
            head += 1
            starts[following] = now
            chunks.append((new, 0))
            budget -= new
            room -= 1
            if new == tokens:
                left.append(following)
            else:
                request, before = following, new
        now += iteration_s(chunks, 0, 0)
        for at in range(done, len(left)):
            ends[left[at]] = now
    return left


def decode_lane(  # noqa: PLR0915 - one loop, its state in locals
    ready_s: Sequence[float],
    requests: Sequence[int],
    pool: Pool,
    ledger: Ledger,
    line: Line,
) -> None:
    """Run a decode replica whose KV cache never fills, on caches that are there at `ready_s`."""
    prompt, steps = ledger.prompt, ledger.steps
    starts, firsts, finish = ledger.decode_start, ledger.first_token, ledger.finish
    constants, slope = line
    max_size = pool.max_batch_size
    heap: list[int] = []
    batch = context = step = head = 0
    count = len(requests)
    now = 0.0
    following = ready_s[0] if count else inf
    while True:
        if following <= now and batch < max_size:
            joined = head
            while following <= now and batch < max_size:
                request = requests[head]
                heappush(heap, (step + steps[request]) << REQUEST_BITS | request)
                context += prompt[request]
                batch += 1
                head += 1
                following = ready_s[head] if head < count else inf
            first = constants[batch] + slope * context
            end = now + first
            for at in range(joined, head):
                request = requests[at]
                starts[request] = now
                firsts[request] = end
        elif batch == 0:
            if following == inf:
                return
            now = following
            continue
        else:
            first = constants[batch] + slope * context
        jump = (heap[0] >> REQUEST_BITS) - step
        half = 0.5 * slope * batch
        end = now + jump * (first + half * (jump - 1))
        if following < end and batch < max_size:
            base = first - half
            budget = following - now
            some = int(2.0 * budget / (base + sqrt(base * base + 4.0 * half * budget)))
            until = now + some * (first + half * (some - 1))
            while some < 1 or until < following:
                some += 1
                until = now + some * (first + half * (some - 1))
            if some < jump:
                jump = some
                end = until
        now = end
        step += jump
        context += jump * batch
        limit = (step + 1) << REQUEST_BITS
        while heap and heap[0] < limit:
            request = heappop(heap) & REQUEST_MASK
            finish[request] = now
            context -= prompt[request] + steps[request]
            batch -= 1


def mixed_lane(  # noqa: PLR0912, PLR0915 - one loop, its state in locals
    replica: Replica, requests: Sequence[int], line: Line
) -> None:
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
    count = len(requests)
    now = 0.0
    following = arrival[requests[0]] if count else inf
    request, before, tokens = -1, 0, 0  # the prompt in progress
    done: list[int] = []
    chunks: list[tuple[int, int]] = []
    while True:
        if request >= 0 or (following <= now and batch < max_size):
            budget = max_tokens - batch
            room = max_size - batch
            short = context + (slack + 1) * batch + fixed > room_tokens
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
                candidate = requests[head]
                size = prompt[candidate]
                held = size + (-size) % block
                if context + (slack + 1) * batch + fixed + held > room_tokens:
                    short = True
                    break
                head += 1
                following = arrival[requests[head]] if head < count else inf
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
                state = (now, batch, context, step, heap, fixed, request, before, tokens)
                now, batch, context, step, fixed, head = _step_by_step(
                    replica, requests, head, state, fresh
                )
                fresh = []
                request = -1
                following = arrival[requests[head]] if head < count else inf
                if now == inf:
                    return
                continue
            end = now + iteration_s(chunks, batch, context)
            chunks = []
            if fresh:
                _stamp(ledger, fresh, now, end)
                fresh = []
            step += 1
            context += batch
            now = end
        elif batch:
            jump = (heap[0] >> REQUEST_BITS) - step
            first = constants[batch] + slope * context
            half = 0.5 * slope * batch
            end = now + jump * (first + half * (jump - 1))
            if following < end and batch < max_size:
                base = first - half
                budget_s = following - now
                some = int(2.0 * budget_s / (base + sqrt(base * base + 4.0 * half * budget_s)))
                until = now + some * (first + half * (some - 1))
                while some < 1 or until < following:
                    some += 1
                    until = now + some * (first + half * (some - 1))
                if some < jump:
                    jump = some
                    end = until
            if context + (jump + slack) * batch > room_tokens:
                state = (now, batch, context, step, heap, 0, -1, 0, 0)
                now, batch, context, step, fixed, head = _step_by_step(
                    replica, requests, head, state, fresh
                )
                fresh = []
                following = arrival[requests[head]] if head < count else inf
                if now == inf:
                    return
                continue
            if fresh:
                _stamp(ledger, fresh, now, now + first)
                fresh = []
            step += jump
            context += jump * batch
            now = end
        elif following == inf:
            return
        else:
            now = following
            continue
        limit = (step + 1) << REQUEST_BITS
        while heap and heap[0] < limit:
            ended = heappop(heap) & REQUEST_MASK
            finish[ended] = now
            context -= prompt[ended] + steps[ended]
            batch -= 1
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
            if stamp_first:
                fresh += done
            done = []


def _stamp(ledger: Ledger, fresh: list[int], now: float, end: float) -> None:
    for request in fresh:
        ledger.decode_start[request] = now
        ledger.first_token[request] = end


def _step_by_step(
    replica: Replica,
    requests: Sequence[int],
    head: int,
    state: tuple[float, int, int, int, list[int], int, int, int, int],
    fresh: list[int],
) -> tuple[float, int, int, int, int, int]:
    """Let the replica go on from a lane's state until nothing waits there any more."""
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
    count = len(requests)
    while True:
        while head < count and arrival[requests[head]] <= replica.now:
            replica.queue.append(requests[head])
            head += 1
        replica.start()
        if replica.end == inf:
            break
        while head < count and arrival[requests[head]] < replica.end:
            replica.deliver(requests[head], arrival[requests[head]])
            head += 1
        replica.complete()
        if not replica.queue and replica.partial is None and not replica.fresh:
            break
    if replica.end == inf and replica.now == inf and head < count:
        replica.now = arrival[requests[head]]
    return replica.now, growing.sequences, growing.tokens, growing.step, 0, head


def _phases(ledger: Ledger, heap: list[int], block: int) -> list[int]:
    """Return the sequences by (tokens held - steps done) modulo the block."""
    phases = [0] * block
    for entry in heap:
        request = entry & REQUEST_MASK
        phases[
            (ledger.prompt[request] + ledger.steps[request] - (entry >> REQUEST_BITS)) % block
        ] += 1
    return phases
