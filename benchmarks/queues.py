"""Queues whose TTFT is simulated by exact recursions, many runs at a time, and their truths.

The token-rate model's deployments: a monolithic pool serves prompt and output of a request on one
of its GPUs (M/M/c, M/G/c), a disaggregated one on a GPU each, one after the other (tandem). Times
are in mean services. Both are the FCFS recursion of `simlib.core.recursion`, vectorised over runs;
a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from simlib.core.recursion import fcfs
from simlib.stats import queueing
from simlib.stats.relaxation import relaxation_requests
from simlib.study.measurement.length import PoolWork, Work

Floats = NDArray[np.float64]

PROMPT_SHARE = 0.3
"""Of a monolithic request's mean work, what its prompt takes."""
PREFILL_LOAD = 0.8
"""Load of the tandem's prefill GPU, relative to that of its decode GPU."""
PERCENTS = (50.0, 90.0, 99.0)
WARMUP_SHARE = 0.25
"""Warm-up relative to the window, as in the shipped studies (300 s of 1,500 s)."""
_LONG_RUN = 2_000_000
"""Requests of each run that gives a truth."""
_LONG_RUNS = 12
_LONG_RUN_SEED = 77


@dataclass(frozen=True)
class Drawn:
    """Runs that start empty; columns of shape (runs, requests)."""

    ttft: Floats
    gaps: Floats
    """Between arrivals."""
    pools: dict[str, tuple[Floats, int]]
    """By pool: the work that each request brings, and the servers."""

    def window(self, warmup: int) -> tuple[Floats, list[Work]]:
        """Return the TTFT after a warm-up, and what arrived, as studies measure it of each run."""
        gaps = self.gaps[:, warmup:]
        scv = np.var(gaps, axis=1) / np.mean(gaps, axis=1) ** 2
        pools = {name: _pool_works(w[:, warmup:], gaps, c) for name, (w, c) in self.pools.items()}
        requests = gaps.shape[1]
        works = [
            Work(requests, warmup, float(scv[run]), {name: of[run] for name, of in pools.items()})
            for run in range(len(gaps))
        ]
        return self.ttft[:, warmup:], works


def _pool_works(work: Floats, gaps: Floats, servers: int) -> list[PoolWork]:
    rho = np.mean(work, axis=1) / (servers * np.mean(gaps, axis=1))
    square = work * work
    moments = np.stack([rho, work.mean(axis=1), square.mean(axis=1), (square**2).mean(axis=1)])
    return [PoolWork(*run) for run in moments.T.tolist()]


@dataclass(frozen=True)
class Truth:
    """Mean and percentiles (`PERCENTS`) in the long run."""

    values: tuple[float, ...]
    errors: tuple[float, ...]
    """Standard errors; 0 where a closed form gives the value."""

    @classmethod
    def of_runs(cls, runs: Iterable[Floats]) -> Truth:
        """Return the truth from long runs that are independent of each other."""
        each = np.array([[np.mean(run), *np.percentile(run, PERCENTS)] for run in runs])
        errors = np.std(each, axis=0, ddof=1) / math.sqrt(len(each))
        return cls(tuple(each.mean(axis=0).tolist()), tuple(errors.tolist()))

    @classmethod
    def of_tail(cls, weights: Floats, rates: Floats) -> Truth:
        """Return the exact truth where P(T > t) is a sum of weights times exp(-rate t)."""
        farthest = 1e3 / float(np.min(rates))

        def percentile(q: float) -> float:
            def beyond(t: float) -> float:
                return float(weights @ np.exp(-rates * t)) - (1.0 - q / 100.0)

            return float(optimize.brentq(beyond, 0.0, farthest, xtol=1e-12))

        values = (float(weights @ (1.0 / rates)), *map(percentile, PERCENTS))
        return cls(values, (0.0,) * len(values))


def mmc_sojourn_tail(rho: float, servers: int) -> tuple[Floats, Floats]:
    """Return weights and rates of the tail of the time in M/M/c, with mean service 1.

    A request waits with Erlang's C, then exponentially at the rate c (1 - rho), which must not be
    1, and is served. Source: L. Kleinrock, *Queueing Systems I* (1975), sec. 3.5.
    """
    waiting, rate = queueing.erlang_c(servers, rho * servers), servers * (1.0 - rho)
    convolved = waiting / (rate - 1.0)
    return np.array([1.0 - waiting + convolved * rate, -convolved]), np.array([1.0, rate])


def mh21_sojourn_tail(rho: float, shares: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """Return weights and rates of the tail of the time in M/H2/1, with mean service 1.

    The Pollaczek-Khinchine transform is rational there, with two poles; its partial fractions are
    the exponentials. Source: L. Kleinrock, *Queueing Systems I* (1975), sec. 5.7.
    """
    total, product, mean_rate = float(rates.sum()), float(rates.prod()), float(shares @ rates)
    poles = -np.roots([1.0, total - rho, product - rho * (total - mean_rate)])
    # of services' transform, over the same denominator
    numerator = product - mean_rate * poles
    return (1.0 - rho) * numerator / (poles[::-1] - poles) / poles, poles


@dataclass(frozen=True)
class Queue:
    """A deployment with Poisson arrivals."""

    name: str
    servers: int
    """Of the monolithic pool; 0 for the tandem of one prefill and one decode GPU."""
    sigma: float | None
    """Of the lognormal lengths; None for exponential services."""
    scv: float = 1.0
    """Squared coefficient of variation; above 1, services that are not lognormal are
    hyperexponential with balanced means."""

    def draw(self, rng: np.random.Generator, rho: float, runs: int, requests: int) -> Drawn:
        """Return runs of so many requests each, at load `rho`."""
        shape = (runs, requests)
        gaps = rng.standard_exponential(shape) / (rho * max(self.servers, 1))
        arrival = np.cumsum(gaps, axis=1)
        if self.servers == 0:
            prefill, decode = PREFILL_LOAD * self._length(rng, shape), self._length(rng, shape)
            start = departures(departures(arrival, prefill), decode) - decode
            return Drawn(start - arrival, gaps, {"prefill": (prefill, 1), "decode": (decode, 1)})
        prompt, work = self.draw_work(rng, shape)
        ttft = waits(arrival, work, self.servers) + prompt
        return Drawn(ttft, gaps, {"gpu": (work, self.servers)})

    def draw_work(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        """Return a monolithic pool's work for each prompt, and for all of each request."""
        if self.sigma is None:
            work = self._length(rng, shape)
            return work, work
        prompt = PROMPT_SHARE * self._length(rng, shape)
        return prompt, prompt + (1.0 - PROMPT_SHARE) * self._length(rng, shape)

    def truth(self, rho: float) -> Truth:
        """Return mean and percentiles of TTFT in the long run."""
        if self.scv > 1:
            return Truth.of_tail(*mh21_sojourn_tail(rho, *self._branches()))
        if self.sigma is None:
            return Truth.of_tail(*mmc_sojourn_tail(rho, self.servers))
        seen = Truth.of_runs(self._long_runs(rho))
        if self.servers != 1:
            return seen
        mean = queueing.mg1_mean_wait_s(rho, 1.0, self._work_scv()) + PROMPT_SHARE
        return Truth((mean, *seen.values[1:]), (0.0, *seen.errors[1:]))

    def _long_runs(self, rho: float) -> Iterator[Floats]:
        rng = np.random.default_rng(_LONG_RUN_SEED)
        warmup = int(20 * relaxation_requests(rho, self._work_scv()))
        for _ in range(_LONG_RUNS):
            yield self.draw(rng, rho, 1, warmup + _LONG_RUN).ttft[0, warmup:]

    def _length(self, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        if self.sigma is not None:
            return np.exp(self.sigma * rng.standard_normal(shape) - self.sigma**2 / 2.0)
        service = rng.standard_exponential(shape)
        if self.scv > 1:
            shares, rates = self._branches()
            service /= np.where(rng.random(shape) < shares[0], *rates)
        return service

    def _branches(self) -> tuple[Floats, Floats]:
        """Return shares and rates of the two exponentials of a hyperexponential service."""
        often = (1.0 + math.sqrt((self.scv - 1.0) / (self.scv + 1.0))) / 2.0
        shares = np.array([often, 1.0 - often])
        return shares, 2.0 * shares

    def _work_scv(self) -> float:
        """Return the squared coefficient of variation of the work on the slowest pool."""
        if self.sigma is None:
            return self.scv
        whole = math.exp(self.sigma**2) - 1.0
        parts = PROMPT_SHARE**2 + (1.0 - PROMPT_SHARE) ** 2
        return whole * (parts if self.servers else 1.0)


def departures(arrival: Floats, service: Floats) -> Floats:
    """Return when requests leave one FCFS server: D_n = max(A_n, D_(n-1)) + S_n, along rows."""
    total = np.cumsum(service, axis=1)
    ahead = arrival - total + service
    np.maximum.accumulate(ahead, axis=1, out=ahead)
    return ahead + total


def waits(arrival: Floats, service: Floats, servers: int) -> Floats:
    """Return the waits of many independent FCFS queues that start empty.

    Parameters
    ----------
    arrival, service : array, shape (runs, requests)
        Arrival times, not decreasing along a row, and services.
    """
    if servers == 1:
        return departures(arrival, service) - service - arrival
    if len(arrival) == 1:
        return (fcfs(arrival[0], service[0], servers)[0] - arrival[0])[None, :]
    at, work = arrival.T.copy(), service.T.copy()
    result = np.empty_like(at)
    runs = np.arange(at.shape[1])
    free = np.zeros((at.shape[1], servers))
    for k, now in enumerate(at):  # Kiefer and Wolfowitz: the first server to be free is next
        server = free.argmin(axis=1)
        start = np.maximum(now, free[runs, server])
        free[runs, server] = start + work[k]
        result[k] = start - now
    return result.T


@dataclass(frozen=True)
class Side:
    """A single-server queue of a comparison: M/M/1 with another speed, and a constant on top."""

    slowness: float = 1.0
    """Mean service, in those of the baseline."""
    offset: float = 0.0
    """A constant part of TTFT, a transfer say."""

    def serve(self, gaps: Floats, work: Floats) -> Drawn:
        """Return the runs of given requests; shape (runs, requests)."""
        mine = self.slowness * work
        arrival = np.cumsum(gaps, axis=1)
        ttft = departures(arrival, mine) - arrival + self.offset
        return Drawn(ttft, gaps, {"gpu": (mine, 1)})

    def truth(self, rho: float) -> tuple[float, ...]:
        """Return mean and percentiles (`PERCENTS`), where the baseline has load `rho`."""
        slow = self.slowness / (1.0 - rho * self.slowness)
        tails = (-slow * math.log(1.0 - q / 100.0) for q in PERCENTS)
        return (slow + self.offset, *(tail + self.offset for tail in tails))


def slower_by(change: float, rho: float) -> Side:
    """Return the side whose TTFT is 1 + `change` times the baseline's, in mean and percentiles."""
    return Side((1.0 + change) / (1.0 + rho * change))


def architectures(
    rng: np.random.Generator, sigma: float, rho: float, runs: int, requests: int
) -> tuple[Drawn, Drawn]:
    """Return the same requests on 2 monolithic GPUs, and on 1 prefill + 1 decode GPU.

    Prompts and outputs ask for equal mean work, so each GPU has load `rho` on either side.
    """
    shape = (runs, requests)
    gaps = rng.standard_exponential(shape) / (2.0 * rho)
    arrival = np.cumsum(gaps, axis=1)
    prompt, output = (
        0.5 * np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2.0) for _ in range(2)
    )
    mono = waits(arrival, prompt + output, 2) + prompt
    disagg = departures(departures(arrival, prompt), output) - output - arrival
    return (
        Drawn(mono, gaps, {"gpu": (prompt + output, 2)}),
        Drawn(disagg, gaps, {"prefill": (prompt, 1), "decode": (output, 1)}),
    )


def architecture_truths(sigma: float, rho: float) -> tuple[Truth, Truth]:
    """Return the truths of the differences between the architectures, and of their ratios."""
    rng = np.random.default_rng(_LONG_RUN_SEED + 1)
    warmup = int(20 * relaxation_requests(rho, math.exp(sigma**2) - 1.0))
    each = []
    for _ in range(_LONG_RUNS):
        sides = architectures(rng, sigma, rho, 1, warmup + _LONG_RUN)
        runs = [side.ttft[0, warmup:] for side in sides]
        each.append([[np.mean(run), *np.percentile(run, PERCENTS)] for run in runs])
    b, c = np.moveaxis(np.array(each), 1, 0)
    found = []
    for values in (c - b, c / b):
        errors = np.std(values, axis=0, ddof=1) / math.sqrt(_LONG_RUNS)
        found.append(Truth(tuple(values.mean(axis=0).tolist()), tuple(errors.tolist())))
    return found[0], found[1]
