"""A job of a decision: a round over some deployments, or the fewest GPUs for a rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simlib.core.slo import Slo
from simlib.files import write_json
from simlib.study.decide.fewest import fewest_gpus
from simlib.study.decide.rounds import ROUNDS
from simlib.study.plan.decision import DeploymentSpace


def run_job(
    request_path: Path, results: Path, output: Path, simulated: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Do what a request file asks for, and write the outcome.

    Its simulations are kept one by one, so that an interrupted job goes on where it was.
    """
    request = json.loads(request_path.read_text(encoding="utf-8"))
    if request["round"] == "fewest":
        found = fewest_gpus(
            request["settings"],
            DeploymentSpace.from_dict(request["deployments"]),
            Slo.from_dict(request["slo"]),
            request["rate_per_s"],
            results,
            simulated,
        )
    else:
        found = ROUNDS[request["round"]](request, results, simulated)
    write_json(output, found)
    return found
