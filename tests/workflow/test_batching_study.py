"""Studies whose deployments serve by continuous batching, without the workflow's processes."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simlib.core.config import SimConfig
from simlib.core.records import TTFT_PARTS, RequestRecords, Status, tpot_s, ttft_s
from simlib.core.sampling import sample_requests
from simlib.errors import InvalidParameterError
from simlib.serving.assemble import serve
from simlib.serving.timeline import Timeline
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.workflow import Plan
from simlib.study.plan.identity import point_id
from simlib.study.tables.write import write_tables

REPLICA = {"gpu": "h100_sxm", "tensor_parallel": 1}
DEFAULTS: dict[str, Any] = {
    "sim_seconds": 60,
    "warmup_seconds": 5,
    "serving": "batching",
    "arrival": {"rate_per_s": 4},
    "latency": {"model": "llama-3.1-8b", "step_overhead_s": 0.001},
    "batching_mono": {"pool": {**REPLICA, "replicas": 2}},
    "batching_disagg": {"prefill": {**REPLICA}, "decode": {**REPLICA}},
}
MODES = {
    "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [2, 6]}},
    "compare": {"factor": "mode", "baseline": "mono"},
}


def changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with values set by dotted key."""
    settings = copy.deepcopy(settings)
    for dotted, value in changes.items():
        *sections, last = dotted.split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return settings


def plan_of(folder: Path, study: dict[str, Any], **changes: Any) -> Plan:
    defaults = changed(DEFAULTS, {key.replace("__", "."): value for key, value in changes.items()})
    config = {"defaults": defaults, "replicates": 3, "studies": {"one": study}}
    return Plan.of(config, results=str(folder / "results"), source=str(folder))


def tables_of(folder: Path, study: dict[str, Any], **changes: Any) -> Path:
    """Run a study without the workflow, which only calls these functions."""
    plan = plan_of(folder, study, **changes)
    plan.write()
    for result in map(Path, plan.results_of("one")):
        run_point(result.parent / "point.json", int(result.stem[1:]), result)
    study_folder = folder / "results/studies/one"
    write_tables(study_folder / "study.json", folder / "results", study_folder / "tables")
    return study_folder / "tables"


def config_of(**changes: Any) -> SimConfig:
    return SimConfig.from_dict(
        changed(DEFAULTS, {key.replace("__", "."): value for key, value in changes.items()})
    )


def assert_equal(one: RequestRecords, other: RequestRecords) -> None:
    for name, column in one.columns().items():
        np.testing.assert_allclose(column, other.columns()[name], rtol=1e-9, err_msg=name)


# ------------------------------------------------------------------ tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a study of both deployments; for tests that only read them."""
    return tables_of(tmp_path_factory.mktemp("batching"), MODES)


def test_parts_of_ttft_sum_to_it(tables: Path) -> None:
    summary = pd.read_csv(tables / "summary.csv")
    parts = summary[[f"mean_{part}" for part in TTFT_PARTS]]
    np.testing.assert_allclose(parts.sum(axis=1), summary["mean_ttft_s"], rtol=1e-6)
    assert (parts >= 0).all(axis=None)
    mono = summary["mode"] == "mono"
    # the prefill's last iteration emits the first token, so nothing follows it
    after = ["transfer_wait_s", "transfer_s", "decode_wait_s", "first_decode_step_s"]
    assert (parts.loc[mono, [f"mean_{part}" for part in after]] == 0).all(axis=None)
    assert (parts.loc[~mono, ["mean_transfer_s", "mean_first_decode_step_s"]] > 0).all(axis=None)


def test_attributed_parts_sum_to_the_difference_of_ttft(tables: Path) -> None:
    why = pd.read_csv(tables / "attribution.csv")
    comparison = pd.read_csv(tables / "comparison.csv")
    means = comparison[comparison["statistic"] == "mean_ttft_s"].set_index("arrival.rate_per_s")
    for rate, lines in why.groupby("arrival.rate_per_s"):
        parts = lines[lines["part"] != "total"]
        assert parts["difference_s"].sum() == pytest.approx(
            means.loc[rate, "difference_s"], rel=1e-6, abs=2e-9
        )


def test_every_request_is_counted_once_and_none_is_rejected_where_all_fit(tables: Path) -> None:
    summary = pd.read_csv(tables / "summary.csv")
    assert (summary["arrived"] == summary["finished"]).all()
    assert (summary[["rejected", "unfinished"]] == 0).all(axis=None)


def test_load_and_use_of_each_pool_are_shown(tables: Path) -> None:
    summary = pd.read_csv(tables / "summary.csv")
    pools = {"mono": ["gpu"], "disagg": ["prefill", "decode"]}
    for mode, names in pools.items():
        of_mode = summary[summary["mode"] == mode]
        for name in names:
            use, load = of_mode[f"utilization_{name}"], of_mode[f"rho_{name}"]
            assert use.between(0, 1, inclusive="right").all()
            # a pool is busy with small batches long before it could do no more
            assert load.gt(0).all()
            assert (load < use).all()


def test_tpot_is_a_time_between_tokens_and_decoding_apart_makes_it_shorter(tables: Path) -> None:
    """8B on an H100 reads 16 GB of weights at up to 3.35 TB/s: no step takes less than 4.8 ms."""
    summary = pd.read_csv(tables / "summary.csv").set_index(["mode", "arrival.rate_per_s"])
    assert (summary["mean_tpot_s"] > 16e9 / 3.35e12).all()
    assert (summary["mean_tpot_s"] < 0.05).all()
    comparison = pd.read_csv(tables / "comparison.csv")
    lines = comparison[comparison["statistic"] == "mean_tpot_s"].set_index("arrival.rate_per_s")
    for rate in (2, 6):
        difference = (
            summary.loc[("disagg", rate), "mean_tpot_s"]
            - summary.loc[("mono", rate), "mean_tpot_s"]
        )
        assert lines.loc[rate, "difference_s"] == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_equal_hardware_carries_no_warning(tables: Path) -> None:
    comparison = pd.read_csv(tables / "comparison.csv")
    assert comparison["unfair"].isna().all()
    assert (comparison[["baseline_gpus", "candidate_gpus"]] == 2).all(axis=None)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"batching_mono__pool__replicas": 3}, "GPUs differ: 3 against 2"),
        ({"batching_disagg__decode__tensor_parallel": 2}, "GPUs differ: 2 against 3"),
        ({"batching_disagg__decode__gpu": "a100_sxm"}, "h100_sxm against a100_sxm+h100_sxm"),
        (
            {"batching_mono__pool__gpu": "h200_sxm", "batching_mono__pool__replicas": 1},
            "GPUs differ: 1 against 2; GPU types differ: h200_sxm against h100_sxm",
        ),
    ],
)
def test_unequal_hardware_is_named_in_every_comparison(
    tmp_path: Path, changes: dict[str, Any], warning: str
) -> None:
    study = {**MODES, "sweep": {"grid": {"mode": ["mono", "disagg"]}}}
    tables = tables_of(tmp_path, study, sim_seconds=20, **changes)
    for name in ("comparison", "attribution"):
        assert (
            pd.read_csv(tables / f"{name}.csv")["unfair"].str.contains(warning, regex=False).all()
        )


def test_gpus_of_a_summary_are_replicas_times_tensor_parallelism_over_pools(
    tmp_path: Path,
) -> None:
    study = {
        "sweep": {
            "zip": {
                "deployment": {
                    "labels": ["mono", "apart"],
                    "mode": ["mono", "disagg"],
                    "batching_mono.pool.tensor_parallel": [4, 4],
                    "batching_disagg.prefill.replicas": [3, 3],
                    "batching_disagg.decode.tensor_parallel": [2, 2],
                }
            }
        }
    }
    tables = tables_of(tmp_path, study, sim_seconds=20)
    summary = pd.read_csv(tables / "summary.csv").set_index("deployment")
    assert summary["gpus"].to_dict() == {"mono": 2 * 4, "apart": 3 + 2}
    np.testing.assert_allclose(
        summary["throughput_rps_per_gpu"] * summary["gpus"], summary["throughput_rps"], rtol=1e-8
    )


def test_prompts_that_can_never_fit_are_rejected_and_counted(tmp_path: Path) -> None:
    tables = tables_of(
        tmp_path,
        {"sweep": {"grid": {"mode": ["mono", "disagg"]}}},
        batching_mono__pool__kv_capacity_tokens=1600,
        batching_disagg__decode__kv_capacity_tokens=1600,
    )
    summary = pd.read_csv(tables / "summary.csv").set_index("mode")
    assert (summary["rejected"] > 0).all()
    assert (summary["arrived"] == summary["finished"] + summary["rejected"]).all()
    assert summary["mean_ttft_s"].notna().all(), "the others are served and measured"
    # the same requests on both sides; a decode replica of a pair holds one token more
    counts = dict(rejected_of(tmp_path))
    assert summary["rejected"].to_dict() == counts


def rejected_of(folder: Path) -> list[tuple[str, int]]:
    """Return how many requests in the window exceed 1600 tokens, from the requests alone."""
    counts = []
    for mode, emitted_by_prefill in (("mono", 1), ("disagg", 0)):
        total = 0
        for replicate in range(3):
            records = simulate(config_of(mode=mode), replicate)
            held = records.prompt_tokens + records.output_tokens - emitted_by_prefill
            total += int(np.sum((held > 1600) & (records.arrival_s >= 5)))
        counts.append((mode, total))
    return counts


# ------------------------------------------------------------------ refused before anything runs


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"batching_mono__pool__gpu": "h900"}, "batching_mono.pool.gpu must be one of"),
        ({"batching_disagg__decode__gpu": "h900"}, "batching_disagg.decode.gpu must be one of"),
        ({"latency__model": "gpt-x"}, "latency.model must be one of"),
        ({"latency__model": "llama-3.1-70b"}, "tensor_parallel must be enough GPUs"),
        ({"latency__kind": "affine", "latency__model": "opt-13b"}, "latency.model"),
        ({"batching_disagg__link__bandwidth_bytes_per_s": 0}, "bandwidth_bytes_per_s must be > 0"),
        ({"batching_mono__pool__max_batch_tokens": 0}, "max_batch_tokens must be >= 1"),
        (
            {"latency__kind": "aiconfigurator", "batching_mono__pool__max_batch_size": 10**6},
            "batching_mono.pool.max_batch_tokens must be >= max_batch_size",
        ),
        ({"output_tokens": {"mode": "fixed", "value": 0}}, "output_tokens.value must be >= 1"),
        ({"prompt_tokens": {"mode": "fixed", "value": 0}}, "prompt_tokens.value must be >= 1"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    study = {
        "overrides": {name.replace("__", "."): value for name, value in changes.items()},
        "sweep": {"grid": {"mode": ["mono", "disagg"]}},
    }
    with pytest.raises(InvalidParameterError) as caught:
        plan_of(tmp_path, study)
    assert key in str(caught.value)
    assert 'study "one"' in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ identity of points

MONO_KEYS = {
    "batching_mono__pool__replicas": 3,
    "batching_mono__pool__gpu": "h200_sxm",
    "batching_mono__pool__kv_capacity_tokens": 5000,
    "batching_mono__pool__discipline": "sjf",
    "batching_mono__pool__router": "least_tokens",
    "batching_mono__first_token": "decode",
}
DISAGG_KEYS = {
    "batching_disagg__prefill__replicas": 3,
    "batching_disagg__prefill__policy": "prefill_first",
    "batching_disagg__decode__gpu": "h200_sxm",
    "batching_disagg__decode__max_batch_size": 17,
    "batching_disagg__link__base_latency_s": 0.5,
    "batching_disagg__link__contention": "fair",
}
LATENCY_KEYS = {
    "latency__kind": "affine",
    "latency__model": "qwen3-8b",
    "latency__precision": "fp8",
    "latency__step_overhead_s": 0.25,
}
EVERY_KEY = [*MONO_KEYS.items(), *DISAGG_KEYS.items(), *LATENCY_KEYS.items()]


@pytest.mark.parametrize(("key", "value"), EVERY_KEY)
@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_a_point_depends_on_its_own_deployment_and_not_on_the_other(
    mode: str, key: str, value: Any
) -> None:
    other = "batching_disagg" if mode == "mono" else "batching_mono"
    same = point_id(config_of(mode=mode)) == point_id(config_of(mode=mode, **{key: value}))
    assert same == key.startswith(other)


@pytest.mark.parametrize(("key", "value"), EVERY_KEY)
@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_token_rate_points_depend_on_no_setting_of_batching(
    mode: str, key: str, value: Any
) -> None:
    token_rate = partial(config_of, mode=mode, serving="token_rate")
    assert point_id(token_rate()) == point_id(token_rate(**{key: value}))


def test_batching_points_depend_on_no_token_rate() -> None:
    changes = {"cluster_mono__num_gpus": 9, "cluster_disagg__decode_tokens_per_s": 1.0}
    for mode in ("mono", "disagg"):
        assert point_id(config_of(mode=mode)) == point_id(config_of(mode=mode, **changes))
    assert point_id(config_of()) != point_id(config_of(serving="token_rate"))


def test_points_of_a_study_are_shared_where_the_swept_key_does_not_matter(tmp_path: Path) -> None:
    study = {
        "sweep": {
            "grid": {
                "mode": ["mono", "disagg"],
                "batching_disagg.link.bandwidth_bytes_per_s": [1.0e9, 1.0e10],
            }
        }
    }
    rows = plan_of(tmp_path, study).studies["one"].rows
    assert len(rows) == 3
    assert len({row.point_id for row in rows}) == 3
    mono = [row for row in rows if row.coordinates["mode"] == "mono"]
    assert [r.coordinates["batching_disagg.link.bandwidth_bytes_per_s"] for r in mono] == [None]


# ------------------------------------------------------------------ engines and seeds


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drain": False},
        {
            "batching_mono__pool__kv_capacity_tokens": 4000,
            "batching_disagg__decode__kv_capacity_tokens": 4000,
        },
        {
            "batching_mono__pool__policy": "prefill_first",
            "batching_mono__pool__discipline": "sjf",
            "batching_mono__first_token": "decode",
            "batching_disagg__prefill__policy": "prefill_first",
            "batching_disagg__link": {"bandwidth_bytes_per_s": 1e8, "contention": "fair"},
        },
        {"arrival": {"kind": "closed_loop", "concurrency": 8, "requests": 400}},
    ],
    ids=["plain", "no_drain", "short_of_cache", "policies", "closed_loop"],
)
@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_both_engines_give_a_study_the_same_records(mode: str, changes: dict[str, Any]) -> None:
    short = partial(config_of, mode=mode, sim_seconds=20, **changes)
    fast, step_by_step = (simulate(short(engine=engine)) for engine in ("fast", "simpy"))
    assert len(fast) > 20
    assert_equal(fast, step_by_step)


@pytest.mark.parametrize("router", ["random", "power_of_two"])
def test_routers_that_draw_depend_on_seed_and_replicate(router: str, tmp_path: Path) -> None:
    """On a replayed trace, where nothing else is random."""
    trace = tmp_path / "trace.csv"
    lines = [
        f"2023-11-16 18:00:{k / 4:09.6f},{100 + 37 * (k % 11)},{20 + k % 7}" for k in range(200)
    ]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    replayed = partial(
        config_of,
        mode="mono",
        sim_seconds=40,
        arrival={"kind": "trace", "path": str(trace)},
        batching_mono__pool__replicas=4,
    )
    drawn = partial(replayed, batching_mono__pool__router=router)
    turns = replayed()
    assert point_id(turns) == point_id(replayed(random_seed=7))
    assert point_id(drawn()) != point_id(drawn(random_seed=7))
    first, seed, replicate = (
        simulate(drawn()),
        simulate(drawn(random_seed=7)),
        simulate(drawn(), 1),
    )
    for one, other in itertools.combinations((first, seed, replicate), 2):
        assert (one.prefill_replica != other.prefill_replica).any()
    assert_equal(first, simulate(drawn()))
    assert_equal(simulate(turns), simulate(replayed(random_seed=7), 1))
    study = {"sweep": {"grid": {"mode": ["mono"]}}}
    trace_arrival = {"kind": "trace", "path": str(trace)}
    for name, replicates in (("round_robin", 1), (router, 3)):
        plan = plan_of(
            tmp_path,
            study,
            sim_seconds=40,
            arrival=trace_arrival,
            batching_mono__pool__router=name,
        )
        assert plan.studies["one"].rows[0].replicates == replicates


def test_both_deployments_see_the_same_requests() -> None:
    mono, disagg = (simulate(config_of(mode=mode)) for mode in ("mono", "disagg"))
    rates = simulate(config_of(serving="token_rate"))
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(mono, name), getattr(disagg, name))
        np.testing.assert_array_equal(getattr(mono, name), getattr(rates, name))


# ------------------------------------------------------------------ edge cases

ONE_TOKEN = {"mode": "fixed", "value": 1}


@pytest.mark.parametrize("engine", ["fast", "simpy"])
def test_one_token_outputs_have_ttft_and_no_tpot(engine: str) -> None:
    for mode in ("mono", "disagg"):
        records = simulate(config_of(mode=mode, output_tokens=ONE_TOKEN, engine=engine))
        assert (records.status == Status.FINISHED).all()
        assert np.isnan(tpot_s(records)).all()
        np.testing.assert_array_equal(records.finish_s, records.first_token_s)
        assert (ttft_s(records) > 0).all()


def test_a_study_of_one_token_outputs_leaves_tpot_empty_with_the_reason(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, {**MODES}, output_tokens=ONE_TOKEN, sim_seconds=30)
    summary = pd.read_csv(tables / "summary.csv")
    assert summary["mean_tpot_s"].isna().all()
    assert summary["mean_ttft_s"].notna().all()
    assert summary["notes"].str.contains("mean_tpot_s").all()
    comparison = pd.read_csv(tables / "comparison.csv")
    tested = comparison[comparison["verdict"] != "not tested"]["statistic"]
    assert not tested.str.contains("tpot").any()


@pytest.mark.parametrize(("prompt", "status"), [(1600, Status.FINISHED), (1601, Status.REJECTED)])
def test_a_prompt_as_long_as_the_cache_is_served_and_a_longer_one_rejected(
    prompt: int, status: Status
) -> None:
    records = simulate(
        config_of(
            mode="mono",
            arrival__rate_per_s=0.5,
            prompt_tokens={"mode": "fixed", "value": prompt},
            output_tokens=ONE_TOKEN,
            batching_mono__pool__kv_capacity_tokens=1600,
        )
    )
    assert (records.status == status).all()


@pytest.mark.parametrize("engine", ["fast", "simpy"])
@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_a_cache_of_one_block_serves_what_fits_it_one_at_a_time(mode: str, engine: str) -> None:
    one_block = {"kv_capacity_tokens": 16}
    records = simulate(
        config_of(
            mode=mode,
            engine=engine,
            sim_seconds=30,
            prompt_tokens={"mode": "fixed", "value": 10},
            output_tokens={"mode": "fixed", "value": 6},
            batching_mono={"pool": {**REPLICA, **one_block, "replicas": 1}},
            batching_disagg={
                "prefill": {**REPLICA, **one_block},
                "decode": {**REPLICA, **one_block},
            },
        )
    )
    assert (records.status == Status.FINISHED).all()
    assert (records.preemptions == 0).all()
    start_s = records.prefill_start_s if mode == "mono" else records.decode_start_s
    # a replica takes the next one when the last has freed the block
    assert (start_s[1:] >= records.finish_s[:-1]).all()


def test_a_timeline_is_refused_to_the_engine_that_keeps_none() -> None:
    config = config_of(mode="mono", engine="simpy", sim_seconds=10)
    with pytest.raises(InvalidParameterError, match="engine must be fast"):
        serve(sample_requests(config), config, timeline=Timeline())


def test_a_closed_loop_keeps_its_number_in_flight_and_needs_enough_requests() -> None:
    arrival = {"kind": "closed_loop", "concurrency": 5, "requests": 400}
    records = simulate(config_of(mode="mono", arrival=arrival, sim_seconds=20))
    assert (records.arrival_s < 20).all()
    for moment in np.linspace(1, 19, 7):
        in_flight = (records.arrival_s <= moment) & (records.finish_s > moment)
        assert in_flight.sum() == 5
    for requests in (2, 5, 6):  # fewer than are in flight, as many, more
        few = config_of(mode="mono", arrival={**arrival, "requests": requests}, sim_seconds=20)
        with pytest.raises(InvalidParameterError, match=r"arrival\.requests must be enough to l"):
            simulate(few)
