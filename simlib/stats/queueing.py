"""Closed forms of queueing theory: what a simulated queue must agree with.

Rates are per second, times in seconds, ``scv`` is the squared coefficient of variation of the
service time (variance over squared mean: 0 deterministic, 1 exponential). Waits exclude service.
All queues are FCFS with Poisson arrivals and unlimited room, unless said otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from simlib.errors import InvalidParameterError

_SERIES_UP_TO_RHO = 0.95
"""Below, the M/D/c series has few terms and no cancellation; above, the roots are the better."""


def utilisation(arrival_per_s: float, mean_service_s: float, servers: int = 1) -> float:
    r"""Return the offered load per server, :math:`\rho = \lambda E[S] / c`.

    Raises
    ------
    InvalidParameterError
        For a negative or infinite rate, a service time not positive, or less than one server.
    """
    if not (arrival_per_s >= 0 and math.isfinite(arrival_per_s)):
        raise InvalidParameterError("arrival_per_s", arrival_per_s, ">= 0 and finite")
    if not (mean_service_s > 0 and math.isfinite(mean_service_s)):
        raise InvalidParameterError("mean_service_s", mean_service_s, "> 0 and finite")
    _check_servers(servers, least=1)
    return arrival_per_s * mean_service_s / servers


def erlang_b(servers: int, offered_load: float) -> float:
    r"""Return the blocking probability of M/G/c/c: Erlang's loss formula.

    :math:`B(0, a) = 1,\; B(c, a) = a B(c-1, a) / (c + a B(c-1, a))`, with the offered load
    :math:`a = \lambda E[S]` in erlangs. The recursion neither overflows nor cancels.

    Source: A. K. Erlang (1917); R. B. Cooper, *Introduction to Queueing Theory* (1981), ch. 3.

    Raises
    ------
    InvalidParameterError
        For a negative number of servers, or an offered load that is negative or not finite.
    """
    _check_servers(servers, least=0)
    if not (offered_load >= 0 and math.isfinite(offered_load)):
        raise InvalidParameterError("offered_load", offered_load, ">= 0 and finite")
    blocking = 1.0
    for busy in range(1, servers + 1):
        blocking = offered_load * blocking / (busy + offered_load * blocking)
    return blocking


def erlang_c(servers: int, offered_load: float) -> float:
    r"""Return the probability that an arrival waits in M/M/c: Erlang's delay formula.

    :math:`C(c, a) = B / (1 - \rho (1 - B))` with :math:`B = B(c, a)` and :math:`\rho = a / c`.

    Source: A. K. Erlang (1917); R. B. Cooper, *Introduction to Queueing Theory* (1981), ch. 3.

    Raises
    ------
    InvalidParameterError
        Where `erlang_b` does, and for `offered_load` >= `servers`.
    """
    blocking = erlang_b(servers, offered_load)
    _check_servers(servers, least=1)
    rho = _stable(offered_load / servers)
    return blocking / (1.0 - rho * (1.0 - blocking))


def mmc_probability_of_wait(arrival_per_s: float, mean_service_s: float, servers: int) -> float:
    """Return the probability that an arrival waits in M/M/c; see `erlang_c`."""
    _stable(utilisation(arrival_per_s, mean_service_s, servers))
    return erlang_c(servers, arrival_per_s * mean_service_s)


def mmc_mean_wait_s(arrival_per_s: float, mean_service_s: float, servers: int) -> float:
    r"""Return the mean wait in M/M/c, :math:`E[W] = C(c, a) E[S] / (c (1 - \rho))`.

    Source: L. Kleinrock, *Queueing Systems I* (1975), sec. 3.5.
    """
    rho = _stable(utilisation(arrival_per_s, mean_service_s, servers))
    waits = erlang_c(servers, arrival_per_s * mean_service_s)
    return waits * mean_service_s / (servers * (1.0 - rho))


def mmc_wait_percentile_s(
    q: float, arrival_per_s: float, mean_service_s: float, servers: int
) -> float:
    r"""Return the `q`-th percentile (0 <= q < 100) of the wait in M/M/c.

    :math:`P(W > t) = C(c, a)\, e^{-(c / E[S] - \lambda) t}`, so the percentile is 0 as long as
    :math:`C(c, a) \le 1 - q / 100`.

    Source: L. Kleinrock, *Queueing Systems I* (1975), sec. 3.5.
    """
    if not 0 <= q < 100:
        raise InvalidParameterError("q", q, ">= 0 and < 100 (percent)")
    _stable(utilisation(arrival_per_s, mean_service_s, servers))
    waits = erlang_c(servers, arrival_per_s * mean_service_s)
    beyond = 1.0 - q / 100.0
    if waits <= beyond:
        return 0.0
    return math.log(waits / beyond) / (servers / mean_service_s - arrival_per_s)


def mg1_mean_wait_s(arrival_per_s: float, mean_service_s: float, scv: float) -> float:
    r"""Return the mean wait in M/G/1: the Pollaczek-Khinchine formula.

    :math:`E[W] = \lambda E[S^2] / (2 (1 - \rho)) = \frac{1 + c_s^2}{2} \frac{\rho E[S]}{1-\rho}`

    Source: F. Pollaczek (1930), A. Khinchine (1932); L. Kleinrock, *Queueing Systems I* (1975),
    sec. 5.7.
    """
    rho = _stable(utilisation(arrival_per_s, mean_service_s))
    return (1.0 + _check_scv(scv)) / 2.0 * rho * mean_service_s / (1.0 - rho)


def md1_mean_wait_s(arrival_per_s: float, service_s: float) -> float:
    r"""Return the mean wait in M/D/1, :math:`\rho D / (2 (1 - \rho))`; see `mg1_mean_wait_s`."""
    return mg1_mean_wait_s(arrival_per_s, service_s, scv=0.0)


def mdc_probability_of_wait(arrival_per_s: float, service_s: float, servers: int) -> float:
    r"""Return the exact probability that an arrival waits in M/D/c.

    Two equal forms, each used where it is accurate: the series
    :math:`1 - \exp\{-\sum_{n \ge 1} \frac{1}{n} P(N_{na} \ge nc)\}` with :math:`N_m` Poisson of
    mean :math:`m`, and :math:`1 - (c - a) / \prod_{j=1}^{c-1} (1 - z_j)` with :math:`z_j` the roots
    of :math:`z^c = e^{a (z - 1)}` inside the unit disk.

    Source: C. D. Crommelin, "Delay probability formulae when the holding times are constant"
    (1932); A. J. E. M. Janssen, J. S. H. van Leeuwaarden, "Back to the roots of the M/D/s queue
    and the works of Erlang, Crommelin and Pollaczek", *Statistica Neerlandica* 62 (2008).
    """
    from scipy import special  # takes longer to import than the other formulas together

    rho = _stable(utilisation(arrival_per_s, service_s, servers))
    load = rho * servers
    if rho == 0:
        return 0.0
    if rho <= _SERIES_UP_TO_RHO:
        n = _series_index(rho, servers)
        return -math.expm1(-float(np.sum(special.gammainc(n * servers, n * load) / n)))
    return 1.0 - (servers - load) / float(np.prod(1.0 - _mdc_roots(rho, servers)).real)


def mdc_mean_wait_s(arrival_per_s: float, service_s: float, servers: int) -> float:
    r"""Return the exact mean wait in M/D/c.

    Two equal forms, each used where it is accurate: Crommelin and Pollaczek's series
    :math:`D \sum_{n \ge 1} [P(N_{na} \ge nc) - \frac{c}{a} P(N_{na} \ge nc + 1)]` with :math:`N_m`
    Poisson of mean :math:`m`, and, with the roots :math:`z_j` of :math:`z^c = e^{a(z-1)}` inside
    the unit disk, :math:`\frac{1}{\lambda} [\sum_{j=1}^{c-1} \frac{1}{1 - z_j} -
    \frac{c (c - 1) - a^2}{2 (c - a)}]`.

    Source: as `mdc_probability_of_wait`.
    """
    from scipy import special  # takes longer to import than the other formulas together

    rho = _stable(utilisation(arrival_per_s, service_s, servers))
    load = rho * servers
    if rho == 0:
        return 0.0
    if rho <= _SERIES_UP_TO_RHO:
        n = _series_index(rho, servers)
        at_least = special.gammainc(n * servers, n * load)
        above = special.gammainc(n * servers + 1, n * load)
        return service_s * float(np.sum(at_least - above / rho))
    roots = float(np.sum(1.0 / (1.0 - _mdc_roots(rho, servers))).real)
    queue = roots - (servers * (servers - 1) - load**2) / (2.0 * (servers - load))
    return queue / arrival_per_s


def mgc_mean_wait_s(arrival_per_s: float, mean_service_s: float, scv: float, servers: int) -> float:
    r"""Return Lee and Longton's approximation of the mean wait in M/G/c.

    :math:`\frac{1 + c_s^2}{2}` times the mean wait in M/M/c; exact for one server, and for
    exponential service.

    Source: A. M. Lee, P. A. Longton, "Queueing processes associated with airline passenger
    check-in", *Operational Research Quarterly* 10 (1959).
    """
    exponential = mmc_mean_wait_s(arrival_per_s, mean_service_s, servers)
    return (1.0 + _check_scv(scv)) / 2.0 * exponential


def _mdc_roots(rho: float, servers: int) -> np.ndarray[tuple[int], np.dtype[np.complex128]]:
    """Return the c - 1 roots of z^c = exp(a (z - 1)) with |z| < 1, by Lambert's W."""
    from scipy import special

    turns = np.exp(2j * np.pi * np.arange(1, servers) / servers)
    return np.asarray(-special.lambertw(-rho * math.exp(-rho) * turns) / rho)


def _series_index(rho: float, servers: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return 1..n, enough terms for double precision: P(N_na >= nc) < exp(-n c (rho-1-ln rho))."""
    decay = servers * (rho - 1.0 - math.log(rho))
    return np.arange(1, math.ceil(40.0 / decay) + 2, dtype=np.float64)


def _stable(rho: float) -> float:
    if not rho < 1:
        raise InvalidParameterError("offered load per server (rho)", rho, "< 1 for a steady state")
    return rho


def _check_scv(scv: float) -> float:
    if not (scv >= 0 and math.isfinite(scv)):
        raise InvalidParameterError("scv", scv, ">= 0 and finite")
    return scv


def _check_servers(servers: int, least: int) -> None:
    if isinstance(servers, bool) or int(servers) != servers or servers < least:
        raise InvalidParameterError("servers", servers, f"a whole number >= {least}")
