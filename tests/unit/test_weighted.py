"""Weighted samples: the same as each value repeated, without repeating it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import batch_means_interval
from simlib.stats.weighted import Weighted, weighted_batch_interval

samples = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 40)), min_size=1, max_size=60).map(
    lambda rows: Weighted(*(np.array(column) for column in zip(*rows, strict=True)))
)


@given(samples, st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_percentiles_and_mean_are_those_of_repeated_values(sample, percents):
    repeated = np.repeat(sample.values, sample.weights)
    assert sample.total == len(repeated)
    assert sample.mean() == pytest.approx(repeated.mean(), rel=1e-12)
    np.testing.assert_allclose(
        sample.percentiles(percents), np.percentile(repeated, percents), rtol=1e-12, atol=1e-300
    )


@given(samples, st.integers(1, 8))
def test_parts_are_contiguous_and_of_about_equal_weight(sample, count):
    parts = sample.parts(count)
    assert len(parts) == count
    joined = Weighted.joined(parts)
    np.testing.assert_array_equal(joined.values, sample.values)
    np.testing.assert_array_equal(joined.weights, sample.weights)
    for part in parts:
        assert abs(part.total - sample.total / count) <= sample.weights.max()


def test_nothing_has_no_statistics():
    nothing = Weighted(np.zeros(0), np.zeros(0, np.int64))
    assert np.isnan(nothing.mean())
    assert np.isnan(nothing.percentiles([50, 99])).all()
    assert np.isnan(weighted_batch_interval(nothing, None).estimate)
    assert np.isnan(weighted_batch_interval(nothing, 50).estimate)


def test_equal_weights_give_the_intervals_of_batch_means():
    values = np.random.default_rng(1).exponential(size=4000)
    weighted = weighted_batch_interval(Weighted(values, np.ones(4000, np.int64)), None)
    plain = batch_means_interval(values)
    assert (weighted.low, weighted.estimate, weighted.high) == pytest.approx(
        (plain.low, plain.estimate, plain.high)
    )


def test_a_percentile_needs_values_and_not_weight():
    heavy = Weighted(np.arange(500.0), np.full(500, 1000))
    interval = weighted_batch_interval(heavy, 99)
    assert np.isnan(interval.estimate)
    assert "p99 needs at least 1000 samples, got 500" in interval.reason
    within = weighted_batch_interval(Weighted(np.arange(2000.0), np.full(2000, 3)), 99)
    assert within.estimate == pytest.approx(np.percentile(np.repeat(np.arange(2000.0), 3), 99))
    assert np.isnan(within.low)
    assert "in a batch" in within.reason


def test_intervals_of_independent_values_hold_the_truth():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        sample = Weighted(rng.exponential(size=3000), rng.integers(1, 9, size=3000))
        covered += weighted_batch_interval(sample, None).contains(1.0)
    # 95% of 200, less three standard errors
    assert covered >= 190 - 3 * np.sqrt(200 * 0.95 * 0.05)


def test_bad_input_is_refused():
    with pytest.raises(InvalidParameterError, match="weights must be 2 weights"):
        Weighted(np.zeros(2), np.ones(3, np.int64))
    with pytest.raises(InvalidParameterError, match="percents"):
        Weighted(np.zeros(1), np.ones(1, np.int64)).percentiles([101])
