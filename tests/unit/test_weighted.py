"""Weighted samples: the same as each value repeated, without repeating it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.errors import InvalidParameterError
from simlib.stats.weighted import Weighted

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


def test_nothing_has_no_statistics():
    nothing = Weighted(np.zeros(0), np.zeros(0, np.int64))
    assert np.isnan(nothing.mean())
    assert np.isnan(nothing.percentiles([50, 99])).all()


def test_bad_input_is_refused():
    with pytest.raises(InvalidParameterError, match="weights must be 2 weights"):
        Weighted(np.zeros(2), np.ones(3, np.int64))
    with pytest.raises(InvalidParameterError, match="percents"):
        Weighted(np.zeros(1), np.ones(1, np.int64)).percentiles([101])
