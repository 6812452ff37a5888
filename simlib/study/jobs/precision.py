"""Precision on demand: longer runs, then more replicates, until an interval is narrow enough.

Replicates make intervals narrow, but each starts empty: what a window misses of the waits, and
whether it bounds them from above, is a matter of its length. So length is found first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.metrics import Statistic, before_decode, statistic_named
from simlib.core.records import RequestRecords
from simlib.errors import InvalidParameterError
from simlib.stats.intervals import replicates_for
from simlib.stats.relaxation import LARGEST_BIAS, RunLength
from simlib.study.jobs.decision import Decision, write_decisions
from simlib.study.jobs.described import located, read_request
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import read_records, result_path, write_records
from simlib.study.measurement.measure import Replicates
from simlib.study.measurement.measured import Measured
from simlib.study.plan.identity import point_id, run_settings
from simlib.study.plan.precise import lengthened
from simlib.study.plan.spec import Precision

_FEWEST = 10
"""Stopping as soon as few replicates happen to agree would give intervals that are too narrow."""


def make_precise(request_path: Path, results: Path, output: Path) -> list[dict[str, Any]]:
    """Lengthen the runs of points that are compared, then replicate each until it is precise.

    All get the length that the slowest queue among them needs, up to what is allowed. Replicates
    that exist are read, not simulated again, so that a tighter precision or an interrupted run goes
    on where it was. Writes and returns the decisions, in the order of the request's points.
    """
    request = read_request(request_path)
    precision = Precision.from_dict(request["precision"])
    fewest = min(max(request["replicates"], _FEWEST), precision.max_replicates)
    points = [
        _Point(point, SimConfig.from_dict(located(point)), 1, precision, results)
        for point in request["points"]
    ]
    longest = precision.max_lengthening if all(map(_Point.can_lengthen, points)) else 1
    while (times := _length_needed(points, fewest, longest)) > points[0].times:
        points = [replace(point, times=times) for point in points]
    decisions = [point.decision() for point in points]
    write_decisions(output, decisions)
    return [one.to_dict() for one in decisions]


def _length_needed(points: Sequence[_Point], fewest: int, longest: int) -> int:
    """Return how many times as long as asked the runs must be, at most `longest`.

    Replicates points until they are precise, unless few replicates show that longer runs are
    needed, as they do of most queues.
    """
    for point in points:
        point.replicate(fewest)
    needed = min(max(point.times_needed() for point in points), longest)
    if needed > points[0].times:
        return needed
    for point in points:
        point.replicate_until_precise()
    return min(max(point.times_needed() for point in points), longest)


@dataclass
class _Point:
    """A point of the request in runs of some length, with the replicates it has so far."""

    asked: dict[str, Any]
    """As the request has it."""
    config: SimConfig
    """Before it is lengthened."""
    times: int
    precision: Precision
    results: Path
    measured: Measured = field(init=False)
    """What the replicates so far say."""

    def __post_init__(self) -> None:
        self.run = lengthened(self.config, self.times)
        self.point_id = point_id(self.run)
        self.taken = Replicates(self.run)

    def can_lengthen(self) -> bool:
        """Return whether more requests come to a longer run: traces and closed loops end."""
        return self.config.arrival.process.at_rate

    @property
    def statistic(self) -> Statistic:
        return statistic_named(self.precision.metric)

    @property
    def count(self) -> int:
        return len(self.taken.measured)

    @property
    def length(self) -> RunLength:
        """How long the runs are, with as many replicates as allowed."""
        early = before_decode(self.statistic.metric, self.config)
        length = self.taken.length(before_decode=early)
        if not self.statistic.metric.since_arrival:
            length = length.whatever_the_work()
        return replace(length, runs=self.precision.max_replicates)

    def replicate(self, wanted: int) -> None:
        """Have at least so many replicates."""
        for replicate in range(self.count, wanted):
            self.taken.add(self._replicate(replicate))
        self.measured = self.taken.metric(self.statistic.metric.name)[self.precision.metric]

    def replicate_until_precise(self) -> None:
        """Add replicates until precise, until there are as many as allowed, or in vain."""
        most = self.precision.max_replicates
        while self.count < most and not self.reached and not self.short():
            enough = replicates_for(self.measured.values, self.precision.relative, most)
            # half as many again at most: the width of few replicates is itself uncertain
            wanted = max(self.count + 1, min(enough, math.ceil(1.5 * self.count)))
            self.replicate(min(wanted, most))

    @property
    def reached(self) -> bool:
        """Whether the interval is narrow enough."""
        return self.measured.interval.relative_half_width <= self.precision.relative

    def short(self) -> str:
        """Return why no number of replicates gives the precision; empty if one may."""
        length, percent = self.length, self.statistic.percent
        short = length.too_short(percent)
        if not short and length.bias > LARGEST_BIAS * self.precision.relative:  # NaN: not known
            short = f"the run's empty start may shorten it by {100 * length.bias:.1f}%"
        return short

    def times_needed(self) -> int:
        """Return how many times as long as asked the runs must be, rounded up to a power of 2.

        Few lengths, so that a tighter precision finds the runs of a looser one. What no length
        helps, an overloaded queue, needs none.
        """
        may_do = self.count < self.precision.max_replicates and not self.short()
        if self.reached or may_do or not math.isfinite(more := self._more()):
            return self.times
        return self.times << max(1, math.ceil(math.log2(more)))

    def decision(self) -> Decision:
        """Return what was decided on the point."""
        interval = self.measured.interval
        width = interval.relative_half_width
        return Decision(
            point_id=self.asked["point_id"],
            simulated=self.point_id,
            times=self.times,
            replicates=self.count,
            reached=bool(self.reached),
            metric=self.precision.metric,
            wanted_relative=self.precision.relative,
            relative_half_width=float(width) if math.isfinite(width) else None,
            reason="" if self.reached else self._why_not() or interval.reason,
        )

    def _why_not(self) -> str:
        short, more = self.short(), self._more()
        if not short or not math.isfinite(more):
            return short
        return f"{short}; replicates do not help, a window {more:.1f} times as long would"

    def _more(self) -> float:
        """Return how many times as long as now the window must be, with all replicates allowed."""
        length, width = self.length, self.measured.interval.relative_half_width
        if self.count < self.precision.max_replicates:
            width = math.nan  # replicates make it narrower, too
        needed = length.requests_for_precision(
            self.statistic.percent, width, self.precision.relative
        )
        return needed / length.requests if length.requests else math.inf

    def _replicate(self, replicate: int) -> RequestRecords:
        path = result_path(self.results, self.point_id, replicate)
        try:
            return read_records(path, point_id=self.point_id, replicate=replicate)[0]
        except InvalidParameterError:  # missing, damaged, or of another model version
            records = simulate(self.run, replicate)
            settings = run_settings(self.run)
            for key in self.asked["files"]:
                section = key.partition(".")[0]
                if section in settings:
                    settings[section] = self.asked["config"][section]
            write_records(
                path, records, point_id=self.point_id, replicate=replicate, config=settings
            )
            return records
