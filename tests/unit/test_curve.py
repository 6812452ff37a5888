"""Confidence curves of means and percentiles: the scores, their inverses, and what stays open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from simlib.stats.curve import (
    BURSTY_SHARE,
    UNKNOWN_BURSTS,
    inverse_transform,
    mean_curve,
    skewness_of_waits,
    transform,
    usual_skewness,
)
from simlib.stats.tails import FEWEST_BURSTS, percentile_curve

samples = arrays(np.float64, st.integers(3, 30), elements=st.floats(-1e3, 1e3))


def runs_of(n, requests, seed=1):
    rng = np.random.default_rng(seed)
    return [np.sort(rng.standard_exponential(requests)) for _ in range(n)]


def test_a_mean_without_skewness_has_students_interval():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    interval = mean_curve(values).interval(0.9)
    low, high = stats.t.interval(0.9, 4, loc=3.0, scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.estimate == 3.0


def test_a_skewed_mean_moves_up_as_halls_formula_says():
    values = np.array([1.0, 1.0, 2.0, 2.0, 9.0])
    mean, error = np.mean(values), stats.sem(values)
    a = stats.skew(values) / math.sqrt(5)
    t = stats.t.ppf(0.975, 4)
    interval = mean_curve(values).interval()

    def g(mu):
        score = (mean - mu) / error
        return score + a * score**2 / 3 + a**2 * score**3 / 27 + a / 6

    assert g(interval.low) == pytest.approx(t)
    assert g(interval.high) == pytest.approx(-t)
    assert interval.high - interval.estimate > 1.5 * (interval.estimate - interval.low)


@settings(deadline=None)
@given(samples, st.floats(-50, 50), st.floats(0.1, 10))
def test_a_means_curve_moves_with_its_unit_and_mirrors(values, shift, scale):
    plain, moved, mirrored = (
        mean_curve(v).interval() for v in (values, values * scale + shift, -values)
    )
    size = 1e-6 * (scale * (1 + np.max(np.abs(values))) + abs(shift))
    if np.std(values) < 1e-6:
        return
    assert moved.low == pytest.approx(plain.low * scale + shift, abs=size, rel=1e-6)
    assert moved.high == pytest.approx(plain.high * scale + shift, abs=size, rel=1e-6)
    assert mirrored.low == pytest.approx(-plain.high, abs=size, rel=1e-6)


@given(st.floats(-15, 15), st.floats(-2, 2))
def test_the_transform_and_its_inverse_agree_and_never_fall(score, skew):
    t = inverse_transform(np.array(score), skew)
    assert transform(t, skew) == pytest.approx(score, abs=1e-6)
    assert inverse_transform(np.array(score + 0.1), skew) > t


def test_a_means_curve_says_why_it_has_no_interval():
    assert mean_curve([]).interval().reason == "no replicates"
    assert "one of" in mean_curve([1.0]).interval().reason
    assert "1 of 3 replicates have no value" in mean_curve([1.0, math.nan, 2.0]).interval().reason


def test_values_that_are_all_alike_have_an_interval_of_no_width():
    interval = mean_curve([0.1 + 0.2, 0.3, 0.3]).interval()
    assert interval.low == interval.estimate == interval.high


def test_a_percentiles_estimate_is_numpys_of_all_requests():
    runs = runs_of(7, 501)
    for q in (10.0, 50.0, 90.0, 99.0):
        expected = np.percentile(np.concatenate(runs), q)
        assert percentile_curve(runs, q).estimate == pytest.approx(expected, rel=1e-12)


def test_a_percentiles_interval_holds_the_values_whose_share_is_not_refuted():
    """Straight from the definition: at both ends the t test of the share is just significant."""
    runs = runs_of(8, 2000)
    interval = percentile_curve(runs, 90.0).interval()
    t = stats.t.ppf(0.975, 7)

    def score(x):
        shares = np.array([np.mean(run > x) for run in runs])
        skew = float(skewness_of_waits(shares - np.mean(shares), 4.0, 0.8))  # 1 - 2 * 0.1
        a = skew / math.sqrt(8)
        z = (np.mean(shares) - 0.1) / stats.sem(shares)
        return z + a * z**2 / 3 + a**2 * z**3 / 27 + a / 6

    width = interval.high - interval.low
    for end, sign in ((interval.low, 1), (interval.high, -1)):
        assert sign * score(end - 0.03 * width * sign) > t - 0.15 if sign > 0 else True
        assert abs(score(end)) == pytest.approx(t, abs=0.25)
    assert interval.low < interval.estimate < interval.high


def test_independent_requests_give_the_width_that_binomial_shares_have():
    runs = runs_of(20, 2000, seed=4)
    interval = percentile_curve(runs, 90.0).interval()
    # a p90 of n exponential values has the standard error sqrt(0.9 / 0.1 / n)
    expected = stats.t.ppf(0.975, 19) * math.sqrt(0.9 / 0.1 / 40_000)
    assert interval.half_width == pytest.approx(expected, rel=0.5)


def test_a_tail_that_one_replicate_makes_is_open_above():
    runs = [np.sort(np.random.default_rng(k).standard_exponential(1000)) for k in range(6)]
    runs[0] = np.sort(np.concatenate([runs[0][:900], 50 + runs[0][900:]]))
    interval = percentile_curve(runs, 99.0).interval()
    assert interval.high == math.inf
    assert interval.low > 0
    assert f"fewer than {FEWEST_BURSTS:g} independent bursts" in interval.reason
    assert math.isfinite(percentile_curve(runs, 50.0).interval().high)


def test_equal_values_are_one_atom_and_not_stretched():
    """Where every request takes the same time, the percentile is that time."""
    runs = [np.full(500, 2.0) for _ in range(5)]
    interval = percentile_curve(runs, 99.0).interval()
    assert (interval.low, interval.estimate, interval.high) == (2.0, 2.0, 2.0)


def test_two_atoms_give_an_interval_of_atoms():
    runs = [np.repeat([1.0, 2.0], [950, 50]) for _ in range(5)]
    p99, p50 = (percentile_curve(runs, q).interval() for q in (99.0, 50.0))
    assert (p99.low, p99.high) == (2.0, 2.0)
    assert (p50.low, p50.high) == (1.0, 1.0)


def test_a_request_without_value_lies_beyond_all():
    """Leaving it out would flatter a system that does not serve it."""
    runs = runs_of(6, 1000)
    cut = [np.append(run[:-30], np.full(30, math.nan)) for run in runs]
    whole, unfinished = (percentile_curve(r, 90.0) for r in (runs, cut))
    assert unfinished.estimate == whole.estimate
    # other values are looked at, one in some hundred
    assert unfinished.interval().low == pytest.approx(whole.interval().low, rel=1e-3)
    assert "have no value" in percentile_curve(cut, 99.0).interval().reason


def test_a_percentile_of_too_few_requests_is_left_empty():
    interval = percentile_curve(runs_of(3, 300), 99.0).interval()
    assert math.isnan(interval.estimate)
    assert "p99 needs at least 1000 samples, got 900" in interval.reason


def test_the_skewness_of_waits_is_raised_and_drawn_to_the_usual_one():
    around_0 = np.array([-1.0, -1.0, -1.0, 3.0])
    seen = stats.skew(around_0)
    assert skewness_of_waits(around_0, 4.0, 0.0) == pytest.approx(seen)  # a median's: as it is
    assert skewness_of_waits(around_0, 4.0) == pytest.approx((4 * 1.5 * seen + 10) / 14)
    many = np.tile(around_0, 10_000)
    assert skewness_of_waits(many, 4.0) == pytest.approx(1.5 * seen, rel=1e-3)
    assert skewness_of_waits(many, 1e8) == pytest.approx(seen, rel=1e-3)  # long runs: as it is


@pytest.mark.parametrize(("relaxations", "tolerance"), [(30, 0.35), (120, 0.3)])
def test_the_usual_skewness_is_that_of_a_queues_shares_and_means(relaxations, tolerance):
    """M/M/1 at rho 0.5, whose relaxation time is 5.8 requests; in equilibrium."""
    rng = np.random.default_rng(1)
    requests = round(relaxations * 5.83)
    service, gap = rng.standard_exponential((2, 8000, requests + 100))
    arrival = np.cumsum(gap / 0.5, axis=1)
    total = np.cumsum(service, axis=1)
    leave = np.maximum.accumulate(arrival - total + service, axis=1) + total
    ttft = (leave - arrival)[:, 100:]
    beyond = np.mean(ttft > -2.0 * math.log(0.1), axis=1)  # its p90
    assert usual_skewness(0.1 * relaxations) == pytest.approx(stats.skew(beyond), rel=tolerance)
    mean = stats.skew(ttft.mean(axis=1))
    assert usual_skewness(BURSTY_SHARE * relaxations) == pytest.approx(mean, rel=tolerance)


def test_the_usual_skewness_falls_with_the_length_of_runs_and_has_a_limit():
    assert usual_skewness(400.0) == pytest.approx(usual_skewness(100.0) / 2.0)
    assert usual_skewness(UNKNOWN_BURSTS) == 1.0
    assert usual_skewness(0.01) == usual_skewness(0.0) == 2.0


@pytest.mark.parametrize("n", [3, 9, 30])
def test_means_of_few_skewed_values_are_covered(n):
    """Without it, 3 gamma values cover 93% and 9 cover 94%, and miss at the upper end."""
    draws = np.random.default_rng(n).gamma(2.0, 0.5, (4000, n))
    intervals = [mean_curve(one, bursts=4.0).interval() for one in draws]
    assert np.mean([one.contains(1.0) for one in intervals]) == pytest.approx(0.955, abs=0.018)
    assert np.mean([one.high < 1.0 for one in intervals]) < 0.04
