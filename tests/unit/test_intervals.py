"""Intervals say what the data support, and nothing more."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import (
    batch_means_interval,
    batch_percentile_interval,
    enough_for_percentile,
    jackknife_percentile,
    mean_interval,
    percentile_interval,
    replicates_for,
)

REPO = Path(__file__).parents[2]
samples = arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e6, 1e6))


def benchmark(name):
    """Load a script of benchmarks/, which is no package."""
    folder = str(REPO / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def normal(n, seed=1):
    return np.random.default_rng(seed).standard_normal(n)


@settings(deadline=None)  # a busy machine is no failure
@given(samples, st.floats(0.5, 0.999))
def test_mean_interval_is_students(values, level):
    interval = mean_interval(values, level)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * error
    assert interval.estimate == pytest.approx(np.mean(values))
    assert interval.half_width == pytest.approx(half, rel=1e-6, abs=1e-9)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.reason == ""


@settings(deadline=None)  # a busy machine is no failure
@given(samples, st.floats(-100, 100), st.floats(0.01, 100))
def test_mean_interval_moves_with_its_unit(values, shift, scale):
    plain, moved = mean_interval(values), mean_interval(values * scale + shift)
    size = scale * (1 + np.max(np.abs(values))) + abs(shift)
    assert moved.low == pytest.approx(plain.low * scale + shift, abs=1e-8 * size)
    assert moved.high == pytest.approx(plain.high * scale + shift, abs=1e-8 * size)


def test_one_replicate_has_an_estimate_but_no_interval():
    interval = mean_interval([3.0])
    assert interval.estimate == 3.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert "one replicate" in interval.reason


def test_no_replicates_give_an_empty_interval_with_its_reason():
    interval = mean_interval([])
    assert math.isnan(interval.estimate)
    assert interval.reason == "no replicates"


def test_a_replicate_without_a_value_empties_the_mean_rather_than_dropping_out():
    interval = mean_interval([1.0, math.nan, 2.0])
    assert math.isnan(interval.estimate)
    assert interval.reason == "1 of 3 replicates have no value"


@pytest.mark.parametrize(
    ("q", "needed"), [(50, 20), (90, 100), (95, 200), (99, 1000), (99.9, 10000), (1, 1000)]
)
def test_a_percentile_needs_ten_samples_beyond_it(q, needed):
    assert enough_for_percentile(needed, q) is None
    reason = enough_for_percentile(needed - 1, q)
    assert reason == f"p{q:g} needs at least {needed} samples, got {needed - 1}"


def test_a_percentile_of_too_few_samples_is_left_empty():
    interval = percentile_interval([1.0, 2.0, 3.0], 99, samples=[2000, 999, 2000])
    assert math.isnan(interval.estimate)
    assert "p99 needs at least 1000 samples, got 999" in interval.reason


def test_a_percentile_of_enough_samples_has_the_t_interval():
    values = [1.0, 2.0, 4.0]
    assert percentile_interval(values, 99, samples=1000) == mean_interval(values)


@settings(deadline=None)  # a busy machine is no failure
@given(samples, st.floats(0.01, 1.0))
def test_replicates_for_a_precision_is_the_smallest_number_that_gives_it(values, relative):
    n = replicates_for(values, relative, most=500)
    target, spread = relative * abs(np.mean(values)), np.std(values, ddof=1)

    def half(m):
        return stats.t.ppf(0.975, m - 1) * spread / math.sqrt(m)

    assert len(values) <= n <= max(500, len(values))
    if n < 500:
        assert half(n) <= target * (1 + 1e-9) + 1e-300
    if n > len(values):
        assert half(n - 1) > target * (1 - 1e-9)


def test_replicates_for_asks_for_the_most_where_no_number_can_be_told():
    assert replicates_for([1.0], 0.05, most=64) == 64
    assert replicates_for([1.0, math.nan], 0.05, most=64) == 64
    assert replicates_for([1.0, -1.0], 0.05, most=64) == 64


def test_a_pooled_percentile_is_the_estimate_and_its_distance_counts_as_spread():
    """Values 1, 2, 3 around 2 have the standard deviation 1, around 3 the root of 5 / 2."""
    around_mean = percentile_interval([1.0, 2.0, 3.0], 99, samples=1000, pooled=2.0)
    away = percentile_interval([1.0, 2.0, 3.0], 99, samples=1000, pooled=3.0)
    t = stats.t.ppf(0.975, 2)
    assert around_mean.half_width == pytest.approx(t * math.sqrt(1 / 3))
    assert away.estimate == 3.0
    assert away.half_width == pytest.approx(t * math.sqrt(5 / 2 / 3))
    assert away.method == "sectioning over 3 replicates"


def test_a_pooled_percentile_of_one_replicate_has_no_interval():
    assert "one replicate" in percentile_interval([1.0], 50, samples=20, pooled=1.0).reason


def test_jackknife_of_a_mean_like_statistic_is_centred_on_the_pooled_percentile():
    replicates = [normal(2000, seed) for seed in range(8)]
    interval = jackknife_percentile(replicates, 50)
    pooled = np.percentile(np.concatenate(replicates), 50)
    assert interval.estimate == pytest.approx(pooled, abs=interval.half_width)
    # The median of n normal values has variance pi / (2 n).
    expected = stats.t.ppf(0.975, 7) * math.sqrt(math.pi / 2 / 16000)
    assert interval.half_width == pytest.approx(expected, rel=0.7)


def test_jackknife_refuses_what_it_cannot_do():
    assert "at least 2 replicates" in jackknife_percentile([normal(2000)], 50).reason
    assert "needs at least 1000" in jackknife_percentile([normal(9), normal(9)], 99).reason
    assert "1 values are missing" in jackknife_percentile([normal(30), [math.nan]], 50).reason


def test_batch_means_of_independent_values_match_the_plain_interval():
    values = normal(20_000)
    batches, plain = batch_means_interval(values), mean_interval(values)
    assert batches.estimate == plain.estimate
    assert batches.half_width == pytest.approx(plain.half_width, rel=0.8)
    assert "batch means, 10 batches of about 2000" in batches.method
    assert batches.reason == ""


def test_batch_means_see_the_autocorrelation_that_single_values_hide():
    """For AR(1) with r = 0.9 the mean's variance is 19 times that of independent values."""
    shocks = normal(100_000)
    values = np.empty_like(shocks)
    state = 0.0
    for i, shock in enumerate(shocks.tolist()):
        state = 0.9 * state + shock
        values[i] = state
    widening = batch_means_interval(values, 30).half_width / mean_interval(values).half_width
    assert widening == pytest.approx(math.sqrt(19), rel=0.35)


def test_correlated_batches_are_reported():
    interval = batch_means_interval(np.cumsum(normal(1000)))
    assert "batches are correlated" in interval.reason
    assert interval.half_width > 0


def test_correlation_of_independent_batches_is_rarely_reported():
    flagged = sum(bool(batch_means_interval(normal(200, seed)).reason) for seed in range(1000))
    assert flagged <= 25  # 1% level; 25 is 4.7 standard errors above


def test_batch_methods_cover_independent_normal_values():
    runs = [normal(4000, seed) for seed in range(400)]
    means = [batch_means_interval(run).contains(0.0) for run in runs]
    truth = stats.norm.ppf(0.9)
    p90 = [batch_percentile_interval(run, 90).contains(truth) for run in runs]
    # 95% of 400, four standard errors wide
    assert 0.906 <= np.mean(means) <= 0.994
    assert 0.906 <= np.mean(p90) <= 0.994


def test_batches_say_why_there_is_no_interval():
    assert "at least 100 values, got 50" in batch_means_interval(normal(50)).reason
    with_gap = np.append(normal(5000), math.nan)
    assert batch_means_interval(with_gap).reason == "1 of 5001 values are missing"
    assert batch_percentile_interval(with_gap, 50).reason == "1 of 5001 values are missing"
    short = batch_percentile_interval(normal(2000), 99)
    assert short.estimate == np.percentile(normal(2000), 99)
    assert math.isnan(short.low)
    assert short.reason == "p99 needs at least 1000 samples, got 400 in a batch"
    shorter = batch_percentile_interval(normal(200), 99)
    assert math.isnan(shorter.estimate)


def test_a_constant_has_an_interval_of_no_width():
    for interval in (mean_interval([2.0] * 5), batch_means_interval(np.full(500, 2.0))):
        assert (interval.low, interval.estimate, interval.high) == (2.0, 2.0, 2.0)
        assert interval.relative_half_width == 0.0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mean_interval([1.0, 2.0], level=1.0), "level"),
        (lambda: mean_interval([[1.0], [2.0]]), "values"),
        (lambda: enough_for_percentile(10, 100), "q"),
        (lambda: replicates_for([1.0, 2.0], 0.0, most=9), "relative"),
        (lambda: batch_means_interval(normal(1000), n_batches=4), "n_batches"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InvalidParameterError, match=rf"^{name} must be"):
        call()


def test_the_benchmark_queue_is_the_fast_engines_queue():
    """Coverage is measured on the same FCFS recursion that studies run."""
    from simlib.core.recursion import fcfs

    bench = benchmark("queues")
    rng = np.random.default_rng(3)
    for servers in (1, 3):
        arrival = np.cumsum(rng.standard_exponential((2, 2000)), axis=1) / (0.8 * servers)
        service = rng.standard_exponential((2, 2000))
        waits = bench.waits(arrival, service, servers)
        for run in range(2):
            start, _ = fcfs(arrival[run], service[run], servers)
            np.testing.assert_allclose(waits[run], start - arrival[run], atol=1e-9)


def test_the_benchmark_tandem_is_the_fast_engines_disaggregated_deployment():
    from simlib.core.recursion import fcfs

    bench = benchmark("queues")
    _, disagg = bench.architectures(np.random.default_rng(5), 0.9, 0.8, 1, 3000)
    rng = np.random.default_rng(5)
    arrival = np.cumsum(rng.standard_exponential((1, 3000)), axis=1)[0] / 1.6
    prompt, output = (0.5 * np.exp(0.9 * rng.standard_normal((1, 3000))[0] - 0.405) for _ in "po")
    prefill_end = fcfs(arrival, prompt, 1)[0] + prompt
    np.testing.assert_allclose(disagg[0], fcfs(prefill_end, output, 1)[0] - arrival, atol=1e-9)


@pytest.mark.slow
def test_intervals_cover_the_truth_of_a_known_queue():
    """A small version of benchmarks/coverage.py, within four standard errors of 95%."""
    bench = benchmark("coverage")
    queue = bench.Queue("M/M/1", 1, None)
    cells = bench.value_cells(queue, 0.5, 2_000, 60, 11, queue.truth(0.5))
    for cell in cells:
        assert cell.empty_percent == 0
        if cell.replicates == 10:  # 120 studies
            assert cell.covered_percent >= 87.0
    # an A/A family errs in at most 5% (standard error 2.8 points)
    assert bench.power(0.0, False, 60, 11).wrong_percent <= 16.0
