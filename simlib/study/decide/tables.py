"""The tables of a decision: verdicts, capacities, the frontier, and the whole answer as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from simlib import __version__
from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.slo import Slo
from simlib.files import replacing, write_json
from simlib.study.decide.answer import answered, searches_of
from simlib.study.decide.frontier import frontier_lines
from simlib.study.decide.words import page, ten_lines, turns
from simlib.study.plan.decision import Accuracy
from simlib.study.plan.searches import ANSWER, job_paths

Line = dict[str, Any]
_PLAIN = (
    "deployment", "architecture", "gpus", "outcome",
    "capacity_per_s", "capacity_per_s_low", "capacity_per_s_high",
    "capacity_per_s_per_gpu", "capacity_per_s_per_gpu_low", "capacity_per_s_per_gpu_high",
    "behind_best", "behind_best_low", "behind_best_high", "tied",
    "binding", "bottleneck", "output_tokens_per_s_per_gpu", "replicates", "stopped_by", "reason",
)  # fmt: skip


def write_decision(study: Mapping[str, Any], results: Path, output: Path) -> list[str]:
    """Write every table of a study that asks for a decision, from what its searches found.

    Returns
    -------
    list of str
        The names of the files.
    """
    decision = study["decision"]
    accuracy = Accuracy.from_dict(decision["accuracy"])
    answers: list[dict[str, Any]] = []
    verdicts, capacities, frontier, attained = [], [], [], []
    for number, case in enumerate(decision["cases"]):
        jobs = {one["job"] for one in case["deployments"]} | {case["fewest"], case["slower"]} - {
            None
        }
        outcomes = {job: _read(job_paths(results, job)[1]) for job in jobs}
        searches = searches_of(case, outcomes)
        said = answered(case, accuracy, decision["prices"], outcomes)
        config = SimConfig.from_dict(case["deployments"][0]["config"])
        answers.append({"lines": ten_lines(said, config), **said})
        where = {"case": number, **{key: case["coordinates"][key] for key in decision["factors"]}}
        verdicts.append(where | _verdict_line(said))
        capacities += [where | _capacity_line(line) for line in said["deployments"]]
        sides = [one["architecture"] for one in case["deployments"]]
        lines = frontier_lines(
            zip(sides, searches, strict=True),
            Slo.from_dict(case["slo"]),
            accuracy.indifference,
        )
        frontier += [where | line for line in lines]
        attained += [
            where | _attainment_line(one, row)
            for one, found in zip(case["deployments"], searches, strict=True)
            for row in found["rates"]
        ]
    for name, lines in (
        ("summary.csv", verdicts),
        ("capacity.csv", capacities),
        ("frontier.csv", frontier),
        ("attainment.csv", attained),
    ):
        with replacing(output / name) as temporary:
            pd.DataFrame(lines).to_csv(temporary, index=False)
    write_json(
        output / "decision.json",
        {"title": study["title"], "factors": decision["factors"], "cases": answers},
    )
    with replacing(output / ANSWER) as temporary:
        temporary.write_text(page(study["title"], answers), encoding="utf-8")
    write_json(output / "provenance.json", _provenance(study))
    return ["summary.csv", "capacity.csv", "frontier.csv", "attainment.csv",
            "decision.json", ANSWER, "provenance.json"]  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _verdict_line(said: Mapping[str, Any]) -> Line:
    verdict, fewest = said["verdict"], said["fewest_gpus"] or {}
    margin = verdict["margin"] or {}
    line: Line = {
        "verdict": verdict["claim"],
        "margin": margin.get("estimate"),
        "margin_low": margin.get("low"),
        "margin_high": margin.get("high"),
        "reason": verdict["reason"],
        "other_definitions": ", ".join(f"{name}: {one}" for name, one in turns(said).items()),
    }
    for architecture in ("mono", "disagg"):
        best = said["best"].get(architecture) or {}
        line[f"best_{architecture}"] = best.get("deployment")
        for key in ("capacity_per_s", "capacity_per_s_low", "capacity_per_s_high"):
            line[f"{architecture}_{key}"] = best.get(key)
    return line | {
        "equal_hardware": said["equal_hardware"],
        "fewest_gpus": fewest.get("gpus"),
        "fewest_gpus_deployment": fewest.get("deployment"),
        "simulations": said["simulations"],
    }


def _capacity_line(line: Mapping[str, Any]) -> Line:
    shown = {name: line[name] for name in _PLAIN}
    cost, energy = line["cost"] or {}, line["energy"] or {}
    return shown | {
        "hardware": " + ".join(f"{n} {name}" for name, n in line["hardware"].items()),
        "usd_per_million_output_tokens_low": cost.get("usd_per_million_output_tokens_low"),
        "usd_per_million_output_tokens_high": cost.get("usd_per_million_output_tokens_high"),
        "joules_per_output_token_at_most": energy.get("joules_per_output_token_at_most"),
        "unloaded_attainment": line["unloaded"]["attainment"],
    }


def _attainment_line(one: Mapping[str, Any], row: Mapping[str, Any]) -> Line:
    nested = ("missed", "late_parts_s", "utilization")
    return {
        "deployment": one["name"],
        "architecture": one["architecture"],
        **{key: value for key, value in row.items() if key not in nested},
        **{f"missed_{part}": share for part, share in row["missed"].items()},
        **{f"utilization_{pool}": share for pool, share in row["utilization"].items()},
    }


def _provenance(study: Mapping[str, Any]) -> dict[str, Any]:
    decision = study["decision"]
    return {
        "study": study["name"],
        "simlib_version": __version__,
        "model_version": MODEL_VERSION,
        "slo": [case["slo"] for case in decision["cases"]],
        "accuracy": decision["accuracy"],
        "searches": {
            f"{number}: {one['name']}": one["job"]
            for number, case in enumerate(decision["cases"])
            for one in case["deployments"]
        },
    }
