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
from simlib.stats.intervals import enough_for_percentile, mean_interval, replicates_for

REPO = Path(__file__).parents[2]
samples = arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e6, 1e6))


def benchmark(name):
    """Load a script of benchmarks/, which is no package."""
    folder = str(REPO / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


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


def test_a_constant_has_an_interval_of_no_width():
    interval = mean_interval([2.0] * 5)
    assert (interval.low, interval.estimate, interval.high) == (2.0, 2.0, 2.0)
    assert interval.relative_half_width == 0.0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mean_interval([1.0, 2.0], level=1.0), "level"),
        (lambda: mean_interval([[1.0], [2.0]]), "values"),
        (lambda: enough_for_percentile(10, 100), "q"),
        (lambda: replicates_for([1.0, 2.0], 0.0, most=9), "relative"),
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
    np.testing.assert_allclose(disagg.ttft[0], fcfs(prefill_end, output, 1)[0] - arrival, atol=1e-9)


def test_closed_forms_of_the_benchmark_agree_with_each_other():
    """M/M/c of one server is M/M/1, whose time is exponential, and M/H2/1 of scv 1 is, too."""
    bench = benchmark("queues")
    exact = (4.0, *(-4.0 * math.log(1.0 - q / 100.0) for q in bench.PERCENTS))
    one = bench.Truth.of_tail(*bench.mmc_sojourn_tail(0.75, 1))
    assert one.values == pytest.approx(exact)
    halves = np.array([0.5, 0.5])
    alike = bench.Truth.of_tail(*bench.mh21_sojourn_tail(0.75, halves, 2.0 * halves + 1e-9))
    assert alike.values == pytest.approx(exact, rel=1e-6)
    # Pollaczek-Khinchine: rho (1 + scv) / 2 / (1 - rho) and the service
    assert bench.Queue("", 1, None, 2.5).truth(0.6).values[0] == pytest.approx(1.5 * 1.75 + 1)


@pytest.mark.parametrize(("servers", "scv"), [(1, 1.0), (5, 1.0), (1, 2.5)])
def test_closed_forms_of_the_benchmark_are_what_its_queues_come_to(servers, scv):
    bench = benchmark("queues")
    queue = bench.Queue("", servers, None, scv)
    rng = np.random.default_rng(8)
    seen = bench.Truth.of_runs(queue.draw(rng, 0.6, 1, 200_000).ttft[0, 2_000:] for _ in range(12))
    for value, truth, error in zip(seen.values, queue.truth(0.6).values, seen.errors, strict=True):
        assert abs(value - truth) < 4.0 * error < 0.1 * truth


@pytest.mark.slow
def test_intervals_cover_the_truth_of_a_known_queue():
    """A small version of benchmarks/interval_coverage.py, within four standard errors of 95%."""
    bench = benchmark("interval_coverage")
    queue = bench.Queue("M/M/1", 1, None)
    cells = bench.value_cells(queue, 0.5, 2_000, 120, np.random.default_rng(11), queue.truth(0.5))
    assert {cell.replicates for cell in cells} == {1, 3, 5, 10, 30}
    for cell in cells:
        assert cell.printed == cell.studies
        if cell.replicates == 10:  # 120 studies
            assert cell.held >= 0.87 * cell.printed
    # an A/A family errs in at most 5% (standard error 2.8 points)
    assert benchmark("verdicts").power(0.0, False, 60, 11).wrong_percent <= 16.0
