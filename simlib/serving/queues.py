"""Queues in arrays: the calendar of next events, heaps of requests, heaps of numbers."""

from __future__ import annotations

from typing import Any

from simlib.compiling import compiled
from simlib.serving.state import NOBODY

# ---------------------------------------------------------------- the calendar


@compiled
def schedule(next_s: Any, winners: Any, place: int, time_s: float) -> None:
    """Set the time of a place's next event; of one time, the lowest place wins.

    A tournament: each inner node holds the winner of its two children, node 1 the earliest place.
    """
    next_s[place] = time_s
    node = (place + len(next_s)) >> 1
    while node > 0:
        left, right = winners[2 * node], winners[2 * node + 1]
        winner = right if next_s[right] < next_s[left] else left
        if winner != place and winner == winners[node]:
            return  # it won before, and still does
        winners[node] = winner
        node >>= 1


# ---------------------------------------------------------------- heaps of requests


@compiled
def merge(requests: Any, order: Any, one: int, other: int) -> int:
    """Return the first of two pairing heaps (Fredman et al., doi:10.1007/BF01840439), now one.

    By order, then by number; all links are in the requests, so a heap may hold any number.
    """
    if one == NOBODY:
        return other
    if other == NOBODY:
        return one
    if order[other] < order[one] or (order[other] == order[one] and other < one):
        one, other = other, one
    requests[other].sibling = requests[one].child
    requests[one].child = other
    return one


@compiled
def push(requests: Any, order: Any, first: int, request: int) -> int:
    """Add a request; return the first of the heap."""
    requests[request].child = NOBODY
    requests[request].sibling = NOBODY
    return int(merge(requests, order, first, request))


@compiled
def pop(requests: Any, order: Any, first: int) -> int:
    """Take out the first of the heap; return the next one."""
    pairs = NOBODY
    node = int(requests[first].child)
    while node != NOBODY:
        following = int(requests[node].sibling)
        after = NOBODY
        if following != NOBODY:
            after = int(requests[following].sibling)
            node = merge(requests, order, node, following)
        requests[node].sibling = pairs
        pairs = node
        node = after
    root = NOBODY
    while pairs != NOBODY:
        following = int(requests[pairs].sibling)
        root = merge(requests, order, root, pairs)
        pairs = following
    return root


# ---------------------------------------------------------------- heaps of numbers


@compiled
def sift_up(heap: Any, at: int) -> None:
    """Move a number up to its place."""
    number = heap[at]
    while at > 0:
        above = (at - 1) >> 1
        if heap[above] <= number:
            break
        heap[at] = heap[above]
        at = above
    heap[at] = number


@compiled
def sift_down(heap: Any, at: int, size: int) -> None:
    """Move a number down to its place in a heap of `size` numbers."""
    number = heap[at]
    below = 2 * at + 1
    while below < size:
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= number:
            break
        heap[at] = heap[below]
        at = below
        below = 2 * at + 1
    heap[at] = number


@compiled
def take_out(heap: Any, at: int, size: int) -> None:
    """Remove the number at a place of a heap of `size` numbers."""
    last = size - 1
    if at < last:
        heap[at] = heap[last]
        sift_down(heap, at, last)
        sift_up(heap, at)
