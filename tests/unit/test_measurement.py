"""What stands between records and tables: waits, families of tests, estimators, verdicts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.metrics import statistic_named
from simlib.core.records import RequestRecords, Status, records_of
from simlib.stats.stability import Drift, verdict_of_drifts
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.measure import measure_point, queue_waits_s
from simlib.study.measurement.measured import Measured
from simlib.study.tables.comparison import (
    compare,
    compare_pairs,
    compare_replicates,
    compare_single_runs,
)
from simlib.study.tables.pairs import Pair, Side
from simlib.workload.requests import Requests


def side(level: str, config: SimConfig, records: list[RequestRecords]) -> Side:
    return Side(level, config, measure_point(records, config), partial(records.__getitem__, 0))


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


def test_pairs_that_the_model_makes_identical_are_no_tests() -> None:
    """Both sides decode at one rate: five TPOT lines take no power from the other ten."""
    lines = compare_pairs([pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 4})])
    same = [line for line in lines if "tpot" in line["statistic"]]
    others = [line for line in lines if "tpot" not in line["statistic"]]
    assert len(same) == 5
    for line in same:
        assert np.isnan(line["p_value"])
        assert np.isnan(line["p_adjusted"])
        assert (line["verdict"], line["note"]) == (
            "no significant difference",
            "identical on both sides",
        )
    least = min(others, key=lambda line: line["p_value"])
    assert least["p_value"] < 0.05
    assert least["p_adjusted"] == pytest.approx(10 * least["p_value"])


def test_rounding_is_no_difference_in_any_estimate() -> None:
    """Also not where the pooled percentiles differ by 1.8e-18 s and every replicate by less."""
    values = np.array([0.0125, 0.0130, 0.0127, 0.0129])
    baseline = measured(values, 0.0128)
    noise = values * (1 + np.array([1e-16, 3e-16, 0, 2e-16]))
    candidate = measured(noise, 0.0128 + 1.8e-18)
    outcome = compare_replicates(baseline, candidate)
    difference = outcome.difference
    assert difference.low == difference.estimate == difference.high == 0.0
    outcome = compare_replicates(baseline, measured(values, 0.0128 + 1.8e-9))
    assert outcome.difference.estimate == pytest.approx(1.8e-9)


def measured(values: np.ndarray[Any, Any], pooled: float) -> Measured:
    from simlib.stats.intervals import percentile_interval

    samples = [5000] * len(values)
    return Measured(values, percentile_interval(values, 90, samples, pooled), pooled)


def test_an_unstable_side_is_not_tested_and_takes_no_room_in_the_family() -> None:
    calm = pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 4})
    overloaded = pair_of(3, sim_seconds=2000, arrival={"rate_per_s": 7})
    assert overloaded.candidate.point.stability.verdict == "unstable"
    alone, both = compare_pairs([calm]), compare_pairs([calm, overloaded])
    assert [line["p_adjusted"] for line in both[:15]] == pytest.approx(
        [line["p_adjusted"] for line in alone], nan_ok=True
    )
    for line in both[15:]:
        assert line["verdict"] == "not tested"
        assert np.isnan(line["p_value"])
        assert line["note"].startswith("disagg unstable")
        assert line["difference_s"] == line["candidate_s"] - line["baseline_s"]


def test_the_difference_of_single_runs_is_that_of_their_columns() -> None:
    pair = pair_of(1, sim_seconds=3000, arrival={"rate_per_s": 3.1})
    for line in compare_pairs([pair]):
        assert line["difference_s"] == pytest.approx(
            line["candidate_s"] - line["baseline_s"], abs=2e-9
        )
        assert line["difference_s_low"] <= line["difference_s"] <= line["difference_s_high"]
        assert "one run" in line["method"]


def test_single_runs_are_paired_by_their_batches() -> None:
    pair = pair_of(1, sim_seconds=3000, arrival={"rate_per_s": 3})
    test = compare(pair, statistic_named("mean_ttft_s"))
    b, c = (
        np.array([np.mean(part) for part in np.array_split(values, 10)])
        for values in (
            (one.load().first_token_s - one.load().arrival_s)[one.load().arrival_s >= 60]
            for one in pair.sides
        )
    )
    centre = test.candidate.interval.estimate - test.baseline.interval.estimate
    error = np.sqrt(np.sum((c - b - centre) ** 2) / 9 / 10)
    # t of 9 degrees of freedom at 97.5 % is 2.26216 (any table)
    assert test.outcome.difference.half_width == pytest.approx(2.26216 * error, rel=1e-4)


def test_batches_of_single_runs_that_are_too_small_say_so() -> None:
    """800 requests in each of five batches are too few for a p99, and enough for a p90."""
    pair = pair_of(1, sim_seconds=2060, arrival={"rate_per_s": 2})
    lines = {line["statistic"]: line for line in compare_pairs([pair])}
    p99 = lines["p99_ttft_s"]
    assert p99["verdict"] == "not tested"
    assert "in a batch" in p99["note"]
    assert p99["difference_s"] == p99["candidate_s"] - p99["baseline_s"]
    assert lines["p90_ttft_s"]["pairs"] == 5
    assert lines["mean_ttft_s"]["pairs"] == 10


def test_where_one_side_rejects_what_both_served_is_compared() -> None:
    pair = pair_of(1, sim_seconds=1500)
    config, records = pair.candidate.config, pair.candidate.load()
    status = records.status.copy()
    status[200:300] = Status.REJECTED
    rejecting = side("disagg", config, [replace(records, status=status)])
    test = compare(Pair({}, pair.baseline, rejecting), statistic_named("mean_e2e_s"))
    assert test.note == "of the requests that both sides served"
    served = (status != Status.REJECTED) & (records.arrival_s >= 60)
    base = pair.baseline.load()
    means = [float(np.mean((one.finish_s - one.arrival_s)[served])) for one in (base, records)]
    assert test.baseline.interval.estimate == pytest.approx(means[0])
    assert test.outcome.difference.estimate == pytest.approx(means[1] - means[0])


def test_runs_of_other_requests_are_not_paired() -> None:
    pair = pair_of(1, {"random_seed": 7}, sim_seconds=1500)
    test = compare(pair, statistic_named("mean_ttft_s"))
    assert "nothing to pair by" in test.note
    assert test.verdict(rejected=True) == "not tested"
    assert np.isnan(compare_single_runs(test.baseline, test.candidate).p_value)


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
    lines = distribution.lines({"point_id": "x"})
    assert len(lines) == 110
    for line in lines:  # a request that got no token is slower than all
        assert np.mean(ttft_s <= line["ttft_s"] * (1 + 1e-8)) >= line["share"] - 1e-12
        assert np.mean(ttft_s < line["ttft_s"] * (1 - 1e-8)) <= line["share"] + 1e-12
    assert lines[-1]["share"] == pytest.approx(np.mean(~np.isnan(ttft_s)))
    assert (lines[-1]["share"] < 1) == (not drain)


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
        assert with_it.pooled is not None
        assert without.pooled is not None
        assert without.interval.estimate == without.pooled
        assert "sectioning" in without.interval.method
        assert without.lower_bound
        assert not with_it.lower_bound
        assert without.pooled <= with_it.pooled
    assert points[False].measured["p99_ttft_s"].pooled != pytest.approx(
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
