"""The rounds of a decision over its deployments: scout, search, refine, and a look at errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.slo import Slo
from simlib.files import read_json
from simlib.stats.ranking import contenders
from simlib.study.decide.load import Load
from simlib.study.decide.search import Found, scouted, search_capacity
from simlib.study.decide.slower import slower
from simlib.study.plan.decision import Accuracy
from simlib.study.plan.searches import job_paths

FAR_BEHIND = 1.25
"""A deployment is far behind another one that carries this many times as much per GPU, as three
replicates see both."""
Simulated = Callable[[], None]
Outcome = dict[str, Any]


def scout(request: Mapping[str, Any], results: Path, simulated: Simulated) -> Outcome:
    """Look with three replicates where the capacity of each deployment is, about."""
    return _outcome(scouted(load, name) for name, load in _loads(request, results, simulated))


def search(request: Mapping[str, Any], results: Path, simulated: Simulated) -> Outcome:
    """Find the capacity of each deployment, but of those that scouts found far behind."""
    field = _field(request, results)
    behind = far_behind(list(field.values()))
    accuracy = Accuracy.from_dict(request["accuracy"])
    return _outcome(
        field[name] | {"outcome": "far behind", "reason": behind[name]}
        if name in behind
        else search_capacity(load, name, accuracy, field.get(name))
        for name, load in _loads(request, results, simulated)
    )


def refine(request: Mapping[str, Any], results: Path, simulated: Simulated) -> Outcome:
    """Go on to the accuracy asked for with what may be the best of its architecture, per GPU.

    What is behind need not be known exactly: it stays as the searches found it.
    """
    field = _field(request, results)
    samples = {
        name: np.array(found["log_pseudo_values"]) - math.log(found["gpus"])
        for name, found in field.items()
        if found["log_pseudo_values"]
    }
    may_be_best = contenders(samples) if samples else set()
    accuracy = Accuracy.from_dict(request["accuracy"])
    return _outcome(
        search_capacity(load, name, accuracy, field[name])
        if name in may_be_best
        else field[name] | ({"stopped_by": "behind"} if name in samples else {})
        for name, load in _loads(request, results, simulated)
    )


def slower_best(request: Mapping[str, Any], results: Path, simulated: Simulated) -> Outcome:
    """Find what the best of all would carry if its steps took longer than simulated."""
    return slower(_field(request, results), request, results, simulated)


ROUNDS: dict[str, Callable[[Mapping[str, Any], Path, Simulated], Outcome]] = {
    "scout": scout,
    "search": search,
    "refine": refine,
    "slower": slower_best,
}


def far_behind(field: Sequence[Found]) -> dict[str, str]:
    """Return which scouted deployments need no search, and why, by name.

    A deployment stays if any definition of TTFT might make it the best: what it carries by the most
    lenient one is compared with what the leader carries by the strictest.
    """
    scouted = [found for found in field if found["outcome"] == "scouted"]
    best = max((found["at_least_per_s"] / found["gpus"] for found in scouted), default=0.0)
    return {
        found["name"]: f"about {found['at_most_per_s']:.2g}/s at most, as three replicates see it"
        for found in scouted
        if FAR_BEHIND * found["at_most_per_s"] / found["gpus"] <= best
    }


def _loads(
    request: Mapping[str, Any], results: Path, simulated: Simulated
) -> Iterable[tuple[str, Load]]:
    slo = Slo.from_dict(request["slo"])
    for one in request["deployments"]:
        config = SimConfig.from_dict(one["config"])
        yield one["name"], Load(config, slo, results, simulated, request["keep_requests"])


def _field(request: Mapping[str, Any], results: Path) -> dict[str, Found]:
    """Return what the round before found of each deployment, by name."""
    return {
        found["name"]: found
        for job in request["reads"]
        for found in read_json(job_paths(results, job)[1], "outcome")["deployments"]
    }


def _outcome(deployments: Iterable[Found]) -> Outcome:
    """Return the outcome of a job: what it found, and the points that it rests on."""
    found = list(deployments)
    points: dict[str, int] = {}
    for one in found:
        for point, replicates in one["points"].items():
            points[point] = max(replicates, points.get(point, 0))
    return {"deployments": found, "points": points}
