"""What replicas do over time, noted on request: batches, KV occupancy, gaps between tokens.

Hand a `Timeline` to `simlib.serving.engine.simulate`. It holds a row per jump (iterations alike),
not per iteration, and still each gap between two tokens exactly (`simlib.serving.notes`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import COLUMN_NAMES, Floats, RequestRecords

Ints = NDArray[np.integer[Any]]
Columns = dict[str, NDArray[Any]]
T = TypeVar("T", bound="Table")


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
    running: Ints
    """1 within a jump, so before the end of one that ends at that very time, else 0."""
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

    def __init__(self, until_s: float = math.inf) -> None:
        self.until_s = until_s
        """What begins at or after this time is not noted."""
        self._taken: dict[str, list[Columns]] = {"jumps": [], "moves": [], "gaps": []}

    def take(self, state: Any) -> None:
        """Take the rows that a run has noted so far out of its `simlib.serving.state.State`."""
        run = state.run[0]
        for name, parts in self._taken.items():
            rows = getattr(state, name)[: run[name]]
            parts.append({column: np.array(rows[column]) for column in rows.dtype.names})
            run[name] = 0

    def _table(self, name: str, kind: type[T]) -> T:
        parts = self._taken[name]
        columns = {}
        for column in list(parts[0]):  # each leaves its parts, so that not all is there twice
            columns[column] = np.concatenate([part.pop(column) for part in parts])
        self._taken[name] = [columns]
        return kind(**columns)

    def jumps(self) -> Jumps:
        """Return the jumps."""
        return self._table("jumps", Jumps)

    def moves(self) -> Moves:
        """Return the blocks taken and freed for transfers."""
        return self._table("moves", Moves)

    def gaps(self) -> Gaps:
        """Return the gaps between consecutive tokens of each request."""
        return self._table("gaps", Gaps)

    def run(self, capacity_blocks: Sequence[int]) -> RunTimeline:
        """Return all that was noted, with the capacity of a replica of each pool."""
        return RunTimeline(self.jumps(), self.moves(), self.gaps(), np.array(capacity_blocks))
