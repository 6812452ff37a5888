"""What replicas do over time, noted on request: batches, KV occupancy, gaps between tokens.

Hand a `Timeline` to `simlib.serving.cluster.simulate`. It notes every jump (iterations alike), not
every iteration, and still knows each gap between two tokens exactly: within a jump all sequences
share the iterations, and only the first gap of a jump can differ between them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import COLUMN_NAMES, Floats, RequestRecords
from simlib.latency.protocol import LatencyModel, decode_lines

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length."""

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, mask: NDArray[np.bool_]) -> Self:
        """Return the rows where `mask` is true."""
        return type(self)(**{name: column[mask] for name, column in self.columns().items()})


@dataclass(frozen=True, slots=True)
class Jumps(Table):
    """Columns, a row per jump, in the order in which replicas ended them."""

    pool: Ints
    """0 where requests arrive, 1 for the decode pool."""
    replica: Ints
    start_s: Floats
    end_s: Floats
    steps: Ints
    """Decode steps of each sequence; 0 if only prompts were worked on."""
    prefill_tokens: Ints
    decode_batch: Ints
    decode_context: Ints
    """Tokens of context of all decoding sequences at the start."""
    waiting: Ints
    """Requests in the queue at the start."""
    first_blocks: Ints
    """Blocks of KV cache held in the first iteration."""
    blocks: Ints
    """Blocks of KV cache held at the end, before completions free theirs."""
    left_blocks: Ints
    """Blocks held after that."""


@dataclass(frozen=True, slots=True)
class Moves(Table):
    """Columns, a row for each time that blocks are taken or freed between jumps' starts and ends.

    Prefill replicas free a KV cache when it has been transferred, decode replicas reserve for it.
    """

    pool: Ints
    replica: Ints
    time_s: Floats
    before: Ints
    """Blocks held until then."""
    after: Ints


@dataclass(frozen=True, slots=True)
class Gaps(Table):
    """Columns, a row per run of gaps between tokens, each longer than the last by the same time."""

    time_s: Floats
    """When the first gap of the run ends."""
    gap_s: Floats
    """The first gap."""
    growth_s: Floats
    """What each gap is longer than the one before."""
    count: Ints
    """Gaps in the run, one after the other."""
    sequences: Ints
    """Requests whose tokens have these very gaps."""

    def each(self) -> tuple[Floats, Floats, Ints]:
        """Return the time at which each gap ends, its seconds, and how many requests have it."""
        row = np.repeat(np.arange(len(self.count)), self.count)
        ends = np.cumsum(self.count, dtype=np.int64)
        step = np.arange(len(row)) - np.repeat(ends - self.count, self.count)
        gap_s, growth_s = self.gap_s[row], self.growth_s[row]
        time_s = self.time_s[row] + step * (gap_s + 0.5 * growth_s * (step + 1))
        return time_s, gap_s + step * growth_s, self.sequences[row].astype(np.int64)


@dataclass(frozen=True, slots=True)
class RunTimeline:
    """All that one run's timeline holds."""

    jumps: Jumps
    moves: Moves
    gaps: Gaps
    capacity_blocks: Ints
    """Blocks of KV cache of a replica, by pool."""

    def until(self, time_s: float) -> RunTimeline:
        """Return what begins before a time, and moves as long as these jumps last."""
        jumps = self.jumps.select(self.jumps.start_s < time_s)
        last_s = jumps.end_s.max(initial=time_s)
        return RunTimeline(
            jumps,
            self.moves.select(self.moves.time_s < last_s),
            self.gaps.select(self.gaps.time_s < time_s),
            self.capacity_blocks,
        )


@dataclass(frozen=True, slots=True)
class TimedRecords(RequestRecords):
    """The records of a run, and its timeline. A selection of requests has none."""

    timeline: RunTimeline

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of the records by name, in order."""
        return {name: getattr(self, name) for name in COLUMN_NAMES}


class Timeline:
    """Notes of one run; make a new one for each."""

    def __init__(self) -> None:
        self._shapes = array("q")
        self._times = array("d")
        self._left = array("q")
        self._moves = array("q")
        self._move_times = array("d")
        self._first_gaps = array("d")
        self._sharing = array("q")
        self._batches: dict[tuple[int, int], tuple[set[int], float]] = {}
        """By replica: who decoded last, and when that jump ended."""
        self._last_token_s: dict[int, float] = {}
        """Of requests that have a token and decoded elsewhere, or not, in the last jump."""
        self._latency: dict[int, LatencyModel] = {}

    def note(
        self,
        pool: int,
        replica: int,
        latency: LatencyModel,
        span_s: tuple[float, float, float],
        shape: tuple[int, int, int, int, int, int, int],
        decoding: Iterable[int],
    ) -> None:
        """Note a jump that ends.

        Parameters
        ----------
        pool, replica, latency
            Who.
        span_s
            Its start, the end of its first iteration, and its end.
        shape
            Steps, prefill tokens, decode batch, decode context, waiting, first blocks, blocks.
        decoding
            Requests that decoded.
        """
        self._times.extend(span_s)
        self._shapes.extend((pool, replica, *shape))
        self._latency[pool] = latency
        batch = set(decoding)
        if batch:
            self._note_first_gaps((pool, replica), span_s[1], span_s[2], batch)

    def _note_first_gaps(
        self, who: tuple[int, int], first_s: float, end_s: float, batch: set[int]
    ) -> None:
        """Note the gaps that the jump's first iteration ends: most requests share theirs."""
        previous, previous_s = self._batches.get(who, (set(), 0.0))
        joined = batch - previous
        last = self._last_token_s
        for request in previous - batch:  # done, or preempted and back later
            last[request] = previous_s
        if len(joined) < len(batch):
            self._first_gaps.extend((first_s, first_s - previous_s))
            self._sharing.append(len(batch) - len(joined))
        for request in joined:
            if request in last:
                self._first_gaps.extend((first_s, first_s - last.pop(request)))
                self._sharing.append(1)
        self._batches[who] = batch, end_s

    def left(self, blocks: int) -> None:
        """Note the blocks that are still held after the jump noted last."""
        self._left.append(blocks)

    def moved(self, pool: int, replica: int, time_s: float, before: int, after: int) -> None:
        """Note that blocks were taken or freed for a transfer."""
        self._move_times.append(time_s)
        self._moves.extend((pool, replica, before, after))

    def emitted(self, request: int, time_s: float) -> None:
        """Note a first token that a prefill emitted."""
        self._last_token_s[request] = time_s

    def jumps(self) -> Jumps:
        """Return the jumps."""
        times = np.frombuffer(self._times).reshape(-1, 3)
        pool, replica, *shape = np.frombuffer(self._shapes, np.int64).reshape(-1, 9).T
        shape.append(np.frombuffer(self._left, np.int64))
        return Jumps(pool, replica, times[:, 0], times[:, 2], *shape)

    def moves(self) -> Moves:
        """Return the blocks taken and freed for transfers."""
        pool, replica, before, after = np.frombuffer(self._moves, np.int64).reshape(-1, 4).T
        return Moves(pool, replica, np.frombuffer(self._move_times), before, after)

    def gaps(self) -> Gaps:
        """Return the gaps between consecutive tokens of each request."""
        time_s, gap_s = np.frombuffer(self._first_gaps).reshape(-1, 2).T
        sharing = np.frombuffer(self._sharing, np.int64)
        once = np.ones(len(sharing), np.int64)
        runs = [Gaps(time_s, gap_s, np.zeros(len(sharing)), once, sharing)]
        jumps = self.jumps()
        first_s = np.frombuffer(self._times).reshape(-1, 3)[:, 1]
        for pool, latency in self._latency.items():
            rows = np.flatnonzero((jumps.pool == pool) & (jumps.steps > 1))
            shapes = (jumps.decode_batch[rows], jumps.decode_context[rows], jumps.steps[rows])
            runs.append(_later_gaps(latency, first_s[rows], *shapes))
        columns = zip(*(run.columns().values() for run in runs), strict=True)
        return Gaps(*map(np.concatenate, columns))

    def itl_s(self) -> tuple[Floats, Ints]:
        """Return the gaps between consecutive tokens of a request, and how many took each."""
        _, values, weights = self.gaps().each()
        return values, weights

    def run(self, capacity_blocks: Sequence[int]) -> RunTimeline:
        """Return all that was noted, with the capacity of a replica of each pool."""
        return RunTimeline(self.jumps(), self.moves(), self.gaps(), np.array(capacity_blocks))


def _later_gaps(
    latency: LatencyModel, first_s: Floats, batch: Ints, context: Ints, steps: Ints
) -> Gaps:
    """Return the gaps after the first ones of jumps whose first iterations end at `first_s`."""
    line = decode_lines(latency, 1)
    if line is not None:  # a run per jump
        gap_s = _iterations_s(latency, batch, context + batch)
        return Gaps(first_s + gap_s, gap_s, line[1] * batch.astype(float), steps - 1, batch)
    row = np.repeat(np.arange(len(steps)), steps - 1)
    begin = np.cumsum(steps - 1) - (steps - 1)
    step = np.arange(len(row)) - begin[row] + 1
    batch = batch[row]
    gap_s = _iterations_s(latency, batch, context[row] + step * batch)
    spent_s = np.append(0.0, np.cumsum(gap_s))
    time_s = first_s[row] + spent_s[1:] - spent_s[begin[row]]
    return Gaps(time_s, gap_s, np.zeros(len(row)), np.ones(len(row), np.int64), batch)


def _iterations_s(latency: LatencyModel, batch: NDArray[Any], context: NDArray[Any]) -> Floats:
    shapes = zip(batch.tolist(), context.tolist(), strict=True)
    return np.array([latency.iteration_s((), *shape) for shape in shapes])
