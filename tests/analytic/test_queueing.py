"""Closed forms of queueing theory against published values, identities, and other derivations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simlib.errors import InvalidParameterError
from simlib.stats import queueing as q

rhos = st.floats(0.05, 0.97)
servers = st.integers(1, 40)


@pytest.mark.parametrize(
    ("trunks", "erlangs", "blocking"),
    [
        # Erlang B tables (e.g. ITU-T Teletraffic Engineering Handbook): traffic at given blocking.
        (1, 0.0101, 0.01),
        (5, 1.361, 0.01),
        (10, 4.461, 0.01),
        (20, 12.03, 0.01),
        (50, 37.90, 0.01),
        (100, 84.06, 0.01),
        (10, 3.092, 0.001),
    ],
)
def test_erlang_b_agrees_with_the_published_tables(trunks, erlangs, blocking):
    assert q.erlang_b(trunks, erlangs) == pytest.approx(blocking, rel=4e-3)


def test_three_server_clinic_of_gross_and_harris():
    """Fundamentals of Queueing Theory, example 2.2: 6/h, 20 min, 3 doctors: Lq = 8/9."""
    per_hour, hours = 6.0, 1.0 / 3.0
    assert q.mmc_mean_wait_s(per_hour, hours, 3) * per_hour == pytest.approx(8.0 / 9.0)
    assert q.mmc_probability_of_wait(per_hour, hours, 3) == pytest.approx(4.0 / 9.0)


@settings(deadline=None)  # a busy machine is no failure
@given(servers, st.floats(0.01, 50.0))
def test_erlang_b_equals_the_truncated_poisson_distribution(c, load):
    expected = stats.poisson.pmf(c, load) / stats.poisson.cdf(c, load)
    assert q.erlang_b(c, load) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)  # a busy machine is no failure
@given(rhos)
def test_one_server_of_each_kind_is_the_known_single_server_queue(rho):
    mm1 = rho / (1.0 - rho)
    assert q.mmc_mean_wait_s(rho, 1.0, 1) == pytest.approx(mm1)
    assert q.mmc_probability_of_wait(rho, 1.0, 1) == pytest.approx(rho)
    assert q.mg1_mean_wait_s(rho, 1.0, 1.0) == pytest.approx(mm1)
    assert q.md1_mean_wait_s(rho, 1.0) == pytest.approx(mm1 / 2.0)
    assert q.mdc_mean_wait_s(rho, 1.0, 1) == pytest.approx(mm1 / 2.0)
    assert q.mdc_probability_of_wait(rho, 1.0, 1) == pytest.approx(rho)


@settings(deadline=None)  # a busy machine is no failure
@given(rho=rhos, scv=st.floats(0.0, 1.0), c=servers)
def test_the_mgc_approximation_is_exact_where_theory_is(rho, scv, c):
    """One server is Pollaczek-Khinchine, exponential service is M/M/c."""
    one = q.mgc_mean_wait_s(rho, 1.0, scv, 1)
    assert one == pytest.approx(q.mg1_mean_wait_s(rho, 1.0, scv))
    exponential = q.mgc_mean_wait_s(rho * c, 1.0, 1.0, c)
    assert exponential == pytest.approx(q.mmc_mean_wait_s(rho * c, 1.0, c))


def embedded_chain(rho: float, c: int) -> tuple[float, float]:
    """Return P(wait) and mean wait of M/D/c from its states one service time apart."""
    load, size = rho * c, 60 * c
    moves = np.zeros((size, size))
    for state in range(size):
        left = max(state - c, 0)
        moves[state, left:] = stats.poisson.pmf(np.arange(size - left), load)
    moves /= moves.sum(axis=1, keepdims=True)
    balance = np.vstack([moves.T - np.eye(size), np.ones(size)])
    p = np.linalg.lstsq(balance, np.append(np.zeros(size), 1.0), rcond=None)[0]
    queue = float(np.maximum(np.arange(size) - c, 0) @ p)
    return 1.0 - float(p[:c].sum()), queue / load


@pytest.mark.parametrize(("c", "rho"), [(1, 0.5), (2, 0.3), (3, 0.8), (8, 0.7)])
def test_mdc_agrees_with_its_embedded_chain_solved_numerically(c, rho):
    p_wait, mean_wait = embedded_chain(rho, c)
    assert q.mdc_probability_of_wait(rho * c, 1.0, c) == pytest.approx(p_wait, abs=1e-9)
    assert q.mdc_mean_wait_s(rho * c, 1.0, c) == pytest.approx(mean_wait, rel=1e-7)


@pytest.mark.parametrize("c", [1, 2, 7, 30])
def test_series_and_roots_of_mdc_meet_where_one_takes_over(c):
    """The two derivations share no step; they must join at their boundary."""
    edge = q._SERIES_UP_TO_RHO
    for formula in (q.mdc_mean_wait_s, q.mdc_probability_of_wait):
        series, roots = (formula(rho * c, 1.0, c) for rho in (edge, edge + 1e-12))
        assert series == pytest.approx(roots, rel=1e-9)


@pytest.mark.parametrize("c", [1, 4, 16])
def test_heavy_traffic_limit_is_the_same_single_fast_server(c):
    """As rho -> 1, (1 - rho) W -> (1 + scv) / 2 * E[S] / c for every number of servers."""
    rho = 1.0 - 1e-6
    for scv, wait in (
        (1.0, q.mmc_mean_wait_s(rho * c, 1.0, c)),
        (0.0, q.mdc_mean_wait_s(rho * c, 1.0, c)),
        (0.5, q.mgc_mean_wait_s(rho * c, 1.0, 0.5, c)),
    ):
        assert (1.0 - rho) * wait * c == pytest.approx((1.0 + scv) / 2.0, rel=1e-4)


@settings(deadline=None)  # a busy machine is no failure
@given(rho=st.floats(0.3, 0.95), c=st.integers(1, 30))
def test_constant_service_at_least_halves_the_wait_and_never_beats_half_by_much(rho, c):
    """M/D/c waits at least half of M/M/c's (Lee-Longton's value), and less than M/M/c's."""
    exact, mmc = q.mdc_mean_wait_s(rho * c, 1.0, c), q.mmc_mean_wait_s(rho * c, 1.0, c)
    assert 0.5 * mmc * (1.0 - 1e-9) <= exact < mmc


@settings(deadline=None)  # a busy machine is no failure
@given(rho=rhos, c=servers, percent=st.floats(1.0, 99.9))
def test_wait_percentile_inverts_the_tail_of_mmc(rho, c, percent):
    load = rho * c
    t = q.mmc_wait_percentile_s(percent, load, 1.0, c)
    waits = q.erlang_c(c, load)
    if t == 0:
        assert waits <= 1.0 - percent / 100.0 + 1e-12
    else:
        tail = waits * math.exp(-(c - load) * t)
        assert tail == pytest.approx(1.0 - percent / 100.0, rel=1e-6)


@settings(deadline=None)  # a busy machine is no failure
@given(rho=rhos, c=servers)
def test_mean_wait_is_the_integral_of_the_percentiles(rho, c):
    """E[W] is the mean of the quantile function: C / (c mu - lambda) for an exponential tail."""
    load = rho * c
    mean = q.erlang_c(c, load) / (c - load)
    assert q.mmc_mean_wait_s(load, 1.0, c) == pytest.approx(mean)


def test_waits_rise_with_load_and_fall_with_pooling():
    for formula in (q.mmc_mean_wait_s, q.mdc_mean_wait_s):
        by_load = [formula(rho * 4, 1.0, 4) for rho in np.linspace(0.05, 0.99, 30)]
        by_size = [formula(0.8 * c, 1.0, c) for c in range(1, 20)]
        assert all(a < b for a, b in pairwise(by_load))
        assert all(a > b for a, b in pairwise(by_size))


def test_time_unit_scales_out():
    for formula in (q.mmc_mean_wait_s, q.mdc_mean_wait_s):
        assert formula(3.0 * 8, 0.1, 3) == pytest.approx(0.1 * formula(2.4, 1.0, 3))


def test_no_arrivals_no_wait():
    assert q.mmc_mean_wait_s(0.0, 1.0, 3) == 0.0
    assert q.mdc_mean_wait_s(0.0, 1.0, 3) == 0.0
    assert q.mdc_probability_of_wait(0.0, 1.0, 3) == 0.0
    assert q.mgc_mean_wait_s(0.0, 1.0, 0.5, 3) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: q.erlang_c(2, 2.0),
        lambda: q.mmc_mean_wait_s(3.0, 1.0, 2),
        lambda: q.mmc_probability_of_wait(2.0, 1.0, 2),
        lambda: q.mmc_wait_percentile_s(99, 2.0, 1.0, 2),
        lambda: q.md1_mean_wait_s(1.0, 1.0),
        lambda: q.mg1_mean_wait_s(1.0, 1.0, 0.5),
        lambda: q.mdc_mean_wait_s(2.0, 1.0, 2),
        lambda: q.mdc_probability_of_wait(2.0, 1.0, 2),
        lambda: q.mgc_mean_wait_s(2.0, 1.0, 0.5, 2),
    ],
)
def test_an_overloaded_queue_has_no_steady_state(call):
    with pytest.raises(InvalidParameterError, match=r"rho.* must be < 1"):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: q.utilisation(-1.0, 1.0), "arrival_per_s"),
        (lambda: q.utilisation(math.nan, 1.0), "arrival_per_s"),
        (lambda: q.utilisation(1.0, 0.0), "mean_service_s"),
        (lambda: q.utilisation(1.0, 1.0, 0), "servers"),
        (lambda: q.erlang_b(2, -1.0), "offered_load"),
        (lambda: q.erlang_b(-1, 1.0), "servers"),
        (lambda: q.erlang_c(0, 0.0), "servers"),
        (lambda: q.mg1_mean_wait_s(0.5, 1.0, -0.1), "scv"),
        (lambda: q.mgc_mean_wait_s(1.0, 1.0, math.inf, 4), "scv"),
        (lambda: q.mmc_wait_percentile_s(100, 1.0, 1.0, 2), "q"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InvalidParameterError, match=rf"^{name} must be"):
        call()
