"""Links that carry KV caches: one at a time, or all at once with equal shares."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import Final

TOGETHER_BYTES: Final = 1e-6
"""Transfers on a fair link that are this close to their last byte end together: rounding alone
does not order them."""


class FifoLink:
    """One transfer at a time, in order of request; ends are known at once."""

    __slots__ = ("bandwidth", "free_s")

    def __init__(self, bandwidth_bytes_per_s: float) -> None:
        self.bandwidth = bandwidth_bytes_per_s
        self.free_s = 0.0
        """When all bytes asked for so far have been sent."""

    def send(self, time_s: float, size_bytes: float) -> tuple[float, float]:
        """Return when a transfer asked for at `time_s` begins, and when its last byte is sent."""
        start = self.free_s if self.free_s > time_s else time_s
        self.free_s = start + size_bytes / self.bandwidth
        return start, self.free_s


class FairLink:
    """All transfers at once, each with an equal share of the bandwidth (processor sharing).

    A virtual clock counts the bytes that every transfer present has been sent; a transfer is done
    when the clock has moved on by its size.
    """

    __slots__ = ("active", "bandwidth", "clock_bytes", "last_s")

    def __init__(self, bandwidth_bytes_per_s: float) -> None:
        self.bandwidth = bandwidth_bytes_per_s
        self.active: list[tuple[float, int]] = []
        self.clock_bytes = 0.0
        self.last_s = 0.0

    def send(self, time_s: float, request: int, size_bytes: float) -> None:
        """Begin a transfer."""
        if self.active:
            share = self.bandwidth / len(self.active)
            self.clock_bytes += (time_s - self.last_s) * share
        else:
            self.clock_bytes = 0.0
        self.last_s = time_s
        heappush(self.active, (self.clock_bytes + size_bytes, request))

    def next_s(self) -> float:
        """Return when the next transfer is done if none is added."""
        if not self.active:
            return inf
        left = max(self.active[0][0] - self.clock_bytes, 0.0)
        return self.last_s + left / (self.bandwidth / len(self.active))

    def pop(self, time_s: float) -> list[int]:
        """Return the transfers that are done at `time_s`, which is `next_s`, by request."""
        goal = self.active[0][0]
        done = []
        while self.active and self.active[0][0] <= goal + TOGETHER_BYTES:
            done.append(heappop(self.active)[1])
        self.clock_bytes = goal
        self.last_s = time_s
        return sorted(done)
