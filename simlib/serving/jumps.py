"""The time of many decode-only iterations of an unchanged batch, in closed form.

Each is longer than the one before by the same time, as every sequence grows by a token: n of them
take ``n a + g n (n - 1) / 2`` seconds. A table is linear in pieces, and summed piece by piece.
"""

from __future__ import annotations

from math import inf
from typing import Any

from simlib.compiling import compiled, inlined
from simlib.serving.policies import decode_line
from simlib.serving.state import State


@inlined
def decode_s(replica: Any, formula: int, parameters: Any, steps: int) -> tuple[float, float]:
    """Return the seconds of the first of so many iterations, and of all, at least 1."""
    batch, context = replica.batch, replica.context
    first_s, growth_s, piece = decode_line(formula, parameters, batch, context)
    count = min(piece, steps)
    seconds = count * (first_s + 0.5 * growth_s * (count - 1))
    while count < steps:
        context += piece * batch
        line_s, growth_s, piece = decode_line(formula, parameters, batch, context)
        piece = min(piece, steps - count)
        seconds += piece * (line_s + 0.5 * growth_s * (piece - 1))
        count += piece
    return first_s, seconds


@inlined
def steps_begun(s: State, at: int) -> int:
    """Return the decode steps of the running jump that have begun before now."""
    replica = s.replicas[at]
    if replica.end_s == inf or replica.steps <= 1:
        return 0 if replica.end_s == inf else int(replica.steps)
    formula, parameters = s.pools[replica.pool].formula, s.parameters[replica.pool]
    return int(steps_before(replica, formula, parameters, s.run[0].now_s))


@compiled
def steps_before(replica: Any, formula: int, parameters: Any, time_s: float) -> int:
    """Return how many steps of a jump of several begin before a time, at least 1."""
    batch, context, start_s = replica.batch, replica.context, replica.start_s
    steps, spent_s = 0, 0.0
    while True:
        first_s, growth_s, piece = decode_line(formula, parameters, batch, context)
        half_s = 0.5 * growth_s
        piece = min(piece, replica.steps - steps)
        whole_s = spent_s + piece * (first_s + half_s * (piece - 1))
        if steps + piece == replica.steps or start_s + whole_s >= time_s:
            break
        steps += piece
        context += piece * batch
        spent_s = whole_s
    # the root of a quadratic, without cancellation; then the very sums that give the jump's end
    linear = first_s - half_s
    left_s = max(time_s - start_s - spent_s, 0.0)
    root = (linear * linear + 4.0 * half_s * left_s) ** 0.5
    count = min(max(int(2.0 * left_s / (linear + root)), 1), piece)
    while count < piece and start_s + (spent_s + count * (first_s + half_s * (count - 1))) < time_s:
        count += 1
    return int(steps + count)


@compiled
def shorten(replica: Any, formula: int, parameters: Any, time_s: float) -> bool:
    """End a jump of several steps with the one that runs, or ends, at a time, if it goes on."""
    steps = steps_before(replica, formula, parameters, time_s)
    if steps == replica.steps:
        return False
    replica.steps = steps
    replica.end_s = replica.start_s + decode_s(replica, formula, parameters, steps)[1]
    return True
