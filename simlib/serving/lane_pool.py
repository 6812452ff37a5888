"""A pool of lanes behind its router: each is moved on only when a decision looks at it."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from functools import partial
from math import inf, nextafter

from simlib.serving.deployment import Pool
from simlib.serving.dispatch import Router
from simlib.serving.lanes import Lane, Line, decode_lane, mixed_lane, prefill_lane
from simlib.serving.ledger import Ledger
from simlib.serving.replica import Replica


class LanePool:
    """The lanes of one pool, and what is outstanding on them."""

    __slots__ = ("due", "lanes", "place", "router", "size")

    def __init__(
        self,
        lanes: Sequence[Lane],
        router: Router,
        place: MutableSequence[int],
        size: Callable[[int], int],
    ) -> None:
        self.lanes = lanes
        self.due = [inf] * len(lanes)
        """When something may happen on each lane if nothing more is delivered."""
        self.router = router
        self.place = place
        """The replica of each request, filled as they are routed."""
        self.size = size
        """Tokens of a request that count as outstanding."""

    @classmethod
    def mixed(
        cls, replicas: Sequence[Replica], ledger: Ledger, router: Router, line: Line
    ) -> LanePool:
        """Return a pool that does prefill and decode."""
        lanes = [Lane(partial(mixed_lane, replica=replica, line=line)) for replica in replicas]
        return cls(lanes, router, ledger.prefill_replica, ledger.tokens)

    @classmethod
    def prefill(cls, pool: Pool, ledger: Ledger, router: Router) -> LanePool:
        """Return a pool that only prefills."""
        loop = partial(prefill_lane, pool=pool, ledger=ledger)
        lanes = [Lane(loop) for _ in range(pool.replicas)]
        return cls(lanes, router, ledger.prefill_replica, ledger.prompt.__getitem__)

    @classmethod
    def decode(cls, pool: Pool, ledger: Ledger, router: Router, line: Line) -> LanePool:
        """Return a pool that only decodes."""
        loop = partial(decode_lane, pool=pool, ledger=ledger, line=line)
        lanes = [Lane(loop) for _ in range(pool.replicas)]
        return cls(lanes, router, ledger.decode_replica, ledger.tokens)

    @property
    def entered(self) -> list[list[int]]:
        """Requests of each replica, in the order of their delivery."""
        return [lane.entered for lane in self.lanes]

    def run(
        self,
        routed: Sequence[int],
        routed_s: Sequence[float],
        delivered: Sequence[int],
        ready_s: Sequence[float],
    ) -> None:
        """Run until everything has left.

        Parameters
        ----------
        routed
            Requests in the order in which the router sees them.
        routed_s
            By request: when that is.
        delivered
            The same requests in the order in which they reach their replica.
        ready_s
            By request: when that is; not before it is routed.
        """
        lanes, place = self.lanes, self.place
        if self.router.stateless:
            for request, at in zip(routed, self.router.choose_all(routed), strict=True):
                place[request] = at
            for request in delivered:
                lanes[place[request]].entered.append(request)
        else:
            self._run_looking(routed, routed_s, delivered, ready_s)
        for lane in lanes:
            lane.advance(inf)

    def _run_looking(
        self,
        routed: Sequence[int],
        routed_s: Sequence[float],
        delivered: Sequence[int],
        ready_s: Sequence[float],
    ) -> None:
        """Let the router see what has left by each request's time."""
        deliver, end, route = self.deliver, self.end, self.route
        coming = iter(delivered)
        upcoming = next(coming, -1)
        for request in routed:
            now = routed_s[request]
            while (ready := ready_s[upcoming]) < now:
                deliver(upcoming, ready)
                upcoming = next(coming)  # this request is still to come
            end(now, now)
            route(request)
        while upcoming >= 0:
            deliver(upcoming, ready_s[upcoming])
            upcoming = next(coming, -1)

    # -- one time after the other

    def end(self, now: float, horizon: float) -> list[int]:
        """Do all that ends by `now`; return those that left, by replica, no longer outstanding.

        With a horizon after `now` the replicas concerned begin their next iterations, too.
        """
        gone: list[int] = []
        due = self.due
        for at, time in enumerate(due):
            if time <= now:
                lane = self.lanes[at]
                due[at] = lane.advance(horizon)
                left = lane.left
                if left:
                    if not self.router.stateless:
                        self.router.leave(at, len(left), sum(map(self.size, left)))
                    gone += left
                    left.clear()
        return gone

    def route(self, request: int) -> None:
        """Choose a request's replica; it is outstanding there from now on."""
        router = self.router
        self.place[request] = router.choose(request, 0 if router.stateless else self.size(request))

    def deliver(self, request: int, now: float) -> None:
        """Hand a request to its replica."""
        at = self.place[request]
        self.lanes[at].entered.append(request)
        self.due[at] = min(self.due[at], now)

    def start(self, now: float) -> None:
        """Begin what begins at `now`, once all that comes by then is delivered."""
        due = self.due
        for at, time in enumerate(due):
            if time <= now:
                due[at] = self.lanes[at].advance(nextafter(now, inf))
