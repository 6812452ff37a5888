"""What the replicas of each pool did within a window, from a run's timeline, bin by bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords, Status
from simlib.serving.timeline import RunTimeline, TimedRecords


@dataclass(frozen=True, slots=True)
class Occupation:
    """Sums over the replicas of a pool in each bin of time; columns of shape (bins,).

    Divide by `available_s` for means, or by `decoding_s` for the batch of a decode step.
    """

    available_s: Floats
    """Length of the bin times replicas, seconds."""
    busy_s: Floats
    """Seconds in which an iteration ran."""
    decoding_s: Floats
    """Seconds in which an iteration with decoding sequences ran."""
    sequence_s: Floats
    """Decoding sequences, integrated over time."""
    kv_s: Floats
    """Share of a replica's KV cache that is held, integrated over time."""
    waiting_s: Floats
    """Requests that wait for the pool, integrated over time."""
    highest_kv: float
    """Highest share of KV cache that any replica holds within the window."""

    def total(self) -> Self:
        """Return the same with all bins in one."""
        sums = {name: np.sum(getattr(self, name), keepdims=True) for name in _SUMS}
        return type(self)(**sums, highest_kv=self.highest_kv)

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """Return the sums over several replicates."""
        sums = {name: np.sum([getattr(one, name) for one in several], axis=0) for name in _SUMS}
        return cls(**sums, highest_kv=max(one.highest_kv for one in several))

    @property
    def utilization(self) -> Floats:
        """Share of time in which an iteration runs; a sum may round to just above 1."""
        return np.minimum(self.busy_s / self.available_s, 1.0)

    @property
    def decode_batch(self) -> Floats:
        """Mean sequences of an iteration that decodes, by time; NaN where none does."""
        some = self.decoding_s > 1e-9  # less is rounding
        mean = np.full(len(some), np.nan)
        mean[some] = self.sequence_s[some] / self.decoding_s[some]
        return mean

    @property
    def kv_occupancy(self) -> Floats:
        """Mean share of the KV cache that is held."""
        return self.kv_s / self.available_s


_DIGITS = 12
"""What is left of a bin in which nothing happens is rounding."""
_SUMS = tuple(field.name for field in fields(Occupation) if field.name != "highest_kv")


def occupations(records: TimedRecords, config: SimConfig, edges: Floats) -> dict[str, Occupation]:
    """Return what each pool did between `edges`, seconds in rising order, by the pool's name."""
    return {
        name: _occupation(records, number, pool.replicas, edges)
        for number, (name, pool) in enumerate(config.batching.pools.items())
    }


def _occupation(records: TimedRecords, pool: int, replicas: int, edges: Floats) -> Occupation:
    timeline = records.timeline
    jumps = timeline.jumps.select(timeline.jumps.pool == pool)
    seconds = jumps.start_s, jumps.end_s
    capacity = int(timeline.capacity_blocks[pool])
    levels = [Level.of_replica(timeline, pool, replica) for replica in range(replicas)]
    return Occupation(
        available_s=np.diff(edges) * replicas,
        busy_s=_integrals(*seconds, 1.0, edges),
        decoding_s=_integrals(*seconds, jumps.decode_batch > 0, edges),
        sequence_s=_integrals(*seconds, jumps.decode_batch, edges),
        kv_s=np.sum([level.integrals(edges) for level in levels], axis=0) / capacity,
        waiting_s=sum(
            (_integrals(*wait, 1.0, edges) for wait in _waits(records, pool)),
            start=np.zeros(len(edges) - 1),
        ),
        highest_kv=max(level.highest(edges[0], edges[-1]) for level in levels) / capacity,
    )


def _waits(records: RequestRecords, pool: int) -> list[tuple[Floats, Floats]]:
    """Return from when to when requests wait for a pool; a wait that does not end is endless."""
    if pool == 0:
        spans = [(records.arrival_s, records.prefill_start_s)]
    else:  # for blocks or the link, then for a place in the batch
        spans = [
            (records.prefill_end_s, records.transfer_start_s),
            (records.transfer_end_s, records.decode_start_s),
        ]
    accepted = records.status != Status.REJECTED
    waits = []
    for start_s, end_s in spans:
        begun = accepted & ~np.isnan(start_s)
        waits.append((start_s[begun], np.where(np.isnan(end_s), np.inf, end_s)[begun]))
    return waits


def _integrals(start_s: Floats, end_s: Floats, value: ArrayLike, edges: Floats) -> Floats:
    """Return the integral between edges of the sum of values, each from its start to its end."""
    low, high = (np.clip(times, edges[0], edges[-1]) for times in (start_s, end_s))
    weight = np.broadcast_to(np.asarray(value, np.float64), low.shape)
    integrals: Floats = np.diff(_ramps(low, weight, edges) - _ramps(high, weight, edges))
    return integrals.clip(min=0.0).round(_DIGITS)


def _ramps(start_s: Floats, weight: Floats, at: Floats) -> Floats:
    """Return the sum of ``weight * max(at - start_s, 0)`` for each time of `at`."""
    order = np.argsort(start_s)
    start_s, weight = start_s[order], weight[order]
    begun = np.searchsorted(start_s, at)
    slopes = np.append(0.0, np.cumsum(weight))[begun]
    offsets = np.append(0.0, np.cumsum(weight * (start_s - at[0])))[begun]
    ramps: Floats = slopes * (at - at[0]) - offsets
    return ramps


@dataclass(frozen=True, slots=True)
class Level:
    """Blocks held on one replica: linear from `after` at a time to `before` at the next.

    Between the first iteration of a jump and its last one blocks are really taken one at a time:
    a level is off by less than a block per decoding sequence there.
    """

    time_s: Floats
    before: Floats
    after: Floats

    @classmethod
    def of_replica(cls, timeline: RunTimeline, pool: int, replica: int) -> Level:
        """Follow one replica through a run."""
        jumps, moves = timeline.jumps, timeline.moves
        jumps = jumps.select((jumps.pool == pool) & (jumps.replica == replica))
        moves = moves.select((moves.pool == pool) & (moves.replica == replica))
        # what is left after a jump is held until its next start; so is what a move leaves
        time_s = np.concatenate((jumps.end_s, moves.time_s, jumps.start_s))
        rank = np.concatenate(
            (
                np.full(len(jumps.end_s), 1),
                np.where(moves.running, 0, 2),
                np.full(len(jumps.start_s), 3),
            )
        )
        order = np.lexsort((rank, time_s))
        after = np.concatenate((jumps.left_blocks, moves.after, jumps.first_blocks))[order]
        unknown = np.full(len(jumps.start_s), -1.0)
        before = np.concatenate((jumps.blocks, moves.before, unknown))[order]
        held = np.append(0.0, after[:-1])
        return cls(time_s[order], np.where(before < 0, held, before), after.astype(np.float64))

    def integrals(self, edges: Floats) -> Floats:
        """Return the integral between edges."""
        if len(self.time_s) == 0:
            return np.zeros(len(edges) - 1)
        length = np.diff(self.time_s)
        area = np.append(0.0, np.cumsum(0.5 * (self.after[:-1] + self.before[1:]) * length))
        row = np.searchsorted(self.time_s, edges, side="right") - 1
        level = self._at(edges)
        since = np.where(row < 0, 0.0, edges - self.time_s[row.clip(0)])
        start = np.where(row < 0, 0.0, self.after[row.clip(0)])
        up_to = np.where(row < 0, 0.0, area[row.clip(0)]) + 0.5 * (start + level) * since
        integrals: Floats = np.diff(up_to)
        return integrals

    def highest(self, low_s: float, high_s: float) -> float:
        """Return the highest level within a window."""
        ends = self._at(np.array([low_s, np.nextafter(high_s, low_s)]))
        before = self.before[(self.time_s > low_s) & (self.time_s <= high_s)]
        after = self.after[(self.time_s >= low_s) & (self.time_s < high_s)]
        levels = (ends, before, after)
        return float(np.concatenate(levels).max())

    def _at(self, times: Floats) -> Floats:
        """Return the level at each time."""
        n = len(self.time_s)
        if n == 0:
            return np.zeros(len(times))
        row = np.searchsorted(self.time_s, times, side="right") - 1
        alone = (row < 0) | (row >= n - 1)
        here, following = row.clip(0), (row + 1).clip(max=n - 1)
        length = np.where(alone, 1.0, self.time_s[following] - self.time_s[here])
        share = np.where(alone, 0.0, (times - self.time_s[here]) / length)
        level = self.after[here] + share * (self.before[following] - self.after[here])
        return np.where(row < 0, 0.0, level)
