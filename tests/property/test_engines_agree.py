"""The fast engine and the SimPy engine stamp the same times on every request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simlib.core import recursion, simulator
from simlib.core.config import ClusterDisagg, ClusterMonolithic, SimConfig
from simlib.core.records import COLUMN_NAMES, RequestRecords
from simlib.core.sampling import sample_requests
from simlib.workload.requests import Requests

TOLERANCE_S = 1e-9
REPLICAS = ("prefill_replica", "decode_replica")


def assert_agree(requests: Requests, config: SimConfig, *, replicas: bool) -> RequestRecords:
    """Compare all columns; which of two equally idle GPUs serves is the engine's own business."""
    fast = recursion.serve(requests, config)
    slow = simulator.serve(requests, config)[0]
    for name in COLUMN_NAMES:
        if name in REPLICAS and not replicas:
            continue
        a, b = getattr(fast, name), getattr(slow, name)
        assert a.dtype == b.dtype, name
        if a.dtype.kind == "f":
            assert np.array_equal(np.isnan(a), np.isnan(b)), name
            assert np.allclose(a, b, rtol=0.0, atol=TOLERANCE_S, equal_nan=True), name
        else:
            assert np.array_equal(a, b), name
    return fast


pools = st.integers(1, 4)
rates = st.floats(5.0, 5000.0)
lengths = st.one_of(
    st.builds(lambda value: {"mode": "fixed", "value": value}, st.integers(1, 2000)),
    st.builds(
        lambda mean, sigma, low: {"mode": "log", "mean": mean, "sigma": sigma, "min_value": low},
        st.floats(0.0, 7.0),
        st.floats(0.0, 1.5),
        st.integers(1, 50),
    ),
    st.builds(lambda low: {"mode": "uniform", "low": low, "high": 2 * low}, st.integers(1, 2000)),
    st.builds(lambda mean: {"mode": "exponential", "mean": mean}, st.floats(1.0, 2000.0)),
)


@st.composite
def configurations(draw) -> SimConfig:
    return SimConfig.from_dict(
        {
            "mode": draw(st.sampled_from(["mono", "disagg"])),
            "sim_seconds": draw(st.floats(1.0, 20.0)),
            "warmup_seconds": 0.0,
            "random_seed": draw(st.integers(0, 2**32)),
            "drain": draw(st.booleans()),
            "arrival": {"rate_per_s": draw(st.floats(0.1, 15.0))},
            "prompt_tokens": draw(lengths),
            "output_tokens": draw(lengths),
            "cluster_mono": {
                "num_gpus": draw(pools),
                "prefill_tokens_per_s": draw(rates),
                "decode_tokens_per_s": draw(rates),
            },
            "cluster_disagg": {
                "prefill_gpus": draw(pools),
                "decode_gpus": draw(pools),
                "prefill_tokens_per_s": draw(rates),
                "decode_tokens_per_s": draw(rates),
                "kv_base_latency_s": draw(st.sampled_from([0.0, 0.004, 1.0])),
                "kv_bytes_per_token": draw(st.sampled_from([0.0, 131072.0])),
                "kv_bandwidth_bytes_per_s": draw(st.floats(1e7, 1e11)),
            },
        }
    )


@settings(max_examples=120, deadline=None)
@given(config=configurations())
def test_engines_agree_on_sampled_requests(config):
    assert_agree(sample_requests(config), config, replicas=False)


# Sums and quotients of these times are exact in binary, so what ties
# on paper ties in both engines.
steps = st.integers(0, 6)
rows = st.lists(st.tuples(steps, st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=60)
grid_rate = st.sampled_from([0.5, 1.0, 2.0, 4.0])


@st.composite
def tied(draw) -> tuple[Requests, SimConfig]:
    gaps, prompt, output = zip(*draw(rows), strict=True)
    requests = Requests(np.cumsum(gaps) / 4.0, np.array(prompt), np.array(output))
    config = SimConfig(
        mode=draw(st.sampled_from(["mono", "disagg"])),
        sim_seconds=draw(st.integers(1, 400)) / 4.0,
        warmup_seconds=0.0,
        drain=draw(st.booleans()),
        cluster_mono=ClusterMonolithic(
            num_gpus=draw(pools),
            prefill_tokens_per_s=draw(grid_rate),
            decode_tokens_per_s=draw(grid_rate),
        ),
        cluster_disagg=ClusterDisagg(
            prefill_gpus=draw(pools),
            decode_gpus=draw(pools),
            prefill_tokens_per_s=draw(grid_rate),
            decode_tokens_per_s=draw(grid_rate),
            kv_base_latency_s=draw(st.sampled_from([0.0, 0.25, 2.0])),
            kv_bytes_per_token=draw(st.sampled_from([0.0, 0.25, 1.0])),
            kv_bandwidth_bytes_per_s=1.0,
        ),
    )
    keep = requests.arrival_s < config.sim_seconds
    return (
        Requests(
            requests.arrival_s[keep], requests.prompt_tokens[keep], requests.output_tokens[keep]
        ),
        config,
    )


BURST = Requests(np.zeros(12), np.tile([3, 1, 2], 4), np.tile([2, 4, 1, 3], 3))


@settings(max_examples=300, deadline=None)
@given(case=tied())
@example(case=(BURST, SimConfig(cluster_disagg=ClusterDisagg(prefill_gpus=3, decode_gpus=2))))
def test_engines_agree_where_events_tie(case):
    requests, config = case
    assert_agree(requests, config, replicas=False)


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_engines_use_the_same_replicas_where_nothing_ties(mode, drain):
    config = SimConfig(
        mode=mode, sim_seconds=400.0, warmup_seconds=0.0, drain=drain, arrival={"rate_per_s": 5.0}
    )
    records = assert_agree(sample_requests(config), config, replicas=True)
    assert len(records) > 1500
    assert len(set(records.decode_replica.tolist()) - {-1}) == 2 + 2 * (mode == "mono")


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_engines_agree_on_a_run_without_requests(mode):
    empty = Requests(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    assert len(assert_agree(empty, SimConfig(mode=mode), replicas=True)) == 0


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_engines_agree_over_a_long_overloaded_run(mode):
    # one busy period of thousands of requests: rounding has the time to add up
    config = SimConfig(
        mode=mode, sim_seconds=900.0, warmup_seconds=0.0, arrival={"rate_per_s": 14.0}
    )
    records = assert_agree(sample_requests(config), config, replicas=False)
    assert records.finish_s.max() > 1200.0


def test_arrivals_with_coarse_stamps_agree():
    # as in traces: many requests share one stamp, lengths repeat
    rng = np.random.default_rng(4)
    requests = Requests(
        np.sort(np.round(rng.random(2000) * 300, 1)),
        rng.integers(1, 8, 2000) * 512,
        rng.integers(1, 8, 2000) * 64,
    )
    for mode in ("mono", "disagg"):
        config = SimConfig(mode=mode, sim_seconds=300.0, warmup_seconds=0.0)
        assert_agree(requests, config, replicas=False)
