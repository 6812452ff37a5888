"""Control variates: the regression, its standard error, and which controls are used."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.stats.controls import controlled, plain
from simlib.stats.curve import mean_curve
from simlib.stats.tails import percentile_curve


def draw(n=40, seed=2):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 2))
    return z, 5.0 + z @ np.array([2.0, -1.0]) + 0.1 * rng.standard_normal(n)


def test_the_estimate_is_the_intercept_of_least_squares_and_so_is_its_error():
    z, y = draw()
    design = controlled(z)
    x = np.column_stack([np.ones(len(z)), z])
    coefficients, residual, *_ = np.linalg.lstsq(x, y)
    variance = float(residual[0]) / (len(y) - 3) * np.linalg.inv(x.T @ x)[0, 0]
    assert design.controls == 2
    assert design.degrees_of_freedom == len(y) - 3
    assert float(design.estimate(y)) == pytest.approx(coefficients[0])
    assert float(design.error(design.residuals(y))) == pytest.approx(math.sqrt(variance))


def test_the_gain_is_what_the_interval_narrows_by():
    z, y = draw()
    plain_width = mean_curve(y).interval().half_width
    curve = mean_curve(y, controlled(z))
    assert curve.gain > 50
    narrowed = (plain_width / curve.interval().half_width) ** 2
    assert narrowed == pytest.approx(curve.gain, rel=0.3)  # skewness and degrees of freedom differ
    assert "2 control variates" in curve.method


def test_controls_narrow_a_median_too():
    rng = np.random.default_rng(3)
    shift = rng.standard_normal((30, 1))
    runs = [np.sort(rng.standard_exponential(500) + 3 + 0.5 * s) for s in shift[:, 0]]
    plain_curve, sharp = (
        percentile_curve(runs, 50.0),
        percentile_curve(runs, 50.0, controlled(shift)),
    )
    assert sharp.gain > 4
    assert sharp.interval().half_width < 0.6 * plain_curve.interval().half_width


def test_a_control_that_says_nothing_is_left_out():
    z, _ = draw()
    repeated = np.column_stack([z[:, 0], 3 * z[:, 0], np.zeros(len(z)), z[:, 1]])
    assert controlled(repeated).controls == 2


def test_few_replicates_use_few_controls():
    z, _ = draw()
    assert [controlled(z[:n]).controls for n in (4, 9, 10, 14, 15)] == [0, 0, 1, 1, 2]


def test_without_controls_it_is_the_plain_mean():
    y = np.array([1.0, 2.0, 4.0])
    design = plain(3)
    assert float(design.estimate(y)) == pytest.approx(np.mean(y))
    assert float(design.error(design.residuals(y))) == pytest.approx(
        np.std(y, ddof=1) / math.sqrt(3)
    )
    assert design.gain(y) == 1.0


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[1.0], [math.nan]]])
def test_controls_that_are_no_finite_table_are_refused(bad):
    with pytest.raises(InvalidParameterError, match="deviations"):
        controlled(bad)
