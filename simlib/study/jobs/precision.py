"""Precision on demand: replicates are added until an interval is narrow enough."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.metrics import Statistic, before_decode, statistic_named
from simlib.core.records import RequestRecords
from simlib.errors import InvalidParameterError
from simlib.stats.intervals import replicates_for
from simlib.stats.relaxation import LARGEST_BIAS, RunLength
from simlib.study.jobs.decision import Decision, write_decision
from simlib.study.jobs.described import located, read_request
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import read_records, result_path, write_records
from simlib.study.measurement.measure import Replicates
from simlib.study.plan.grid import run_settings
from simlib.study.plan.spec import Precision

_FEWEST = 10
"""Stopping as soon as few replicates happen to agree would give intervals that are too narrow."""


def replicate_until_precise(request_path: Path, results: Path, output: Path) -> dict[str, Any]:
    """Add replicates to a point until precise, until there are as many as allowed, or in vain.

    Replicates that exist are read, not simulated again, so that a tighter precision or an
    interrupted run goes on where it was. Writes and returns the decision.
    """
    request = read_request(request_path)
    config = SimConfig.from_dict(located(request))
    precision = Precision.from_dict(request["precision"])
    taken = Replicates(config)
    statistic = statistic_named(precision.metric)
    wanted = min(max(request["replicates"], _FEWEST), precision.max_replicates)
    while True:
        for replicate in range(len(taken.measured), wanted):
            taken.add(_replicate(config, request, replicate, results))
        measured = taken.metric(statistic.metric.name)[precision.metric]
        interval = measured.interval
        width = interval.relative_half_width
        reached = width <= precision.relative
        early = before_decode(statistic.metric, config)
        hopeless = _out_of_reach(taken.length(before_decode=early), statistic, precision)
        if reached or hopeless or wanted >= precision.max_replicates:
            break
        enough = replicates_for(measured.values, precision.relative, precision.max_replicates)
        # half as many again at most: the width of few replicates is itself uncertain
        wanted = max(wanted + 1, min(enough, math.ceil(1.5 * wanted)))
        wanted = min(wanted, precision.max_replicates)
    decision = Decision(
        point_id=request["point_id"],
        replicates=wanted,
        reached=bool(reached),
        metric=precision.metric,
        wanted_relative=precision.relative,
        relative_half_width=float(width) if math.isfinite(width) else None,
        reason="" if reached else hopeless or interval.reason,
    )
    write_decision(output, decision)
    return decision.to_dict()


def _out_of_reach(length: RunLength, statistic: Statistic, precision: Precision) -> str:
    """Return why no number of replicates gives the precision; empty if one may.

    Replicates make intervals narrow, but each starts empty: what a window misses, and whether it
    bounds the mean, is a matter of its length.
    """
    most = replace(length, runs=precision.max_replicates)
    short = most.too_short(statistic.percent)
    if not short and length.bias > LARGEST_BIAS * precision.relative:  # NaN: not known
        short = f"the run's empty start may shorten it by {100 * length.bias:.1f}%"
    if not short:
        return ""
    times = most.requests_for_precision(statistic.percent, math.nan, precision.relative)
    times /= length.requests
    if not math.isfinite(times):
        return short
    return f"{short}; replicates do not help, a window {times:.1f} times as long would"


def _replicate(
    config: SimConfig, request: dict[str, Any], replicate: int, results: Path
) -> RequestRecords:
    point_id = request["point_id"]
    path = result_path(results, point_id, replicate)
    try:
        return read_records(path, point_id=point_id, replicate=replicate)[0]
    except InvalidParameterError:  # missing, damaged, or of another model version
        records = simulate(config, replicate)
        settings = run_settings(config)
        for key in request["files"]:
            section = key.partition(".")[0]
            if section in settings:
                settings[section] = request["config"][section]
        write_records(path, records, point_id=point_id, replicate=replicate, config=settings)
        return records
