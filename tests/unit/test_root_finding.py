"""The capacity search: brackets, intervals, outcomes, and how often it measures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.stats.curve import skewness
from simlib.stats.root_finding import (
    FEWEST_REPLICATES,
    SCOUTS,
    Attainment,
    find_capacity,
    rough_capacity,
)
from simlib.stats.student import t_quantile

CONFIRMED = math.ceil(1.5 * FEWEST_REPLICATES)
"""Replicates of a search whose first ones are precise enough."""


class Curve:
    """Shares that miss exponentially in the rate, with a random factor for each replicate."""

    def __init__(self, root=10.0, target=0.95, noise=0.0, slope=0.5, stable_below=math.inf, seed=0):
        self.root, self.miss, self.slope, self.limit = root, 1.0 - target, slope, stable_below
        self.factor = np.exp(noise * np.random.default_rng(seed).standard_normal(200))
        self.factor /= self.factor.mean() if noise else 1.0
        self.asked: dict[float, int] = {}

    def __call__(self, rate, replicates):
        assert self.asked.get(rate, 0) < replicates, "asked for what it has"
        self.asked[rate] = replicates
        missed = self.miss * math.exp(self.slope * (rate - self.root)) * self.factor[:replicates]
        return Attainment(1.0 - np.minimum(missed, 1.0), 10_000, rate < self.limit)


def search(curve, **settings):
    return find_capacity(curve, **{"target": 0.95, "start": 3.0, "lowest": 0.01, **settings})


@pytest.mark.parametrize("start", [0.1, 3.0, 10.0, 70.0])
def test_an_exact_curve_gives_its_root_from_wherever_it_starts(start):
    found = search(Curve(), start=start)
    assert found.outcome == "found"
    assert found.interval.estimate == pytest.approx(10.0, rel=1e-6)
    assert found.interval.half_width == pytest.approx(0.0, abs=1e-6)
    assert found.replicates == CONFIRMED


def test_the_interval_holds_the_root_and_is_as_narrow_as_asked():
    curve = Curve(noise=0.4)
    found = search(curve, relative=0.02, max_replicates=200)
    assert found.interval.contains(10.0)
    assert found.interval.relative_half_width <= 0.02
    assert found.log_pseudo_values.size == found.replicates
    assert np.mean(found.log_pseudo_values) == pytest.approx(math.log(found.interval.estimate))
    assert found.rates == tuple(sorted(curve.asked))


def test_replicates_grow_until_the_interval_is_narrow_and_no_further():
    wide = search(Curve(noise=1.0, slope=0.1), relative=0.01, max_replicates=30)
    assert wide.replicates == 30
    assert wide.interval.relative_half_width > 0.01
    assert search(Curve(noise=0.05), relative=0.05).replicates == CONFIRMED


def test_a_width_counts_only_if_half_as_many_replicates_again_confirm_it():
    curve = Curve(noise=0.3)
    curve.factor[:FEWEST_REPLICATES] = 1.0  # the first ones happen to agree
    found = search(curve, relative=0.02, max_replicates=100)
    assert found.replicates > CONFIRMED
    assert found.interval.relative_half_width <= 0.02


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_never_narrower_than_students_and_wider_where_replicates_are_skewed(seed):
    found = search(Curve(noise=0.8, slope=0.3, seed=seed), relative=0.01, max_replicates=24)
    values = found.log_pseudo_values
    student = t_quantile(0.95, values.size - 1) * np.std(values, ddof=1) / math.sqrt(values.size)
    below, above = (
        math.log(found.interval.estimate / found.interval.low),
        math.log(found.interval.high / found.interval.estimate),
    )
    skew = skewness(values - np.mean(values))
    assert below >= student * (1 - 1e-9)
    assert above >= student * (1 - 1e-9)
    longer = above if skew > 0 else below
    assert longer > student * (1.0 + 0.1 * abs(skew))


def test_a_bent_curve_is_read_between_close_rates():
    class Bent(Curve):
        def __call__(self, rate, replicates):
            measured = super().__call__(rate, replicates)
            bend = math.exp(0.05 * (rate - self.root) ** 2)
            return Attainment(1.0 - (1.0 - measured.shares) * bend, measured.requests)

    found = search(Bent())  # 4% off if it were read between the rates of the first bracket
    assert found.interval.estimate == pytest.approx(10.0, rel=0.005)
    assert found.interval.estimate != pytest.approx(10.0, rel=1e-6)  # it is bent


def test_about_three_rates_for_each_replicate_are_simulated_in_all():
    spent = []
    for seed in range(8):
        curve = Curve(noise=0.3, seed=seed)
        found = search(curve, relative=0.01, max_replicates=200)
        spent.append(sum(curve.asked.values()) / found.replicates)
    assert np.mean(spent) < 3.3


def test_few_replicates_are_spent_away_from_the_root():
    curve = Curve(noise=0.3)
    found = search(curve)
    far = [n for rate, n in curve.asked.items() if abs(rate / 10.0 - 1.0) > 0.2]
    assert max(far) == 3
    assert sum(curve.asked.values()) < 8 * found.replicates


def test_a_queue_that_grows_without_end_bounds_the_capacity_before_the_target_does():
    found = search(Curve(root=50.0, stable_below=20.0))
    assert found.outcome == "stability"
    assert found.interval.low < 20.0 <= found.interval.high
    assert found.interval.high / found.interval.low <= 1.02
    assert found.interval.estimate == found.interval.low  # a rate that is stable
    assert "without end" in found.interval.reason


def test_an_unstable_rate_that_misses_the_target_anyway_changes_nothing():
    with_limit, without = search(Curve(stable_below=11.0)), search(Curve())
    assert with_limit.outcome == "found"
    assert with_limit.interval == without.interval


def test_a_target_that_is_missed_at_every_rate_has_no_capacity():
    found = search(Curve(root=0.001), lowest=0.5)
    assert found.outcome == "never"
    assert math.isnan(found.interval.estimate)
    assert min(found.rates) == 0.5
    assert found.log_pseudo_values.size == 0


def test_a_target_that_is_kept_at_every_rate_is_open_above():
    found = search(Curve(root=100.0), highest=8.0)
    assert found.outcome == "always"
    assert (found.interval.low, found.interval.high) == (8.0, math.inf)


def test_a_search_that_goes_on_begins_with_the_rates_that_are_known():
    known = search(Curve(noise=0.3), relative=0.1).rates
    curve = Curve(noise=0.3)
    found = search(curve, start=0.1, relative=0.02, max_replicates=100, known=known)
    assert min(curve.asked) >= min(known)  # not the start
    assert found.interval.relative_half_width <= 0.02
    assert found.interval.contains(10.0)
    beyond = search(Curve(root=50.0), known=(5.0, 6.0))  # all of them below the crossing
    assert beyond.interval.estimate == pytest.approx(50.0)


def test_a_rough_look_takes_three_replicates_a_rate():
    def rough(curve, **settings):
        return rough_capacity(curve, **{"target": 0.95, "start": 3.0, "lowest": 0.01, **settings})

    curve = Curve()
    assert rough(curve) == pytest.approx(10.0, rel=1e-6)
    assert set(curve.asked.values()) == {SCOUTS}
    assert len(curve.asked) == 5
    assert rough(Curve(noise=0.3)) == pytest.approx(10.0, rel=0.1)
    assert rough(Curve(root=0.001), lowest=0.5) == 0.0
    assert rough(Curve(root=100.0), highest=8.0) == math.inf


def test_rates_can_be_kept_to_a_grid():
    curve = Curve(noise=0.2)
    found = search(curve, snap=lambda rate: float(f"{rate:.2g}"))
    assert all(rate == float(f"{rate:.2g}") for rate in curve.asked)
    assert found.interval.estimate == pytest.approx(10.0, rel=0.1)


def test_the_same_random_numbers_give_pseudo_values_that_move_together():
    one, other = search(Curve(noise=0.5)), search(Curve(noise=0.5, root=12.0))
    n = min(one.replicates, other.replicates)
    together = np.corrcoef(one.log_pseudo_values[:n], other.log_pseudo_values[:n])[0, 1]
    assert together > 0.95


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"target": 1.5}, "target"),
        ({"target": 0.0}, "target"),
        ({"level": 1.0}, "level"),
        ({"lowest": 0.0}, "lowest"),
        ({"lowest": 5.0, "highest": 4.0}, "lowest"),
        ({"start": -1.0}, "start"),
        ({"relative": 0.0}, "relative"),
        ({"max_replicates": 2}, "max_replicates"),
    ],
)
def test_bad_settings_are_named(settings, name):
    with pytest.raises(InvalidParameterError) as caught:
        search(Curve(), **settings)
    assert caught.value.name == name
