"""What the jobs of a decision are asked, who they are, and where that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.study.plan.decision import Accuracy, DeploymentSpace
from simlib.study.plan.grid import ANALYSIS_ONLY, digest, essential
from simlib.workload.arrivals import ARRIVALS


def job_paths(results: Path, job: str) -> tuple[Path, Path]:
    """Return where the request and the outcome of a job are kept."""
    folder = results / "capacity"
    return folder / f"{job}.request.json", folder / f"{job}.json"


def search_request(config: SimConfig, slo: Slo, accuracy: Accuracy, name: str) -> dict[str, Any]:
    """Return what the job needs to know, as plain data."""
    return {
        "name": name,
        "config": config.to_dict(),
        "slo": slo.to_dict(),
        "accuracy": accuracy.to_dict(),
    }


def search_id(config: SimConfig, slo: Slo, accuracy: Accuracy) -> str:
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
