"""About which rate a deployment could carry: where the search begins. Nothing else uses it."""

from __future__ import annotations

from simlib.core.config import SimConfig
from simlib.core.sampling import sample_requests
from simlib.core.slo import Slo
from simlib.serving.assemble import deployment_of
from simlib.serving.deployment import Pool

_SAMPLE = 2000
_SHARE = 0.7
"""Of what the pools could do without queues."""


def mean_lengths(config: SimConfig) -> tuple[float, float]:
    """Return the mean prompt and output length of the requests, tokens."""
    sampled = config
    if config.arrival.process.at_rate:
        few = {**config.arrival.to_dict(), "rate_per_s": _SAMPLE / config.sim_seconds}
        sampled = SimConfig.from_dict({**config.to_dict(), "arrival": few})
    requests = sample_requests(sampled)
    return float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())


def first_guess(config: SimConfig, slo: Slo) -> float:
    """Return requests per second from mean lengths, as if every batch were alike.

    A decode pool runs the largest batch that fits its KV cache and the TPOT limit; a prefill pool
    one prompt at a time; a monolithic pool shares its time between both.
    """
    prompt, output = mean_lengths(config)
    if config.serving == "token_rate":
        cluster = config.cluster
        prefill_s = prompt / cluster.prefill_tokens_per_s
        decode_s = output / cluster.decode_tokens_per_s
        gpus = config.deployment.gpus_by_pool
        if "gpu" in gpus:
            return _SHARE * gpus["gpu"] / (prefill_s + decode_s)
        return _SHARE * min(gpus["prefill"] / prefill_s, gpus["decode"] / decode_s)
    deployment = deployment_of(config.batching, config.latency, config.own)
    prefill, decode = deployment.entry, deployment.decode
    if decode is None:
        seconds = _prefill_s(prefill, prompt) + _decode_s(prefill, prompt, output, slo.tpot_s)
        return _SHARE * prefill.settings.replicas / seconds
    return _SHARE * min(
        prefill.settings.replicas / _prefill_s(prefill, prompt),
        decode.settings.replicas / _decode_s(decode, prompt, output, slo.tpot_s),
    )


def _prefill_s(pool: Pool, prompt: float) -> float:
    return pool.latency.iteration_s([(max(1, round(prompt)), 0)], 0, 0)


def _decode_s(pool: Pool, prompt: float, output: float, tpot_s: float | None) -> float:
    """Return the seconds of a replica that one request's decode takes, as part of a batch."""
    context = prompt + output / 2.0
    tokens = pool.capacity_blocks * pool.settings.block_size
    batch = max(1, min(pool.max_batch_size, int(tokens / context)))
    while batch > 1 and tpot_s is not None and _step_s(pool, batch, context) > tpot_s:
        batch //= 2
    return output * _step_s(pool, batch, context) / batch


def _step_s(pool: Pool, batch: int, context: float) -> float:
    return pool.latency.iteration_s([], batch, round(batch * context))
