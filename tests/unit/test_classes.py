"""Request classes: their draws, what they change, and what is measured by class."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from simlib.core.classes import RequestClass
from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.core.records import RequestRecords, Status, records_of, ttft_s
from simlib.core.sampling import sample_classes, sample_requests
from simlib.core.summary import Sample
from simlib.errors import InvalidParameterError
from simlib.serving import engine
from simlib.serving.assemble import deployment_of
from simlib.serving.deployment import Classes
from simlib.stats.curve import mean_curve
from simlib.stats.intervals import Interval
from simlib.stats.joint import joint
from simlib.stats.relaxation import RunLength
from simlib.study.figures.data import StudyData
from simlib.study.figures.kinds import KINDS, pages
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.workflow import Plan
from simlib.study.measurement.classes import ATTAINMENT, ClassedRecords, measure_classes
from simlib.study.measurement.measure import measure_point
from simlib.study.measurement.measured import measure_metric
from simlib.study.plan.grid import resolve
from simlib.study.plan.identity import essential, is_random, point_id, run_settings
from simlib.study.tables.write import write_tables
from simlib.workload.requests import Requests

REPO = Path(__file__).resolve().parents[2]
GUIDE = (REPO / "docs/user_guide.md").read_text(encoding="utf-8")
CHAT, BATCH = {"share": 3, "ttft_slo_s": 0.2}, {"share": 1, "ttft_slo_s": 20, "priority": 1}
TWO = {"chat": CHAT, "batch": BATCH}
BATCHING: dict[str, Any] = {
    "serving": "batching",
    "mode": "mono",
    "sim_seconds": 40,
    "warmup_seconds": 5,
    "arrival": {"rate_per_s": 20},
    "latency": {"model": "llama-3.1-8b"},
}


def config_of(discipline: str = "fcfs", classes: Any = TWO, **changes: Any) -> SimConfig:
    """Return a busy deployment of one replica, or of one for each phase."""
    pool = {"tensor_parallel": 1, "discipline": discipline}
    return SimConfig.from_dict(
        {
            **BATCHING,
            "batching_mono": {"pool": {**pool, "replicas": 1}},
            "batching_disagg": {"prefill": pool, "decode": {"tensor_parallel": 1}},
            "request_classes": classes,
            **changes,
        }
    )


def replaying(tmp_path: Path) -> dict[str, Any]:
    """Return the arrivals of a trace of 1,000 requests in 40 s."""
    path = tmp_path / "trace.csv"
    rows = [
        f"2024-01-01 00:00:{k / 25:09.6f},{300 + 1500 * (k % 3)},{80 + k % 9}" for k in range(1010)
    ]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return {"arrival": {"kind": "trace", "path": str(path)}}


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discipline": "edf", "classes": {}}, "request_classes must be at least one class"),
        ({"discipline": "priority", "classes": {}}, "(discipline: priority)"),
        (
            {"discipline": "edf", "classes": {"chat": CHAT, "batch": {}}},
            "request_classes.batch.ttft_slo_s must be given (discipline: edf)",
        ),
        ({"discipline": "lifo"}, "batching_mono.pool.discipline must be one of fcfs, sjf, edf"),
        ({"classes": {"all": {}}}, "other than all"),
        ({"classes": {"a.b": {}}}, "names of letters"),
        ({"classes": {"": {}}}, "names of letters"),
        ({"classes": {"a": {"share": 0}}}, "request_classes.a.share must be > 0"),
        ({"classes": {"a": {"ttft_slo_s": -1}}}, "request_classes.a.ttft_slo_s must be > 0"),
        ({"classes": {"a": {"ttft_slo_s": "inf"}}}, "request_classes.a.ttft_slo_s"),
        ({"classes": {"a": {"priority": 1.5}}}, "request_classes.a.priority must be a whole"),
        ({"classes": {"a": {"priority": -1}}}, "request_classes.a.priority must be >= 0"),
        ({"classes": {"a": {"slo": 1}}}, "request_classes.a.slo must be a known key"),
        ({"classes": {"a": None}}, "request_classes.a must be a mapping"),
        ({"classes": ["a"]}, "request_classes must be a mapping"),
    ],
)
def test_wrong_classes_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        config_of(**changes)
    assert message in str(caught.value)


def test_the_decode_pool_serves_in_order() -> None:
    with pytest.raises(InvalidParameterError, match=r"decode\.discipline"):
        config_of(batching_disagg={"decode": {"discipline": "edf"}})


def test_only_the_deployment_that_serves_needs_classes() -> None:
    idle = {"batching_disagg": {"prefill": {"discipline": "edf"}}}
    assert config_of(classes={}, **idle).mode == "mono"
    assert config_of("edf", {}, serving="token_rate").request_classes == {}
    with pytest.raises(InvalidParameterError, match="edf"):
        config_of(classes={}, mode="disagg", **idle)


def test_a_configuration_with_classes_is_a_value() -> None:
    one, other = config_of(), config_of(classes=dict(reversed(TWO.items())))
    assert one == other
    assert hash(one) == hash(other)
    assert list(one.request_classes) == ["batch", "chat"]
    assert SimConfig.from_dict(one.to_dict()) == one
    assert {one, config_of(classes={})} != {one}


# ------------------------------------------------------------------ draws


def test_classes_disturb_neither_arrivals_nor_lengths() -> None:
    with_classes, without = (sample_requests(config_of(classes=c), 3) for c in (TWO, {}))
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(with_classes, name), getattr(without, name))


def test_shares_are_relative_and_kept_on_the_average() -> None:
    n = 100_000
    numbers = np.arange(n)
    drawn = sample_classes(config_of(), 0, numbers)
    fractions = {"chat": {"share": 0.75}, "batch": {"share": 0.25}}
    np.testing.assert_array_equal(drawn, sample_classes(config_of(classes=fractions), 0, numbers))
    chat = np.mean(drawn == list(config_of().request_classes).index("chat"))
    assert abs(chat - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)


def test_a_request_keeps_its_class_whatever_else_is_asked() -> None:
    numbers = np.arange(1000)
    drawn = sample_classes(config_of(), 1, numbers)
    np.testing.assert_array_equal(sample_classes(config_of(), 1, numbers[::7]), drawn[::7])
    np.testing.assert_array_equal(sample_classes(config_of(), 1, numbers[::-1]), drawn[::-1])
    for same in ({"mode": "disagg"}, {"engine": "simpy"}, {"arrival": {"rate_per_s": 3}}):
        np.testing.assert_array_equal(sample_classes(config_of(**same), 1, numbers), drawn)
    assert (sample_classes(config_of(), 2, numbers) != drawn).any()
    assert (sample_classes(config_of(random_seed=1), 1, numbers) != drawn).any()
    assert sample_classes(config_of(), 1, numbers[:0]).size == 0


def test_without_classes_nothing_is_drawn() -> None:
    with pytest.raises(InvalidParameterError, match="request_classes"):
        sample_classes(config_of(classes={}), 0, np.arange(3))


# ------------------------------------------------------------------ identity of points


def classes_with(**changes: Any) -> dict[str, Any]:
    return {"chat": {**CHAT, **changes}, "batch": BATCH}


EDITS = {
    "none": TWO,
    "ttft_slo_s": classes_with(ttft_slo_s=0.4),
    "priority": classes_with(priority=7),
    "share": classes_with(share=2),
    "another": {**TWO, "third": {"ttft_slo_s": 1}},
}


@pytest.mark.parametrize("mode", ["mono", "disagg"])
@pytest.mark.parametrize(
    ("discipline", "matter"),
    [
        ("fcfs", set()),
        ("sjf", set()),
        ("edf", {"ttft_slo_s", "share", "another"}),
        ("priority", {"priority", "share", "another"}),
    ],
)
def test_a_point_depends_on_what_its_discipline_sorts_by(
    mode: str, discipline: str, matter: set[str]
) -> None:
    original = config_of(discipline, mode=mode)
    for name, classes in EDITS.items():
        edited = config_of(discipline, classes, mode=mode)
        assert (point_id(edited) != point_id(original)) == (name in matter), name
        same_file = run_settings(edited) == run_settings(original)
        assert same_file == (name not in matter), "equal points share a file"


def test_with_token_rates_classes_are_for_tables_only() -> None:
    ids = {point_id(config_of("edf", c, serving="token_rate")) for c in ({}, *EDITS.values())}
    assert len(ids) == 1


@pytest.mark.parametrize("discipline", ["fcfs", "edf", "priority"])
def test_a_simulation_job_knows_all_it_needs(discipline: str) -> None:
    config = config_of(discipline)
    described = SimConfig.from_dict(run_settings(config))
    assert point_id(described) == point_id(config)
    expected = simulate(config, 1).columns()
    for name, column in simulate(described, 1).columns().items():
        np.testing.assert_array_equal(column, expected[name])


def test_points_without_classes_are_the_ones_they_were() -> None:
    """Nothing new is part of their identity, so that results on disk stay valid."""
    for serving in ("token_rate", "batching"):
        assert "request_classes" not in essential(SimConfig(serving=serving))  # type: ignore[arg-type]


def test_a_replayed_trace_is_random_only_where_classes_decide(tmp_path: Path) -> None:
    trace = replaying(tmp_path)
    for discipline, random in (("fcfs", False), ("sjf", False), ("edf", True), ("priority", True)):
        config = config_of(discipline, **trace)
        assert is_random(config) == random
        other_seed = config_of(discipline, random_seed=9, **trace)
        assert (point_id(config) != point_id(other_seed)) == random
        study = {
            "overrides": {**config.to_dict(), "warmup_seconds": 0},
            "sweep": {"grid": {"mode": ["mono"]}},
        }
        row = resolve({"studies": {"one": study}, "replicates": 4})[0].rows[0]
        assert row.replicates == (4 if random else 1)


def test_a_swept_slo_is_a_line_each_and_one_simulation() -> None:
    study = {
        "overrides": config_of().to_dict(),
        "sweep": {"grid": {"request_classes.chat.ttft_slo_s": [0.1, 0.2, 0.4]}},
    }
    rows = resolve({"studies": {"one": study}})[0].rows
    assert len(rows) == 3
    assert len({row.point_id for row in rows}) == 1


# ------------------------------------------------------------------ engines


@pytest.mark.parametrize("mode", ["mono", "disagg"])
@pytest.mark.parametrize("discipline", ["edf", "priority"])
@pytest.mark.parametrize("load", ["poisson", "trace", "closed_loop"])
def test_both_engines_serve_classes_alike(
    mode: str, discipline: str, load: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"mode": mode, "sim_seconds": 15}
    if load == "trace":
        changes |= replaying(tmp_path)
    elif load == "closed_loop":
        changes["arrival"] = {"kind": "closed_loop", "concurrency": 40, "requests": 500}
    # a small batch, so that requests wait and the order counts
    small = {"max_batch_size": 12, "tensor_parallel": 1, "discipline": discipline}
    changes |= {
        "batching_mono": {"pool": {**small, "replicas": 1}},
        "batching_disagg": {"prefill": {**small, "max_batch_tokens": 512}},
    }
    changes["batching_disagg"]["decode"] = {"tensor_parallel": 1}
    config = partial(config_of, discipline, **changes)
    fast, steps = (simulate(config(engine=engine), 1) for engine in ("fast", "simpy"))
    assert len(fast) > 50
    for name, column in fast.columns().items():
        np.testing.assert_allclose(column, steps.columns()[name], rtol=1e-9, err_msg=name)
    in_turn = changes | {
        "batching_mono": {"pool": {**changes["batching_mono"]["pool"], "discipline": "fcfs"}},
        "batching_disagg": {
            **changes["batching_disagg"],
            "prefill": {**changes["batching_disagg"]["prefill"], "discipline": "fcfs"},
        },
    }
    fcfs = simulate(config_of(**in_turn), 1)
    n = min(len(fcfs), len(fast))
    assert (fcfs.first_token_s[:n] != fast.first_token_s[:n]).any(), "the order counts"


@pytest.mark.parametrize("discipline", ["edf", "priority"])
def test_the_engine_gets_the_classes_that_tables_draw(discipline: str) -> None:
    config = config_of(discipline)
    requests = sample_requests(config, 2)
    drawn = sample_classes(config, 2, np.arange(len(requests)))
    chat = drawn == list(config.request_classes).index("chat")
    classes = Classes(np.where(chat, 0.2, 20.0), np.where(chat, 0, 1))
    deployment = deployment_of(config.batching, config.latency)
    by_hand = engine.simulate(requests, deployment, classes=classes).columns()
    for name, column in simulate(config, 2).columns().items():
        np.testing.assert_array_equal(column, by_hand[name])


def test_a_deadline_of_a_closed_loop_counts_from_when_a_request_is_sent() -> None:
    """One place, three in flight: the late but urgent one goes first, once it is there."""
    config = config_of()
    pool = deployment_of(config.batching, config.latency)
    tokens = np.full(4, 100), np.full(4, 10)
    alone = engine.simulate(Requests(np.zeros(1), *(t[:1] for t in tokens)), pool)
    service_s = float(alone.finish_s[0])
    one_place = SimConfig.from_dict(
        config.to_dict() | {"batching_mono": {"pool": {
            "tensor_parallel": 1, "replicas": 1, "max_batch_size": 1, "discipline": "edf"}}}
    )  # fmt: skip
    deployment = deployment_of(one_place.batching, one_place.latency)
    # request 3 is sent when the first one ends: its deadline is then before or after that of 2
    for slo_of_last, order in ((0.5, [0, 3, 1, 2]), (1.5, [0, 1, 3, 2]), (2.5, [0, 1, 2, 3])):
        slos = service_s * np.array([1.0, 2.0, 3.0, slo_of_last])
        records = engine.simulate(
            Requests(np.zeros(4), *tokens), deployment, concurrency=3, classes=Classes(slos)
        )
        assert np.argsort(records.first_token_s).tolist() == order


# ------------------------------------------------------------------ attainment


def records_with(arrival_s: list[float], ttft: list[float], status: list[int]) -> RequestRecords:
    """Return a run by hand; every time stamp but arrival is the first token's."""
    n = len(arrival_s)
    arrival = np.array(arrival_s)
    first = arrival + np.array(ttft)
    names = ("prefill_start_s", "prefill_end_s", "transfer_start_s", "transfer_end_s")
    stamps: dict[str, Any] = dict.fromkeys((*names, "decode_start_s", "first_token_s"), first)
    stamps |= {"finish_s": first, "status": np.array(status, np.int8)}
    return records_of(Requests(arrival, np.full(n, 10), np.full(n, 2)), stamps)


def test_attainment_by_hand() -> None:
    config = config_of(classes={"a": {"ttft_slo_s": 1.0}, "b": {"ttft_slo_s": 3.0}, "c": {}})
    n = 12
    place = sample_classes(config, 0, np.arange(n))
    assert set(place) == {0, 1, 2}, "each class occurs"
    nan = float("nan")
    #            warm-up                                                        after the end
    arrival = [0.0, 4.9, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 40.0]
    ttft = [0.1, 9.0, 1.0, 1.5, 3.5, nan, 0.5, 2.0, nan, 0.5, 1.5, 0.1]
    status = [Status.FINISHED] * n
    status[5], status[8] = Status.REJECTED, Status.UNFINISHED
    records = records_with(arrival, ttft, [int(s) for s in status])
    run = ClassedRecords.of(records, config, 0)
    assert run.records.request_id.tolist() == list(range(2, 11))
    expected: dict[str, list[float]] = {"a": [], "b": [], "all": []}
    for i in range(2, 11):
        if place[i] < 2:
            met = float(ttft[i] <= (1.0, 3.0)[place[i]])  # a NaN is not within anything
            expected["ab"[place[i]]].append(met)
            expected["all"].append(met)
    for name, met in expected.items():
        assert run.sample(METRICS[ATTAINMENT], name).values.tolist() == met
    assert run.sample(METRICS[ATTAINMENT], "c").values.tolist() == []
    assert 0.0 in expected["all"]
    assert 1.0 in expected["all"]


def test_attainment_uses_the_definition_of_ttft() -> None:
    config = config_of(classes={"a": {"ttft_slo_s": 0.5}})
    records = simulate(config)
    for definition in ("prefill_end", "first_decode_step"):
        defined = SimConfig.from_dict(config.to_dict() | {"ttft_definition": definition})
        met = ClassedRecords.of(records, defined, 0).sample(METRICS[ATTAINMENT], "all").values
        counted = records.arrival_s >= 5
        np.testing.assert_array_equal(met, ttft_s(records, definition)[counted] <= 0.5)  # type: ignore[arg-type]


def attainment_interval(runs: list[Any]) -> Interval:
    """Return the interval of replicates in which requests met their SLO (1) or not (0)."""
    samples = [
        Sample(METRICS[ATTAINMENT], np.arange(len(met)), met, np.zeros(len(met), np.bool_))
        for met in runs
    ]
    length = RunLength(runs=len(runs), requests=min(map(len, runs)))
    return measure_metric(samples, length)[ATTAINMENT].interval


def test_the_interval_of_an_attainment() -> None:
    rng = np.random.default_rng(1)
    shares = [0.5, 0.9, 0.99, 1.0]
    runs = [(np.arange(200) < 200 * share).astype(float) for share in shares]
    plain, cut = mean_curve(np.array(shares)).interval(), attainment_interval(runs)
    assert cut.estimate == pytest.approx(plain.estimate)
    assert (cut.low, cut.high) == (
        pytest.approx(max(plain.low, 0.0)),
        pytest.approx(min(plain.high, 1.0)),
    )
    assert plain.low < 0 or plain.high > 1
    assert attainment_interval([np.ones(200), np.zeros(200), np.ones(200)]).high == 1.0
    alike = attainment_interval([np.ones(200)] * 3)
    assert alike.estimate == 1.0
    assert np.isnan([alike.low, alike.high]).all()
    assert alike.reason == "all replicates (or batches) are alike"
    single = attainment_interval([(rng.random(1000) < 0.7).astype(float)])
    assert single.contains(0.7)
    assert "batches" in single.method
    few = attainment_interval([np.array([1.0, 0.0, 1.0, 1.0])])
    assert few.estimate == 0.75
    assert np.isnan(few.low)
    assert few.reason
    none = attainment_interval([np.ones(5), np.ones(0)])
    assert np.isnan(none.estimate)
    assert none.reason == "1 of 2 replicates have no value"


def test_classes_of_a_point_add_up_to_all() -> None:
    config = config_of(classes={**TWO, "free": {"share": 1}})
    replicates = [simulate(config, r) for r in range(3)]
    point = measure_point(replicates, config)
    by_name = {one.name: one for one in measure_classes(replicates, config, point)}
    assert list(by_name) == ["batch", "chat", "free", "all"]
    everything = by_name.pop("all")
    assert everything.requests == point.total("arrived")
    assert sum(one.requests for one in by_name.values()) == everything.requests
    assert everything.measured["p90_ttft_s"] == point.measured["p90_ttft_s"]
    goodput = [one.goodput_rps for one in by_name.values() if one.has_slo]
    assert len(goodput) == 2
    assert sum(goodput) == pytest.approx(everything.goodput_rps)
    assert everything.goodput_rps * 35 * 3 <= everything.requests
    # means by class, weighted by their requests, are the mean of all
    for r, run in enumerate(replicates):
        place = sample_classes(config, r, run.request_id)
        counted = run.arrival_s >= 5
        ttft = ttft_s(run)
        for i, name in enumerate(config.request_classes):
            slo = config.request_classes[name].ttft_slo_s
            mine = ttft[counted & (place == i)]
            if slo is not None:
                assert by_name[name].measured[ATTAINMENT].values[r] == np.mean(mine <= slo)
    assert np.isnan(by_name["free"].measured[ATTAINMENT].interval.estimate)
    assert by_name["free"].measured[ATTAINMENT].interval.reason == "no SLO"


def test_a_queue_that_grows_is_unstable_in_whatever_order_it_is_served() -> None:
    """Early ones whom others pass wait longest; their falling waits must not hide the growth."""
    load = {"sim_seconds": 200, "arrival": {"rate_per_s": 40}}
    for discipline in ("fcfs", "sjf", "edf", "priority"):
        config = config_of(discipline, **load)
        runs = [simulate(config, r) for r in range(2)]
        assert measure_point(runs, config).stability.verdict == "unstable", discipline
    calm = config_of("priority", sim_seconds=200, arrival={"rate_per_s": 4})
    runs = [simulate(calm, r) for r in range(2)]
    assert measure_point(runs, calm).stability.verdict == "stable"


def test_waits_in_order_of_arrival_drift_as_they_are() -> None:
    """First come, first served on one replica: matching starts with arrivals changes nothing."""
    fcfs, edf = config_of(), config_of("edf", {"one": {"ttft_slo_s": 1}})
    one, other = (
        measure_point([simulate(config)], config).replicates[0].drift for config in (fcfs, edf)
    )
    assert one == other


# ------------------------------------------------------------------ tables and figures

DISCIPLINE = "batching_disagg.prefill.discipline"
STUDY = {
    "defaults": {
        **BATCHING,
        "mode": "disagg",
        "sim_seconds": 130,
        "prompt_tokens": {"mode": "p50_p90", "p50": 1500, "p90": 3000},
        "output_tokens": {"mode": "p50_p90", "p50": 50, "p90": 200},
        "batching_disagg": {"prefill": {"tensor_parallel": 1}, "decode": {"tensor_parallel": 1}},
    },
    "replicates": 3,
    "studies": {
        "one": {
            "requests_table": True,
            "overrides": {"request_classes": {**TWO, "free": {"priority": 2}}},
            "sweep": {"grid": {DISCIPLINE: ["fcfs", "priority"], "arrival.rate_per_s": [13, 14]}},
            "compare": {"factor": DISCIPLINE, "baseline": "fcfs"},
        }
    },
}


def tables_of(folder: Path, config: dict[str, Any]) -> Path:
    """Run a study without the workflow, which only calls these functions."""
    plan = Plan.of(config, results=str(folder / "results"), source=str(folder))
    plan.write()
    for result in map(Path, plan.results_of("one")):
        run_point(result.parent / "point.json", int(result.stem[1:]), result)
    study = folder / "results/studies/one"
    write_tables(study / "study.json", folder / "results", study / "tables")
    return study / "tables"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables_of(tmp_path_factory.mktemp("classes"), STUDY)


def test_the_tables_of_classes_follow_from_the_requests(tables: Path) -> None:
    classes = pd.read_csv(tables / "classes.csv")
    summary = pd.read_csv(tables / "summary.csv")
    requests = pd.read_parquet(tables / "requests.parquet")
    assert len(classes) == 4 * len(summary)
    counted = requests[requests["in_window"]]
    ttft = counted["first_token_s"] - counted["arrival_s"]
    slo = counted["request_class"].astype(str).map({"chat": 0.2, "batch": 20.0})
    counted = counted.assign(ttft=ttft, met=(ttft <= slo).where(slo.notna()))
    by = ["point_id", "request_class"]
    for (point, name), group in counted.groupby(by, observed=True):
        [line] = classes[(classes["point_id"] == point) & (classes["request_class"] == name)].index
        row = classes.loc[line]
        assert row["requests"] == len(group)
        met = group.groupby("replicate")["met"].mean()
        means = group.groupby("replicate")["ttft"].mean()
        assert row["mean_ttft_s"] == pytest.approx(means.mean(), rel=1e-6)
        assert row["p90_ttft_s"] == pytest.approx(np.percentile(group["ttft"], 90), rel=1e-6)
        if name == "free":
            assert pd.isna(row["slo_attainment"])
            assert "slo_attainment: no SLO" in row["notes"]
        else:
            assert row["slo_attainment"] == pytest.approx(met.mean(), rel=1e-6)
    every = classes[classes["request_class"] == "all"].reset_index(drop=True)
    assert (every["requests"] == summary["arrived"]).all()
    for column in ("mean_ttft_s", "p50_ttft_s_low", "p90_ttft_s_high"):
        np.testing.assert_array_equal(every[column], summary[column])


def test_attainments_are_compared_by_replicate(tables: Path) -> None:
    lines = pd.read_csv(tables / "class_comparison.csv")
    requests = pd.read_parquet(tables / "requests.parquet")
    assert lines.groupby("arrival.rate_per_s")["request_class"].apply(list).to_dict() == {
        13: ["batch", "chat", "all"],
        14: ["batch", "chat", "all"],
    }
    counted = requests[requests["in_window"] & (requests["request_class"] == "chat")]
    met = (counted["first_token_s"] - counted["arrival_s"] <= 0.2).groupby(
        [counted[DISCIPLINE], counted["arrival.rate_per_s"], counted["replicate"]], observed=True
    )
    share = met.mean()
    # three long runs are cut into seven batches each
    parts = met.apply(lambda one: [np.mean(part) for part in np.array_split(one.to_numpy(), 7)])
    for _, line in lines[lines["request_class"] == "chat"].iterrows():
        rate = str(line["arrival.rate_per_s"])
        sides = [
            mean_curve(np.concatenate(parts[name][rate].to_list())) for name in ("fcfs", "priority")
        ]
        found = joint(*sides).difference
        fcfs, priority = (share[name][rate].mean() for name in ("fcfs", "priority"))
        assert line["difference"] == pytest.approx(priority - fcfs, rel=1e-6)
        expected = found.low + (priority - fcfs) - found.estimate
        assert line["difference_low"] == pytest.approx(expected, rel=1e-5)
        assert line["pairs"] == 21
        assert line["difference"] > 0, "who goes first waits less"


def test_one_replicate_is_compared_request_by_request(tmp_path: Path) -> None:
    config = yaml.safe_load(yaml.safe_dump(STUDY))
    config["replicates"] = 1
    lines = pd.read_csv(tables_of(tmp_path, config) / "class_comparison.csv")
    chat = lines[lines["request_class"] == "chat"]
    assert chat["method"].str.contains("batches").all()
    assert chat["pairs"].between(10, 20).all()


def test_without_classes_there_are_no_tables_of_them(tmp_path: Path) -> None:
    config = yaml.safe_load(yaml.safe_dump(STUDY))
    config["replicates"] = 1
    config["studies"]["one"]["overrides"] = {}
    config["studies"]["one"]["sweep"]["grid"][DISCIPLINE] = ["fcfs", "sjf"]
    tables = tables_of(tmp_path, config)
    assert not (tables / "classes.csv").exists()
    assert not (tables / "class_comparison.csv").exists()
    assert "request_class" not in pd.read_parquet(tables / "requests.parquet").columns
    data = StudyData.read(tables.parent / "study.json", tables)
    assert KINDS["slo_attainment"].draw(data) is None


def test_the_figure_has_a_panel_per_class_with_an_slo_and_one_for_all(tables: Path) -> None:
    data = StudyData.read(tables.parent / "study.json", tables)
    [(stem, page)] = pages("slo_attainment", data)
    figure = KINDS["slo_attainment"].draw(page)
    assert figure is not None
    assert stem == "slo_attainment"
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["batch (SLO 20 s)", "chat (SLO 0.2 s)", "all classes"]
    classes = pd.read_csv(tables / "classes.csv")
    chat = classes[classes["request_class"] == "chat"]
    for discipline, group in chat.groupby(DISCIPLINE, sort=False):
        drawn = [line.get_ydata() for line in figure.axes[1].lines]
        expected = group["slo_attainment"].to_numpy()
        assert any(len(y) == 2 and np.allclose(y, expected) for y in drawn), discipline


# ------------------------------------------------------------------ documentation


def test_the_guide_lists_every_key_of_a_class_with_its_default() -> None:
    rows = re.findall(r"^\| `request_classes\.<name>\.(\w+)` \| (\S+) \|", GUIDE, re.MULTILINE)
    listed = {key: yaml.safe_load(default) for key, default in rows}
    assert listed == RequestClass().to_dict()


def test_the_example_of_the_guide_finds_what_it_says() -> None:
    section = GUIDE.split("### Request classes\n")[1]
    example = re.search(r"^```yaml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert example is not None
    [study] = resolve(yaml.safe_load(example[1]))
    disciplines = {row.config.batching.discipline for row in study.rows}
    assert disciplines == {"fcfs", "edf", "priority"}
    said = re.search(r"`edf` lets (\d+)% of .* at (\d+) requests/s .* `fcfs` (\d+)%", section)
    assert said is not None
    edf, rate, fcfs = map(int, said.groups())
    found = {}
    for row in study.rows:
        if row.config.arrival.rate_per_s == rate:
            runs = [simulate(row.config, r) for r in range(row.replicates)]
            point = measure_point(runs, row.config)
            by_name = {one.name: one for one in measure_classes(runs, row.config, point)}
            found[row.config.batching.discipline] = by_name
    assert round(100 * found["edf"]["chat"].measured[ATTAINMENT].interval.estimate) == edf
    assert round(100 * found["fcfs"]["chat"].measured[ATTAINMENT].interval.estimate) == fcfs
    assert found["edf"]["batch"].measured[ATTAINMENT].interval.estimate == 1, (
        "no batch request is late"
    )
