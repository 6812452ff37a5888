"""Points that are made precise: what shares a job, what is lengthened, and how far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.sampling import sample_requests
from simlib.files import write_json
from simlib.stats.relaxation import HEAVY_TAIL
from simlib.study.jobs.decision import read_decisions, write_decisions
from simlib.study.jobs.precision import make_precise
from simlib.study.jobs.verify import Verifier, decision_path
from simlib.study.plan.grid import resolve
from simlib.study.plan.identity import point_id
from simlib.study.plan.precise import lengthened, request_of
from simlib.study.plan.resolved import ResolvedStudy

TRACE = Path(__file__).resolve().parents[2] / "data/generated_trace.csv"


def resolved(defaults: dict[str, Any], precision: dict[str, Any], **study: Any) -> ResolvedStudy:
    studies = {"one": {"precision": {"metric": "mean_ttft_s", **precision}, **study}}
    return resolve({"defaults": defaults, "studies": studies})[0]


def decided(study: ResolvedStudy, folder: Path) -> list[dict[str, Any]]:
    """Return the decisions on all points, in the order of the jobs."""
    found = []
    for job, rows in study.precise.items():
        write_json(folder / f"{job}.request.json", request_of(rows))
        found += make_precise(folder / f"{job}.request.json", folder, folder / f"{job}.json")
        assert [one.to_dict() for one in read_decisions(folder / f"{job}.json")] == found[
            -len(rows) :
        ]
    return found


SATURATING = {"sim_seconds": 400, "warmup_seconds": 40, "mode": "mono",
              "cluster_mono": {"num_gpus": 1}, "arrival": {"rate_per_s": 2}}  # fmt: skip


@pytest.mark.parametrize("most", [1, 2, 3, 512])
def test_runs_become_as_long_as_needed_and_allowed(tmp_path: Path, most: int) -> None:
    precision = {"relative": 0.12, "max_replicates": 12, "max_lengthening": most}
    study = resolved(SATURATING, precision)
    (one,) = decided(study, tmp_path)
    if most == 512:
        assert one["reached"]
        assert 3 < one["times"] < 512
        assert one["relative_half_width"] <= 0.12
    else:
        assert not one["reached"]
        assert one["times"] == most
        assert "times as long would" in one["reason"]
    asked = study.rows[0].config
    window = lengthened(asked, one["times"])
    assert window.sim_seconds == one["times"] * asked.sim_seconds
    assert window.warmup_seconds == one["times"] * asked.warmup_seconds
    assert one["point_id"] == study.rows[0].point_id
    assert (one["simulated"] == one["point_id"]) == (one["times"] == 1)


def test_a_trace_is_not_lengthened_it_has_an_end(tmp_path: Path) -> None:
    batching = {"serving": "batching", "sim_seconds": 100, "warmup_seconds": 0, "mode": "mono"}
    batching |= {"arrival": {"kind": "trace", "path": str(TRACE), "speed": 2}}
    batching["batching_mono"] = {"pool": {"replicas": 2, "tensor_parallel": 4, "router": "random"}}
    study = resolved(batching, {"relative": 0.001, "max_replicates": 10, "max_lengthening": 8})
    (one,) = decided(study, tmp_path)
    assert (one["times"], one["reached"]) == (1, False)


@pytest.mark.parametrize(
    "arrival", [{"rate_per_s": 2}, {"kind": "gamma", "rate_per_s": 2, "cv": 3}]
)
@pytest.mark.parametrize(
    "tokens",
    [
        {"mode": "p50_p90", "p50": 100, "p90": 500},
        {"mode": "uniform", "low": 1, "high": 9},
        {"mode": "exponential", "mean": 50},
    ],
)
def test_a_longer_run_begins_with_the_requests_of_the_shorter(
    arrival: dict[str, Any], tokens: dict[str, Any]
) -> None:
    settings = {"arrival": arrival, "prompt_tokens": tokens, "output_tokens": tokens}
    short = SimConfig.from_dict({"sim_seconds": 100, "warmup_seconds": 10, **settings})
    few, many = (sample_requests(config, 3) for config in (short, lengthened(short, 4)))
    n = len(few.arrival_s)
    assert len(many.arrival_s) > 3 * n
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(many, column)[:n], getattr(few, column))


def test_what_is_compared_shares_a_job() -> None:
    grid = {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2]}
    apart = resolved({}, {}, sweep={"grid": grid})
    assert [len(rows) for rows in apart.precise.values()] == [1, 1, 1, 1]
    compare = {"factor": "mode", "baseline": "mono"}
    pairs = resolved({}, {}, sweep={"grid": grid}, compare=compare)
    for rows in pairs.precise.values():
        assert [row.coordinates["mode"] for row in rows] == ["mono", "disagg"]
        assert len({row.coordinates["arrival.rate_per_s"] for row in rows}) == 1
        assert [row.precision_place for row in rows] == [0, 1]
    # one monolithic point is compared with every level of what only the others have
    grid["cluster_disagg.decode_gpus"] = [1, 2]
    all_levels = resolved({}, {}, sweep={"grid": grid}, compare=compare)
    assert [len(rows) for rows in all_levels.precise.values()] == [3, 3]


@pytest.mark.parametrize(("metric", "heavy"), [("mean_ttft_s", True), ("mean_tpot_s", False)])
def test_a_heavy_tail_of_prompts_asks_for_longer_runs_of_what_waits_only(
    tmp_path: Path, metric: str, heavy: bool
) -> None:
    """One that is not met either way: the reason is the tail, or that the interval is wide."""
    settings = {"serving": "batching", "mode": "mono", "sim_seconds": 150, "warmup_seconds": 15,
                "arrival": {"rate_per_s": 2},
                "prompt_tokens": {"mode": "p50_p90", "p50": 100, "p90": 1500}}  # fmt: skip
    precision = {"metric": metric, "relative": 1e-4, "max_replicates": 12, "max_lengthening": 1}
    (one,) = decided(resolved(settings, precision), tmp_path)
    assert not one["reached"]
    assert (HEAVY_TAIL in one["reason"]) == heavy


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({}, ""),
        ({"replicates": 13}, "more than 12 replicates"),
        ({"times": 4}, "more than 2 times as long"),
        ({"times": 1}, "another length"),
        ({"point_id": "0" * 16}, "another point"),
        ({"wanted_relative": 0.2}, "another point, or precision"),
        (None, "it has 0 points"),
    ],
)
def test_a_decision_is_used_only_if_it_is_what_the_row_asks_for(
    tmp_path: Path, edit: dict[str, Any] | None, reason: str
) -> None:
    precision = {"relative": 0.12, "max_replicates": 12, "max_lengthening": 2}
    study = resolved(SATURATING, precision)
    row = study.rows[0]
    path = decision_path(tmp_path, row)
    (made,) = decided(study, tmp_path / "precision")
    assert made["times"] == 2
    (decision,) = read_decisions(path)
    if edit is not None and edit.get("times", 1) > 1:
        edit = edit | {"simulated": point_id(lengthened(row.config, edit["times"]))}
    write_decisions(path, [] if edit is None else [decision.model_copy(update=edit)])
    verifier = Verifier(tmp_path)
    condition, found = verifier.decision(row)
    assert condition == ("corrupt" if reason else "intact")
    assert (found is None) == bool(reason)
    assert reason in verifier.reasons.get(path, "")
