"""The stability verdict: overload is named, steady queues are left in peace."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.stats.stability import Drift, Load, drift, judge, verdict, verdict_of_drifts


def queue(rho, requests, seed, service=None, servers=1):
    """Return waits and arrival times of a FCFS queue, the first tenth left out as warm-up."""
    rng = np.random.default_rng(seed)
    n = requests + requests // 10
    arrival = np.cumsum(rng.standard_exponential(n) / (rho * servers))
    service = rng.standard_exponential(n) if service is None else np.full(n, service)
    free = [0.0] * servers
    waits = np.empty(n)
    for k, (at, length) in enumerate(zip(arrival.tolist(), service.tolist(), strict=True)):
        first = min(range(servers), key=free.__getitem__)
        start = max(at, free[first])
        free[first] = start + length
        waits[k] = start - at
    return waits[n - requests :], arrival[n - requests :]


def rates(rho, requests, runs, **kind):
    """Return the share of unstable and undetermined verdicts, from the drift alone."""
    found = [
        verdict({"pool": math.nan}, *queue(rho, requests, seed, **kind)).verdict
        for seed in range(runs)
    ]
    return found.count("unstable") / runs, found.count("undetermined") / runs


@pytest.mark.parametrize("kind", [{}, {"service": 1.0, "servers": 4}])
def test_stable_runs_at_rho_08_are_hardly_ever_flagged(kind):
    """Measured on 1,000-request M/M/1 and M/D/4: well under 1% unstable, 2% undetermined."""
    unstable, undetermined = rates(0.8, 1000, 100, **kind)
    assert unstable == 0
    assert undetermined <= 0.05


def test_overload_shows_in_the_drift_even_when_rho_is_not_known():
    unstable, undetermined = rates(1.3, 1000, 50)
    assert unstable >= 0.9
    assert unstable + undetermined == 1.0


def test_replicates_find_a_slight_overload_that_one_run_cannot():
    seeds = range(10)
    drifts = [drift(*queue(1.1, 2000, seed)) for seed in seeds]
    single = [verdict_of_drifts({}, [d]).verdict for d in drifts]
    assert verdict_of_drifts({}, drifts).verdict == "unstable"
    assert single.count("unstable") < len(single)


def test_rho_of_one_or_more_is_unstable_whatever_the_waits_do():
    found = verdict({"prefill": 0.4, "decode": 1.0}, np.zeros(1000), np.arange(1000.0))
    assert found.verdict == "unstable"
    assert found.reason == "offered load rho >= 1: decode 1.000"


def test_waits_that_are_all_zero_are_stable():
    found = verdict({"pool": 0.1}, np.zeros(1000), np.arange(1000.0))
    assert found.verdict == "stable"
    assert "pool 0.100" in found.reason


def test_a_steady_rise_below_rho_1_is_unstable_because_some_other_limit_binds():
    found = verdict({"pool": 0.5}, np.linspace(0, 50, 1000), np.arange(1000.0))
    assert found.verdict == "unstable"
    assert "waits rise all through the window" in found.reason


def test_falling_waits_are_not_unstable():
    assert verdict({"pool": 0.5}, np.linspace(50, 0, 1000), np.arange(1000.0)).verdict == "stable"


def test_a_rise_that_does_not_matter_is_stable():
    """Every batch exceeds the last, by 10% of the mean over the window: no overload does that."""
    waits = np.linspace(10.0, 11.0, 1000)
    assert verdict({"pool": 0.9}, waits, np.arange(1000.0)).verdict == "stable"


def test_too_few_requests_are_undetermined():
    found = verdict({"pool": 0.5}, np.zeros(99), np.arange(99.0))
    assert found.verdict == "undetermined"
    assert "needs at least 100 requests in the window, got 99" in found.reason
    assert verdict_of_drifts({"pool": 0.5}, []).verdict == "undetermined"


def test_requests_that_never_started_make_a_run_undetermined():
    waits = np.zeros(1000)
    waits[-51:] = math.nan
    found = verdict({"pool": 0.9}, waits, np.arange(1000.0))
    assert found.verdict == "undetermined"
    assert "5.1% of the requests never started" in found.reason
    waits[-51:-10] = 0.0
    assert verdict({"pool": 0.9}, waits, np.arange(1000.0)).verdict == "stable"


def test_drift_of_a_line_is_its_slope():
    times = np.arange(1000) * 0.25
    found = drift(3.0 + 0.1 * times, times)
    assert found.tau == 1.0
    assert found.slope == pytest.approx(0.1)
    assert found.growth == pytest.approx(0.1 * times[-1] / (3.0 + 0.05 * times[-1]))
    assert (found.n, found.missing) == (1000, 0)


def test_overload_makes_the_waits_grow_at_rho_minus_one_per_second():
    """Work arrives at rho and leaves at 1, so the wait of an arrival at t is (rho - 1) t."""
    assert drift(*queue(1.5, 20_000, seed=4)).slope == pytest.approx(0.5, rel=0.1)


def test_a_single_long_busy_period_is_not_a_drift():
    waits = np.ones(1000)
    waits[600:700] = 500.0
    found = drift(waits, np.arange(1000.0))
    assert found.slope == 0.0
    assert verdict_of_drifts({}, [found]).verdict == "stable"


def test_simultaneous_arrivals_are_allowed():
    assert drift(np.arange(200.0), np.zeros(200)).slope == 0.0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: drift([1.0, 2.0], [1.0]), "arrival_s"),
        (lambda: drift(np.zeros(2), [2.0, 1.0]), "arrival_s"),
        (lambda: verdict_of_drifts({"p": -0.1}, [Drift(0, 0, 0, 100, 0)]), r"rho_per_pool\['p'\]"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InvalidParameterError, match=rf"^{name} must be"):
        call()


def settled(n=2000, seed=1):
    """Waits without a trend, and their arrival times."""
    rng = np.random.default_rng(seed)
    return rng.standard_exponential(n), np.cumsum(rng.standard_exponential(n))


def judged(rho, error=0.0, relaxations=100.0, waits=None):
    waits, at = settled() if waits is None else waits
    return judge({"pool": Load(rho, error)}, [drift(waits, at)], relaxations)


def test_a_load_that_reaches_one_within_its_error_is_undetermined():
    assert judged(0.97).verdict == "stable"
    near = judged(0.97, 0.02)
    assert near.verdict == "undetermined"
    assert near.reason == "rho reaches 1 within its error: pool 0.970 ± 0.020"
    assert judged(1.02, 0.02).verdict == "undetermined"
    assert judged(1.02, 0.01).verdict == "unstable"
    assert judged(1.0).verdict == "unstable"


def test_a_window_of_few_relaxation_times_is_undetermined():
    short = judged(0.95, relaxations=2.0)
    assert short.verdict == "undetermined"
    assert "2.0 relaxation times long" in short.reason
    assert judged(0.95, relaxations=math.nan).verdict == "stable"


def test_waits_that_rise_are_unstable_whatever_the_load_says():
    n = 2000
    rising = np.arange(n) + settled(n)[0], np.arange(n, dtype=float)
    assert judged(0.5, waits=rising).verdict == "unstable"
    assert judged(math.nan, relaxations=math.nan, waits=rising).verdict == "unstable"
    assert judged(0.97, 0.02, waits=rising).verdict == "unstable"


def test_the_error_of_a_measured_load_is_that_of_a_compound_poisson_sum():
    rng = np.random.default_rng(2)
    n = 4000
    rho = []
    for _ in range(400):
        arrivals = rng.poisson(n)
        rho.append(rng.standard_exponential(arrivals).sum() / n)
    assert Load.measured(1.0, n, 1.0).standard_error == pytest.approx(np.std(rho), rel=0.15)
    assert math.isnan(Load.measured(0.0, 0, 1.0).rho)


def test_a_negative_error_is_refused():
    with pytest.raises(InvalidParameterError, match="standard_error"):
        judged(0.5, -0.1)


def test_bursty_arrivals_leave_the_load_less_sure():
    poisson, bursty = (Load.measured(0.8, 100, 2.0, scv) for scv in (1.0, 6.0))
    assert poisson.standard_error == pytest.approx(0.8 * math.sqrt(3.0 / 100))
    assert bursty.standard_error == pytest.approx(0.8 * math.sqrt(8.0 / 100))
