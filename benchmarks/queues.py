"""Queues whose TTFT is simulated by exact recursions, many runs at a time, and their truths.

The token-rate model's deployments: a monolithic pool serves prompt and output of a request on one
of its GPUs (M/M/c, M/G/c), a disaggregated one on a GPU each, one after the other (tandem). Times
are in mean services. Both are the FCFS recursion of `simlib.core.recursion`, vectorised over runs;
a test compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simlib.stats import queueing
from simlib.stats.relaxation import RunLength, relaxation_requests

Floats = NDArray[np.float64]

PROMPT_SHARE = 0.3
"""Of a monolithic request's mean work, what its prompt takes."""
PREFILL_LOAD = 0.8
"""Load of the tandem's prefill GPU, relative to that of its decode GPU."""
PERCENTS = (50.0, 90.0, 99.0)
WARMUP_SHARE = 0.25
"""Warm-up relative to the window, as in the shipped studies (300 s of 1,500 s)."""
_LONG_RUN = 60_000_000
_LONG_RUN_SEED = 77


@dataclass(frozen=True)
class Queue:
    """A deployment with Poisson arrivals."""

    name: str
    servers: int
    """Of the monolithic pool; 0 for the tandem of one prefill and one decode GPU."""
    sigma: float | None
    """Of the lognormal lengths; None for exponential services."""

    def draw(self, rng: np.random.Generator, rho: float, runs: int, requests: int) -> Floats:
        """Return the TTFT of every request of runs that start empty; shape (runs, requests)."""
        shape = (runs, requests)
        arrival = np.cumsum(rng.standard_exponential(shape), axis=1)
        if self.servers == 0:
            arrival /= rho
            prefill, decode = PREFILL_LOAD * self._length(rng, shape), self._length(rng, shape)
            start = departures(departures(arrival, prefill), decode) - decode
            return start - arrival
        arrival /= rho * self.servers
        prompt, work = self.draw_work(rng, shape)
        return waits(arrival, work, self.servers) + prompt

    def draw_work(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        """Return a monolithic pool's work for each prompt, and for all of each request."""
        if self.sigma is None:
            work = self._length(rng, shape)
            return work, work
        prompt = PROMPT_SHARE * self._length(rng, shape)
        return prompt, prompt + (1.0 - PROMPT_SHARE) * self._length(rng, shape)

    def run_length(self, rho: float, runs: int, requests: int) -> RunLength:
        """Return how long a study's runs are, as its configuration tells."""
        first, second, fourth = (self.work_moment(k) for k in (1, 2, 4))
        return RunLength(
            runs,
            requests,
            WARMUP_SHARE * requests,
            relaxation_requests(rho, second / first**2 - 1.0),
            fourth / second**2,
        )

    def truth(self, rho: float) -> tuple[float, ...]:
        """Return mean and percentiles (`PERCENTS`) of TTFT in the long run."""
        if self.servers == 1 and self.sigma is None:
            slow = 1.0 / (1.0 - rho)
            return (slow, *(-slow * math.log(1.0 - q / 100.0) for q in PERCENTS))
        seen = self._long_run(rho)
        found = [float(np.mean(seen)), *np.percentile(seen, PERCENTS).tolist()]
        if self.servers == 1:
            scv = self.work_moment(2) - 1.0
            found[0] = queueing.mg1_mean_wait_s(rho, 1.0, scv) + PROMPT_SHARE
        elif self.servers > 1 and self.sigma is None:
            found[0] = queueing.mmc_mean_wait_s(rho * self.servers, 1.0, self.servers) + 1.0
        return tuple(found)

    def _long_run(self, rho: float) -> Floats:
        rng = np.random.default_rng(_LONG_RUN_SEED)
        relaxation = self.run_length(rho, 1, 1).relaxation
        warmup = int(min(20 * relaxation, 200_000)) if self.servers < 2 else 20_000
        runs = 60 if self.servers < 2 else 1200
        at_once = 1 if self.servers < 2 else 200
        each = _LONG_RUN // runs
        chunks = [
            self.draw(rng, rho, at_once, each + warmup)[:, warmup:].ravel()
            for _ in range(runs // at_once)
        ]
        return np.concatenate(chunks)

    def _length(self, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        if self.sigma is None:
            return rng.standard_exponential(shape)
        return np.exp(self.sigma * rng.standard_normal(shape) - self.sigma**2 / 2.0)

    def work_moment(self, k: int) -> float:
        """Return the k-th moment of a request's work on its slowest pool."""
        if self.sigma is None:
            return float(math.factorial(k))
        moments = [math.exp(self.sigma**2 * j * (j - 1) / 2.0) for j in range(k + 1)]
        if self.servers == 0:
            return moments[k]
        parts = (PROMPT_SHARE, 1.0 - PROMPT_SHARE)
        return sum(
            math.comb(k, j) * parts[0] ** j * parts[1] ** (k - j) * moments[j] * moments[k - j]
            for j in range(k + 1)
        )


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

    def ttft(self, arrival: Floats, work: Floats) -> Floats:
        """Return the TTFT of given requests; shape (runs, requests)."""
        return departures(arrival, self.slowness * work) - arrival + self.offset

    def truth(self, rho: float) -> tuple[float, ...]:
        """Return mean and percentiles (`PERCENTS`), where the baseline has load `rho`."""
        slow = self.slowness / (1.0 - rho * self.slowness)
        tails = (-slow * math.log(1.0 - q / 100.0) for q in PERCENTS)
        return (slow + self.offset, *(tail + self.offset for tail in tails))

    def run_length(self, rho: float, runs: int, requests: int) -> RunLength:
        """Return how long a study's runs are."""
        relaxation = relaxation_requests(rho * self.slowness, 1.0)
        return RunLength(runs, requests, WARMUP_SHARE * requests, relaxation, 6.0)


def slower_by(change: float, rho: float) -> Side:
    """Return the side whose TTFT is 1 + `change` times the baseline's, in mean and percentiles."""
    return Side((1.0 + change) / (1.0 + rho * change))


def architectures(
    rng: np.random.Generator, sigma: float, rho: float, runs: int, requests: int
) -> tuple[Floats, Floats]:
    """Return the TTFT of the same requests on 2 monolithic GPUs, and on 1 prefill + 1 decode GPU.

    Prompts and outputs ask for equal mean work, so each GPU has load `rho` on either side.
    """
    shape = (runs, requests)
    arrival = np.cumsum(rng.standard_exponential(shape), axis=1) / (2.0 * rho)
    prompt, output = (
        0.5 * np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2.0) for _ in range(2)
    )
    mono = waits(arrival, prompt + output, 2) + prompt
    disagg = departures(departures(arrival, prompt), output) - output - arrival
    return mono, disagg
