"""The best of a field: ties are kept, claims are rare without a difference and right with one."""

from __future__ import annotations

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.stats.ranking import contenders, duel, rank
from simlib.stats.student import t_quantile


def field(means, n=12, noise=0.02, own=0.01, seed=0):
    """Return samples that share noise (common random numbers) and have some of their own."""
    rng = np.random.default_rng(seed)
    common = noise * rng.standard_normal(n)
    return {name: mean + common + own * rng.standard_normal(n) for name, mean in means.items()}


def test_the_field_is_ranked_and_what_is_clearly_behind_is_no_tie():
    standings = rank(field({"a": 0.0, "b": 0.3, "c": 0.298}))
    assert {standings[0].name, standings[1].name} == {"b", "c"}
    assert [one.tied for one in standings] == [True, True, False]
    assert standings[2].behind_best.high == 0.0
    assert standings[2].behind_best.contains(-0.3)


def test_pairing_tells_apart_what_the_common_noise_hides():
    samples = field({"a": 0.0, "b": 0.05}, noise=0.5, own=0.005)
    assert not rank(samples)[1].tied
    shuffled = samples | {"b": np.roll(samples["b"], 1)}
    assert rank(shuffled)[1].tied


def test_what_is_within_the_indifference_zone_is_a_tie_though_it_is_told_apart():
    samples = field({"a": 0.0, "b": 0.02}, own=1e-4)
    assert not rank(samples)[1].tied
    assert rank(samples, indifference=0.03)[1].tied


def test_one_system_is_its_own_best():
    (only,) = rank(field({"a": 1.0}))
    assert only.tied
    assert only.behind_best.reason


def test_intervals_of_the_whole_field_hold_at_once_in_95_of_100_fields():
    truth = {"a": 0.0, "b": 0.0, "c": -0.005, "d": -0.01, "e": -0.03}
    others = {k: max(v for j, v in truth.items() if j != k) for k in truth}
    held = 0
    for seed in range(400):
        standings = rank(field(truth, seed=seed))
        held += all(s.behind_best.contains(truth[s.name] - others[s.name]) for s in standings)
    assert held / 400 >= 0.93  # 95% less two standard errors


def test_a_margin_is_claimed_with_the_right_sign():
    weak, strong = field({"m1": 0.0, "m2": 0.05}), field({"d1": 0.2, "d2": 0.1}, seed=1)
    won = duel(strong, weak)
    assert (won.claim, won.first, won.second) == ("first", "d1", "m2")
    assert won.margin.contains(0.15)
    lost = duel(weak, strong)
    assert lost.claim == "second"
    assert lost.margin.low == pytest.approx(-won.margin.high)


def test_a_margin_inside_the_indifference_zone_is_too_close_to_call():
    one, other = field({"d": 0.02}, own=1e-4), field({"m": 0.0}, own=1e-4)
    assert duel(one, other).claim == "first"
    assert duel(one, other, indifference=0.03).claim == "too close to call"


def test_without_a_difference_a_claim_is_rare_however_many_take_part():
    many = {f"d{i}": 0.0 for i in range(20)}
    claims = 0
    for seed in range(300):
        samples = field(many | {"m0": 0.0, "m1": 0.0}, seed=seed)
        disagg = {k: v for k, v in samples.items() if k.startswith("d")}
        mono = {k: v for k, v in samples.items() if k.startswith("m")}
        claims += duel(disagg, mono).claim != "too close to call"
    assert claims / 300 <= 0.05


def test_the_interval_of_the_margin_covers_though_both_bests_are_chosen():
    truth = {"d1": 0.03, "d2": 0.028, "d3": 0.0, "m1": 0.01, "m2": 0.008}
    held = 0
    for seed in range(400):
        samples = field(truth, seed=seed)
        found = duel(
            {k: v for k, v in samples.items() if k[0] == "d"},
            {k: v for k, v in samples.items() if k[0] == "m"},
        )
        held += found.margin.contains(0.02)
    assert held / 400 >= 0.93


def test_replicates_that_only_one_has_make_its_own_mean_surer():
    samples = field({"a": 0.0, "b": 0.3}, n=40)
    short = samples | {"a": samples["a"][:8]}
    found = duel({"b": samples["b"]}, {"a": short["a"]})
    assert found.margin.estimate == pytest.approx(samples["b"].mean() - short["a"].mean())
    paired = duel({"b": samples["b"][:8]}, {"a": short["a"]}).margin
    assert paired.half_width == pytest.approx(_paired_half_width(samples["b"][:8] - short["a"]))


def test_one_that_stopped_early_is_paired_over_what_it_has():
    samples = field({"a": 0.0, "b": 0.3}, n=100, noise=0.5, own=0.005)
    margin = duel({"b": samples["b"]}, {"a": samples["a"][:12]}).margin
    paired = _paired_half_width(samples["b"][:12] - samples["a"][:12])
    centre = float(np.mean(samples["b"][:12] - samples["a"][:12]))
    assert min(abs(margin.low - (centre - paired)), abs(margin.high - (centre + paired))) < 1e-9
    assert not rank({"a": samples["a"][:12], "b": samples["b"]})[1].tied


def _paired_half_width(differences):
    n = differences.size
    return t_quantile(0.95, n - 1) * differences.std(ddof=1) / np.sqrt(n)


def test_the_interval_of_a_margin_covers_though_one_side_has_fewer_replicates():
    held = 0
    for seed in range(600):
        samples = field({"a": 0.0, "b": 0.02}, n=30, noise=0.02, own=0.02, seed=seed)
        held += duel({"b": samples["b"]}, {"a": samples["a"][:10]}).margin.contains(0.02)
    assert 0.93 <= held / 600 <= 0.985


def test_contenders_are_those_that_may_be_the_best_or_as_good():
    samples = field({"a": 0.0, "b": 0.3, "c": 0.298, "d": 0.27}, own=0.002)
    assert contenders(samples) == {"b", "c"}
    assert contenders(samples, indifference=0.04) == {"b", "c", "d"}
    assert contenders(field({"a": 0.0})) == {"a"}


def test_the_best_is_hardly_ever_left_out_of_the_contenders():
    truth = {f"s{i}": -0.004 * i for i in range(10)}
    left_out = sum("s0" not in contenders(field(truth, seed=seed)) for seed in range(400))
    assert left_out / 400 <= 0.02


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rank({"a": np.ones(2)}), "replicates"),
        (lambda: rank({"a": np.array([1.0, 2.0, np.nan])}), "samples"),
        (lambda: rank(field({"a": 0.0}), indifference=-1.0), "indifference"),
        (lambda: rank(field({"a": 0.0}), level=2.0), "level"),
        (lambda: duel({}, field({"a": 0.0})), "systems"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InvalidParameterError) as caught:
        call()
    assert caught.value.name == name
