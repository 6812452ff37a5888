"""The capacity of one deployment: an adaptive job, like the one that adds replicates.

In two rounds where a decision asks for more than a first look: every deployment coarsely, then
those that may be the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import TtftDefinition
from simlib.core.slo import Slo
from simlib.files import read_json
from simlib.stats.ranking import contenders
from simlib.stats.root_finding import SCOUTS, Capacity, find_capacity
from simlib.study.decide.first_guess import first_guess
from simlib.study.decide.load import TRACE_PARTS, Load, snapped
from simlib.study.plan.decision import Accuracy
from simlib.study.plan.searches import first_round_of, job_paths

FRONTIER_BELOW = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
"""Shares of the capacity that are measured as well, to draw attainment and the frontier."""
FRONTIER_ABOVE = (1.1, 1.25, 1.45, 1.7, 2.0)
"""As far as TTFT is still within its limit there."""
_UNLOADED = 50.0
"""An unloaded system has a rate this many times below the first guess."""
_UNLOADED_REQUESTS = 500
_FEWEST_REQUESTS = 30


def search_capacity(
    request: Mapping[str, Any],
    results: Path,
    simulated: Callable[[], None] = lambda: None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Find the capacity of a deployment, and measure rates below and above it.

    Simulations that the results folder has are not run again. Where a TTFT limit is set, the
    capacity is also found for the other definitions of TTFT, in the first round.

    Parameters
    ----------
    before
        What a coarser search of the same deployment found: the search goes on from its rates.

    Returns
    -------
    dict
        outcome, capacity_per_s with ends, its pseudo-values, and a row for each rate.
    """
    config, slo = SimConfig.from_dict(request["config"]), Slo.from_dict(request["slo"])
    accuracy = Accuracy.from_dict(request["accuracy"])
    load = Load(config, slo, results, simulated, request["keep_requests"])
    guess = first_guess(config, slo)
    unloaded = before["unloaded"] if before else _unloaded(load, guess)
    found: dict[str, Any] = {
        "name": request["name"],
        "config": request["config"],
        "gpus": config.deployment.total_gpus,
        "unloaded": unloaded,
        "points": {unloaded["point_id"]: unloaded["replicates"]},
        "behind": False,
    }
    if unloaded["attainment"] < slo.attainment:
        reason = f"even without load {unloaded['attainment']:.1%} of the requests are within it"
        return found | _nothing("never", reason)
    known = {row["rate_per_s"]: row["replicates"] for row in before["rates"]} if before else {}
    for rate, replicates in known.items():
        load.measure(rate, replicates)
    capacity = capacity_of(load, accuracy, guess, known=tuple(known))
    if capacity.outcome == "never":
        reason = f"missed at {min(capacity.rates):g}/s, the lowest rate looked at"
        found["points"] |= load.points()
        return found | _nothing("never", reason) | {"rates": _rows(load)}
    if before is None:
        _around(load, capacity, slo)
        definitions = _by_definition(load, capacity, accuracy)
    else:
        definitions = before["definitions"]
    found["points"] |= load.points()
    return found | {
        **described(capacity),
        "reason": _doubt(load, capacity) or capacity.interval.reason,
        "rates": _rows(load),
        "definitions": definitions,
    }


def refine(
    request: Mapping[str, Any], results: Path, simulated: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Go on with a search to the accuracy asked for, if its deployment may be the best.

    Of its architecture, per GPU. Otherwise return what the first round found: what is far behind
    need not be known exactly.
    """
    outcomes = {
        job: read_json(job_paths(results, job)[1], "outcome") for job in first_round_of(request)
    }
    first = outcomes[request["first"]]
    if first["capacity_per_s"] is None:
        return first
    samples = {
        job: np.array(found["log_pseudo_values"]) - math.log(found["gpus"])
        for job, found in outcomes.items()
        if found["log_pseudo_values"]
    }
    if request["first"] not in contenders(samples):
        return first | {"behind": True}
    return search_capacity(request, results, simulated, first)


def capacity_of(
    load: Load,
    accuracy: Accuracy,
    guess: float,
    definition: TtftDefinition | None = None,
    known: Sequence[float] = (),
) -> Capacity:
    """Return the capacity under a load, searched from a first guess; see `find_capacity`."""
    window_s = load.config.sim_seconds - load.config.warmup_seconds
    fewest = 0.0 if load.replays else _FEWEST_REQUESTS / window_s
    lowest = snapped(max(guess / _UNLOADED, fewest))
    return find_capacity(
        lambda rate, replicates: load.measure(rate, replicates, definition),
        target=load.slo.attainment,
        start=max(guess, lowest),
        lowest=lowest,
        relative=accuracy.relative,
        max_replicates=TRACE_PARTS if load.replays else accuracy.max_replicates,
        snap=snapped,
        known=known,
    )


def described(capacity: Capacity) -> dict[str, Any]:
    """Return a capacity as plain data."""
    interval = capacity.interval
    return {
        "outcome": capacity.outcome,
        "capacity_per_s": interval.estimate,
        "capacity_per_s_low": interval.low,
        "capacity_per_s_high": interval.high,
        "method": interval.method,
        "reason": interval.reason,
        "replicates": capacity.replicates,
        "log_pseudo_values": capacity.log_pseudo_values.tolist(),
    }


def _by_definition(load: Load, own: Capacity, accuracy: Accuracy) -> dict[str, dict[str, Any]]:
    """Return the capacity where TTFT ends elsewhere, by definition; none without a TTFT limit."""
    others = load.definitions[1:]
    known = tuple(load.runs)
    return {
        other: plain(described(capacity_of(load, accuracy, own.interval.estimate, other, known)))
        for other in others
    }


def plain(value: Any) -> Any:
    """Return plain data with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unloaded(load: Load, guess: float) -> dict[str, Any]:
    """Return what requests get that (almost) never meet another one."""
    rate = snapped(guess / _UNLOADED)
    settings = load.config.to_dict()
    if load.config.arrival.process.at_rate:
        seconds = float(math.ceil(_UNLOADED_REQUESTS / rate))
        settings |= {"sim_seconds": seconds, "warmup_seconds": 0.0, "timeline": False}
    alone = replace(load, config=SimConfig.from_dict(settings), runs={})
    alone.measure(rate, SCOUTS)
    row: dict[str, Any] = plain(alone.row(rate))
    return row


def _around(load: Load, capacity: Capacity, slo: Slo) -> None:
    """Measure rates below and above the capacity."""
    for share in FRONTIER_BELOW:
        load.measure(snapped(share * capacity.interval.estimate), SCOUTS)
    for share in FRONTIER_ABOVE:
        rate = snapped(share * capacity.interval.estimate)
        load.measure(rate, SCOUTS)
        row = load.row(rate)
        if row["missed"].get("ttft_s", 0.0) > 1.0 - slo.attainment:
            break
        if row["stability"] == "unstable":
            break


def _doubt(load: Load, capacity: Capacity) -> str:
    """Return why the capacity is doubtful, if a rate next to it is not in a steady state."""
    near = [r for r in capacity.rates if r <= capacity.interval.estimate][-1:]
    for rate in near:
        if load.stability(rate).verdict == "undetermined":
            return f"at {rate:g}/s it is undetermined whether queues grow: longer runs would tell"
    return ""


def _rows(load: Load) -> list[dict[str, Any]]:
    return [plain(load.row(rate)) for rate in sorted(load.runs)]


def _nothing(outcome: str, reason: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "capacity_per_s": None,
        "capacity_per_s_low": None,
        "capacity_per_s_high": None,
        "method": "",
        "reason": reason,
        "replicates": 0,
        "log_pseudo_values": [],
        "rates": [],
        "definitions": {},
    }
