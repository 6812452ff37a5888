"""The answer: verdict with its margin, ranking, and what the best deployments cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.slo import Slo
from simlib.stats.ranking import Standing, rank
from simlib.study.decide.costs import cost, energy
from simlib.study.decide.recipes import recipe
from simlib.study.decide.verdict import Found, elsewhere, longer_steps, relative, verdict_of
from simlib.study.plan.decision import Accuracy

_BUSY_LINK = 0.5
"""A link that is busy for less of the time does not make anybody wait for long."""
_SPENT = {
    "prefill_wait_s": "prefill",
    "prefill_s": "prefill",
    "transfer_s": "link",
    "decode_wait_s": "decode",
    "first_decode_step_s": "decode",
}
"""The pool (or the link) where a part of TTFT is spent; the wait for the transfer depends."""


def searches_of(case: Mapping[str, Any], outcomes: Mapping[str, Found]) -> list[Found]:
    """Return what the last round found of each deployment of a case, in their order.

    Parameters
    ----------
    case
        As `Case.to_dict` returns it.
    outcomes
        Of its jobs, by identity.
    """
    found = {
        (job, one["name"]): one
        for job in {deployment["job"] for deployment in case["deployments"]}
        for one in outcomes[job]["deployments"]
    }
    return [found[one["job"], one["name"]] for one in case["deployments"]]


def answered(
    case: Mapping[str, Any],
    accuracy: Accuracy,
    prices: Mapping[str, float],
    outcomes: Mapping[str, Found],
) -> dict[str, Any]:
    """Return the answer to a case from the outcomes of its jobs; see `answer`."""
    fewest, slower = (None if case[job] is None else outcomes[case[job]]
                      for job in ("fewest", "slower"))  # fmt: skip
    return answer(case, searches_of(case, outcomes), accuracy, prices, fewest, slower)


def answer(
    case: Mapping[str, Any],
    searches: Sequence[Found],
    accuracy: Accuracy,
    prices: Mapping[str, float],
    fewest: Mapping[str, Any] | None = None,
    slower: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the whole answer to one case as plain data.

    Parameters
    ----------
    case
        As `Case.to_dict` returns it.
    searches
        What the search of each of its deployments found, in their order.
    prices
        The user's dollars per GPU and hour.
    fewest
        What `fewest_gpus` found, if a rate was asked for.
    slower
        What `simlib.study.decide.slower.slower` found, if that was asked for.
    """
    slo = Slo.from_dict(case["slo"])
    lines = [
        _line(one, found, slo, prices)
        for one, found in zip(case["deployments"], searches, strict=True)
    ]
    samples = _samples(lines, searches)
    indifference = math.log1p(accuracy.indifference)
    standings = rank(samples, indifference=indifference) if samples else []
    for line in lines:
        line.update(_standing(next((s for s in standings if s.name == line["deployment"]), None)))
        line["tied"] &= line["stopped_by"] != "behind"  # the rounds before told it from the best
    lines.sort(key=lambda line: -(line["capacity_per_s_per_gpu"] or 0.0))
    best = {
        architecture: _best(lines, architecture)
        for architecture in dict.fromkeys(one["architecture"] for one in case["deployments"])
    }
    verdict = verdict_of(case, lines, samples, accuracy, slo)
    return {
        "coordinates": case["coordinates"],
        "slo": case["slo"],
        "verdict": verdict,
        "longer_steps": longer_steps(case, samples, accuracy, verdict, slower),
        "other_definitions": elsewhere(case, searches, accuracy),
        "best": best,
        "tied_with_best": [line["deployment"] for line in lines if line["tied"]],
        "deployments": lines,
        "left_out": case["left_out"],
        "equal_hardware": len({str(sorted(one["hardware"].items())) for one in lines}) == 1,
        "fewest_gpus": fewest,
        "recipes": {
            architecture: recipe(_config(case, line["deployment"]))
            for architecture, line in best.items()
            if line is not None
        },
        "simulations": sum(
            row["replicates"] for found in searches for row in (found["unloaded"], *found["rates"])
        )
        + (sum(slower["points"].values()) if slower is not None else 0),
    }


def _line(
    one: Mapping[str, Any], found: Found, slo: Slo, prices: Mapping[str, float]
) -> dict[str, Any]:
    gpus, capacity = one["gpus"], found["capacity_per_s"]
    at = near_capacity(found)
    missed = (at or found["unloaded"])["missed"]
    binding = max(missed, key=lambda part: missed[part]) if any(missed.values()) else ""
    tokens = None
    if at is not None and capacity is not None:
        tokens = at["output_tokens_per_s"] * capacity / at["rate_per_s"]
    return {
        "deployment": one["name"],
        "architecture": one["architecture"],
        "gpus": gpus,
        "hardware": one["hardware"],
        "pools": pools_of(SimConfig.from_dict(one["config"])),
        "outcome": found["outcome"],
        **{key: found[key] for key in _CAPACITY},
        **{key.replace("per_s", "per_s_per_gpu"): _per(found[key], gpus) for key in _CAPACITY},
        "binding": binding,
        "bottleneck": bottleneck(
            at or found["unloaded"], binding, SimConfig.from_dict(one["config"])
        ),
        "utilization": at["utilization"] if at else {},
        "output_tokens_per_s_per_gpu": _per(tokens, gpus),
        "cost": cost(one["hardware"], tokens, prices) if tokens else None,
        "energy": energy(one["hardware"], tokens) if tokens else None,
        "unloaded": found["unloaded"],
        "replicates": found["replicates"],
        "stopped_by": found["stopped_by"],
        "reason": found["reason"],
    }


def pools_of(config: SimConfig) -> dict[str, dict[str, Any]]:
    """Return what each pool of a deployment is made of, by the pool's name."""
    if config.serving == "token_rate":
        return {name: {"gpus": gpus} for name, gpus in config.deployment.gpus_by_pool.items()}
    return {
        name: {
            "gpus": pool.total_gpus,
            "gpu": pool.gpu,
            "replicas": pool.replicas,
            "gpus_per_replica": pool.replica_gpus,
            "tensor_parallel": pool.tensor_parallel,
            "data_parallel_size": pool.data_parallel_size,
        }
        for name, pool in config.batching.pools.items()
    }


_CAPACITY = ("capacity_per_s", "capacity_per_s_low", "capacity_per_s_high")


def _per(value: float | None, gpus: int) -> float | None:
    return None if value is None else value / gpus


def near_capacity(found: Found) -> dict[str, Any] | None:
    """Return the row of the measured rate that is nearest to the capacity; None without one."""
    capacity = found["capacity_per_s"]
    if capacity is None or not found["rates"]:
        return None
    full = [r for r in found["rates"] if r["replicates"] >= found["replicates"]] or found["rates"]
    row: dict[str, Any] = min(full, key=lambda r: abs(math.log(r["rate_per_s"] / capacity)))
    return row


def bottleneck(row: Mapping[str, Any], binding: str, config: SimConfig) -> str:
    """Return the pool (or the link) that makes requests miss the binding part of the SLO.

    A KV cache waits for blocks on the decode side, then for the link: the link's own load tells
    which of both the wait is for.
    """
    if not binding:
        return ""
    if config.mode == "mono":
        return "gpu"
    if binding == "tpot_s":
        return "decode"
    late = row["late_parts_s"]
    spent = dict.fromkeys(("prefill", "link", "decode"), 0.0)
    for part, pool in _SPENT.items():
        spent[pool] += late[part]
    busy = row["rate_per_s"] * late["transfer_s"] / _links(config)
    spent["link" if busy >= _BUSY_LINK else "decode"] += late["transfer_wait_s"]
    return max(spent, key=lambda pool: spent[pool])


def _links(config: SimConfig) -> float:
    """Return how many transfers can run at full speed at once."""
    if config.serving == "token_rate":
        return math.inf
    disagg = config.batching_disagg
    return 1.0 if disagg.link.scope == "shared" else float(disagg.prefill.replicas)


def _samples(lines: Sequence[Found], searches: Sequence[Found]) -> dict[str, Any]:
    """Return pseudo-values of the logarithm of capacity per GPU, of deployments that have one."""
    return {
        line["deployment"]: np.array(found["log_pseudo_values"]) - math.log(line["gpus"])
        for line, found in zip(lines, searches, strict=True)
        if found["log_pseudo_values"]
    }


def _standing(standing: Standing | None) -> dict[str, Any]:
    if standing is None:
        return {"behind_best": None, "behind_best_low": None, "behind_best_high": None,
                "tied": False}  # fmt: skip
    behind = relative(standing.behind_best)
    return {
        "behind_best": behind["estimate"],
        "behind_best_low": behind["low"],
        "behind_best_high": behind["high"],
        "tied": standing.tied,
    }


def _best(lines: Sequence[dict[str, Any]], architecture: str) -> dict[str, Any] | None:
    able = [line for line in lines if line["architecture"] == architecture]
    able = [line for line in able if line["capacity_per_s"] is not None]
    return max(able, key=lambda line: float(line["capacity_per_s_per_gpu"]), default=None)


def _config(case: Mapping[str, Any], name: str) -> SimConfig:
    return SimConfig.from_dict(
        next(one["config"] for one in case["deployments"] if one["name"] == name)
    )
