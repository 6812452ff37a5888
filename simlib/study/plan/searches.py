"""What the jobs of a decision are asked, who they are, and where that is kept.

A decision looks at many deployments and cares about the best. So there are two rounds: a search of
every deployment to `SCREENING`, then one of each that goes on to the accuracy asked for if the
deployment may still be the best of its architecture, and repeats what the first one found if not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.study.plan.decision import Accuracy, DeploymentSpace
from simlib.study.plan.identity import ANALYSIS_ONLY, digest, essential
from simlib.workload.arrivals import ARRIVALS

ANSWER = "answer.html"
"""The answer in words, among the tables."""
SCREENING = Accuracy(relative=0.1, max_replicates=18)
"""Enough to tell most deployments from the best."""


def screening(accuracy: Accuracy, deployments: int) -> Accuracy:
    """Return how exactly a first round searches; as asked for where that is enough."""
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


def search_request(
    config: SimConfig, slo: Slo, accuracy: Accuracy, name: str, *, keep_requests: bool = False
) -> dict[str, Any]:
    """Return what the job needs to know, as plain data."""
    return {
        "name": name,
        "config": config.to_dict(),
        "slo": slo.to_dict(),
        "accuracy": accuracy.to_dict(),
        "keep_requests": keep_requests,
    }


def refined_request(
    request: Mapping[str, Any], accuracy: Accuracy, first: str, rivals: Sequence[str]
) -> dict[str, Any]:
    """Return what the second round's job needs to know.

    Parameters
    ----------
    request
        Of the first round.
    accuracy
        To reach.
    first
        The first round's job of this deployment.
    rivals
        The first round's jobs of all deployments of its architecture, its own among them.
    """
    return {
        **request,
        "accuracy": accuracy.to_dict(),
        "first": first,
        "rivals": list(rivals),
    }


def first_round_of(request: Mapping[str, Any]) -> list[str]:
    """Return the jobs whose outcomes a job reads."""
    return list(request.get("rivals", ()))


def search_id(
    config: SimConfig, slo: Slo, accuracy: Accuracy, *, keep_requests: bool = False
) -> str:
    """Return the identity of the search: of all that can change its outcome, but not the rate."""
    settings = essential(config)
    settings["arrival"] = {k: v for k, v in settings["arrival"].items() if k != "rate_per_s"}
    return digest(
        {
            "model_version": MODEL_VERSION,
            "config": settings,
            "classes": config.to_dict()["request_classes"] if slo.classes else None,
            **{key: getattr(config, key) for key in ANALYSIS_ONLY},
            "slo": slo.to_dict(),
            "relative": accuracy.relative,
            "max_replicates": accuracy.max_replicates,
            "keep_requests": keep_requests,
        }
    )


def refined_id(request: Mapping[str, Any]) -> str:
    """Return the identity of a second round's job."""
    accuracy = request["accuracy"]
    return digest(
        {
            "first": request["first"],
            "rivals": request["rivals"],
            "relative": accuracy["relative"],
            "max_replicates": accuracy["max_replicates"],
        }
    )


def check_has_rate(config: SimConfig) -> None:
    """Refuse arrivals that have no rate to find."""
    if config.arrival.process.closed:
        open_kinds = [name for name, kind in ARRIVALS.items() if not kind.closed]
        allowed = f"one of {', '.join(open_kinds)}: a closed loop has no rate to find"
        raise InvalidParameterError("arrival.kind", config.arrival.kind, allowed)


def check_request(request: dict[str, Any]) -> None:
    """Refuse a request whose parts do not fit together, before any job starts."""
    config, slo = SimConfig.from_dict(request["config"]), Slo.from_dict(request["slo"])
    slo.check_classes(config)
    check_has_rate(config)


def fewest_request(
    settings: Mapping[str, Any], space: DeploymentSpace, slo: Slo, rate_per_s: float
) -> dict[str, Any]:
    """Return what the job needs to know, as plain data."""
    return {
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
