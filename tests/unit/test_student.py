"""Student's t and the monotone cubic against SciPy, which simlib itself does not wait for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.interpolate import PchipInterpolator

from simlib.errors import InvalidParameterError
from simlib.stats.monotone import monotone_cubic
from simlib.stats.student import t_p_value, t_quantile

FREEDOM = [0.5, 1, 1.3, 2, 3, 4.7, 9, 19, 60, 333.3, 5_000, 99_999, 1e5, 1e8]


@pytest.mark.parametrize("freedom", FREEDOM)
@pytest.mark.parametrize("level", [1e-6, 0.1, 0.5, 0.8, 0.95, 0.999, 1 - 1e-9])
def test_quantiles_are_those_of_scipy(freedom, level):
    expected = -special.stdtrit(freedom, (1 - level) / 2)
    assert t_quantile(level, freedom) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("freedom", FREEDOM)
@pytest.mark.parametrize("t", [0.0, 1e-9, -0.3, 1.0, -2.0, 4.0, 30.0])
def test_p_values_are_those_of_scipy(freedom, t):
    expected = 2 * special.stdtr(freedom, -abs(t))
    rel = 1e-9 if freedom < 1e5 else 1e-7
    assert t_p_value(t, freedom) == pytest.approx(expected, rel=rel, abs=1e-12)


@given(st.floats(0.3, 1e6), st.floats(0.001, 0.9999))
def test_a_quantile_has_the_p_value_of_its_level(freedom, level):
    assert t_p_value(t_quantile(level, freedom), freedom) == pytest.approx(1 - level, rel=1e-8)


def test_limits():
    assert t_quantile(0.95, math.inf) == pytest.approx(1.959963984540054, rel=1e-12)
    assert t_p_value(math.inf, 3.0) == 0.0
    assert t_p_value(0.0, 3.0) == 1.0
    for nothing in (0.0, math.nan):
        assert math.isnan(t_quantile(0.95, nothing))
        assert math.isnan(t_p_value(1.0, nothing))
    assert math.isnan(t_p_value(math.nan, 3.0))
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidParameterError, match="level must be > 0 and < 1"):
            t_quantile(level, 3.0)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 10), st.floats(-20, 20)), min_size=2, max_size=9
    )
)  # fmt: skip
def test_the_monotone_cubic_is_that_of_scipy(steps):
    x = np.cumsum([width for width, _ in steps])
    y = np.round([value for _, value in steps], 2)  # equal neighbours occur
    at = np.linspace(x[0], x[-1], 101)
    assert monotone_cubic(x, y, at) == pytest.approx(PchipInterpolator(x, y)(at), abs=1e-9)


def test_a_monotone_cubic_goes_through_its_values_and_not_beyond():
    x, y = [0.0, 1.0, 4.0, 5.0], [0.0, 0.1, 3.0, 3.0]
    assert monotone_cubic(x, y, x) == pytest.approx(y)
    within = monotone_cubic(x, y, np.linspace(0, 5, 501))
    assert np.all(np.diff(within) >= 0)
    assert within[-1] == within.max() == 3.0


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_a_monotone_cubic_needs_two_values_a_pair_each(x, y):
    with pytest.raises(InvalidParameterError, match="as many as x"):
        monotone_cubic(x, y, [1.0])
