"""The capacity of one deployment: an adaptive job, like the one that adds replicates."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.slo import Slo
from simlib.stats.root_finding import SCOUTS, Capacity, find_capacity
from simlib.study.decide.first_guess import first_guess
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


def search_capacity(
    request: dict[str, Any], results: Path, simulated: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Find the capacity of a deployment, and measure rates below and above it.

    Simulations that the results folder has are read, not run again.

    Returns
    -------
    dict
        outcome, capacity_per_s with ends, its pseudo-values, and a row for each rate.
    """
    config, slo = SimConfig.from_dict(request["config"]), Slo.from_dict(request["slo"])
    accuracy = Accuracy.from_dict(request["accuracy"])
    load = Load(config, slo, results, simulated)
    guess = first_guess(config, slo)
    unloaded = _unloaded(config, slo, results, guess, simulated)
    found: dict[str, Any] = {
        "name": request["name"],
        "config": request["config"],
        "gpus": config.deployment.total_gpus,
        "unloaded": unloaded,
        "points": {unloaded["point_id"]: unloaded["replicates"]},
    }
    if unloaded["attainment"] < slo.attainment:
        reason = f"even without load {unloaded['attainment']:.1%} of the requests are within it"
        return found | _nothing("never", reason)
    window_s = config.sim_seconds - config.warmup_seconds
    lowest = snapped(max(guess / _UNLOADED, 0.0 if load.replays else _FEWEST_REQUESTS / window_s))
    capacity = find_capacity(
        load.measure,
        target=slo.attainment,
        start=max(guess, lowest),
        lowest=lowest,
        relative=accuracy.relative,
        max_replicates=TRACE_PARTS if load.replays else accuracy.max_replicates,
        snap=snapped,
    )
    if capacity.outcome == "never":
        reason = f"missed at {lowest:g}/s, the lowest rate looked at"
        found["points"] |= load.points()
        return found | _nothing("never", reason) | {"rates": _rows(load)}
    _around(load, capacity, slo)
    found["points"] |= load.points()
    interval = capacity.interval
    return found | {
        "outcome": capacity.outcome,
        "capacity_per_s": interval.estimate,
        "capacity_per_s_low": interval.low,
        "capacity_per_s_high": interval.high,
        "method": interval.method,
        "reason": _doubt(load, capacity) or interval.reason,
        "replicates": capacity.replicates,
        "log_pseudo_values": capacity.log_pseudo_values.tolist(),
        "rates": _rows(load),
    }


def plain(value: Any) -> Any:
    """Return plain data with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unloaded(
    config: SimConfig,
    slo: Slo,
    results: Path,
    guess: float,
    simulated: Callable[[], None],
) -> dict[str, Any]:
    """Return what requests get that (almost) never meet another one."""
    rate = snapped(guess / _UNLOADED)
    settings = config.to_dict()
    if config.arrival.process.at_rate:
        seconds = float(math.ceil(_UNLOADED_REQUESTS / rate))
        settings |= {"sim_seconds": seconds, "warmup_seconds": 0.0, "timeline": False}
    load = Load(SimConfig.from_dict(settings), slo, results, simulated)
    load.measure(rate, SCOUTS)
    row: dict[str, Any] = plain(load.row(rate))
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
    }
