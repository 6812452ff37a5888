"""The requests that a configuration describes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simlib.core.config import SimConfig
from simlib.errors import InvalidParameterError
from simlib.workload import lengths
from simlib.workload.requests import Requests
from simlib.workload.streams import Stream, generator
from simlib.workload.traces import load_trace, replay, trace_sha256


def sample_requests(config: SimConfig, replicate: int = 0) -> Requests:
    """Return all requests that arrive in [0, sim_seconds), in order of arrival.

    For a closed loop, all requests at hand, with arrival times of 0.

    They depend on the seed, the replicate, the arrivals and the lengths, and on nothing of the
    deployment. A replayed trace does not depend on seed and replicate either.
    """
    times = config.arrival.process.times
    if times is None:
        return _replayed(config)
    seed = config.random_seed
    rng = generator(seed, replicate, Stream.ARRIVALS)
    arrival_s = times(config.arrival, config.sim_seconds, rng)
    n = len(arrival_s)
    return Requests(
        arrival_s=arrival_s,
        prompt_tokens=config.prompt_tokens.kind.draw(
            config.prompt_tokens, n, generator(seed, replicate, Stream.PROMPT_TOKENS)
        ),
        output_tokens=config.output_tokens.kind.draw(
            config.output_tokens, n, generator(seed, replicate, Stream.OUTPUT_TOKENS)
        ),
    )


def sample_classes(
    config: SimConfig, replicate: int, request_id: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the class of each request, as its place in ``config.request_classes``.

    Classes are independent of each other and of all else about the requests, also of a replayed
    trace. They depend on the seed, the replicate, the request's number and the shares: the same
    requests of two deployments have the same classes.

    Parameters
    ----------
    request_id : array, shape (n,)
        Numbers of the requests, from 0 in order of arrival.

    Returns
    -------
    array, shape (n,)
        From 0 to the number of classes less one.

    Raises
    ------
    InvalidParameterError
        If the configuration has no classes.
    """
    if not config.request_classes:
        raise InvalidParameterError("request_classes", {}, "at least one class")
    shares = np.array([one.share for one in config.request_classes.values()])
    bounds = np.cumsum(shares)[:-1] / shares.sum()
    rng = generator(config.random_seed, replicate, Stream.CLASSES)
    uniform = rng.random(int(request_id.max(initial=-1)) + 1)
    return np.searchsorted(bounds, uniform[request_id], side="right")


def check_trace_covers(config: SimConfig) -> None:
    """Refuse a replay whose window of the trace is shorter than the simulation."""
    arrival = config.arrival
    if not arrival.process.replayed:
        return
    covered_s = float(load_trace(Path(str(arrival.path))).arrival_s[-1]) - arrival.start_s
    if arrival.length_s is not None:
        covered_s = min(covered_s, arrival.length_s)
    if covered_s / arrival.speed < config.sim_seconds:
        raise InvalidParameterError(
            "sim_seconds",
            config.sim_seconds,
            f"<= {covered_s / arrival.speed:.1f}, which is what the trace's window covers "
            f"at speed {arrival.speed:g}",
            str(arrival.path),
        )


def check_lengths(config: SimConfig) -> None:
    """Refuse a file of lengths that cannot be read, or holds what is no length."""
    if config.arrival.process.replayed:
        return  # it has its own
    for tokens in (config.prompt_tokens, config.output_tokens):
        if "path" in tokens.kind.keys:
            path = Path(str(tokens.path))
            _check_once(path, trace_sha256(path))


@lru_cache(maxsize=64)
def _check_once(path: Path, _sha256: str) -> None:
    lengths.read_lengths(path)


def _replayed(config: SimConfig) -> Requests:
    check_trace_covers(config)
    arrival = config.arrival
    requests = replay(
        load_trace(Path(str(arrival.path))),
        speed=arrival.speed,
        start_s=arrival.start_s,
        length_s=arrival.length_s,
    )
    end = int(np.searchsorted(requests.arrival_s, config.sim_seconds, side="left"))
    return Requests(
        requests.arrival_s[:end], requests.prompt_tokens[:end], requests.output_tokens[:end]
    )
