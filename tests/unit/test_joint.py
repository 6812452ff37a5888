"""Differences and ratios from two curves: known cases, agreement, open ends, equivalence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simlib.errors import InvalidParameterError
from simlib.stats.curve import mean_curve, transform
from simlib.stats.joint import joint
from simlib.stats.tails import percentile_curve


def runs(n, requests, scale, seed):
    rng = np.random.default_rng(seed)
    return [np.sort(scale * row) for row in rng.standard_exponential((n, requests))]


def test_the_difference_of_symmetric_means_is_the_paired_t_interval():
    b, d = np.array([1.0, 5.0, 2.0, 8.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = joint(mean_curve(b), mean_curve(b + d))
    low, high = stats.t.interval(0.95, 4, loc=3.0, scale=stats.sem(d))
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(stats.ttest_rel(b + d, b).pvalue)


def test_the_ratio_of_means_is_fiellers_where_nothing_is_skewed():
    b = np.array([9.0, 10.0, 11.0, 9.0, 10.0, 11.0])
    c = np.array([19.0, 21.0, 20.0, 20.0, 19.0, 21.0])
    found, (low, high) = joint(mean_curve(b), mean_curve(c)).ratio, fieller(b, c)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)


def fieller(b, c):
    """Return the ends of c over b: where (c - x b)^2 <= t^2 var(c - x b), of the means."""
    n, t = b.size, stats.t.ppf(0.975, b.size - 1)
    covariance = np.cov(b, c) / n
    a, h, k = (
        at - t**2 * float(of)
        for at, of in (
            (b.mean() ** 2, covariance[0, 0]),
            (b.mean() * c.mean(), covariance[0, 1]),
            (c.mean() ** 2, covariance[1, 1]),
        )
    )
    root = math.sqrt(h * h - a * k)
    return (h - root) / a, (h + root) / a


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(5, 12), st.floats(0.7, 1.4), st.booleans())
def test_p_difference_and_ratio_agree(seed, n, scale, paired_runs):
    rng = np.random.default_rng(seed)
    values = rng.standard_exponential((n, 300))
    other = values if paired_runs else rng.standard_exponential((n, 300))
    other = scale * other + 0.3 * rng.standard_exponential((n, 300))
    sides = [
        (mean_curve(values.mean(axis=1)), mean_curve(other.mean(axis=1))),
        tuple(percentile_curve([np.sort(row) for row in side], 90.0) for side in (values, other)),
    ]
    for b, c in sides:
        found = joint(b, c)
        if abs(found.p_value - 0.05) < 0.002:
            continue  # on the edge, within the resolution of the curves
        assert found.difference.contains(0.0) == (found.p_value > 0.05)
        assert found.ratio.contains(1.0) == (found.p_value > 0.05)


def test_pairing_narrows_the_difference_of_percentiles():
    rng = np.random.default_rng(3)
    level = rng.normal(0, 0.3, (12, 1))
    values = rng.standard_exponential((12, 400)) + level
    other = rng.standard_exponential((12, 400)) + level + 0.1
    b, c = (percentile_curve([np.sort(row) for row in v], 50.0) for v in (values, other))
    shuffled = percentile_curve([np.sort(row) for row in other[::-1]], 50.0)
    with_pairs, without = joint(b, c), joint(b, shuffled)
    assert with_pairs.pairing_gain > 3
    assert with_pairs.difference.half_width < 0.8 * without.difference.half_width


def test_the_difference_is_that_of_the_two_estimates():
    b, c = (percentile_curve(runs(8, 500, s, k), 99.0) for s, k in ((1.0, 1), (1.2, 2)))
    found = joint(b, c)
    assert found.difference.estimate == c.estimate - b.estimate
    assert found.ratio.estimate == c.estimate / b.estimate


def test_an_open_side_leaves_its_end_of_the_difference_open():
    b, c = (percentile_curve(runs(8, 500, s, k), 50.0) for s, k in ((1.0, 1), (2.0, 2)))
    opened = joint(b, replace(c, open_above="too short"))
    assert opened.difference.high == opened.ratio.high == math.inf
    assert opened.difference.low == joint(b, c).difference.low
    assert opened.difference.reason == "too short"
    assert opened.p_value < 0.05  # the candidate is slower, however slow it is
    turned = joint(replace(b, open_above="too short"), c)
    assert turned.difference.low == -math.inf
    assert turned.p_value == 1.0  # the baseline could be slower still
    nothing = joint(replace(b, open_above="too short"), replace(c, open_above="too short"))
    assert math.isnan(nothing.difference.low)
    assert math.isnan(nothing.p_value)
    assert "open on both sides" in nothing.difference.reason


def test_identical_sides_differ_by_nothing():
    curve = percentile_curve(runs(8, 500, 1.0, 1), 99.0)
    found = joint(curve, curve)
    assert abs(found.difference.low) < 1e-3
    assert abs(found.difference.high) < 1e-3
    assert found.p_value == 1.0
    assert found.p_equal < 0.05
    median = percentile_curve(runs(16, 500, 1.0, 1), 50.0)
    assert joint(median, median).p_equal < 0.01
    constant = percentile_curve([np.full(500, 2.0)] * 5, 99.0)
    same = joint(constant, constant)
    assert (same.difference.low, same.difference.high, same.p_value) == (0.0, 0.0, 1.0)


def test_equivalence_is_two_one_sided_tests_of_the_ratio():
    rng = np.random.default_rng(8)
    b = rng.normal(10.0, 0.05, 10)
    near, far = (
        joint(mean_curve(b), mean_curve(b * 1.01)),
        joint(mean_curve(b), mean_curve(b * 1.06)),
    )
    noise = rng.normal(0, 2.0, 10)
    unclear = joint(mean_curve(b), mean_curve(b + noise))
    assert near.p_equal < 0.001
    assert far.p_equal > 0.95
    assert unclear.p_equal > 0.05
    assert unclear.p_value > 0.05
    # the one-sided test at the margin, directly
    c = b + rng.normal(0.2, 0.3, 10)
    z = c - 1.05 * b
    skew = stats.skew(z) / math.sqrt(10)
    score = float(transform(np.mean(z) / stats.sem(z), skew))
    expected = stats.t.cdf(score, 9)
    assert joint(mean_curve(b), mean_curve(c)).p_equal == pytest.approx(expected)


def test_a_margin_that_is_none_and_unequal_sides_are_refused():
    with pytest.raises(InvalidParameterError, match="margin"):
        joint(mean_curve([1.0, 2.0]), mean_curve([1.0, 2.0]), margin=0.0)
    with pytest.raises(InvalidParameterError, match="candidate"):
        joint(mean_curve([1.0, 2.0]), mean_curve([1.0, 2.0, 3.0]))
