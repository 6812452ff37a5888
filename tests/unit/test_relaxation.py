"""Relaxation time, initial bias, and what is left open or empty for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.core.metrics import METRICS
from simlib.core.summary import Sample
from simlib.errors import InvalidParameterError
from simlib.stats.curve import UNKNOWN_BURSTS
from simlib.stats.estimate import curve_of, effective, units_of
from simlib.stats.relaxation import (
    FEWEST_EFFECTIVE,
    HEAVY_TAIL,
    RunLength,
    initial_bias,
    relaxation_requests,
)
from simlib.study.measurement.measured import measure_metric


def waits(arrival, service):
    total = np.cumsum(service, axis=1)
    leave = np.maximum.accumulate(arrival - total + service, axis=1) + total
    return leave - service - arrival


def test_the_relaxation_time_of_mm1_is_the_textbooks():
    """1 / (1 - sqrt(rho))^2 services, which is rho times that in requests."""
    assert relaxation_requests(0.5, 1.0) == pytest.approx(0.5 / (1 - math.sqrt(0.5)) ** 2)
    assert relaxation_requests(0.95, 1.0) == pytest.approx(1482, rel=0.001)
    assert relaxation_requests(0.8, 0.0) == relaxation_requests(0.8, 1.0) / 2
    assert math.isinf(relaxation_requests(1.0, 1.0))
    with pytest.raises(InvalidParameterError, match="rho"):
        relaxation_requests(-0.1, 1.0)


@given(st.floats(0, 20), st.floats(0, 20), st.floats(0.01, 5))
def test_bias_falls_with_warm_up_and_with_the_window(warmup, window, more):
    bias = initial_bias(warmup, window)
    assert 0 <= bias <= 1
    assert initial_bias(warmup + more, window) <= bias + 1e-12
    assert initial_bias(warmup, window + more) <= bias + 1e-12


def test_bias_at_its_ends():
    assert initial_bias(0.0, 0.0) == 1.0
    assert initial_bias(0.0, math.inf) == 0.0
    # the missing share integrates to 1/2 (Abate and Whitt), in time units of half a relaxation
    assert initial_bias(0.0, 100.0) == pytest.approx(0.5 / 200.0, rel=1e-3)


def test_bias_is_that_of_a_simulated_queue():
    """M/M/1 at rho 0.95 from empty: a quarter of a relaxation time left out, one observed."""
    rho = 0.95
    rng = np.random.default_rng(5)
    tau = relaxation_requests(rho, 1.0)
    warmup, window = int(tau / 4), int(tau)
    arrival = np.cumsum(rng.standard_exponential((2000, warmup + window)), axis=1) / rho
    seen = waits(arrival, rng.standard_exponential(arrival.shape))[:, warmup:].mean(axis=1)
    missed = 1 - np.mean(seen) / (rho / (1 - rho))
    error = np.std(seen) / math.sqrt(2000) / (rho / (1 - rho))
    assert initial_bias(0.25, 1.0) == pytest.approx(missed, abs=4 * error + 0.02)


def test_a_short_replicate_leaves_the_mean_open():
    length = RunLength(10, 2000, 500, relaxation_requests(0.95, 1.0), 6.0)
    assert "1.3 relaxation times long, needs 5" in length.too_short(None)
    assert RunLength(10, 2000, 500, relaxation_requests(0.8, 1.0), 6.0).too_short(None) == ""


def test_a_percentile_needs_bursts_beyond_it_in_all_replicates_together():
    tau = relaxation_requests(0.8, 1.0)  # 72 requests
    few, many = RunLength(10, 2000, 500, tau), RunLength(30, 2000, 500, tau)
    assert "p99 needs 600 relaxation times" in few.too_short(99.0)
    assert few.too_short(90.0) == ""
    assert many.too_short(99.0) == ""


def test_a_heavy_tail_leaves_means_and_high_percentiles_open():
    heavy = RunLength(10, 2000, 500, 12.0, work_kurtosis=8000.0)
    assert "heavy tail" in heavy.too_short(None)
    assert "heavy tail" in heavy.too_short(99.0)
    assert heavy.too_short(50.0) == ""


def test_an_overloaded_point_is_open_for_every_statistic():
    length = RunLength(10, 10**9, 0, math.inf)
    assert all("not below" in length.too_short(q) for q in (None, 50.0, 99.0))


def test_an_unknown_relaxation_time_refuses_nothing_by_itself():
    length = RunLength(10, 100)
    assert length.too_short(None) == ""
    assert math.isnan(length.bias)
    assert length.requests_for(99.0) == 100


@given(st.sampled_from([None, 50.0, 90.0, 99.0]), st.floats(0.1, 0.98), st.integers(1, 40))
def test_the_requests_asked_for_are_just_enough(percent, rho, runs):
    tau = relaxation_requests(rho, 1.0)
    needed = RunLength(runs, 1, 0, tau, 6.0).requests_for(percent)
    assert RunLength(runs, needed * 1.001, 0, tau, 6.0).too_short(percent) == ""
    assert RunLength(runs, needed * 0.999, 0, tau, 6.0).too_short(percent) != ""


@pytest.mark.parametrize(
    ("runs", "relaxations", "batches"),
    [(1, 99, 0), (1, 100, 10), (1, 1000, 20), (2, 1000, 10), (5, 1000, 4), (5, 17, 1), (10, 9, 1)],
)
def test_few_long_replicates_are_cut_into_batches(runs, relaxations, batches):
    assert RunLength(runs, relaxations * 10, 0, 10).batches() == batches


def test_a_short_single_run_has_an_estimate_and_says_what_it_needs():
    run = np.random.default_rng(1).standard_exponential(2000)
    curve = curve_of(units_of([run], RunLength(1, 2000, 500, 1000.0)), None)
    interval = curve.interval()
    assert interval.estimate == pytest.approx(np.mean(run))
    assert math.isnan(interval.low)
    assert "one run of 2 relaxation times gives no interval, 100 would" in interval.reason


def test_an_empty_start_without_warm_up_leaves_the_upper_end_open():
    runs = np.random.default_rng(1).normal(10.0, 0.1, (30, 1000))
    settled, fresh = (
        curve_of(units_of(runs, RunLength(30, 1000, warmup, 100.0)), None).interval()
        for warmup in (1000, 0)
    )
    assert math.isfinite(settled.high)
    assert fresh.high == math.inf
    assert "empty start" in fresh.reason
    assert fresh.low == settled.low


def test_batches_of_a_run_have_the_run_as_their_estimate():
    run = np.random.default_rng(1).standard_exponential(20_003)
    units = units_of([run], RunLength(1, 20_003, 0, 5.0))
    assert len(units.parts) == 20
    assert curve_of(units, None).estimate == np.mean(run)
    assert curve_of(units, 99.0).estimate == pytest.approx(np.percentile(run, 99))


@given(st.floats(0.3, 0.97), st.floats(0.01, 0.3), st.floats(0, 500))
def test_the_requests_for_a_precision_meet_width_and_bias(rho, wanted, warmup):
    tau = relaxation_requests(rho, 1.0)
    now = RunLength(10, 5000, warmup, tau, 6.0)
    needed = now.requests_for_precision(None, 0.4, wanted)
    longer = RunLength(10, needed, warmup, tau, 6.0)
    assert longer.too_short(None) == "" or needed == pytest.approx(now.requests_for(None))
    assert longer.bias <= 0.25 * wanted * 1.01
    assert 0.4 * math.sqrt(5000 / needed) <= wanted * 1.001
    assert needed >= 5000


def test_a_precision_that_is_met_asks_for_nothing_more():
    now = RunLength(10, 10**6, 10**4, 50.0, 6.0)
    assert now.requests_for_precision(99.0, 0.04, 0.05) == 10**6
    assert math.isinf(RunLength(10, 10**6, 0, math.inf).requests_for_precision(None, 0.1, 0.05))
    with pytest.raises(InvalidParameterError, match="wanted"):
        now.requests_for_precision(None, 0.1, 0.0)


def test_a_percentile_needs_five_relaxation_times_in_every_replicate():
    """Many short runs, which all start empty, agree on a percentile that is too small."""
    many = RunLength(1000, 400.0, 100.0, relaxation=100.0, work_kurtosis=2.0)
    assert many.too_short(50.0) == "a replicate is 4.0 relaxation times long, needs 5"
    assert many.requests_for(50.0) == 500.0
    assert RunLength(1000, 500.0, 100.0, 100.0, 2.0).too_short(50.0) == ""


def test_the_mean_of_heavy_tailed_values_is_open_above_though_their_work_is_not_heavy():
    """As where a prefill takes the square of its prompt's length."""
    rng = np.random.default_rng(1)
    length = RunLength(10, 2000.0, 500.0, relaxation=5.0, work_kurtosis=3.0)
    heavy = np.exp(2.0 * rng.standard_normal((10, 2000)))
    light = np.exp(0.5 * rng.standard_normal((10, 2000)))
    assert effective(np.ones(50)) == pytest.approx(50.0)
    assert effective(heavy.ravel()) < FEWEST_EFFECTIVE < effective(light.ravel())
    opened, closed = (curve_of(units_of(list(runs), length), None) for runs in (heavy, light))
    assert opened.open_above == HEAVY_TAIL
    assert not closed.open_above
    assert not curve_of(units_of(list(heavy), length), 50.0).open_above
    assert not curve_of(units_of(list(heavy), length), None, waits=False).open_above


def test_the_tail_of_the_work_decides_waits_and_nothing_else():
    """The time per token, or a share of requests, of prompts with a heavy tail."""
    values = np.random.default_rng(1).normal(10.0, 1.0, (10, 2000))
    units = units_of(list(values), RunLength(10, 2000.0, 500.0, 5.0, work_kurtosis=8000.0))
    for percent in (None, 99.0):
        assert curve_of(units, percent).open_above == HEAVY_TAIL
        assert not curve_of(units, percent, waits=False).open_above


def test_batches_of_a_run_have_the_bursts_of_their_own_length():
    runs = np.random.default_rng(1).standard_exponential((2, 4000))
    length = RunLength(2, 4000.0, 500.0, relaxation=20.0)
    assert units_of(runs, length).bursts(0.1) == pytest.approx(0.1 * 200 / 10)
    assert units_of(runs, length, batches=1).bursts(0.1) == pytest.approx(0.1 * 200)
    assert units_of(runs).bursts(0.1) == UNKNOWN_BURSTS


def test_a_long_runs_mean_is_drawn_to_less_skewness_than_a_short_ones():
    runs = list(np.random.default_rng(1).normal(10.0, 1.0, (5, 2000)))
    short, long = (
        curve_of(units_of(runs, RunLength(5, 2000.0, 500.0, tau), batches=1), None).interval()
        for tau in (100.0, 0.1)
    )
    lopsided = [(one.high - one.estimate) / (one.estimate - one.low) for one in (short, long)]
    assert lopsided[0] > 1.5 * lopsided[1]


@pytest.mark.parametrize(("name", "heavy"), [("ttft", True), ("e2e", True), ("tpot", False)])
def test_a_metric_knows_whether_the_works_tail_decides_it(name, heavy):
    length = RunLength(10, 2000.0, 500.0, 5.0, work_kurtosis=8000.0)
    samples = [
        Sample(METRICS[name], np.arange(2000), values, np.zeros(2000, dtype=np.bool_))
        for values in np.random.default_rng(1).normal(10.0, 1.0, (10, 2000))
    ]
    interval = measure_metric(samples, length)[f"mean_{name}_s"].interval
    assert math.isinf(interval.high) == heavy


@pytest.mark.parametrize(("effective_requests", "open_above"), [(299.0, True), (301.0, False)])
def test_a_mean_needs_three_hundred_requests_over_the_kurtosis_of_their_work(
    effective_requests, open_above
):
    length = RunLength(10, 1000, relaxation=1.0, work_kurtosis=10 * 1000 / effective_requests)
    assert bool(length.too_short(None)) == open_above
    assert not length.whatever_the_work().too_short(None)
