"""What a point's timelines add to its measurement: inter-token latency, and pools over time.

Everything is over the window ``[warmup_seconds, sim_seconds)``, by the time of the token: a gap
counts where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords
from simlib.core.summary import PERCENTILES, metric_names
from simlib.serving.timeline import TimedRecords
from simlib.stats.intervals import Interval, mean_interval, percentile_interval
from simlib.stats.weighted import Weighted, weighted_batch_interval
from simlib.study.measurement.occupation import Occupation, occupations

ITL_STATISTICS = tuple(metric_names("itl"))
BINS = 120
"""Bins of time of a window: as many as a figure can show."""


@dataclass(frozen=True, slots=True)
class TimedMeasurement:
    """What all replicates of a point measured over time."""

    statistics: tuple[dict[str, float], ...]
    """Inter-token latency of each replicate, by statistic, seconds."""
    intervals: dict[str, Interval]
    pooled: dict[str, float]
    """Percentiles of all replicates' gaps together."""
    edges_s: Floats
    """Ends of the bins of time."""
    pools: dict[str, Occupation]
    """Sums over all replicates, by pool."""


def measure_timed(
    replicates: Sequence[RequestRecords], config: SimConfig
) -> TimedMeasurement | None:
    """Measure the timelines of a point's replicates; None if they have none."""
    timed = [records for records in replicates if isinstance(records, TimedRecords)]
    if not timed or len(timed) < len(replicates):
        return None
    samples = [gaps_in_window(records, config) for records in timed]
    values = [_statistics(sample) for sample in samples]
    edges_s = np.linspace(config.warmup_seconds, config.sim_seconds, BINS + 1)
    pools = [occupations(records, config, edges_s) for records in timed]
    pooled = _statistics(Weighted.joined(samples)) if len(samples) > 1 else {}
    return TimedMeasurement(
        statistics=tuple(values),
        intervals={
            name: _interval(samples, [one[name] for one in values], percent, pooled.get(name))
            for name, percent in zip(ITL_STATISTICS, (None, *PERCENTILES), strict=True)
        },
        pooled={name: value for name, value in pooled.items() if name != ITL_STATISTICS[0]},
        edges_s=edges_s,
        pools={name: Occupation.joined([one[name] for one in pools]) for name in pools[0]},
    )


def gaps_in_window(records: TimedRecords, config: SimConfig) -> Weighted:
    """Return the gaps between tokens that end in the window, in order, seconds.

    Each counts as often as requests have it.
    """
    time_s, gap_s, sequences = records.timeline.gaps.each()
    counted = np.flatnonzero((time_s >= config.warmup_seconds) & (time_s < config.sim_seconds))
    counted = counted[np.argsort(time_s[counted], kind="stable")]
    return Weighted(gap_s[counted], sequences[counted])


def _statistics(sample: Weighted) -> dict[str, float]:
    values = [sample.mean(), *sample.percentiles(PERCENTILES)]
    return dict(zip(ITL_STATISTICS, values, strict=True))


def _interval(
    samples: Sequence[Weighted],
    values: Sequence[float],
    percent: float | None,
    pooled: float | None,
) -> Interval:
    if len(samples) == 1:
        return weighted_batch_interval(samples[0], percent)
    if percent is None:
        return mean_interval(values)
    # requests that share a gap are one observation
    return percentile_interval(values, percent, [len(sample) for sample in samples], pooled)


def occupation_columns(timed: TimedMeasurement) -> dict[str, float]:
    """Return what each pool did over the whole window, by column of summary.csv."""
    columns: dict[str, float] = {}
    for name, pool in timed.pools.items():
        whole = pool.total()
        if name != "prefill":
            columns[f"decode_batch_{name}"] = float(whole.decode_batch[0])
        columns[f"kv_occupancy_{name}"] = float(whole.kv_occupancy[0])
        columns[f"max_kv_occupancy_{name}"] = whole.highest_kv
    return columns


def timeline_lines(timed: TimedMeasurement, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line per pool and bin of time, means over the replicates."""
    lengths_s = np.diff(timed.edges_s) * len(timed.statistics)
    lines = []
    for name, pool in timed.pools.items():
        columns = {
            "start_s": timed.edges_s[:-1],
            "end_s": timed.edges_s[1:],
            "utilization": pool.utilization,
            "decode_batch": pool.decode_batch,
            "kv_occupancy": pool.kv_occupancy,
            "waiting": pool.waiting_s / lengths_s,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        lines += [{**where, "pool": name, **dict(zip(columns, row, strict=True))} for row in rows]
    return lines
