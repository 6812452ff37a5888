"""One replica, simulated by jumping from one change of its batch to the next.

At an iteration's start the scheduler forms a batch:

1. transferred requests join the running ones while max_batch_size allows, in order of transfer;
2. decodes take one token each; while their blocks do not fit, the running request that is last in
   the queue's order is preempted: it frees its blocks and returns to the queue, to recompute the
   KV cache of the prompt and of the tokens decoded so far;
3. a prompt begun before gets its next chunk;
4. if nothing was preempted, waiting requests are admitted in the queue's order, as long as the
   first one's blocks fit, and batch size and tokens allow; if preemption left nothing to run, it
   starts again at 1.

With ``prefill_first`` 3 and 4 take whole prompts, the first even above max_batch_tokens, and come
before 2, which then waits until no prompt can be admitted.

An iteration that only decodes repeats itself until a sequence ends, blocks run out or something
is delivered, so all of these are one jump, with their time in closed form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

from simlib.serving.deployment import Pool
from simlib.serving.kv_cache import GrowingBlocks, blocks_of
from simlib.serving.ledger import Ledger
from simlib.serving.scheduler import OrderedQueue
from simlib.serving.timeline import Timeline

REQUEST_BITS: Final = 32
REQUEST_MASK: Final = (1 << REQUEST_BITS) - 1


class Replica:
    """State of one replica; `advance` moves it through time."""

    __slots__ = (
        "block",
        "blocked",
        "capacity",
        "chunked",
        "departed",
        "done",
        "end",
        "fixed_blocks",
        "fresh",
        "growing",
        "in_order",
        "index",
        "jump",
        "keys",
        "latency",
        "ledger",
        "max_size",
        "max_tokens",
        "now",
        "partial",
        "prefill_only",
        "progress",
        "queue",
        "ready",
        "remote",
        "stamp_first",
        "started",
        "timeline",
        "unreserved",
        "until_step",
        "watched",
    )

    def __init__(
        self,
        pool: Pool,
        index: int,
        ledger: Ledger,
        keys: Sequence[float],
        *,
        prefill_only: bool = False,
        remote: bool = False,
        timeline: Timeline | None = None,
    ) -> None:
        self.latency = pool.latency
        self.capacity = pool.capacity_blocks
        self.block = pool.block_tokens
        self.max_tokens = pool.max_batch_tokens
        self.max_size = pool.max_batch_size
        self.chunked = pool.policy == "chunked_prefill"
        self.in_order = pool.discipline == "fcfs"
        self.index = index
        self.ledger = ledger
        self.keys = keys
        self.prefill_only = prefill_only
        self.remote = remote
        """Whether requests come with their KV cache from a prefill replica."""
        self.stamp_first = len(ledger.first_token) > 0
        self.timeline = timeline
        self.queue: deque[int] | OrderedQueue = deque() if self.in_order else OrderedQueue(keys)
        self.ready: deque[int] = deque()
        """Transferred requests that have not joined the batch."""
        self.blocked = False
        """Whether the first waiting KV cache found no room, and none was freed since."""
        self.unreserved = 0
        """Waiting requests whose KV cache has no room here yet."""
        self.progress: dict[int, int] = {}
        """Decode steps done by each preempted request that has not resumed."""
        self.growing = GrowingBlocks(self.block)
        self.until_step: list[int] = []
        """Heap of (step after which a decoding request is done, request), packed in one number."""
        self.fixed_blocks = 0
        """Blocks of requests that do not decode: in prefill, in transfer or ready."""
        self.partial: tuple[int, int, int] | None = None
        """The prompt in progress: request, tokens done, tokens in all."""
        self.fresh: list[int] = []
        """Decoding requests without a first token."""
        self.now = inf
        """Time of the last change; infinite when there is nothing to start."""
        self.end = inf
        """End of the running jump, infinite when none runs."""
        self.jump = 0
        """Decode steps of the running jump; 0 if it only prefills."""
        self.done: list[tuple[int, int]] = []
        """Requests (and their tokens) whose prefill ends with the running iteration."""
        self.departed: list[int] = []
        """Requests that left the replica, if `watched`."""
        self.watched = prefill_only
        self.started = (0.0, 0, 0, 0)
        """For the timeline: start of the running jump, its prompt tokens, requests waiting, blocks
        held in its first iteration."""

    def advance(self, until_s: float) -> None:
        """Do all iteration ends at or before, and all starts before, `until_s`."""
        while True:
            if self.end <= until_s:
                if self.end == inf:
                    if self.now == inf:
                        return
                else:
                    self.complete()
            elif self.end != inf:
                return
            if self.now >= until_s:
                return
            self.start()

    def deliver(self, request: int, time_s: float) -> None:
        """Put a request that needs a prefill in the queue."""
        queue = self.queue
        was_empty = not queue
        queue.append(request)
        if self.end == inf:
            self.now = time_s
        elif (
            self.jump > 1
            and (was_empty or not self.in_order)
            and self.growing.sequences < self.max_size
        ):
            self.cut(time_s)

    def deliver_transferred(self, request: int, time_s: float) -> None:
        """Take a request whose KV cache has arrived."""
        self.ready.append(request)
        if self.end == inf:
            self.now = time_s
        elif self.jump > 1 and self.growing.sequences < self.max_size:
            self.cut(time_s)

    def release(self, blocks: int, time_s: float) -> None:
        """Free the blocks of a request whose transfer has ended."""
        self.fixed_blocks -= blocks
        if self.timeline is not None:
            self._note_move(self.timeline, time_s, -blocks)
        if self.end == inf and self.queue:
            self.now = time_s

    def steps_begun(self, time_s: float) -> int:
        """Return the decode steps of the running jump that begin before `time_s`."""
        jump = self.jump
        if self.end == inf or jump == 0:
            return 0
        if jump == 1:
            return 1
        batch, context = self.growing.sequences, self.growing.tokens
        run_s = self.latency.decode_run_s
        now = self.now
        steps = self.latency.decode_steps_within(batch, context, time_s - now)
        steps = min(max(steps, 1), jump)
        while steps < jump and now + run_s(batch, context, steps) < time_s:
            steps += 1
        return steps

    def cut(self, time_s: float) -> None:
        """End the running jump with the iteration that runs, or ends, at `time_s`."""
        steps = self.steps_begun(time_s)
        if steps < self.jump:
            growing = self.growing
            self.jump = steps
            self.end = self.now + self.latency.decode_run_s(
                growing.sequences, growing.tokens, steps
            )

    def complete(self) -> None:
        """End the running jump: tokens, completions, prefills done."""
        now = self.now = self.end
        self.end = inf
        self.blocked = False
        growing = self.growing
        ledger = self.ledger
        if self.timeline is not None:
            self._note(self.timeline)
        if self.jump:
            growing.advance(self.jump)
            heap = self.until_step
            limit = (growing.step + 1) << REQUEST_BITS
            while heap and heap[0] < limit:
                request = heappop(heap) & REQUEST_MASK
                growing.remove(ledger.prompt[request] + ledger.steps[request])
                ledger.finish[request] = now
                if self.watched:
                    self.departed.append(request)
        if self.done:
            self._end_prefills(now)
        if self.timeline is not None:
            self.timeline.left(self.fixed_blocks + growing.blocks())

    def _note(self, timeline: Timeline) -> None:
        growing = self.growing
        start, prefill_tokens, waiting, first_blocks = self.started
        batch = growing.sequences if self.jump else 0
        first = self.now
        if self.jump > 1:
            first = start + self.latency.decode_run_s(batch, growing.tokens, 1)
        blocks = self.fixed_blocks + growing.blocks(self.jump)
        timeline.note(
            int(self.remote),
            self.index,
            self.latency,
            (start, first, self.now),
            (
                self.jump,
                prefill_tokens,
                batch,
                growing.tokens if batch else 0,
                waiting,
                first_blocks,
                blocks,
            ),
            [entry & REQUEST_MASK for entry in self.until_step] if batch else (),
        )

    def _note_move(self, timeline: Timeline, time_s: float, taken: int) -> None:
        """Note blocks taken (or freed) for a transfer at a time when a jump may run."""
        after = self.fixed_blocks + self.growing.blocks(self.steps_begun(time_s))
        timeline.moved(int(self.remote), self.index, time_s, after - taken, after)

    def _end_prefills(self, now: float) -> None:
        ledger = self.ledger
        growing = self.growing
        progress = self.progress
        for request, tokens in self.done:
            steps = 0
            if progress and request in progress:
                steps = progress.pop(request)
            if not ledger.prefill_end[request] <= now:  # not yet stamped: NaN
                ledger.prefill_end[request] = now
                if self.timeline is not None and not (self.stamp_first or self.prefill_only):
                    self.timeline.emitted(request, now)
            if self.prefill_only:
                self.departed.append(request)
                continue
            self.fixed_blocks -= -(-tokens // self.block)
            left = ledger.steps[request] - steps
            if left == 0:
                ledger.finish[request] = now
                if self.watched:
                    self.departed.append(request)
                continue
            growing.add(tokens)
            heappush(self.until_step, (growing.step + left) << REQUEST_BITS | request)
            if steps == 0 and self.stamp_first:
                self.fresh.append(request)
        self.done = []

    def start(self) -> None:
        """Begin the next iteration, or jump, at `now`; with nothing to do, become idle."""
        if self.ready:
            self._join()
        chunks, preempted = self._form_batch()
        growing = self.growing
        now = self.now
        batch = growing.sequences
        if chunks:
            self.jump = 1 if self.chunked and batch else 0
            end = now + (
                self.latency.iteration_s(chunks, batch, growing.tokens)
                if self.jump
                else self.latency.iteration_s(chunks, 0, 0)
            )
        elif batch:
            self.jump = 1 if preempted else self._steps_alike()
            end = now + self.latency.decode_run_s(batch, growing.tokens, self.jump)
        elif preempted:
            self.start()  # those that were transferred, or the preempted ones from the start
            return
        else:
            self.now = inf
            return
        self.end = end
        if self.timeline is not None:
            held = self.fixed_blocks + growing.blocks(1 if self.jump else 0)
            self.started = (now, sum(new for new, _ in chunks), len(self.queue), held)
        if self.fresh and self.jump:
            self._stamp_fresh()

    def _form_batch(self) -> tuple[list[tuple[int, int]], bool]:
        """Return the chunks of prompts to work on, and whether room was made by preemption."""
        growing = self.growing
        preempted = False
        chunks: list[tuple[int, int]] = []
        if self.chunked:
            if growing.sequences and growing.blocks_at_most(1) > self.capacity - self.fixed_blocks:
                preempted = self._make_room()
            if self.queue or self.partial is not None:
                chunks = self._chunks(not preempted)
        else:
            if self.queue:
                chunks = self._whole_prompts()
            if not chunks and growing.sequences:
                preempted = self._make_room()
        return chunks, preempted

    def _steps_alike(self) -> int:
        """Return the decode steps until a sequence ends or blocks run out."""
        growing = self.growing
        steps = (self.until_step[0] >> REQUEST_BITS) - growing.step
        if steps > 1:
            steps = growing.steps_within(self.capacity - self.fixed_blocks, steps)
        return steps

    def _stamp_fresh(self) -> None:
        """Stamp the first token of those whose first decode step begins."""
        growing = self.growing
        now = self.now
        first = self.end
        if self.jump > 1:
            first = now + self.latency.decode_run_s(growing.sequences, growing.tokens, 1)
        ledger = self.ledger
        for request in self.fresh:
            ledger.decode_start[request] = now
            ledger.first_token[request] = first
        self.fresh = []

    def _join(self) -> None:
        growing = self.growing
        ledger = self.ledger
        room = self.max_size - growing.sequences - (self.partial is not None)
        while self.ready and room > 0:
            request = self.ready.popleft()
            held = ledger.prompt[request]
            self.fixed_blocks -= -(-held // self.block)
            growing.add(held)
            heappush(
                self.until_step, (growing.step + ledger.steps[request]) << REQUEST_BITS | request
            )
            self.fresh.append(request)
            room -= 1

    def _make_room(self) -> bool:
        """Preempt until the decodes can grow by one token; return whether any was preempted."""
        growing = self.growing
        preempted = False
        while growing.sequences and growing.blocks(1) > self.capacity - self.fixed_blocks:
            self._preempt_last()
            preempted = True
        return preempted

    def _preempt_last(self) -> None:
        keys = self.keys
        ledger = self.ledger
        growing = self.growing
        heap = self.until_step
        place = max(
            range(len(heap)),
            key=lambda at: (keys[heap[at] & REQUEST_MASK], heap[at] & REQUEST_MASK),
        )
        request = heap[place] & REQUEST_MASK
        partial = self.partial
        if partial is not None and (keys[partial[0]], partial[0]) > (keys[request], request):
            request = partial[0]
            self.partial = None
            self.fixed_blocks -= blocks_of(partial[2], self.block)
            self.progress.setdefault(request, 0)
        else:
            steps = ledger.steps[request] - ((heap[place] >> REQUEST_BITS) - growing.step)
            heap[place] = heap[-1]
            heap.pop()
            heapify(heap)
            growing.remove(ledger.prompt[request] + steps)
            self.progress[request] = steps
            if request in self.fresh:
                self.fresh.remove(request)
        ledger.preemptions[request] += 1
        self.blocked = False
        queue = self.queue
        earlier = []
        if self.in_order:
            # a transferred request may join, and be preempted, after an earlier one was preempted
            while queue and (keys[queue[0]], queue[0]) < (keys[request], request):
                earlier.append(queue.popleft())
        queue.appendleft(request)
        while earlier:
            queue.appendleft(earlier.pop())

    def _fits(self, blocks: int, steps_ahead: int) -> bool:
        free = self.capacity - self.fixed_blocks - blocks
        growing = self.growing
        return growing.blocks_at_most(steps_ahead) <= free or growing.blocks(steps_ahead) <= free

    def _chunks(self, admit: bool) -> list[tuple[int, int]]:
        """Fill an iteration with chunks: the prompt in progress, then waiting ones."""
        batch = self.growing.sequences
        budget = self.max_tokens - batch
        room = self.max_size - batch
        chunks: list[tuple[int, int]] = []
        partial = self.partial
        if partial is not None:
            request, before, tokens = partial
            new = min(tokens - before, budget)
            chunks.append((new, before))
            budget -= new
            room -= 1
            if before + new == tokens:
                self.done.append((request, tokens))
                self.partial = None
            else:
                self.partial = (request, before + new, tokens)
        queue = self.queue
        while admit and queue and budget > 0 and room > 0:
            tokens = self._admit(1 if batch else 0)
            if tokens == 0:
                break
            request = queue.popleft()
            new = min(tokens, budget)
            chunks.append((new, 0))
            budget -= new
            room -= 1
            if new == tokens:
                self.done.append((request, tokens))
            else:
                self.partial = (request, new, tokens)
        return chunks

    def _whole_prompts(self) -> list[tuple[int, int]]:
        """Fill an iteration with whole prompts."""
        room = self.max_size - self.growing.sequences
        budget = self.max_tokens
        chunks: list[tuple[int, int]] = []
        queue = self.queue
        while queue and room > 0:
            if chunks and self._prefill_tokens(queue[0]) > budget:
                break
            tokens = self._admit(0)
            if tokens == 0:
                break
            self.done.append((queue.popleft(), tokens))
            chunks.append((tokens, 0))
            budget -= tokens
            room -= 1
        return chunks

    def _prefill_tokens(self, request: int) -> int:
        tokens = self.ledger.prompt[request]
        return tokens + self.progress.get(request, 0) if self.progress else tokens

    def _admit(self, steps_ahead: int) -> int:
        """Give the first waiting request its blocks; return its tokens, 0 if it must wait."""
        request = self.queue[0]
        if self.remote and request not in self.progress:
            return 0
        tokens = self._prefill_tokens(request)
        blocks = -(-tokens // self.block)
        if not self._fits(blocks, steps_ahead):
            return 0
        self.fixed_blocks += blocks
        ledger = self.ledger
        if not ledger.prefill_start[request] <= self.now:
            ledger.prefill_start[request] = self.now
        return tokens

    def reserve(self, time_s: float) -> list[int]:
        """Give waiting KV caches their blocks, in order; return those that can be transferred."""
        reserved: list[int] = []
        if self.blocked:
            return reserved
        queue = self.queue
        growing = self.growing
        jump = self.jump if self.end != inf else 0
        begun = -1
        fixed_before = self.fixed_blocks
        while self.unreserved and queue[0] not in self.progress:
            blocks = blocks_of(self.ledger.prompt[queue[0]], self.block)
            free = self.capacity - self.fixed_blocks - blocks
            if growing.blocks_at_most(jump) > free:
                if begun < 0:
                    begun = self.steps_begun(time_s)
                if growing.blocks(begun) > free:
                    self.blocked = True
                    break
            self.fixed_blocks += blocks
            self.unreserved -= 1
            reserved.append(queue.popleft())
        if reserved and self.timeline is not None:
            self._note_move(self.timeline, time_s, self.fixed_blocks - fixed_before)
        if begun >= 0 and jump > 1 and growing.blocks(jump) > self.capacity - self.fixed_blocks:
            self.cut(time_s)
        return reserved
