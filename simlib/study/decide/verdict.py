"""The verdict: best disaggregated against best monolithic, and where it would be another one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simlib.core.slo import Slo
from simlib.stats.intervals import Interval
from simlib.stats.ranking import Duel, duel
from simlib.study.plan.decision import Accuracy

Found = Mapping[str, Any]
WORDS = {
    "first": "disaggregate",
    "second": "do not disaggregate",
    "too close to call": "too close to call",
}


def _sides(case: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the samples by architecture."""
    sides: dict[str, dict[str, Any]] = {"disagg": {}, "mono": {}}
    for one in case["deployments"]:
        if one["name"] in samples:
            sides[one["architecture"]][one["name"]] = samples[one["name"]]
    return sides


def elsewhere(
    case: Mapping[str, Any], searches: Sequence[Found], accuracy: Accuracy
) -> dict[str, dict[str, Any]]:
    """Return the verdict where TTFT ends elsewhere, by definition, from the first round's searches.

    Those stop at a coarser interval: a claim here may be too close to call though it is none there.
    """
    found = {}
    for definition in dict.fromkeys(name for one in searches for name in one["definitions"]):
        its = [one["definitions"].get(definition) for one in searches]
        samples = {
            deployment["name"]: np.array(one["log_pseudo_values"]) - math.log(deployment["gpus"])
            for deployment, one in zip(case["deployments"], its, strict=True)
            if one is not None and one["log_pseudo_values"]
        }
        sides = _sides(case, samples)
        if all(sides.values()):
            said = _duel(sides, accuracy)
            found[definition] = said | {
                f"{side}_capacity_per_s": next(
                    one["capacity_per_s"]
                    for deployment, one in zip(case["deployments"], its, strict=True)
                    if one is not None and deployment["name"] == said[side]
                )
                for side in ("mono", "disagg")
            }
    return found


def longer_steps(
    case: Mapping[str, Any],
    samples: Mapping[str, Any],
    accuracy: Accuracy,
    verdict: Mapping[str, Any],
    slower: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return the verdict if steps of the better side, and only those, took longer, by how much.

    None without a claim that could turn. Of the better side its best is looked at, and others are
    left out, so it errs towards turning.
    """
    if (
        slower is None
        or verdict["margin"] is None
        or verdict["claim"] == WORDS["too close to call"]
    ):
        return None
    name, found = slower["deployment"], []
    side = next(o["architecture"] for o in case["deployments"] if o["name"] == name)
    gpus = next(o["gpus"] for o in case["deployments"] if o["name"] == name)
    for one in slower["longer"]:
        if not one["log_pseudo_values"]:
            found.append({"error": one["error"], "claim": "it cannot meet the SLO"})
            break
        sides = _sides(case, samples)
        sides[side] = {name: np.array(one["log_pseudo_values"]) - math.log(gpus)}
        found.append({"error": one["error"], **_duel(sides, accuracy)})
    return {"architecture": side, "deployment": name, "verdicts": found}


def relative(interval: Interval) -> dict[str, float | None]:
    """Return a difference of logarithms as a relative difference."""
    return {
        name: math.expm1(value) if math.isfinite(value) else None
        for name, value in (
            ("estimate", interval.estimate),
            ("low", interval.low),
            ("high", interval.high),
        )
    }


def verdict_of(
    case: Mapping[str, Any],
    lines: Sequence[dict[str, Any]],
    samples: Mapping[str, Any],
    accuracy: Accuracy,
    slo: Slo,
) -> dict[str, Any]:
    """Return claim, margin (best disaggregated over best monolithic, less one) and reason."""
    sides = _sides(case, samples)
    looked_at = {one["architecture"] for one in case["deployments"]}
    nothing = {"margin": None, "method": "", "mono": None, "disagg": None}
    if not samples:
        return nothing | {"claim": "no deployment meets the SLO", "reason": _unmet(lines, slo)}
    if len(looked_at) == 1:
        (only,) = looked_at
        other = "monolithic" if only == "disagg" else "disaggregated"
        return nothing | {"claim": "one architecture only", "reason": f"no {other} deployment"}
    for side, claim in (("mono", "disaggregate"), ("disagg", "do not disaggregate")):
        if not sides[side]:
            name = "monolithic" if side == "mono" else "disaggregated"
            reason = f"no {name} deployment meets the SLO at any load"
            return nothing | {"claim": claim, "reason": reason}
    return _duel(sides, accuracy)


def _duel(sides: Mapping[str, Mapping[str, Any]], accuracy: Accuracy) -> dict[str, Any]:
    """Return claim, margin and reason of two architectures that both have a capacity."""
    found: Duel = duel(
        sides["disagg"], sides["mono"], indifference=math.log1p(accuracy.indifference)
    )
    reason = ""
    if found.claim == "too close to call":
        if found.margin.contains(0.0):
            reason = "the interval of the margin holds 0"
        else:
            reason = f"the margin is within {accuracy.indifference:.0%}, which does not matter"
    return {
        "claim": WORDS[found.claim],
        "margin": relative(found.margin),
        "method": found.margin.method,
        "disagg": found.first,
        "mono": found.second,
        "reason": reason,
    }


def _unmet(lines: Sequence[dict[str, Any]], slo: Slo) -> str:
    """Say what the unloaded system gives, of the deployment that comes nearest."""
    nearest = max(lines, key=lambda line: float(line["unloaded"]["attainment"]))
    unloaded = nearest["unloaded"]
    return (
        f"without load {nearest['deployment']} keeps {unloaded['attainment']:.1%} of the requests "
        f"within it ({slo.attainment:.0%} are asked for); TTFT p50 {unloaded['p50_ttft_s']:.3g} s, "
        f"TPOT p50 {unloaded['p50_tpot_s']:.3g} s"
    )
