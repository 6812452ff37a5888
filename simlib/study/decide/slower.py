"""What the better side would carry if its steps took longer than simulated.

A deployment whose steps and transfers take f times as long keeps an SLO at a rate if, as it was
simulated, it keeps limits that are f times shorter at f times that rate: all times stretch by f. So
its capacity is the f-th part of another one's, and the simulations for it are ordinary ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.slo import Slo
from simlib.study.decide.load import Load
from simlib.study.decide.search import Found, capacity_of
from simlib.study.plan.decision import Accuracy

LONGER = (0.05, 0.1, 0.2)
"""Relative errors of the step latencies that are looked at."""


def slower(
    field: Mapping[str, Found],
    request: Mapping[str, Any],
    results: Path,
    simulated: Callable[[], None],
) -> dict[str, Any]:
    """Find what the best deployment of all (per GPU) would carry if its steps took longer.

    Parameters
    ----------
    field
        What the last round found of each deployment of a case, by name.
    request
        Of the job: SLO and accuracy.

    Returns
    -------
    dict
        deployment, its points, and for each of `LONGER` the pseudo-values of its capacity's
        logarithm; no deployment and none where no deployment has a capacity.
    """
    found = [one for one in field.values() if one["log_pseudo_values"]]
    if not found:
        return {"deployments": [], "deployment": None, "longer": [], "points": {}}
    best = max(found, key=lambda one: float(np.mean(one["log_pseudo_values"])) - _log_gpus(one))
    config, slo = SimConfig.from_dict(best["config"]), Slo.from_dict(request["slo"])
    longer: list[dict[str, Any]] = []
    points: dict[str, int] = {}
    for error in LONGER:
        stretch = 1.0 + error
        load = Load(config, slo.times(1.0 / stretch), results, simulated, request["keep_requests"])
        capacity = capacity_of(
            load, Accuracy.from_dict(request["accuracy"]), start=best["capacity_per_s"] / stretch
        )
        values = capacity.log_pseudo_values - math.log(stretch)
        longer.append({"error": error, "log_pseudo_values": values.tolist()})
        for point, replicates in load.points().items():
            points[point] = max(replicates, points.get(point, 0))
    return {"deployments": [], "deployment": best["name"], "longer": longer, "points": points}


def _log_gpus(found: Found) -> float:
    return math.log(found["gpus"])
