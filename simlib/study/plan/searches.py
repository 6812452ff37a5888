"""What the jobs of a decision are asked, who they are, and where that is kept.

A decision looks at many deployments and cares about the best. So there are rounds, each of which
reads what the one before it found of the deployments of an architecture:

- ``scout``, in a large field: three replicates say roughly what each deployment carries;
- ``search``: each deployment to `SCREENING`, but for those that scouts found far behind;
- ``refine``: those that may still be the best, to the accuracy asked for;
- ``slower``, of both architectures: the best of all once more, as if its steps took longer.

Starting a job costs more than searching a small system, so some deployments share one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.study.plan.decision import Accuracy, DeploymentSpace
from simlib.study.plan.deployments import Deployment
from simlib.study.plan.identity import ANALYSIS_ONLY, digest, essential
from simlib.workload.arrivals import ARRIVALS

Round = Literal["scout", "search", "refine", "slower"]
ANSWER = "answer.html"
"""The answer in words, among the tables."""
SCREENING = Accuracy(relative=0.1, max_replicates=18)
"""Enough to tell most deployments from the best."""
SEARCHED_IN_FULL = 24
"""A field of more deployments (of an architecture) is scouted first."""
TOGETHER = 8
"""So many deployments share a job at most."""


def screening(accuracy: Accuracy, deployments: int) -> Accuracy:
    """Return how exactly a round before the last searches; as asked for where that is enough."""
    if deployments == 1:
        return accuracy
    coarser = {
        "relative": max(accuracy.relative, SCREENING.relative),
        "max_replicates": min(accuracy.max_replicates, SCREENING.max_replicates),
    }
    return accuracy.model_copy(update=coarser)


def job_paths(results: Path, job: str) -> tuple[Path, Path]:
    """Return where the request and the outcome of a job are kept."""
    folder = results / "capacity"
    return folder / f"{job}.request.json", folder / f"{job}.json"


def shared_out(field: Sequence[Deployment]) -> list[Sequence[Deployment]]:
    """Return the deployments that share a job; neighbours, which cost alike, do not."""
    jobs = math.ceil(len(field) / TOGETHER)
    return [field[job::jobs] for job in range(jobs)]


def round_request(
    what: Round,
    deployments: Sequence[Deployment],
    slo: Slo,
    accuracy: Accuracy,
    *,
    reads: Sequence[str] = (),
    keep_requests: bool = False,
) -> dict[str, Any]:
    """Return what the job of a round needs to know, as plain data.

    Parameters
    ----------
    reads
        The jobs of the round before, of all deployments of this architecture.
    """
    return {
        "round": what,
        "deployments": [{"name": one.name, "config": one.config.to_dict()} for one in deployments],
        "slo": slo.to_dict(),
        "accuracy": accuracy.to_dict(),
        "keep_requests": keep_requests,
        "reads": list(reads),
    }


def round_id(request: Mapping[str, Any], deployments: Sequence[Deployment]) -> str:
    """Return the identity of the job: of all that can change its outcome, but not the rate."""
    accuracy = request["accuracy"]
    return digest(
        {
            "model_version": MODEL_VERSION,
            "round": request["round"],
            "deployments": [_identity(one, request["slo"]) for one in deployments],
            "slo": request["slo"],
            "relative": accuracy["relative"],
            "max_replicates": accuracy["max_replicates"],
            "keep_requests": request["keep_requests"],
            "reads": request["reads"],
        }
    )


def _identity(one: Deployment, slo: Mapping[str, Any]) -> dict[str, Any]:
    settings = essential(one.config)
    settings["arrival"] = {k: v for k, v in settings["arrival"].items() if k != "rate_per_s"}
    return {
        "name": one.name,
        "config": settings,
        "classes": one.config.to_dict()["request_classes"] if slo["classes"] else None,
        **{key: getattr(one.config, key) for key in ANALYSIS_ONLY},
    }


def check_has_rate(config: SimConfig) -> None:
    """Refuse arrivals that have no rate to find."""
    if config.arrival.process.closed:
        open_kinds = [name for name, kind in ARRIVALS.items() if not kind.closed]
        allowed = f"one of {', '.join(open_kinds)}: a closed loop has no rate to find"
        raise InvalidParameterError("arrival.kind", config.arrival.kind, allowed)


def check_objective(config: SimConfig, slo: Slo) -> None:
    """Refuse a deployment and an objective that do not fit together, before any job starts."""
    slo.check_classes(config)
    check_has_rate(config)


def fewest_request(
    settings: Mapping[str, Any], space: DeploymentSpace, slo: Slo, rate_per_s: float
) -> dict[str, Any]:
    """Return what the job needs to know, as plain data."""
    return {
        "round": "fewest",
        "reads": [],
        "settings": SimConfig.from_dict(dict(settings)).to_dict(),
        "deployments": space.to_dict(),
        "slo": slo.to_dict(),
        "rate_per_s": rate_per_s,
    }


def fewest_id(request: Mapping[str, Any]) -> str:
    """Return the identity of the job; files count by their bytes."""
    settings = essential(SimConfig.from_dict(dict(request["settings"])))
    files = [settings["arrival"].get("sha256")]
    latency = settings.get("latency", {}).values()
    files += [value["sha256"] for value in latency if isinstance(value, dict)]
    return digest({"model_version": MODEL_VERSION, **request, "files": files})
