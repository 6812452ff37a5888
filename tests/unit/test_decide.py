"""Decisions: deployments that fit, their capacities, the verdict, its cost, how to start them."""

from __future__ import annotations

import csv
import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.records import TTFT_PARTS
from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.study.decide import costs
from simlib.study.decide.answer import answer, bottleneck, pools_of
from simlib.study.decide.decide import decide
from simlib.study.decide.fewest import fewest_gpus
from simlib.study.decide.frontier import frontier_lines, on_frontier
from simlib.study.decide.load import Load, snapped
from simlib.study.decide.recipes import recipe
from simlib.study.decide.rounds import far_behind
from simlib.study.decide.search import scouted, search_capacity
from simlib.study.decide.slower import slower
from simlib.study.decide.words import ten_lines
from simlib.study.plan.cases import cases_of
from simlib.study.plan.decision import Accuracy, Decision, DeploymentSpace
from simlib.study.plan.deployments import Deployment, deployments_of
from simlib.study.plan.searches import SCREENING, round_id, round_request

LLAMA = {"serving": "batching", "latency": {"model": "llama-3.1-70b"}}
SHORT = {"sim_seconds": 300.0, "warmup_seconds": 60.0}
COARSE = {"relative": 0.1, "max_replicates": 10}


def names(settings, **space):
    return [one.name for one in deployments_of(settings, DeploymentSpace(**space)).deployments]


# ---- deployments ----


def test_every_split_and_tensor_parallelism_that_uses_all_gpus_is_found():
    found = deployments_of(LLAMA, DeploymentSpace(gpus={"h100_sxm": 8}))
    assert [one.name for one in found.deployments] == [
        "4 x TP2",
        "2 x TP4",
        "1 x TP8",
        "1P TP2 + 3D TP2",
        "2P TP2 + 2D TP2",
        "3P TP2 + 1D TP2",
        "2P TP2 + 1D TP4",
        "1P TP4 + 2D TP2",
        "1P TP4 + 1D TP4",
    ]
    assert all(one.gpus == 8 for one in found.deployments)
    assert all(one.hardware == {"h100_sxm": 8} for one in found.deployments)
    assert "needs 141.1 GB" in found.left_out["TP1"]  # and does not fit one GPU


def test_architectures_parallelism_and_axes_restrict_or_widen_the_field():
    assert names(LLAMA, gpus={"h100_sxm": 8}, architectures=["mono"], tensor_parallel=[4]) == [
        "2 x TP4"
    ]
    wide = names(
        LLAMA,
        gpus={"h100_sxm": 4},
        tensor_parallel=[2],
        axes={"max_batch_tokens": [2048, 8192]},
    )
    assert wide == [
        "2 x TP2 max_batch_tokens=2048",
        "2 x TP2 max_batch_tokens=8192",
        "1P TP2 + 1D TP2 max_batch_tokens=2048",
        "1P TP2 + 1D TP2 max_batch_tokens=8192",
    ]


MIXTURE = {
    "serving": "batching",
    "latency": {"model": "deepseek-v3", "precision": "fp8"},
    "batching_mono": {"pool": {"enable_expert_parallel": True}},
    "batching_disagg": {
        "prefill": {"enable_expert_parallel": True},
        "decode": {"enable_expert_parallel": True},
    },
}


def test_ranks_of_a_mixture_are_enumerated_and_use_all_gpus():
    space = DeploymentSpace(
        gpus={"h200_sxm": 16}, tensor_parallel=[1, 8], data_parallel_size=[1, 8]
    )
    found = deployments_of(MIXTURE, space)
    assert [one.name for one in found.deployments] == [
        "2 x TP8 EP",
        "2 x TP1 DP8 EP",
        "1P TP8 EP + 1D TP8 EP",
        "1P TP8 EP + 1D TP1 DP8 EP",
        "1P TP1 DP8 EP + 1D TP8 EP",
        "1P TP1 DP8 EP + 1D TP1 DP8 EP",
    ]
    assert all(one.gpus == 16 for one in found.deployments)
    assert "enough GPUs" in found.left_out["TP1"]
    assert "more than 16 GPUs" in found.left_out["TP8 DP8"]


def test_ranks_are_not_dropped_in_silence():
    pool = {"data_parallel_size": 8, "tensor_parallel": 1}
    settings = {**MIXTURE, "batching_mono": {"pool": pool}}
    with pytest.raises(InvalidParameterError, match=r"data_parallel_size must be given: a pool"):
        deployments_of(settings, DeploymentSpace(gpus={"h200_sxm": 8}))
    dense = DeploymentSpace(gpus={"h100_sxm": 8}, data_parallel_size=[2])
    with pytest.raises(InvalidParameterError, match=r"must be 1: llama-3\.1-70b has no experts"):
        deployments_of(LLAMA, dense)


def test_recipes_start_ranks_and_experts():
    settings = {**MIXTURE, "batching_mono": {"pool": {
        "gpu": "h200_sxm", "tensor_parallel": 1, "data_parallel_size": 8,
        "enable_expert_parallel": True,
    }}}  # fmt: skip
    (one,) = deployments_of(settings, [{"name": "wide", "mode": "mono"}]).deployments
    (started,) = recipe(one.config)["vllm"]
    assert started["gpus"] == one.gpus // 2 == 8
    assert "--data-parallel-size 8 --enable-expert-parallel" in started["command"]
    assert started["command"].startswith("vllm serve deepseek-ai/DeepSeek-V3 ")


def test_token_rate_deployments_are_splits():
    assert names({}, gpus=4) == ["4 GPUs", "1P + 3D", "2P + 2D", "3P + 1D"]


def test_explicit_deployments_may_have_unequal_hardware():
    pool = {"replicas": 1, "tensor_parallel": 8}
    found = deployments_of(
        LLAMA,
        [
            {"name": "l40s", "mode": "mono", "batching_mono.pool": {"gpu": "l40s", **pool}},
            {"name": "h100", "mode": "mono", "batching_mono.pool": {"gpu": "h100_sxm", **pool}},
        ],
    )
    assert [one.hardware for one in found.deployments] == [{"l40s": 8}, {"h100_sxm": 8}]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"gpus": {"h100": 8}}, r"deployments\.gpus must be of one of a100_sxm, .*, got 'h100'"),
        ({"gpus": {"l4": 2}}, "enough for at least one deployment .*needs 141.1 GB"),
        ({"gpus": {"h100_sxm": 8}, "tensor_parallel": [3]}, "divisor of the 64 attention heads"),
        ({"gpus": {"h100_sxm": 6}, "tensor_parallel": [4]}, "no pools of TP4 use 6 GPUs"),
        ({"gpus": {"h100_sxm": 4, "l40s": 4}}, "one kind of GPU"),
        ({"gpus": 8, "axes": {"replicas": [1]}}, "one of enable_expert_parallel, kv_cap"),
        ({"gpus": 8, "architectures": []}, "mono, disagg, or both"),
        ({"gpus": 0}, ">= 1"),
    ],
)
def test_deployments_that_cannot_be_get_one_clear_message(wanted, message):
    with pytest.raises(InvalidParameterError, match=message):
        deployments_of(LLAMA, DeploymentSpace.from_dict(wanted))


def test_token_rates_know_no_gpus_by_name():
    with pytest.raises(InvalidParameterError, match=r"deployments\.gpus must be a number"):
        deployments_of({}, DeploymentSpace(gpus={"h100_sxm": 4}))


def test_two_explicit_deployments_need_two_names():
    with pytest.raises(InvalidParameterError, match="a name of its own"):
        deployments_of({}, [{"name": "a"}, {"name": "a"}])


# ---- one deployment's capacity ----


def mm1(**changes):
    """Return one GPU with exponential service of mean 1 s."""
    return SimConfig.from_dict(
        {
            "mode": "mono",
            "ttft_definition": "prefill_end",
            "sim_seconds": 8000.0,
            "warmup_seconds": 1000.0,
            "prompt_tokens": {"mode": "exponential", "mean": 1e6, "min_value": 1},
            "output_tokens": {"mode": "fixed", "value": 1},
            "cluster_mono": {
                "num_gpus": 1,
                "prefill_tokens_per_s": 1e6,
                "decode_tokens_per_s": 1e12,
            },
            **changes,
        }
    )


def found_by(config, slo, results, **accuracy):
    return search_capacity(Load(config, slo, results), "one", Accuracy(**accuracy))


def test_the_capacity_of_mm1_is_its_closed_form(tmp_path):
    # P(sojourn > t) = exp(-(mu - rate) t) = 5% at rate 0.7 for this t
    found = found_by(mm1(), Slo(ttft_s=math.log(20) / 0.3), tmp_path, relative=0.05)
    assert found["outcome"] == "found"
    assert found["capacity_per_s_low"] <= 0.7 <= found["capacity_per_s_high"]
    assert found["capacity_per_s"] == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize(
    ("accuracy", "stopped_by"),
    [({"relative": 0.2}, "accuracy"), ({"relative": 1e-4, "max_replicates": 12}, "max_replicates")],
)
def test_a_search_says_what_stopped_it(tmp_path, accuracy, stopped_by):
    assert found_by(mm1(), Slo(ttft_s=10.0), tmp_path, **accuracy)["stopped_by"] == stopped_by


def test_simulations_are_ordinary_points_and_are_never_made_twice(tmp_path):
    made = []

    def search(simulated):
        load = Load(mm1(), Slo(ttft_s=10.0), tmp_path, simulated)
        return search_capacity(load, "one", Accuracy(**COARSE))

    first = search(lambda: made.append(1))
    files = sorted(tmp_path.glob("points/*/attained-*.json"))
    assert sum(first["points"].values()) == len(made) > 10
    assert {file.parent.name for file in files} == set(first["points"])
    assert not list(tmp_path.glob("points/*/r*.npz"))  # thousands of them would fill the disk
    again = search(lambda: pytest.fail("simulated again"))
    assert again == first
    files[3].write_bytes(b"damaged")  # a killed or broken result is made again, the rest is not
    count = len(made)
    assert search(lambda: made.append(1)) == first
    assert len(made) == count + first["points"][files[3].parent.name]
    for row in first["rates"]:
        assert row["point_id"] in first["points"]
        assert row["rate_per_s"] == snapped(row["rate_per_s"])


def test_what_a_finer_search_left_does_not_change_a_coarser_one(tmp_path):
    slo = Slo(ttft_s=10.0)
    first = found_by(mm1(), slo, tmp_path / "one", **COARSE)
    found_by(mm1(), slo, tmp_path / "two", relative=0.03, max_replicates=30)
    assert found_by(mm1(), slo, tmp_path / "two", **COARSE) == first


def test_requests_are_kept_where_that_is_asked_for_and_read_where_they_are(tmp_path):
    config, slo = mm1(), Slo(ttft_s=10.0)
    kept = Load(config, slo, tmp_path, keep_requests=True)
    kept.measure(0.5, 2)
    (point,) = kept.points()
    assert len(list((tmp_path / "points" / point).glob("r*.npz"))) == 2
    other = Load(config, Slo(ttft_s=9.0), tmp_path, lambda: pytest.fail("simulated again"))
    other.measure(0.5, 2)


def test_an_slo_below_the_service_time_is_never_met_and_says_what_is_given(tmp_path):
    config = SimConfig.from_dict({**SHORT, "mode": "mono"})
    found = found_by(config, Slo(ttft_s=1e-4), tmp_path, **COARSE)
    assert found["outcome"] == "never"
    assert found["capacity_per_s"] is None
    assert "even without load 0.0%" in found["reason"]
    assert found["unloaded"]["p50_ttft_s"] > 1e-2


def test_a_capacity_is_never_at_an_unstable_rate(tmp_path):
    # served within any time at all: only stability bounds it, at load 1
    found = found_by(mm1(), Slo(ttft_s=1e6), tmp_path, **COARSE)
    assert found["outcome"] == "stability"
    assert 0.9 < found["capacity_per_s"] < 1.02
    at = next(r for r in found["rates"] if r["rate_per_s"] == found["capacity_per_s"])
    assert at["stability"] != "unstable"


def test_the_identity_of_a_job_is_all_that_changes_its_outcome():
    def identity(config, slo=None, name="one", reads=(), what="search", **accuracy):
        field = [Deployment(name, config)]
        slo = slo or Slo(ttft_s=1.0)
        return round_id(round_request(what, field, slo, Accuracy(**accuracy), reads=reads), field)

    base = identity(mm1())
    assert base == identity(mm1(arrival={"rate_per_s": 9.0}))
    assert base == identity(mm1(), indifference=0.1)
    others = [
        identity(mm1(random_seed=1)),
        identity(mm1(warmup_seconds=10.0)),
        identity(mm1(), Slo(ttft_s=1.0, attainment=0.9)),
        identity(mm1(), relative=0.1),
        identity(mm1(), max_replicates=50),
        identity(mm1(), name="two"),
        identity(mm1(), reads=[base]),
        identity(mm1(), what="scout"),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_a_closed_loop_has_no_rate_to_find():
    config = SimConfig.from_dict({**LLAMA, "arrival": {"kind": "closed_loop"}})
    with pytest.raises(InvalidParameterError, match="has no rate to find"):
        Load(config, Slo(ttft_s=1.0), None)


def test_a_trace_is_replayed_faster_and_parts_of_the_run_stand_for_replicates(tmp_path):
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.exponential(0.5, 2000))
    trace = tmp_path / "trace.csv"
    prompts, outputs = rng.integers(50, 900, 2000), rng.integers(5, 500, 2000)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = (
        f"{start + timedelta(seconds=float(t)):%Y-%m-%d %H:%M:%S.%f},{p},{o}"
        for t, p, o in zip(times, prompts, outputs, strict=True)
    )
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    config = SimConfig.from_dict(
        {"mode": "mono", "sim_seconds": 600.0, "warmup_seconds": 60.0,
         "arrival": {"kind": "trace", "path": str(trace)}}
    )  # fmt: skip
    load = Load(config, Slo(ttft_s=1.0), tmp_path)
    fast = load.at(8.0)
    assert fast.arrival.speed == pytest.approx(4.0, rel=0.05)
    assert load.rate_of(fast) == pytest.approx(8.0, rel=0.01)
    assert fast.sim_seconds * fast.arrival.speed == pytest.approx(times[-1], rel=1e-3)
    assert fast.warmup_seconds / fast.sim_seconds == pytest.approx(0.1)
    found = found_by(config, Slo(ttft_s=1.0), tmp_path, **COARSE)
    assert found["outcome"] == "found"
    assert found["replicates"] == 10
    finer = found_by(config, Slo(ttft_s=1.0), tmp_path, relative=1e-4)
    assert (finer["replicates"], finer["stopped_by"]) == (10, "trace")
    assert {row["replicates"] for row in found["rates"]} == {1}


# ---- the answer ----


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """Return the results folder, the case and the answer of a small decision."""
    results = tmp_path_factory.mktemp("results")
    decision = Decision.from_dict(
        {"slo": {"ttft_s": 1.0}, "deployments": {"gpus": 4}, "rate_per_s": 3.0, "accuracy": COARSE}
    )
    ((case, said),) = decide(SHORT, decision, results, cores=1)
    return results, case, said


def test_the_verdict_names_the_better_architecture_with_its_margin(decided):
    _, _, said = decided
    verdict = said["verdict"]
    assert verdict["claim"] == "do not disaggregate"
    assert verdict["margin"]["low"] < verdict["margin"]["estimate"] < verdict["margin"]["high"] < 0
    assert (verdict["mono"], verdict["disagg"]) == ("4 GPUs", "1P + 3D")
    best = said["deployments"][0]
    assert best["tied"]
    assert best["capacity_per_s_per_gpu"] == pytest.approx(best["capacity_per_s"] / 4)
    assert best["binding"] == "ttft_s"
    assert said["equal_hardware"]
    ranked = [line["capacity_per_s"] for line in said["deployments"]]
    assert ranked == sorted(ranked, reverse=True)


def test_the_fewest_gpus_keep_the_slo_and_fewer_do_not(decided):
    results, _, said = decided
    fewest = said["fewest_gpus"]
    assert fewest["gpus"] == 3
    assert fewest["attainment_low"] >= 0.95
    fewer = DeploymentSpace(gpus=fewest["gpus"] - 1)
    assert fewest_gpus(SHORT, fewer, Slo(ttft_s=1.0), 3.0, results)["gpus"] is None


def test_the_answer_is_plain_data_and_fits_ten_lines(decided):
    _, case, said = decided
    json.dumps(said, allow_nan=False)
    lines = ten_lines(said, SimConfig.from_dict(case.settings))
    assert len(lines) <= 10
    text = "\n".join(lines)
    for part in (
        "Verdict: do not disaggregate",
        "95%",
        "TTFT <= 1 s",
        "Fewest GPUs for 3 requests",
    ):
        assert part in text


def test_the_frontier_keeps_ties_and_drops_what_is_worse_in_both():
    def row(rate, per_gpu, tpot, width=0.0, ttft_missed=0.0):
        return {
            "rate_per_s": rate, "replicates": 3, "attainment": 1.0, "point_id": "x",
            "output_tokens_per_s_per_gpu": per_gpu, "p50_tpot_s": tpot, "stability": "stable",
            "p50_tpot_s_low": tpot - width, "p50_tpot_s_high": tpot + width,
            "missed": {"ttft_s": ttft_missed},
        }  # fmt: skip

    def lines(*rows):
        found = {"name": "a", "gpus": 1, "rates": rows}
        return frontier_lines([("mono", found)], Slo(ttft_s=1.0), 0.02)

    both = lines(row(1, 10.0, 0.01), row(2, 20.0, 0.02), row(3, 15.0, 0.03))
    assert [line["on_frontier"] for line in both] == [True, True, False]
    speeds = [line["output_tokens_per_s_per_user"] for line in on_frontier(both, "mono")]
    assert speeds == pytest.approx([50.0, 100.0])
    tied = lines(row(1, 20.0, 0.0200, 0.001), row(2, 20.1, 0.0201, 0.001))
    assert all(line["on_frontier"] for line in tied)
    assert [
        line["rate_per_s"] for line in lines(row(1, 1.0, 0.1), row(2, 9.0, 0.1, 0.0, 0.06))
    ] == [1]


def test_the_bottleneck_is_where_late_requests_spend_their_time():
    late = {"prefill_wait_s": 0.1, "prefill_s": 0.2, "transfer_wait_s": 0.0, "transfer_s": 0.0,
            "decode_wait_s": 0.9, "first_decode_step_s": 0.1}  # fmt: skip
    split = SimConfig.from_dict(LLAMA)

    def of(config=split, binding="ttft_s", rate=1.0, **parts):
        return bottleneck({"late_parts_s": late | parts, "rate_per_s": rate}, binding, config)

    assert of() == "decode"
    assert of(prefill_s=2.0) == "prefill"
    assert of(prefill_s=2.0, binding="tpot_s") == "decode"
    assert of(config=SimConfig(mode="mono")) == "gpu"
    # a long wait for an idle link is a wait for blocks of the decode pool
    assert of(transfer_wait_s=5.0, transfer_s=0.1, rate=1.0) == "decode"
    assert of(transfer_wait_s=5.0, transfer_s=0.1, rate=9.0) == "link"


def crafted(elsewhere=None, stopped_by=None, slower=None, **shifts):
    """Return an answer to a case whose deployments have these capacities (None: never).

    `elsewhere` has their capacities where TTFT ends at the prefill's end.
    """
    case = {"coordinates": {}, "slo": Slo(ttft_s=1.0).to_dict(), "left_out": {}, "deployments": []}
    searches = []
    spread = 0.01 * np.random.default_rng(0).standard_normal(12)
    unloaded = {"attainment": 0.9, "p50_ttft_s": 2.0, "p50_tpot_s": 0.02, "missed": {"ttft_s": 0.1},
                "late_parts_s": dict.fromkeys(TTFT_PARTS, 0.1), "rate_per_s": 1.0,
                "replicates": 3}  # fmt: skip
    for i, (name, capacity) in enumerate(shifts.items()):
        mode = "mono" if name.startswith("m") else "disagg"
        config = SimConfig(mode=mode)
        case["deployments"].append(
            {"name": name, "architecture": mode, "gpus": 4, "hardware": {"gpu": 4},
             "config": config.to_dict(), "job": name}
        )  # fmt: skip
        never = capacity is None
        log = [] if never else (math.log(capacity) + np.roll(spread, i)).tolist()
        searches.append(
            {"name": name, "gpus": 4, "unloaded": unloaded,
             "outcome": "never" if never else "found",
             "capacity_per_s": capacity, "capacity_per_s_low": capacity,
             "capacity_per_s_high": capacity, "reason": "", "replicates": 12,
             "stopped_by": (stopped_by or {}).get(name, "" if never else "accuracy"),
             "log_pseudo_values": log, "rates": [], "definitions": {}}
        )  # fmt: skip
        if elsewhere is not None:
            there = (math.log(elsewhere[name]) + np.roll(spread, i)).tolist()
            searches[-1]["definitions"]["prefill_end"] = {
                "capacity_per_s": elsewhere[name], "log_pseudo_values": there,
            }  # fmt: skip
    return answer(case, searches, Accuracy(), {}, slower=slower)


@pytest.mark.parametrize(
    ("capacities", "claim"),
    [
        ({"m1": 10.0, "d1": 12.0, "d2": 5.0}, "disaggregate"),
        ({"m1": 10.0, "d1": 8.0}, "do not disaggregate"),
        ({"m1": 10.0, "d1": 10.02}, "too close to call"),
        ({"m1": None, "d1": 8.0}, "disaggregate"),
        ({"m1": 8.0, "d1": None}, "do not disaggregate"),
        ({"m1": None, "d1": None}, "no deployment meets the SLO"),
        ({"m1": 8.0, "m2": 9.0}, "one architecture only"),
    ],
)
def test_every_outcome_has_its_words(capacities, claim):
    said = crafted(**capacities)
    assert said["verdict"]["claim"] == claim
    lines = ten_lines(said, SimConfig())
    assert f"Verdict: {claim}" in lines[1]
    if None in capacities.values():
        assert "without load" in "\n".join(lines)


def test_a_verdict_that_turns_where_ttft_ends_elsewhere_says_so():
    turned = crafted({"m1": 10.0, "d1": 12.0}, m1=10.0, d1=8.0)
    assert turned["verdict"]["claim"] == "do not disaggregate"
    assert turned["other_definitions"]["prefill_end"]["claim"] == "disaggregate"
    assert turned["other_definitions"]["prefill_end"]["disagg_capacity_per_s"] == 12.0
    (line,) = [one for one in ten_lines(turned, SimConfig()) if one.startswith("How sure")]
    turned_there = "until the prefill has ended it would be: disaggregate (+20."
    assert f"first decode step has ended; the verdict depends on that: {turned_there}" in line
    same = crafted({"m1": 10.0, "d1": 7.0}, m1=10.0, d1=8.0)
    (line,) = [one for one in ten_lines(same, SimConfig()) if one.startswith("How sure")]
    assert "counted until the prefill has ended, the verdict is the same" in line


def test_the_rest_of_the_field_is_named_with_its_capacities_and_ties():
    said = crafted(m1=10.0, m2=9.99, d1=8.0, d2=3.0, d3=None)
    (line,) = [one for one in ten_lines(said, SimConfig()) if one.startswith("Others")]
    assert line == (
        "Others, requests/s: m2 9.99 (may be as good as the best), d2 3, "
        "1 that cannot meet the SLO."
    )
    many = crafted(m1=10.0, d1=8.0, **{f"d{i}": 7.9 - 0.1 * i for i in range(2, 12)})
    (line,) = [one for one in ten_lines(many, SimConfig()) if one.startswith("Others")]
    assert line.endswith("d9 7, 2 more with less.")


def longer(name, *capacities):
    """Return what a deployment carries if its steps take 5, 10, … percent longer."""
    spread = 0.01 * np.random.default_rng(0).standard_normal(12)
    values = [[] if c is None else (math.log(c) + spread).tolist() for c in capacities]
    errors = zip((0.05, 0.1, 0.2), values, strict=False)
    return {"deployment": name, "points": {"x": 3},
            "longer": [{"error": e, "log_pseudo_values": v} for e, v in errors]}  # fmt: skip


@pytest.mark.parametrize(
    ("capacities", "said"),
    [
        ((9.5, 9.0, 8.5), "20% longer: the same verdict."),
        ((9.5, 9.0, 8.0), "10% longer: the same verdict; 20% longer: too close to call."),
        ((8.0, 7.5, 7.0), "5% longer: too close to call."),
        ((9.5, 7.0, 5.0), "5% longer: the same verdict; 10% longer: disaggregate."),
        ((9.5, None), "5% longer: the same verdict; 10% longer: it cannot meet the SLO."),
    ],
)
def test_the_answer_says_what_error_of_the_latencies_the_verdict_stands(capacities, said):
    found = crafted(m1=10.0, m2=9.9, d1=8.0, slower=longer("m1", *capacities))
    json.dumps(found, allow_nan=False)
    assert found["simulations"] == crafted(m1=10.0, m2=9.9, d1=8.0)["simulations"] + 3
    line = "If monolithic steps took longer than simulated and disaggregated ones did not, by m1"
    assert f"{line}: {said}" in ten_lines(found, SimConfig())
    open_ = crafted(m1=8.0, d1=8.0, slower=longer("m1", *capacities))
    assert open_["longer_steps"] is None  # too close to call already


def test_steps_that_take_longer_are_those_of_slower_gpus(tmp_path):
    config, slo = mm1(), Slo(ttft_s=math.log(20) / 0.3)
    found = found_by(config, slo, tmp_path, relative=0.02)
    request = {"slo": slo.to_dict(), "accuracy": Accuracy(relative=0.02).to_dict(),
               "keep_requests": False}  # fmt: skip
    said = slower({"one": found}, request, tmp_path, lambda: None)
    assert said["deployment"] == "one"
    for one in said["longer"]:
        # a service rate of 1 / stretch under the same limit: P(T > t) = exp(-(mu - rate) t)
        truth = 1.0 / (1.0 + one["error"]) - 0.3
        assert np.exp(np.mean(one["log_pseudo_values"])) == pytest.approx(truth, rel=0.03)
    assert slower({}, request, tmp_path, lambda: None)["longer"] == []


def test_what_an_earlier_round_left_behind_is_no_tie():
    capacities = {"m1": 10.0, "m2": 9.99, "d1": 8.0}
    assert crafted(**capacities)["tied_with_best"] == ["m1", "m2"]
    assert crafted(stopped_by={"m2": "behind"}, **capacities)["tied_with_best"] == ["m1"]


def test_a_search_that_its_limit_stopped_says_so():
    said = crafted(m1=10.0, d1=8.0)
    assert "max_replicates" not in "\n".join(ten_lines(said, SimConfig()))
    said["best"]["mono"]["stopped_by"] = "max_replicates"
    (line,) = [one for one in ten_lines(said, SimConfig()) if one.startswith("How sure")]
    assert line.endswith("Less exact than asked for, by max_replicates: m1 (12).")


def test_a_deployment_is_given_in_words_and_with_its_pools():
    pools = {"batching_disagg.prefill": {"tensor_parallel": 2, "replicas": 3},
             "batching_disagg.decode": {"tensor_parallel": 1, "replicas": 2}}  # fmt: skip
    (one,) = deployments_of(LLAMA | {"latency": {"model": "llama-3.1-8b"}},
                            [{"name": "split", "mode": "disagg", **pools}]).deployments  # fmt: skip
    found = pools_of(one.config)
    assert (found["prefill"]["replicas"], found["prefill"]["gpus_per_replica"]) == (3, 2)
    assert (found["decode"]["gpus"], found["decode"]["gpu"]) == (2, "h100_sxm")
    said = crafted(m1=10.0, d1=12.0)
    said["best"]["disagg"]["pools"] = found
    (line,) = [one for one in ten_lines(said, SimConfig()) if one.startswith("Best disagg")]
    assert "d1 (3 prefill replicas of 2 GPUs, 2 decode replicas of 1 GPU): 12 requests/s" in line
    assert "Best monolithic: m1: 10 " in "\n".join(ten_lines(said, SimConfig()))


def test_capacities_are_found_for_every_definition_of_ttft_that_a_limit_depends_on(tmp_path):
    # decode is slow, and its queue long: TTFT that ends before it is kept to a higher rate
    config = SimConfig.from_dict(
        {**SHORT, "cluster_disagg": {"prefill_gpus": 2, "decode_gpus": 2}, "sim_seconds": 900.0}
    )
    found = found_by(config, Slo(ttft_s=1.0), tmp_path, **COARSE)
    assert set(found["definitions"]) == {"prefill_end", "transfer_end"}
    early = found["definitions"]["prefill_end"]["capacity_per_s"]
    assert early > 1.5 * found["capacity_per_s"]
    own = SimConfig.from_dict({**config.to_dict(), "ttft_definition": "prefill_end"})
    alone = found_by(own, Slo(ttft_s=1.0), tmp_path, **COARSE)
    assert early == pytest.approx(alone["capacity_per_s"], rel=0.1)
    assert found_by(config, Slo(e2e_s=20.0), tmp_path, **COARSE)["definitions"] == {}
    rough = scouted(Load(config, Slo(ttft_s=1.0), tmp_path), "one")
    assert rough["at_least_per_s"] == pytest.approx(found["capacity_per_s"], rel=0.15)
    assert rough["at_most_per_s"] == pytest.approx(early, rel=0.15)


def test_only_those_that_may_be_the_best_are_found_exactly(tmp_path):
    decision = Decision.from_dict(
        {
            "slo": {"ttft_s": 1.0},
            "deployments": {"gpus": 4},
            "accuracy": {"relative": 0.03, "max_replicates": 40},
        }
    )
    told = []
    ((case, said),) = decide(
        {**SHORT, "sim_seconds": 600.0},
        decision,
        tmp_path,
        cores=1,
        told=lambda done, total, what, found: told.append((done, total, what)),
    )
    lines = {line["deployment"]: line for line in said["deployments"]}
    rounds = ["search"] * 2 + ["refine"] * 2 + ["slower"]
    assert told == [(i + 1, 5, what) for i, what in enumerate(rounds)]
    assert [len(request["reads"]) for request in case.jobs.values()] == [0, 1, 0, 1, 2]
    best = said["verdict"]["disagg"]
    behind = [n for n, line in lines.items() if line["architecture"] == "disagg" and n != best]
    most = SCREENING.max_replicates
    assert all(lines[name]["replicates"] <= most for name in behind)
    assert all(lines[name]["stopped_by"] == "behind" for name in behind)
    assert lines[best]["replicates"] > most
    assert lines["4 GPUs"]["replicates"] > most  # alone in its architecture
    half = (lines[best]["capacity_per_s_high"] - lines[best]["capacity_per_s_low"]) / 2.0
    precise = half <= 0.03 * lines[best]["capacity_per_s"]
    assert lines[best]["stopped_by"] == ("accuracy" if precise else "max_replicates")
    assert precise or lines[best]["replicates"] == 40


def test_in_a_large_field_those_that_scouts_find_far_behind_are_not_searched(tmp_path, monkeypatch):
    settings = {**SHORT, "sim_seconds": 600.0}
    decision = Decision.from_dict(
        {"slo": {"ttft_s": 1.0}, "deployments": {"gpus": 6}, "accuracy": COARSE}
    )
    ((_, in_full),) = decide(settings, decision, tmp_path / "full", cores=1)
    monkeypatch.setattr("simlib.study.plan.cases.SEARCHED_IN_FULL", 4)
    told = []
    ((case, said),) = decide(
        settings, decision, tmp_path / "scouted", cores=1, told=lambda *one: told.append(one[2])
    )
    assert told == ["search", "scout", "search", "slower"]  # one monolithic deployment, five splits
    for key in ("claim", "mono", "disagg"):
        assert said["verdict"][key] == in_full["verdict"][key]
    carried = {line["deployment"]: line["capacity_per_s"] for line in in_full["deployments"]}
    lines = {line["deployment"]: line for line in said["deployments"]}
    left = {name for name, line in lines.items() if line["outcome"] == "far behind"}
    assert "5P + 1D" in left
    best = carried[said["verdict"]["disagg"]]
    assert all(carried[name] < best / 1.25 for name in left)
    assert all("three replicates" in lines[name]["reason"] for name in left)
    assert {n: lines[n]["capacity_per_s"] for n in carried if n not in left} == {
        n: pytest.approx(c, rel=0.05) for n, c in carried.items() if n not in left
    }
    assert f"{len(left)} far behind" in "\n".join(
        ten_lines(said, SimConfig.from_dict(case.settings))
    )
    assert said["simulations"] < in_full["simulations"]


def test_what_might_be_the_best_where_ttft_ends_elsewhere_is_not_left_out():
    def one(name, strict, lenient, gpus=4, outcome="scouted"):
        return {"name": name, "gpus": gpus, "outcome": outcome,
                "at_least_per_s": strict, "at_most_per_s": lenient}  # fmt: skip

    leader = one("leader", 10.0, 14.0)
    assert set(far_behind([leader, one("late", 2.0, 8.0), one("early", 2.0, 8.1)])) == {"late"}
    assert far_behind([leader, one("few", 2.0, 4.1, gpus=2)]) == {}  # per GPU
    assert far_behind([leader, one("never", 0.0, 0.0, outcome="never")]) == {}
    assert far_behind([]) == {}


# ---- break points, costs, recipes ----


def test_a_break_point_makes_a_decision_of_every_combination():
    decision = Decision.from_dict(
        {
            "slo": {"ttft_s": 1.0},
            "deployments": {"gpus": 2},
            "break_point": {"prompt_tokens.mean": [5.0, 6.0], "slo.ttft_s": [0.5, 2.0, 4.0]},
        }
    )
    cases = cases_of({}, decision)
    assert [case.slo.ttft_s for case in cases] == [0.5, 2.0, 4.0] * 2
    assert [c.deployments[0].config.prompt_tokens.mean for c in cases] == [5.0] * 3 + [6.0] * 3
    with pytest.raises(InvalidParameterError, match=r"prompt_tokens\.sigma -1"):
        cases_of({}, decision.model_copy(update={"break_point": {"prompt_tokens.sigma": [-1]}}))


def test_levels_that_yaml_takes_for_texts_are_numbers():
    decision = Decision(
        slo=Slo(ttft_s=1.0),
        deployments=DeploymentSpace(gpus=2),
        break_point={"slo.ttft_s": ["5e-1", 2], "prompt_tokens.mode": ["lognormal"]},
    )
    levels = decision.break_point
    assert levels == {"slo.ttft_s": [0.5, 2], "prompt_tokens.mode": ["lognormal"]}


def test_the_users_price_wins_over_the_lists():
    listed = costs.cost({"h100_sxm": 8}, 1000.0, {})
    low = costs.prices()["h100_sxm"].low
    assert listed["usd_per_hour_low"] == 8 * low
    assert listed["usd_per_million_output_tokens_low"] == pytest.approx(8 * low / 3.6)
    assert listed["usd_per_gpu_hour_low"] == low
    own = costs.cost({"h100_sxm": 8}, 1000.0, {"h100_sxm": 1.0})
    assert own["usd_per_hour_low"] == own["usd_per_hour_high"] == 8.0
    assert costs.cost({"h20": 8}, 1000.0, {}) is None
    wrong = Decision(slo=Slo(ttft_s=1.0), deployments=DeploymentSpace(gpus=2), prices={"h100": 1.0})
    with pytest.raises(InvalidParameterError, match="one of a100_sxm"):
        cases_of(SHORT, wrong)
    own = {"gpus": {"h100": {"dense_bf16_flops": 1e15, "hbm_bytes_per_s": 3e12, "hbm_bytes": 8e10,
                             "link_bytes_per_s": 4e11}}}  # fmt: skip
    assert len(cases_of({**SHORT, **own}, wrong)) == 1


def test_energy_is_a_bound_where_the_power_is_known():
    assert costs.energy({"h100_sxm": 8}, 1000.0)["joules_per_output_token_at_most"] == 5.6
    assert costs.energy({"gpu": 8}, 1000.0) is None


def test_every_price_has_a_gpu_of_the_catalog_a_date_and_a_source():
    text = (Path(costs.__file__).parent / "prices.csv").read_text(encoding="utf-8")
    offers = list(csv.DictReader(text.splitlines()))
    for offer in offers:
        assert offer["gpu"] in catalog.gpu_names()
        assert re.fullmatch(r"20\d\d-\d\d", offer["date"])
        assert offer["offer"]
        assert re.search(r"as \w+ on 20\d\d-\d\d-\d\d in ", offer["source"])
    for gpu, price in costs.prices().items():
        its = [float(offer["usd_per_gpu_hour"]) for offer in offers if offer["gpu"] == gpu]
        assert (price.low, price.high) == (min(its), max(its))


def test_recipes_hold_the_settings_that_were_simulated_and_no_others():
    (one,) = deployments_of(
        LLAMA,
        [
            {
                "name": "split",
                "mode": "disagg",
                "batching_disagg.prefill": {"tensor_parallel": 2, "replicas": 3},
                "batching_disagg.decode": {"tensor_parallel": 2, "max_batch_size": 64},
            }
        ],
    ).deployments
    made = recipe(one.config)
    prefill, decode = made["vllm"]
    assert (prefill["run"], prefill["gpus"], decode["run"]) == (3, 2, 1)
    start = "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 2"
    assert prefill["command"].startswith(start)
    for one in (prefill, decode):  # NIXL does not tell roles apart
        assert '"kv_connector":"NixlConnector","kv_role":"kv_both"' in one["command"]
        assert "--gpu-memory-utilization 0.9 " in one["command"]
    assert "--max-num-seqs 64" in decode["command"]
    assert "--num-gpu-blocks-override" not in decode["command"]  # nobody set the KV cache's size
    own = {"block_size": 32, "kv_capacity_tokens": 64_000}
    config = SimConfig.from_dict({**LLAMA, "mode": "mono", "batching_mono": {"pool": own}})
    assert "--block-size 32 --num-gpu-blocks-override 2000" in recipe(config)["vllm"][0]["command"]
    services = made["dynamo"]["spec"]["services"]
    assert services["VllmPrefillWorker"]["replicas"] == 3
    assert made["llm_d"]["prefill"]["parallelism"] == {"tensor": 2}
    mono = recipe(SimConfig.from_dict({**LLAMA, "mode": "mono"}))
    assert mono["llm_d"]["prefill"] == {"create": False}
    assert "--kv-transfer-config" not in mono["vllm"][0]["command"]
    assert recipe(SimConfig()) is None
