"""Links that carry KV caches: one at a time, or all at once with equal shares."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import Final

from simlib.serving.deployment import Disaggregated
from simlib.serving.ledger import Ledger

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


class Links:
    """All links of a deployment: one per prefill replica, or one that they share."""

    __slots__ = ("_base_s", "_config", "_ledger", "_token_bytes", "fair", "fifo", "is_fair")

    def __init__(self, deployment: Disaggregated, ledger: Ledger) -> None:
        config = deployment.link
        count = 1 if config.scope == "shared" else deployment.prefill.replicas
        self.is_fair = config.contention == "fair"
        self.fifo = [FifoLink(config.bandwidth_bytes_per_s) for _ in range(count)]
        self.fair = [FairLink(config.bandwidth_bytes_per_s) for _ in range(count)]
        self._config = config
        self._base_s = config.base_latency_s
        self._token_bytes = deployment.prefill.latency.kv_bytes_per_token
        self._ledger = ledger

    def source(self, request: int) -> int:
        """Return the index of the link that a request's KV cache takes."""
        return self._ledger.prefill_replica[request] if len(self.fifo) > 1 else 0

    def _size_bytes(self, request: int) -> float:
        """Return what is left to send when a request's prefill has ended."""
        ledger = self._ledger
        size = self._token_bytes * ledger.prompt[request]
        if self._config.overlap_layers:
            took = ledger.prefill_end[request] - ledger.prefill_start[request]
            size = self._config.exposed_bytes(size, took)
        return size

    def send(self, request: int, now: float) -> float:
        """Ask a fifo link for a transfer, and stamp it; return its end."""
        ledger = self._ledger
        start, sent = self.fifo[self.source(request)].send(now, self._size_bytes(request))
        end = sent + self._base_s
        ledger.transfer_start[request] = start
        ledger.transfer_end[request] = end
        return end

    def share(self, request: int, now: float) -> None:
        """Begin a transfer on a fair link."""
        self._ledger.transfer_start[request] = now
        self.fair[self.source(request)].send(now, request, self._size_bytes(request))

    def pop(self, source: int, now: float) -> list[int]:
        """Stamp and return the transfers that a fair link is through with at `now`."""
        through = self.fair[source].pop(now)
        for request in through:
            self._ledger.transfer_end[request] = now + self._base_s
        return through
