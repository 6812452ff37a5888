"""What a point's timelines add to its measurement: inter-token latency, and pools over time.

Everything is over the window ``[warmup_seconds, sim_seconds)``, by the time of the token: a gap
counts where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.core.records import Floats, RequestRecords
from simlib.core.summary import Sample
from simlib.serving.timeline import TimedRecords
from simlib.stats.intervals import empty, enough_for_percentile
from simlib.stats.relaxation import RunLength
from simlib.stats.weighted import Weighted
from simlib.study.measurement.measured import Measured, measure_metric
from simlib.study.measurement.occupation import Occupation, occupations

BINS = 120
"""Bins of time of a window: as many as a figure can show."""


@dataclass(frozen=True, slots=True)
class MeasuredOverTime:
    """What all replicates of a point measured over time."""

    statistics: tuple[dict[str, float], ...]
    """Inter-token latency of each replicate, by statistic, seconds."""
    measured: dict[str, Measured]
    """Inter-token latency over all replicates, by statistic."""
    edges_s: Floats
    """Ends of the bins of time."""
    pools: dict[str, Occupation]
    """Sums over all replicates, by pool."""


def measure_over_time(
    replicates: Sequence[RequestRecords], config: SimConfig, length: RunLength
) -> MeasuredOverTime | None:
    """Measure the timelines of a point's replicates; None if they have none."""
    timed = [records for records in replicates if isinstance(records, TimedRecords)]
    if not timed or len(timed) < len(replicates):
        return None
    each = [itl_statistics(gaps_in_window(records, config)) for records in timed]
    edges_s = np.linspace(config.warmup_seconds, config.sim_seconds, BINS + 1)
    pools = [occupations(records, config, edges_s) for records in timed]
    return MeasuredOverTime(
        statistics=tuple(each),
        measured=_measured(timed, config, length, each),
        edges_s=edges_s,
        pools={name: Occupation.joined([one[name] for one in pools]) for name in pools[0]},
    )


def _measured(
    timed: Sequence[TimedRecords],
    config: SimConfig,
    length: RunLength,
    each: Sequence[dict[str, float]],
) -> dict[str, Measured]:
    measured = measure_metric([itl_sample(one, config) for one in timed], length, each)
    # requests that share a gap are one observation
    observed = sum(len(gaps_in_window(one, config)) for one in timed)
    for statistic in METRICS["itl"].statistics:
        short = statistic.percent and enough_for_percentile(observed, statistic.percent)
        if short:
            nothing = empty(measured[statistic.name].interval.method, short)
            measured[statistic.name] = replace(measured[statistic.name], interval=nothing)
    return measured


def gaps_in_window(records: TimedRecords, config: SimConfig) -> Weighted:
    """Return the gaps between tokens that end in the window, in order, seconds.

    Each counts as often as requests have it.
    """
    time_s, gap_s, sequences = records.timeline.gaps.each()
    counted = np.flatnonzero((time_s >= config.warmup_seconds) & (time_s < config.sim_seconds))
    counted = counted[np.argsort(time_s[counted], kind="stable")]
    return Weighted(gap_s[counted], sequences[counted])


def itl_sample(records: TimedRecords, config: SimConfig) -> Sample:
    """Return every gap that ends in the window as a sample of its own, in order of time."""
    gaps = gaps_in_window(records, config)
    values = np.repeat(gaps.values, gaps.weights)
    of_no_request = np.empty(0, dtype=np.int64)
    return Sample(METRICS["itl"], of_no_request, values, np.zeros(len(values), dtype=np.bool_))


def itl_statistics(sample: Weighted) -> dict[str, float]:
    """Return the mean and percentiles of inter-token latency by name; NaN without gaps."""
    statistics = METRICS["itl"].statistics
    percents = [one.percent for one in statistics if one.percent is not None]
    values = [sample.mean(), *sample.percentiles(percents)]
    return {one.name: value for one, value in zip(statistics, values, strict=True)}


def occupation_columns(over_time: MeasuredOverTime) -> dict[str, float]:
    """Return what each pool did over the whole window, by column of summary.csv."""
    columns: dict[str, float] = {}
    for name, pool in over_time.pools.items():
        whole = pool.total()
        if name != "prefill":
            columns[f"decode_batch_{name}"] = float(whole.decode_batch[0])
        columns[f"kv_occupancy_{name}"] = float(whole.kv_occupancy[0])
        columns[f"max_kv_occupancy_{name}"] = whole.highest_kv
    return columns


def timeline_lines(over_time: MeasuredOverTime, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line per pool and bin of time, means over the replicates."""
    lengths_s = np.diff(over_time.edges_s) * len(over_time.statistics)
    lines = []
    for name, pool in over_time.pools.items():
        columns = {
            "start_s": over_time.edges_s[:-1],
            "end_s": over_time.edges_s[1:],
            "utilization": pool.utilization,
            "decode_batch": pool.decode_batch,
            "kv_occupancy": pool.kv_occupancy,
            "waiting": pool.waiting_s / lengths_s,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        lines += [{**where, "pool": name, **dict(zip(columns, row, strict=True))} for row in rows]
    return lines
