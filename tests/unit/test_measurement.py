"""What stands between records and tables: waits, families of tests, estimators, verdicts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.records import RequestRecords, Status, records_of
from simlib.stats.stability import Drift, verdict_of_drifts
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.measure import measure_point, queue_waits_s
from simlib.study.plan.spec import Compare
from simlib.study.tables.comparison import compare_pairs
from simlib.study.tables.joints import Compared, Comparisons
from simlib.study.tables.pairs import Pair, Side
from simlib.workload.requests import Requests


def side(level: str, config: SimConfig, records: list[RequestRecords]) -> Side:
    return Side(level, config, measure_point(records, config), partial(list, records))


def pair_of(replicates: int = 1, changes: dict[str, Any] | None = None, **settings: Any) -> Pair:
    """Return both deployments on the same requests; `changes` are those of the candidate."""
    sides = []
    for mode, own in (("mono", {}), ("disagg", changes or {})):
        config = SimConfig.from_dict({"mode": mode, **settings, **own})
        sides.append(side(mode, config, [simulate(config, r) for r in range(replicates)]))
    return Pair({}, *sides)


# ---------------------------------------------------------------- waits and stability


def three_requests() -> RequestRecords:
    """Return requests that wait 1, 2 and 6 s for prefill, then for the link, then for decode."""
    arrival = np.array([0.0, 1.0, 2.0])
    start = arrival + np.array([1.0, 6.0, 2.0])  # the second is passed by the third
    link, decode = np.array([0.5, 0.25, 0.125]), np.array([10.0, 20.0, 40.0])
    stamps = {"prefill_start_s": start, "prefill_end_s": start + 1}
    stamps["transfer_start_s"] = stamps["prefill_end_s"] + link
    stamps["transfer_end_s"] = stamps["transfer_start_s"] + 1
    stamps["decode_start_s"] = stamps["transfer_end_s"] + decode
    stamps["first_token_s"] = stamps["finish_s"] = stamps["decode_start_s"] + 1
    return records_of(Requests(arrival, np.full(3, 10), np.full(3, 1)), stamps)


def test_queues_are_judged_by_all_waits_prefill_link_and_decode() -> None:
    waits = queue_waits_s(three_requests(), SimConfig())
    assert waits.tolist() == [1 + 0.5 + 10, 6 + 0.25 + 20, 2 + 0.125 + 40]


def test_where_requests_overtake_the_kth_start_is_matched_with_the_kth_arrival() -> None:
    pool = {"discipline": "sjf"}
    config = SimConfig.from_dict({"serving": "batching", "batching_disagg": {"prefill": pool}})
    waits = queue_waits_s(three_requests(), config)
    # starts at 1, 4 and 7 s against arrivals at 0, 1 and 2 s
    assert waits.tolist() == [1 + 0.5 + 10, 3 + 0.25 + 20, 5 + 0.125 + 40]


@pytest.mark.parametrize("wait", ["transfer", "decode"])
def test_a_queue_that_grows_behind_the_prefill_is_found(wait: str) -> None:
    """With batching rho is unknown: the waits alone tell."""
    n = 2000
    arrival = np.linspace(0, 599, n)
    growing = 0.3 * arrival
    stamps = {"prefill_start_s": arrival, "prefill_end_s": arrival + 0.1}
    link, decode = (growing, 0 * growing) if wait == "transfer" else (0 * growing, growing)
    stamps["transfer_start_s"] = stamps["prefill_end_s"] + link
    stamps["transfer_end_s"] = stamps["transfer_start_s"]
    stamps["decode_start_s"] = stamps["transfer_end_s"] + decode
    stamps["first_token_s"] = stamps["decode_start_s"] + 0.1
    stamps["finish_s"] = stamps["first_token_s"] + 0.1
    stamps["prefill_replica"] = stamps["decode_replica"] = np.zeros(n, np.int32)
    records = records_of(Requests(arrival, np.full(n, 10), np.full(n, 2)), stamps)
    point = measure_point([records], SimConfig(serving="batching"))
    assert point.stability.verdict == "unstable"


def test_rejected_requests_are_no_requests_that_never_started() -> None:
    config = SimConfig(mode="mono")
    records = simulate(config)
    assert measure_point([records], config).stability.verdict == "stable"
    status, start = records.status.copy(), records.prefill_start_s.copy()
    status[::5], start[::5] = Status.REJECTED, np.nan
    rejecting = replace(records, status=status, prefill_start_s=start)
    point = measure_point([rejecting], config)
    assert point.stability.verdict == "stable"
    assert point.total("rejected") == np.count_nonzero(records.arrival_s[::5] >= 60)


@pytest.mark.parametrize(("replicates", "doubtful", "certain"), [(1, 0.5, 0.9), (4, 0.25, 0.7)])
def test_a_trend_must_exceed_what_chance_explains(
    replicates: int, doubtful: float, certain: float
) -> None:
    """Fewer replicates need a clearer trend: 0.5 + 0.4/√R is unstable, max(0.25, 0.5/√R) not so."""

    def verdict(tau: float, growth: float) -> str:
        drifts = [Drift(tau, 0.1, growth, 1000, 0)] * replicates
        return verdict_of_drifts({"gpu": float("nan")}, drifts).verdict

    for tau, growth, expected in (
        (doubtful - 0.01, 2.0, "stable"),
        (doubtful + 0.01, 2.0, "undetermined"),
        (certain - 0.01, 2.0, "undetermined"),
        (certain + 0.01, 2.0, "unstable"),
        (certain + 0.01, 0.99, "undetermined"),
        (certain + 0.01, 0.49, "stable"),
    ):
        assert verdict(tau, growth) == expected, (tau, growth)


# ---------------------------------------------------------------- comparisons


def compared(pair: Pair, statistic: str) -> Compared:
    return Comparisons(0.05).of(pair).statistics[statistic]


def test_pairs_that_the_model_makes_identical_are_no_tests() -> None:
    """Both sides decode at one rate, so TPOT is the same but for rounding."""
    lines = compare_pairs([pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 4})])
    same = [line for line in lines if "tpot" in line["statistic"]]
    assert len(same) == 5
    for line in same:
        assert np.isnan(line["p_value"])
        assert np.isnan(line["p_adjusted"])
        assert (line["verdict"], line["note"]) == ("identical", "identical on both sides")


def test_two_statistics_are_one_family_and_all_else_is_tested_alone() -> None:
    lines = compare_pairs([pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 4})])
    family = [line for line in lines if line["family"] == "primary"]
    assert [line["statistic"] for line in family] == ["mean_ttft_s", "p99_ttft_s"]
    least = min(family, key=lambda line: line["p_value"])
    assert least["p_adjusted"] == pytest.approx(min(2 * least["p_value"], 1.0))
    for line in lines:
        if line["family"] == "secondary" and line["verdict"] != "identical":
            assert line["p_adjusted"] == line["p_value"]
    named = Compare(metrics=["p50_ttft_s"])
    [other] = [one for one in compare_pairs([pair_of(3)], named) if one["family"] == "primary"]
    assert other["statistic"] == "p50_ttft_s"


def test_an_unstable_side_is_not_tested_and_takes_no_room_in_the_family() -> None:
    calm = pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 4})
    overloaded = pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 9})
    assert overloaded.candidate.point.stability.verdict == "unstable"
    alone, both = compare_pairs([calm]), compare_pairs([calm, overloaded])
    n = len(alone)
    assert [line["p_adjusted"] for line in both[:n]] == pytest.approx(
        [line["p_adjusted"] for line in alone], nan_ok=True
    )
    for line in both[n:]:
        assert line["verdict"] == "not tested"
        assert np.isnan(line["p_value"])
        assert "unstable" in line["note"]
        assert line["difference_s"] == line["candidate_s"] - line["baseline_s"]


@pytest.mark.parametrize("replicates", [1, 4])
def test_the_difference_is_that_of_the_columns(replicates: int) -> None:
    pair = pair_of(replicates, sim_seconds=20000 if replicates == 1 else 1500)
    measured = [side.point.measured for side in pair.sides]
    for line in compare_pairs([pair]):
        b, c = (side[line["statistic"]].interval.estimate for side in measured)
        assert (line["baseline_s"], line["candidate_s"]) == pytest.approx((b, c), abs=1e-12)
        assert line["difference_s"] == pytest.approx(c - b, abs=1e-12)
        if line["statistic"] == "mean_ttft_s":
            assert line["difference_s_low"] < line["difference_s"] < line["difference_s_high"]
            assert "batches" in line["method"]  # few runs, each many relaxation times long


def test_a_single_run_that_is_too_short_has_no_interval_and_says_so() -> None:
    """Ten relaxation times a batch: a short run near its limit has not ten of them."""
    pair = pair_of(1, sim_seconds=600, arrival={"rate_per_s": 5})
    line = compare_pairs([pair])[0]
    assert line["verdict"] == "not tested"
    assert "relaxation times" in line["note"]
    assert np.isnan(line["difference_s_low"])
    assert line["difference_s"] == pytest.approx(line["candidate_s"] - line["baseline_s"])


def test_where_one_side_rejects_what_both_served_is_compared() -> None:
    pair = pair_of(1, sim_seconds=4000)
    config, [records] = pair.candidate.config, pair.candidate.load()
    status = records.status.copy()
    status[200:300] = Status.REJECTED
    rejecting = side("disagg", config, [replace(records, status=status)])
    found = compared(Pair({}, pair.baseline, rejecting), "mean_e2e_s")
    assert found.note == "of the requests that both sides served"
    served = (status != Status.REJECTED) & (records.arrival_s >= 60)
    [base] = pair.baseline.load()
    means = [float(np.mean((one.finish_s - one.arrival_s)[served])) for one in (base, records)]
    assert found.baseline == pytest.approx(means[0])
    assert found.joint.difference.estimate == pytest.approx(means[1] - means[0])


def test_runs_of_other_requests_are_not_paired() -> None:
    pair = pair_of(1, {"random_seed": 7}, sim_seconds=1500)
    found = compared(pair, "mean_ttft_s")
    assert "nothing to pair by" in found.note
    assert found.untestable
    assert np.isnan(found.joint.p_value)


def test_another_definition_that_turns_a_verdict_is_named() -> None:
    """By the end of prefill disaggregation is faster here, by the first decode step slower."""
    lines = {line["statistic"]: line for line in compare_pairs([pair_of(10, sim_seconds=1500)])}
    line = lines["mean_ttft_s"]
    assert line["verdict"] == "slower"
    assert "prefill_end: faster" in line["other_definitions"]
    assert lines["mean_ttft_prefill_end_s"]["verdict"] == "faster"
    assert lines["mean_ttft_prefill_end_s"]["other_definitions"] == ""
    assert "mean_ttft_first_decode_step_s" not in lines, "is mean_ttft_s already"


def test_sides_that_are_alike_within_the_margin_are_equal() -> None:
    """4% more prefill speed is less than 10% of TTFT, and more than nothing."""
    changes = {"mode": "mono", "cluster_mono": {"num_gpus": 4, "prefill_tokens_per_s": 8001}}
    one = {"mode": "mono", "cluster_mono": {"num_gpus": 4, "prefill_tokens_per_s": 8000}}
    pair = pair_of(10, changes, sim_seconds=600, **{k: v for k, v in one.items() if k != "mode"})
    line = compare_pairs([pair], Compare(margin=0.1, metrics=["p99_e2e_s"]))[0]
    assert line["ratio"] == pytest.approx(1.0, abs=1e-3)
    assert line["p_equal"] < 0.05
    assert line["verdict"] in ("faster", "equal within 10%")


# ---------------------------------------------------------------- estimators


@pytest.mark.parametrize("drain", [True, False])
def test_the_distribution_is_how_many_had_at_most_that_ttft(drain: bool) -> None:
    settings = {"sim_seconds": 400.0, "arrival": {"rate_per_s": 8}, "drain": drain}
    config = SimConfig.from_dict(settings)
    runs = [simulate(config, r) for r in range(2)]
    ttft_s = np.concatenate(
        [(run.first_token_s - run.arrival_s)[run.arrival_s >= 60] for run in runs]
    )
    distribution = measure_point(runs, config).distribution
    assert distribution is not None
    shares, steps_s = distribution.columns()
    assert shares.shape == steps_s.shape == (110,)
    for share, step_s in zip(shares, steps_s, strict=True):
        # a request that got no token is slower than all
        assert np.mean(ttft_s <= step_s * (1 + 1e-8)) >= share - 1e-12
        assert np.mean(ttft_s < step_s * (1 - 1e-8)) <= share + 1e-12
    assert shares[-1] == pytest.approx(np.mean(~np.isnan(ttft_s)))
    assert (shares[-1] < 1) == (not drain)


def test_without_a_drain_percentiles_have_the_same_estimator_as_with_one() -> None:
    """Pooled over replicates, those still waiting with the wait so far; never their mean."""
    settings = {"mode": "disagg", "sim_seconds": 400.0, "arrival": {"rate_per_s": 8}}
    points = {}
    for drain in (True, False):
        config = SimConfig.from_dict({**settings, "drain": drain})
        points[drain] = measure_point([simulate(config, r) for r in range(4)], config)
    assert points[False].total("unfinished") > 0
    for name in ("p99_ttft_s", "p90_e2e_s"):
        with_it, without = (points[drain].measured[name] for drain in (True, False))
        assert "inverted share" in without.interval.method
        assert without.lower_bound
        assert np.isinf(without.interval.high)
        assert not with_it.lower_bound
        assert without.interval.estimate <= with_it.interval.estimate
    assert points[False].measured["p99_ttft_s"].interval.estimate != pytest.approx(
        points[False].values("p99_ttft_s").mean()
    )


def test_lower_bounds_are_not_compared() -> None:
    pair = pair_of(3, sim_seconds=600, arrival={"rate_per_s": 3}, drain=False)
    lines = {line["statistic"]: line for line in compare_pairs([pair])}
    bounded = [name for name, one in pair.candidate.point.measured.items() if one.lower_bound]
    assert "p99_e2e_s" in bounded
    for name in bounded:
        assert lines[name]["verdict"] == "not tested"
        assert "lower bound" in lines[name]["note"]


def test_what_ends_before_decode_does_not_wait_for_the_relaxation_of_decode() -> None:
    """Decode at rho 0.95 forgets in thousands of requests, prefill at 0.2 in a few."""
    settings = {"sim_seconds": 1500, "arrival": {"rate_per_s": 7.7}}
    config = SimConfig.from_dict(
        {**settings, "cluster_disagg": {"prefill_gpus": 1, "decode_gpus": 3}}
    )
    point = measure_point([simulate(config, r) for r in range(10)], config)
    assert point.length.relaxation > 20 * point.prefill_length.relaxation
    late, early = (
        point.measured[f"mean_ttft_{name}_s"].interval
        for name in ("first_decode_step", "prefill_end")
    )
    assert np.isinf(late.high)
    assert "relaxation times" in late.reason
    assert np.isfinite(early.high)
