"""MSER-5 finds a transient that was put there, and none where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.stats.warmup import mser5, suggested_warmup_s


def noise(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def brute_force(values: np.ndarray) -> int:
    """Return the truncation straight from the definition."""
    y = values[: len(values) // 5 * 5].reshape(-1, 5).mean(axis=1)
    m = len(y)
    statistic = [np.sum((y[d:] - y[d:].mean()) ** 2) / (m - d) ** 2 for d in range(m // 2 + 1)]
    return 5 * int(np.argmin(statistic))


@pytest.mark.parametrize("seed", range(20))
def test_it_minimises_whites_statistic(seed):
    values = noise(503, seed=seed) + 5.0 * np.exp(-np.arange(503) / 30.0)
    assert mser5(values).index == brute_force(values)


@pytest.mark.parametrize("length", [50, 100, 200])
def test_it_cuts_a_level_shift_at_its_end(length):
    values = 10.0 + 0.1 * noise(1000)
    values[:length] = 0.0
    cut = mser5(values)
    assert cut.found
    assert length <= cut.index <= length + 25


def test_it_leaves_most_of_a_steady_run():
    """Independent values have no transient: the cut stays small in nearly every run."""
    cuts = [mser5(noise(2000, seed=seed)).index for seed in range(100)]
    assert np.mean(np.array(cuts) <= 200) >= 0.85


def test_averaging_replicates_steadies_the_suggestion():
    """One replicate has an outlier late in the first half; the mean over 50 does not see it."""
    runs = noise(50, 1000)
    runs[0, :350] += 3.0
    assert mser5(runs[0]).index >= 300
    assert mser5(runs).index < 300


def test_a_run_that_never_settles_has_no_truncation_point():
    cut = mser5(np.arange(1000.0))
    assert not cut.found
    assert "run too short" in cut.reason


def test_too_few_values_are_refused_with_the_reason():
    cut = mser5(noise(49))
    assert (cut.index, cut.found) == (0, False)
    assert "at least 50 values, got 49" in cut.reason
    assert not mser5([]).found


def test_missing_values_are_left_out_of_their_batch():
    values = 10.0 + 0.1 * noise(1000)
    values[:100] = 0.0
    values[::7] = math.nan
    assert 100 <= mser5(values).index <= 125
    values[300:330] = math.nan  # whole batches without a value
    assert 100 <= mser5(values).index <= 125


def test_a_large_offset_does_not_cancel():
    values = noise(1000)
    values[:100] += 20.0
    assert mser5(values + 1e9).index == mser5(values).index


def test_the_suggestion_in_seconds_is_the_arrival_of_the_first_request_kept():
    values = 10.0 + 0.1 * noise(1000)
    values[:100] = 0.0
    times = np.arange(1000) * 0.5
    suggested = suggested_warmup_s(values, times)
    assert suggested.warmup_s == times[mser5(values).index]
    assert suggested.found


def test_a_run_without_a_transient_needs_no_warmup():
    assert suggested_warmup_s(np.ones(100), np.arange(1.0, 101.0)).warmup_s == 0.0


def test_bad_shapes_are_named():
    with pytest.raises(InvalidParameterError, match=r"^times_s must be"):
        suggested_warmup_s(np.ones(100), np.ones(99))
    with pytest.raises(InvalidParameterError, match=r"^values must be"):
        mser5(np.ones((2, 2, 100)))
