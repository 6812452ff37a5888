"""Verdicts of a family: what is tested, what is claimed, and at which level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.stats.crossing import ratio_crossovers
from simlib.stats.family import RESOLUTION, Comparison, decide
from simlib.stats.intervals import Interval, empty
from simlib.stats.joint import Joint


def comparison(p, *, equal=1.0, difference=1.0, primary=True, untestable="", width=0.5):
    interval = Interval(difference - width, difference, difference + width, "")
    return Comparison(Joint(interval, interval, p, equal, 1.0, 0.0), primary, untestable)


def outcomes(*comparisons, alpha=0.05):
    return [one.outcome for one in decide(comparisons, alpha)]


def test_primary_tests_share_five_percent_and_others_take_no_room():
    primary = [comparison(p) for p in (0.02, 0.02, 0.04)]
    assert outcomes(*primary) == ["too close to call"] * 3  # Holm: 0.02 > 0.05 / 3
    two = [comparison(0.02), comparison(0.02)]
    crowd = [comparison(0.9, primary=False) for _ in range(50)]
    unstable = [comparison(1e-9, untestable="baseline is unstable") for _ in range(50)]
    identical = [comparison(1e-9, difference=0.0, width=0.0) for _ in range(50)]
    found = outcomes(*two, *crowd, *unstable, *identical)
    assert found[:2] == ["slower", "slower"]
    assert set(found[2:52]) == {"too close to call"}
    assert set(found[52:102]) == {"not tested"}
    assert set(found[102:]) == {"identical"}


def test_the_sign_names_the_verdict():
    assert outcomes(comparison(0.01, difference=-1.0)) == ["faster"]
    assert outcomes(comparison(0.01, difference=1.0)) == ["slower"]


def test_rounding_is_no_verdict():
    tiny = comparison(1e-12, difference=1.8e-18, width=1e-19)
    assert outcomes(tiny) == ["identical"]
    small = comparison(1e-12, difference=RESOLUTION / 2, width=RESOLUTION)
    assert outcomes(small) == ["too close to call"]


def test_what_is_not_different_is_equal_or_too_close_to_call():
    assert outcomes(comparison(0.5, equal=0.01)) == ["equal"]
    assert outcomes(comparison(0.5, equal=0.2)) == ["too close to call"]
    assert outcomes(comparison(0.01, equal=0.01)) == ["slower"]  # different, if only by little
    assert outcomes(*[comparison(0.5, equal=0.02)] * 5) == ["too close to call"] * 5


def test_secondary_comparisons_are_tested_one_by_one_and_say_so():
    many = [comparison(0.04, primary=False) for _ in range(5)]
    decisions = decide(many)
    assert [one.outcome for one in decisions] == ["slower"] * 5
    assert not any(one.primary for one in decisions)
    assert all(one.level == 0.95 and one.p_adjusted == 0.04 for one in decisions)


def test_a_comparison_without_interval_says_why_it_is_no_test():
    nothing = empty("", "too short")
    none = Comparison(Joint(nothing, nothing, math.nan, math.nan, 1.0, 0.0), True)
    (decision,) = decide([none])
    assert (decision.outcome, decision.reason) == ("not tested", "too short")
    assert math.isnan(decision.p_adjusted)


def test_levels_agree_with_the_claims():
    """p against 1 - level says what Holm's procedure says."""
    rng = np.random.default_rng(4)
    for _ in range(50):
        p = rng.random(6) ** 4
        decisions = decide([comparison(float(one)) for one in p])
        for one, decision in zip(p, decisions, strict=True):
            assert (decision.outcome == "slower") == (one <= 1 - decision.level + 1e-12)


def test_alpha_is_checked():
    with pytest.raises(InvalidParameterError, match="alpha"):
        decide([], alpha=1.0)


def band(ratio, factor=1.05):
    return Interval(ratio / factor, ratio, ratio * factor, "")


def test_a_crossover_follows_the_bend_of_waits_near_saturation():
    """M/M/1 against a faster server with a transfer of one second: where the two are equal."""
    loads = np.array([0.2, 0.4, 0.6, 0.8])
    ratios = [(0.8 / (1 - 0.8 * rho) + 1) * (1 - rho) for rho in loads]
    (found,) = ratio_crossovers(loads, [band(ratio) for ratio in ratios])
    truth = 0.609612
    assert found.x.estimate == pytest.approx(truth, abs=0.005)
    assert found.x.low < truth < found.x.high
    assert (found.sign_below, found.sign_above) == (1, -1)


def test_a_claimed_load_is_outside_the_crossovers_interval():
    loads = [1.0, 2.0, 3.0, 4.0]
    wide = ratio_crossovers(loads, [band(r, 2.0) for r in (1.5, 1.2, 0.9, 0.7)])
    assert [(one.x.low, one.x.high) for one in wide] == [(-math.inf, math.inf)]
    narrow = ratio_crossovers(loads, [band(r) for r in (1.5, 1.2, 0.9, 0.7)])
    assert [(one.sign_below, one.sign_above) for one in narrow] == [(1, -1)]
    assert 2.0 < narrow[0].x.low < narrow[0].x.high < 3.0


def test_an_open_band_claims_nothing_on_that_side():
    loads = [1.0, 2.0, 3.0]
    opened = [band(1.5), Interval(1.1, 1.3, math.inf, ""), Interval(0.0, 0.8, 0.9, "")]
    (found,) = ratio_crossovers(loads, opened)
    assert found.x.low > 2.0
    assert found.x.high < 3.0


def test_nothing_is_interpolated_across_a_point_without_interval():
    gap = empty("", "unstable")
    assert ratio_crossovers([1.0, 2.0, 3.0], [band(1.5), gap, band(0.5)]) == []


def test_crossings_check_their_input():
    with pytest.raises(InvalidParameterError, match="ratios"):
        ratio_crossovers([1.0, 2.0], [band(1.0)])
    with pytest.raises(InvalidParameterError, match="strictly increasing"):
        ratio_crossovers([1.0, 1.0], [band(1.0), band(1.0)])
