"""The order in which a replica takes requests: batching policies and queue disciplines.

Policies
    ``chunked_prefill``: every iteration decodes all running sequences and fills the rest of
    max_batch_tokens with chunks of prompts (Sarathi-Serve, OSDI 2024, arXiv:2403.02310; vLLM V1).
    ``prefill_first``: an iteration takes whole prompts if any fits, else decodes (vLLM V0).

Disciplines order the waiting requests of a replica by a key (arrival, prompt tokens, TTFT deadline
or priority class: `simlib.serving.dispatch.entry_keys`), smallest first, ties by request number;
the running request with the largest key is the first to be preempted.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Literal

Policy = Literal["chunked_prefill", "prefill_first"]
Discipline = Literal["fcfs", "sjf", "edf", "priority"]


class OrderedQueue:
    """Waiting requests by key; has the methods of a deque that replicas use."""

    __slots__ = ("_heap", "_keys")

    def __init__(self, keys: Sequence[float]) -> None:
        self._keys = keys
        self._heap: list[tuple[float, int]] = []

    def append(self, request: int) -> None:
        """Add a request at its place."""
        heappush(self._heap, (self._keys[request], request))

    appendleft = append

    def popleft(self) -> int:
        """Remove and return the first request."""
        return heappop(self._heap)[1]

    def __getitem__(self, index: int) -> int:
        """Return the first request; there is no other access."""
        return self._heap[index][1]

    def __len__(self) -> int:
        return len(self._heap)
