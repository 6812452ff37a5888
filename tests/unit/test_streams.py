"""Common random numbers: the same requests for every deployment, and the same ones every time."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from simlib.core.config import ClusterDisagg, ClusterMonolithic, SimConfig
from simlib.core.sampling import sample_requests
from simlib.core.simulator import run_simulation
from simlib.study.jobs.simulate import simulate
from simlib.workload.arrivals import poisson_arrivals
from simlib.workload.requests import Requests
from simlib.workload.streams import Stream, generator

BASE = SimConfig(sim_seconds=200.0, warmup_seconds=20.0)


def with_(config: SimConfig, **changes) -> SimConfig:
    plain = config.to_dict()
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            plain[part][name] = value
        else:
            plain[part] = value
    return SimConfig.from_dict(plain)


def same(a: Requests, b: Requests) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(Requests)
    )


def test_stream_numbers_are_for_ever():
    assert {stream.name: stream.value for stream in Stream} == {
        "ARRIVALS": 0,
        "PROMPT_TOKENS": 1,
        "OUTPUT_TOKENS": 2,
        "ROUTING": 3,
        "CLASSES": 4,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "mono"},
        {"cluster_mono": ClusterMonolithic(num_gpus=9).to_dict()},
        {"cluster_disagg": ClusterDisagg(prefill_gpus=1, decode_gpus=7).to_dict()},
        {"cluster_disagg__prefill_tokens_per_s": 100.0},
        {"engine": "simpy"},
        {"drain": False},
        {"warmup_seconds": 0.0},
        {"ttft_definition": "prefill_end"},
    ],
)
def test_requests_do_not_depend_on_the_deployment(changes):
    assert same(sample_requests(BASE), sample_requests(with_(BASE, **changes)))


def test_both_modes_serve_the_same_requests():
    served = [simulate(with_(BASE, mode=mode)) for mode in ("mono", "disagg")]
    for name in ("request_id", "arrival_s", "prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(served[0], name), getattr(served[1], name))


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_the_nth_request_is_the_same_for_every_rate(factor):
    slow = sample_requests(BASE)
    fast = sample_requests(with_(BASE, arrival__rate_per_s=2.0 * factor))
    n = min(len(slow), len(fast))
    assert n > 50
    assert np.allclose(slow.arrival_s[:n], fast.arrival_s[:n] * factor, rtol=1e-12)
    assert np.array_equal(slow.prompt_tokens[:n], fast.prompt_tokens[:n])
    assert np.array_equal(slow.output_tokens[:n], fast.output_tokens[:n])


@pytest.mark.parametrize(
    "tokens",
    [
        {"mode": "log", "mean": 6.0, "sigma": 1.0},
        {"mode": "exponential", "mean": 300.0},
        {"mode": "fixed", "value": 7},
        {"mode": "uniform", "low": 5, "high": 90},
        {"mode": "empirical"},
    ],
)
def test_a_longer_run_starts_with_the_shorter_one(tokens, tmp_path):
    if tokens["mode"] == "empirical":
        path = tmp_path / "lengths.txt"
        path.write_text("tokens\n" + "\n".join(map(str, range(1, 100))) + "\n")
        tokens = {**tokens, "path": str(path)}
    short = with_(BASE, prompt_tokens=tokens, output_tokens=tokens)
    long = with_(short, sim_seconds=2000.0)
    a, b = sample_requests(short), sample_requests(long)
    n = len(a)
    assert len(b) > 5 * n
    assert same(a, Requests(b.arrival_s[:n], b.prompt_tokens[:n], b.output_tokens[:n]))


def test_arrivals_do_not_depend_on_how_they_are_drawn_in_blocks():
    class Blocks:
        """Gives only ever a few gaps at once, so that more must be drawn."""

        def __init__(self) -> None:
            self.rng = generator(3, 0, Stream.ARRIVALS)

        def standard_exponential(self, n: int) -> np.ndarray:
            return self.rng.standard_exponential(max(n // 7, 1))

    whole = poisson_arrivals(2.0, 500.0, generator(3, 0, Stream.ARRIVALS))
    assert np.array_equal(whole, poisson_arrivals(2.0, 500.0, Blocks()))
    assert len(whole) > 900


def test_arrivals_lie_in_the_half_open_run():
    times = poisson_arrivals(50.0, 100.0, generator(1, 0, Stream.ARRIVALS))
    assert times[0] >= 0.0
    assert times[-1] < 100.0
    assert (np.diff(times) >= 0).all()
    # Poisson: mean 5,000, standard deviation 71
    assert abs(len(times) - 5000) < 5 * 71


def test_replicates_and_seeds_and_streams_differ():
    draws = {
        (seed, replicate, stream): generator(seed, replicate, stream).random()
        for seed in (0, 1, 42)
        for replicate in (0, 1, 2)
        for stream in Stream
    }
    assert len(set(draws.values())) == len(draws)


def test_replicates_are_uncorrelated():
    n = 20_000
    normal = [
        generator(42, replicate, Stream.PROMPT_TOKENS).standard_normal(n) for replicate in range(3)
    ]
    correlation = np.corrcoef(normal)
    # the correlation of independent samples has standard deviation 1/sqrt(n)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(n)


def test_sampling_twice_is_bit_identical():
    for replicate in (0, 3):
        assert same(sample_requests(BASE, replicate), sample_requests(BASE, replicate))
    assert not same(sample_requests(BASE, 0), sample_requests(BASE, 3))


def test_sampling_ignores_and_leaves_alone_the_global_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - it is what must not be used
    first = sample_requests(BASE)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert same(first, sample_requests(BASE))


def test_interleaved_runs_do_not_meet():
    alone = run_simulation("mono", 50.0, 5.0, 1, 2.0, (6.0, 0.9, 8), (6.0, 1.1, 16))[1]
    run_simulation("disagg", 50.0, 5.0, 2, 4.0, (6.0, 0.9, 8), (6.0, 1.1, 16))
    again = run_simulation("mono", 50.0, 5.0, 1, 2.0, (6.0, 0.9, 8), (6.0, 1.1, 16))[1]
    assert alone == again


def digest(requests: Requests) -> str:
    nanoseconds = np.rint(requests.arrival_s * 1e9).astype("<i8")
    columns = (nanoseconds, requests.prompt_tokens, requests.output_tokens)
    sha = hashlib.sha256()
    for column in columns:
        sha.update(column.astype("<i8").tobytes())
    return sha.hexdigest()[:16]


# stands beside the tests of the sampled distributions: these only say that nothing moved
KNOWN = {0: "b4afc1343e1d4a74", 1: "ad29c2ef097f63ce"}


@pytest.mark.parametrize("replicate", KNOWN)
def test_the_requests_of_the_default_seed_are_known(replicate):
    requests = sample_requests(SimConfig(), replicate)
    assert digest(requests) == KNOWN[replicate]


def test_a_replayed_trace_is_the_same_for_every_seed_and_replicate(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [f"2024-01-01 00:00:{second:02d}.0,{100 + second},{20 + second}" for second in range(50)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    config = with_(BASE, arrival__kind="trace", arrival__path=str(path), sim_seconds=45.0)
    requests = sample_requests(config)
    assert len(requests) == 45
    assert same(requests, sample_requests(with_(config, random_seed=1), replicate=2))
