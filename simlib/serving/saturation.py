"""What requests need of each pool: the seconds of it that they take when it is never idle.

In a batch a request's service depends on what it is batched with, so no formula of the request
alone says what it needs. The engine does: given all requests at once, a pool works as fast as it
can, with full batches or full KV caches, and what it gets done per second is what it could serve.
Offered load is what requests need over the seconds there are; at 1 or more, queues grow.

Each pool is saturated alone: a monolithic one with whole requests, and once more with prompts only,
to divide their work; a prefill pool with prompts only; a decode pool, with the link before it,
behind a prefill that takes no time. Requests are served in order of arrival whatever the
discipline, and a front end is left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords, Status
from simlib.core.sampling import sample_requests
from simlib.files import canonical_json
from simlib.latency.linear import LinearLatency
from simlib.serving.assemble import deployment_of
from simlib.serving.deployment import Deployment, Pool
from simlib.workload.requests import Requests

_ROUNDS = 100
"""Requests for each sequence that a pool runs at one time: with a quarter of them, the longest
sequences have not gathered yet, and a pool seems 5% faster than it is."""
_FEWEST, _MOST = 10_000, 200_000
_SETTLED = 0.4
"""When this share of the requests has ended, batches are as full and as mixed as they stay."""
_SECTIONS = 5
"""Of the time from then on, for the error."""
_LEAST_ERROR = 0.01
"""Of a rate: sections of one run do not show what all have in common."""
_SAMPLED_S = 1_000.0
"""Length of the run whose requests are taken, where its rate gives as many as are needed."""
_WHATEVER = {
    "warmup_seconds": 0.0, "timeline": False, "drain": True, "ttft_definition": "first_decode_step",
}  # fmt: skip
"""Settings that do not matter here."""
_NO_TIME_S = 1e-9
_UNBOUNDED_BLOCKS = 1 << 40


@dataclass(frozen=True, slots=True)
class Need:
    """Seconds of a whole pool that requests need of it: a sum over their tokens."""

    prompt_token_s: float
    output_token_s: float
    error: float
    """Relative standard error."""

    def seconds(self, records: RequestRecords) -> Floats:
        """Return what each request needs; nothing of one that can never fit; shape (n,)."""
        needed = (
            self.prompt_token_s * records.prompt_tokens
            + self.output_token_s * records.output_tokens
        )
        return np.where(records.status == Status.REJECTED, 0.0, needed)


def needs_of(config: SimConfig) -> dict[str, Need]:
    """Return what requests like those of `config` need of each pool of its batching deployment.

    It depends on the deployment and on the lengths, not on the rate. A pool is left out where
    nothing saturates it (all its requests are refused, or it never settles), and all are for a
    closed loop, whose load adapts.
    """
    if config.serving != "batching" or config.arrival.process.closed:
        return {}
    settings = config.to_dict() | _WHATEVER
    if config.arrival.process.at_rate:
        settings["arrival"] = {"kind": "poisson", "rate_per_s": 1.0}  # lengths count, not times
        settings["sim_seconds"] = _SAMPLED_S
    return dict(_needs(canonical_json(settings)))


@lru_cache(maxsize=64)
def _needs(settings: str) -> dict[str, Need]:
    """Return the needs of a configuration; the points of a study share most of them."""
    config = SimConfig.from_dict(json.loads(settings))
    deployment = deployment_of(config.batching, config.latency, config.own)
    entry, decode = _in_order(deployment.entry), deployment.decode
    requests = _requests(config, entry if decode is None else decode)
    prompts = replace(requests, output_tokens=np.ones_like(requests.output_tokens))
    prefill = _Saturated.of(prompts, Deployment(entry))
    if decode is None:
        whole = _Saturated.of(requests, Deployment(entry, first_token=deployment.first_token))
        share = min(whole.rate(0.5)[0] / prefill.rate(1.0)[0], 1.0)  # NaN where not known
        found = {"gpu": whole.need(share)}
    else:
        at_once = LinearLatency(_NO_TIME_S, kv_bytes_per_token=entry.latency.kv_bytes_per_token)
        front = Pool(entry.settings, at_once, _UNBOUNDED_BLOCKS)
        behind = _Saturated.of(requests, Deployment(front, decode, deployment.link), decodes=True)
        found = {"prefill": prefill.need(1.0), "decode": behind.need(0.0)}
    return {name: need for name, need in found.items() if need is not None}


def _in_order(pool: Pool) -> Pool:
    """Return the pool with a discipline that needs nothing but the order of arrival."""
    return replace(pool, settings=pool.settings.model_copy(update={"discipline": "fcfs"}))


def _requests(config: SimConfig, pool: Pool) -> Requests:
    """Return requests with the configuration's lengths, all at time 0: enough to fill the pool."""
    few = _sampled(config, _FEWEST)
    held = float(np.mean(few.prompt_tokens + few.output_tokens / 2.0))
    fitting = pool.capacity_blocks * pool.settings.block_size / held
    seats = pool.settings.replicas * min(pool.settings.max_batch_size, max(fitting, 1.0))
    count = int(min(max(_ROUNDS * seats, _FEWEST), _MOST))
    return few if count == _FEWEST else _sampled(config, count)


def _sampled(config: SimConfig, count: int) -> Requests:
    if config.arrival.process.at_rate:
        settings = config.to_dict()
        settings["arrival"] |= {"rate_per_s": count / _SAMPLED_S}
        config = SimConfig.from_dict(settings)
    found = sample_requests(config)
    again = np.arange(count) % max(len(found), 1)  # a trace is repeated
    return Requests(np.zeros(count), found.prompt_tokens[again], found.output_tokens[again])


@dataclass(frozen=True, slots=True)
class _Saturated:
    """A run of requests that all came at once, while its queues lasted."""

    ended_s: Floats
    """Of the requests that can be served, in order of their number."""
    prompt: Floats
    """Their prompt tokens over the mean."""
    output: Floats
    mean_tokens: tuple[float, float]
    begin_s: float
    end_s: float
    """When the queue of the first replica is empty."""

    @classmethod
    def of(cls, requests: Requests, deployment: Deployment, *, decodes: bool = False) -> _Saturated:
        """Serve the requests; the decode pool is the one to look at where it `decodes`."""
        from simlib.serving.engine import simulate  # imports Numba

        records = simulate(requests, deployment)
        served = records.select(records.status == Status.FINISHED)
        start_s = served.decode_start_s if decodes else served.prefill_start_s
        replica = served.decode_replica if decodes else served.prefill_replica
        if not len(served):
            nothing = np.empty(0)
            return cls(nothing, nothing, nothing, (math.nan, math.nan), math.nan, math.nan)
        prompt, output = float(np.mean(served.prompt_tokens)), float(np.mean(served.output_tokens))
        return cls(
            served.finish_s,
            served.prompt_tokens / prompt,
            served.output_tokens / output,
            (prompt, output),
            float(np.quantile(served.finish_s, _SETTLED)),
            min(float(np.max(start_s[replica == one])) for one in np.unique(replica)),
        )

    def rate(self, prompt_share: float) -> tuple[float, float]:
        """Return mean requests per second, and their relative standard error; NaN if not known.

        A request counts by its tokens, prompts with a share of `prompt_share`.
        """
        if not self.begin_s < self.end_s or math.isnan(prompt_share):
            return math.nan, math.nan
        work: Floats = prompt_share * self.prompt + (1.0 - prompt_share) * self.output
        edges = np.linspace(self.begin_s, self.end_s, _SECTIONS + 1)
        done = np.histogram(self.ended_s, edges, weights=work)[0] / np.diff(edges)
        mean = float(np.mean(done))
        if mean <= 0:
            return math.nan, math.nan
        spread = float(np.std(done, ddof=1)) / math.sqrt(_SECTIONS) / mean
        return mean, max(spread, _LEAST_ERROR)

    def need(self, prompt_share: float) -> Need | None:
        """Return what a request needs of the pool; None if that is not known."""
        rate, error = self.rate(prompt_share)
        if math.isnan(rate):
            return None
        prompt, output = self.mean_tokens
        return Need(prompt_share / rate / prompt, (1.0 - prompt_share) / rate / output, error)
