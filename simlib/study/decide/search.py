"""The capacity of one deployment: adaptive, like the job that adds replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import TtftDefinition
from simlib.stats.root_finding import SCOUTS, Capacity, find_capacity, rough_capacity
from simlib.study.decide.load import TRACE_PARTS, Load, snapped
from simlib.study.plan.decision import Accuracy

FRONTIER_BELOW = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
"""Shares of the capacity that are measured as well, to draw attainment and the frontier."""
FRONTIER_ABOVE = (1.1, 1.25, 1.45, 1.7, 2.0)
"""As far as TTFT is still within its limit there."""
_UNLOADED = 50.0
"""An unloaded system has a rate this many times below the first guess."""
_UNLOADED_REQUESTS = 500
_FEWEST_REQUESTS = 30


Found = dict[str, Any]
"""What is known of a deployment, as plain data."""


def search_capacity(
    load: Load, name: str, accuracy: Accuracy, before: Found | None = None
) -> Found:
    """Find the capacity of a deployment, and measure rates below and above it.

    Simulations that the results folder has are not run again. Where a TTFT limit is set, the
    capacity is also found for the other definitions of TTFT, unless a search before this one did.

    Parameters
    ----------
    before
        What `scouted` or a coarser search found: this one goes on from its rates.

    Returns
    -------
    dict
        outcome, capacity_per_s with ends, its pseudo-values, and a row for each rate.
    """
    before = before or _unsearched(load, name)
    if before["outcome"] == "never":
        return before
    for row in before["rates"]:
        load.measure(row["rate_per_s"], row["replicates"])
    known = tuple(load.runs)
    capacity = capacity_of(load, accuracy, known=known)
    found = before | {"points": before["points"] | load.points()}
    if capacity.outcome == "never":
        reason = f"missed at {min(capacity.rates):g}/s, the lowest rate looked at"
        return found | _nothing("never", reason) | {"rates": _rows(load)}
    if before["capacity_per_s"] is None:
        _around(load, capacity)
        found["definitions"] = _by_definition(load, capacity, accuracy)
    return found | {
        **described(capacity),
        "points": found["points"] | load.points(),
        "reason": _doubt(load, capacity) or capacity.interval.reason,
        "stopped_by": _stopped_by(load, capacity, accuracy),
        "rates": _rows(load),
    }


def scouted(load: Load, name: str) -> Found:
    """Look with three replicates where the capacity is, about.

    Returns
    -------
    dict
        at_least_per_s, by the strictest definition of TTFT, at_most_per_s, by the most lenient one;
        a row for each rate.
    """
    found = _unsearched(load, name)
    if found["outcome"] == "never":
        return found

    def rough(of_them: np.ufunc) -> float:
        return rough_capacity(
            lambda rate, replicates: load.measure(rate, replicates, load.definitions, of_them),
            target=load.slo.attainment,
            known=tuple(load.runs),
            **_range(load),
        )

    return found | {
        "outcome": "scouted",
        "at_least_per_s": rough(np.minimum),
        "at_most_per_s": rough(np.maximum),
        "points": found["points"] | load.points(),
        "rates": _rows(load),
    }


def _unsearched(load: Load, name: str) -> Found:
    """Return what is known before any search: what the unloaded system gives."""
    unloaded = _unloaded(load)
    found = {
        "name": name,
        "config": load.config.to_dict(),
        "gpus": load.config.deployment.total_gpus,
        "unloaded": unloaded,
        "points": {unloaded["point_id"]: unloaded["replicates"]},
        "at_least_per_s": 0.0,
        "at_most_per_s": 0.0,
    }
    reason = ""
    if unloaded["attainment"] < load.slo.attainment:
        reason = f"even without load {unloaded['attainment']:.1%} of the requests are within it"
    return found | _nothing("never" if reason else "", reason)


def _range(load: Load) -> dict[str, Any]:
    """Return where to begin a search, and its lowest rate."""
    guess = load.first_guess
    window_s = load.config.sim_seconds - load.config.warmup_seconds
    fewest = 0.0 if load.replays else _FEWEST_REQUESTS / window_s
    lowest = snapped(max(guess / _UNLOADED, fewest))
    return {"start": max(guess, lowest), "lowest": lowest, "snap": snapped}


def capacity_of(
    load: Load,
    accuracy: Accuracy,
    definition: TtftDefinition | None = None,
    start: float | None = None,
    known: Sequence[float] = (),
) -> Capacity:
    """Return the capacity under a load, from a first guess unless told; see `find_capacity`."""
    limits = _range(load)
    if start is not None:
        limits["start"] = max(start, limits["lowest"])
    definitions = (definition or load.config.ttft_definition,)
    return find_capacity(
        lambda rate, replicates: load.measure(rate, replicates, definitions),
        target=load.slo.attainment,
        relative=accuracy.relative,
        max_replicates=TRACE_PARTS if load.replays else accuracy.max_replicates,
        known=known,
        **limits,
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
        other: plain(described(capacity_of(load, accuracy, other, own.interval.estimate, known)))
        for other in others
    }


def plain(value: Any) -> Any:
    """Return plain data with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unloaded(load: Load) -> dict[str, Any]:
    """Return what requests get that (almost) never meet another one."""
    rate = snapped(load.first_guess / _UNLOADED)
    settings = load.config.to_dict()
    if load.config.arrival.process.at_rate:
        seconds = float(math.ceil(_UNLOADED_REQUESTS / rate))
        settings |= {"sim_seconds": seconds, "warmup_seconds": 0.0, "timeline": False}
    alone = replace(load, config=SimConfig.from_dict(settings), runs={})
    alone.measure(rate, SCOUTS)
    row: dict[str, Any] = plain(alone.row(rate))
    return row


def _around(load: Load, capacity: Capacity) -> None:
    """Measure rates below and above the capacity."""
    for share in FRONTIER_BELOW:
        load.measure(snapped(share * capacity.interval.estimate), SCOUTS)
    for share in FRONTIER_ABOVE:
        rate = snapped(share * capacity.interval.estimate)
        load.measure(rate, SCOUTS)
        row = load.row(rate)
        if row["missed"].get("ttft_s", 0.0) > 1.0 - load.slo.attainment:
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


def _stopped_by(load: Load, capacity: Capacity, accuracy: Accuracy) -> str:
    """Return what ended the search: accuracy, max_replicates or trace; empty for a step."""
    if capacity.outcome != "found":
        return ""
    if capacity.interval.relative_half_width <= accuracy.relative:
        return "accuracy"
    return "trace" if load.replays else "max_replicates"


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
        "stopped_by": "",
        "log_pseudo_values": [],
        "rates": [],
        "definitions": {},
    }
