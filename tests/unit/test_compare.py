"""Families of tests, attribution and crossovers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlib.errors import InvalidParameterError
from simlib.stats.compare import attribution, crossovers, holm
from simlib.stats.curve import mean_curve
from simlib.stats.intervals import Interval, empty, mean_interval

p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


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
    whole = mean_curve(sum(candidate.values()) - sum(baseline.values())).interval()
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
        (lambda: attribution({"a": [1.0]}, {"a": [1.0, 2.0]}), "candidate"),
        (lambda: holm([0.5, 1.5]), "p_values"),
        (lambda: holm([0.5], alpha=0.0), "alpha"),
        (lambda: crossovers([1, 1], flat([0, 1])), "x"),
        (lambda: crossovers([1, 2], flat([0])), "differences"),
        (lambda: attribution({"a": [1.0]}, {"b": [1.0]}), "candidate"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InvalidParameterError, match=rf"^{name} must be"):
        call()
