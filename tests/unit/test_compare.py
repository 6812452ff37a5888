"""Paired comparisons, families of tests, attribution and crossovers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from simlib.errors import InvalidParameterError
from simlib.stats.compare import (
    attribution,
    crossovers,
    holm,
    paired,
)
from simlib.stats.intervals import Interval, empty, mean_interval

pairs = arrays(np.float64, st.tuples(st.just(2), st.integers(3, 20)), elements=st.floats(0.1, 100))
p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


def correlated(n, shift=0.0, noise=0.1, seed=1):
    """Return baseline and candidate that share most of their variation."""
    rng = np.random.default_rng(seed)
    shared = 10.0 + rng.standard_normal(n)
    return shared, shared + shift + noise * rng.standard_normal(n)


@settings(deadline=None)  # a busy machine is no failure
@given(pairs)
def test_difference_and_p_value_are_those_of_the_paired_t_test(values):
    baseline, candidate = values
    found = paired(baseline, candidate)
    difference = candidate - baseline
    spread = np.std(difference, ddof=1)
    if spread > 1e-9:
        expected = stats.ttest_rel(candidate, baseline)
        assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
        interval = expected.confidence_interval(0.95)
        assert found.difference.low == pytest.approx(interval.low, rel=1e-6, abs=1e-9)
        assert found.difference.high == pytest.approx(interval.high, rel=1e-6, abs=1e-9)


@settings(deadline=None)  # a busy machine is no failure
@given(pairs)
def test_ratio_leaves_out_one_exactly_when_the_difference_leaves_out_zero(values):
    found = paired(*values)
    low, high = found.difference.low, found.difference.high
    clear = min(abs(low), abs(high)) > 1e-6 * np.max(values)
    if clear and math.isfinite(found.ratio.low):
        assert found.ratio.contains(1.0) == found.difference.contains(0.0)
        assert found.ratio.low <= found.ratio.estimate <= found.ratio.high


def test_fieller_covers_the_ratio_of_means():
    """2,000 studies of 8 pairs: 95% within four standard errors (0.5 points each)."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(2000):
        shared = rng.standard_normal(8)
        baseline = 10 + 2 * shared + rng.standard_normal(8)
        candidate = 7 + 2 * shared + rng.standard_normal(8)
        hits += paired(baseline, candidate).ratio.contains(0.7)
    assert 0.93 <= hits / 2000 <= 0.97


def test_pairing_gain_is_the_ratio_of_variances():
    baseline, candidate = correlated(2000)
    # Var(b) + Var(c) = 1 + 1.01 over Var(c - b) = 0.01
    assert paired(baseline, candidate).variance_ratio == pytest.approx(201, rel=0.15)


def test_pairing_finds_what_unpaired_replicates_hide():
    baseline, candidate = correlated(10, shift=0.3)
    assert paired(baseline, candidate).p_value < 0.001
    assert stats.ttest_ind(baseline, candidate).pvalue > 0.2


def test_identical_sides_do_not_differ():
    values = np.array([10.0, 11.0, 12.0])
    found = paired(values, values)
    assert (found.difference.low, found.difference.estimate, found.difference.high) == (0, 0, 0)
    assert found.p_value == 1.0
    assert found.ratio.estimate == 1.0
    assert found.ratio.half_width == pytest.approx(0.0, abs=1e-6)
    assert found.variance_ratio == math.inf


def test_a_difference_without_noise_is_certain():
    found = paired([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert found.p_value == 0.0
    assert found.difference.low == found.difference.high == 1.0


def test_swapping_sides_mirrors_the_result():
    baseline, candidate = correlated(10, shift=-0.2)
    one, other = paired(baseline, candidate), paired(candidate, baseline)
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert one.ratio.low == pytest.approx(1 / other.ratio.high)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.variance_ratio == pytest.approx(other.variance_ratio)


def test_a_baseline_of_zero_has_a_difference_but_no_ratio():
    found = paired(np.zeros(5), np.ones(5) + 0.1 * np.arange(5))
    assert found.difference.low > 0
    assert math.isnan(found.ratio.estimate)
    assert found.ratio.reason == "the baseline is 0"


def test_a_baseline_that_may_be_zero_has_no_ratio_interval():
    found = paired([-1.0, 2.0, 0.5, -0.5], [1.0, 2.0, 3.0, 4.0])
    assert math.isnan(found.ratio.low)
    assert "does not differ significantly from 0" in found.ratio.reason


def test_one_replicate_gives_a_difference_without_a_test():
    found = paired([2.0], [3.0])
    assert found.difference.estimate == 1.0
    assert found.ratio.estimate == 1.5
    assert math.isnan(found.p_value)
    assert "one replicate" in found.difference.reason


def test_a_missing_value_empties_the_comparison():
    found = paired([1.0, math.nan, 2.0], [1.0, 2.0, math.nan])
    assert found.difference.reason == "2 of 3 pairs have no value"
    assert math.isnan(found.p_value)
    assert "no replicates" in paired([], []).difference.reason


@settings(deadline=None)  # a busy machine is no failure
@given(pairs)
def test_pooling_at_the_means_changes_nothing(values):
    plain = paired(*values)
    pooled = paired(*values, pooled=(np.mean(values[0]), np.mean(values[1])))
    scale = np.max(values)
    assert pooled.difference.low == pytest.approx(plain.difference.low, abs=1e-6 * scale)
    assert pooled.difference.high == pytest.approx(plain.difference.high, abs=1e-6 * scale)


def test_pooled_percentiles_become_the_estimates_and_widen_the_interval():
    baseline, candidate = correlated(10, shift=1.0)
    plain = paired(baseline, candidate)
    found = paired(baseline, candidate, pooled=(10.0, 11.5))
    assert found.difference.estimate == 1.5
    assert found.ratio.estimate == 1.15
    assert found.difference.half_width > plain.difference.half_width
    assert found.difference.method == "paired sectioning over 10 replicates"


def test_holms_worked_example():
    """Four p values, by hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, then not below its predecessor."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found.adjusted_p == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert found.rejected.tolist() == [True, False, False, True]


@settings(deadline=None)  # a busy machine is no failure
@given(p_values)
def test_holm_lies_between_no_correction_and_bonferroni(values):
    found = holm(values)
    p = np.array(values)
    assert np.all(found.adjusted_p >= p)
    assert np.all(found.adjusted_p <= np.minimum(p * p.size, 1.0))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(found.adjusted_p[order]) >= 0)
    assert np.all(found.rejected == (found.adjusted_p <= 0.05))


def test_tests_that_were_not_made_do_not_count_in_the_family():
    found = holm([0.01, math.nan, 0.04])
    assert found.adjusted_p[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(found.adjusted_p[1])
    assert found.rejected.tolist() == [True, False, True]
    assert holm([]).rejected.size == 0


def test_holm_keeps_the_family_wise_error_of_true_nulls():
    """Uniform p values: at most 5% of 4,000 families reject (four standard errors above)."""
    families = np.random.default_rng(2).random((4000, 10))
    errors = np.mean([holm(p).rejected.any() for p in families])
    assert 0.03 <= errors <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 4000)


def test_parts_of_a_difference_sum_to_the_whole():
    rng = np.random.default_rng(8)
    names = ["prefill_wait_s", "prefill_s", "transfer_s"]
    baseline = {name: rng.random(6) for name in names}
    candidate = {name: rng.random(6) for name in names}
    found = attribution(baseline, candidate)
    total = sum(part.estimate for part in found.parts.values())
    assert found.total.estimate == pytest.approx(total)
    whole = paired(sum(baseline.values()), sum(candidate.values())).difference
    assert found.total.low == pytest.approx(whole.low)
    assert list(found.parts) == names


def flat(estimates, half=1.0):
    return [Interval(e - half, e, e + half, "t") for e in estimates]


def test_one_crossing_is_interpolated_with_its_interval():
    """A line through zero at 5 of slope 2 with a band of 1: not significant within 5 ± 0.5."""
    x = np.array([0.0, 3.0, 6.0, 10.0])
    [found] = crossovers(x, flat(2 * (x - 5)))
    assert found.x.estimate == pytest.approx(5.0)
    assert (found.x.low, found.x.high) == (pytest.approx(4.5), pytest.approx(5.5))
    assert (found.sign_below, found.sign_above) == (-1, 1)
    assert found.x.reason == ""


def test_no_change_of_sign_is_no_crossover():
    assert crossovers([1, 2, 3], flat([5.0, 4.0, 6.0])) == []
    assert crossovers([1, 2, 3], flat([5.0, 0.5, 6.0])) == []
    # the estimate dips below zero between two clear wins of the same side: not significant
    assert crossovers([1, 2, 3], flat([5.0, -0.5, 6.0])) == []
    assert crossovers([], []) == []
    assert crossovers([1.0], flat([0.0])) == []


def test_several_crossings_are_found_in_order():
    found = crossovers([0, 1, 2, 3], flat([-2.0, 2.0, -2.0, -6.0], half=0.5))
    assert [c.x.estimate for c in found] == pytest.approx([0.5, 1.5])
    assert [(c.sign_below, c.sign_above) for c in found] == [(-1, 1), (1, -1)]


def test_a_crossing_that_the_range_does_not_bound_has_an_open_end():
    [found] = crossovers([0, 1, 2], flat([-0.5, 0.5, 4.0]))
    assert found.x.low == -math.inf
    assert found.x.estimate == pytest.approx(0.5)
    assert found.x.high == pytest.approx(1 + 0.5 / 3.5)
    assert found.x.reason == "the swept range does not bound it"
    assert (found.sign_below, found.sign_above) == (0, 1)


def test_sign_changes_that_cannot_be_told_apart_are_one_crossover():
    [found] = crossovers([0, 1, 2, 3, 4], flat([-5.0, 0.5, -0.5, 0.5, 5.0]))
    assert "changes its sign 3 times" in found.x.reason
    assert found.x.low < found.x.estimate < found.x.high


def test_an_estimate_of_exactly_zero_is_a_crossing_point():
    [found] = crossovers([0, 1, 2], flat([-5.0, 0.0, 5.0]))
    assert found.x.estimate == pytest.approx(1.0)


@pytest.mark.parametrize("half", [0.0, 0.5])
def test_a_stretch_of_exactly_zero_is_crossed_in_its_middle(half):
    [found] = crossovers([0, 1, 3, 4], flat([-5.0, 0.0, 0.0, 5.0], half))
    assert found.x.estimate == pytest.approx(2.0)
    assert found.x.low == pytest.approx(1.0 - half / 5)
    assert found.x.high == pytest.approx(3.0 + half / 5)
    assert crossovers([0, 1, 2], flat([0.0, 0.0, 0.0], half)) == []


def test_nothing_is_interpolated_across_a_point_without_an_interval():
    bands = flat([-5.0, -4.0, 4.0, 5.0])
    assert len(crossovers([0, 1, 2, 3], bands)) == 1
    hole = [*bands[:2], empty("t", "unstable"), *bands[2:]]
    assert crossovers([0, 1, 2, 3, 4], hole) == []


def test_an_interval_of_no_width_crosses_at_a_point():
    [found] = crossovers([0, 1], flat([-1.0, 3.0], half=0.0))
    assert found.x.low == found.x.estimate == found.x.high == pytest.approx(0.25)


def test_crossover_intervals_cover_the_true_crossing():
    """1,000 sweeps of 6 points and 10 replicates each; the truth lies between two points."""
    rng = np.random.default_rng(6)
    x = np.arange(6.0)
    hits, found_any = 0, 0
    for _ in range(1000):
        shared = rng.standard_normal((10, 1))  # common random numbers along the sweep
        differences = x - 2.4 + 0.6 * shared + 0.4 * rng.standard_normal((10, 6))
        found = crossovers(x, [mean_interval(column) for column in differences.T])
        found_any += bool(found)
        hits += any(c.x.contains(2.4) for c in found)
    assert found_any >= 990
    assert hits / 1000 >= 0.93


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paired([1.0], [1.0, 2.0]), "candidate"),
        (lambda: holm([0.5, 1.5]), "p_values"),
        (lambda: holm([0.5], alpha=0.0), "alpha"),
        (lambda: crossovers([1, 1], flat([0, 1])), "x"),
        (lambda: crossovers([1, 2], flat([0])), "differences"),
        (lambda: attribution({"a": [1.0]}, {"b": [1.0]}), "candidate"),
        (lambda: paired([1.0, 2.0], [1.0, 3.0], level=0), "level"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InvalidParameterError, match=rf"^{name} must be"):
        call()
