"""The fewest GPUs that carry a rate: deployments of more and more GPUs, until one keeps the SLO."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.stats.intervals import mean_interval
from simlib.stats.root_finding import FEWEST_REPLICATES, SCOUTS
from simlib.study.decide.first_guess import first_guess
from simlib.study.decide.load import Load
from simlib.study.decide.search import plain
from simlib.study.plan.decision import DeploymentSpace
from simlib.study.plan.deployments import Deployment, deployments_of

_HOPELESS = 2.0
"""A first guess this many times too low is not worth a simulation."""


def fewest_gpus(
    settings: Mapping[str, Any],
    space: DeploymentSpace,
    slo: Slo,
    rate_per_s: float,
    results: Path,
    simulated: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return the fewest GPUs with which some deployment keeps the SLO at a rate.

    From 1 GPU to as many as the space has, the deployments that look best first. A few
    replicates rule a deployment out; 12 say that it carries the rate, with a 95% interval
    of attainment that lies above what is asked for. A number of GPUs at which that interval holds
    it is reported as a maybe.

    Returns
    -------
    dict
        rate_per_s, gpus and deployment (None if none carries it), attainment with its interval,
        maybe (fewer GPUs that could do, with their deployment), and most_attained.
    """
    gpu, most = space.hardware()
    found: dict[str, Any] = {
        "rate_per_s": rate_per_s,
        "gpus": None,
        "deployment": None,
        "architecture": None,
        "maybe": [],
        "looked_up_to": most,
        "points": {},
    }
    attained = 0.0
    for gpus in range(1, most + 1):
        maybe: dict[str, Any] | None = None
        for one in _promising(settings, space, gpu, gpus, slo, rate_per_s):
            said = _carries(one, slo, rate_per_s, results, simulated)
            attained = max(attained, said["attainment"])
            found["points"] |= said["points"]
            if said["verdict"] == "carries":
                carried: dict[str, Any] = said["of"]
                return found | carried
            if said["verdict"] == "maybe" and maybe is None:
                maybe = said["of"]
        if maybe is not None:
            found["maybe"].append(maybe)
    return found | {"most_attained": attained}


def _promising(
    settings: Mapping[str, Any],
    space: DeploymentSpace,
    gpu: str | None,
    gpus: int,
    slo: Slo,
    rate_per_s: float,
) -> list[Deployment]:
    """Return the deployments of a number of GPUs, the most promising first."""
    smaller = space.model_copy(update={"gpus": gpus if gpu is None else {gpu: gpus}})
    try:
        fitting = deployments_of(settings, smaller).deployments
    except InvalidParameterError as error:
        if error.name == "deployments.gpus":
            return []  # too few for the model
        raise
    guesses = {one.name: first_guess(one.config, slo) for one in fitting}
    promising = [one for one in fitting if guesses[one.name] * _HOPELESS >= rate_per_s]
    return sorted(promising, key=lambda one: -guesses[one.name])


def _carries(
    one: Deployment, slo: Slo, rate: float, results: Path, simulated: Callable[[], None]
) -> dict[str, Any]:
    """Return whether a deployment carries a rate: carries, maybe or not."""
    load = Load(one.config, slo, results, simulated)
    scouts = load.measure(rate, SCOUTS)
    attained = float(np.mean(scouts.shares))
    # a share this far below the target does not come back with more replicates
    if not scouts.stable or (1.0 - attained) > 2.0 * (1.0 - slo.attainment):
        return {"verdict": "not", "attainment": attained, "points": load.points()}
    measured = load.measure(rate, FEWEST_REPLICATES)
    interval = mean_interval(measured.shares)
    verdict = "not"
    if measured.stable and interval.low >= slo.attainment:
        verdict = "carries"
    elif measured.stable and interval.high >= slo.attainment:
        verdict = "maybe"
    return {
        "verdict": verdict,
        "attainment": interval.estimate,
        "points": load.points(),
        "of": plain(
            {
                "gpus": one.gpus,
                "deployment": one.name,
                "architecture": one.architecture,
                "attainment": interval.estimate,
                "attainment_low": interval.low,
                "attainment_high": min(interval.high, 1.0),
            }
        ),
    }


def at_least(rate_per_s: float, capacity_per_gpu: float) -> int:
    """Return about how many GPUs a rate takes at a capacity per GPU, if it grows in proportion."""
    return math.ceil(rate_per_s / capacity_per_gpu)
