"""What is derived from a run's stamps: waits, TTFT, its parts, cuts and busy time."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from simlib.core import recursion
from simlib.core.config import ClusterDisagg, ClusterMonolithic, SimConfig
from simlib.core.metrics import METRICS
from simlib.core.records import (
    COLUMN_NAMES,
    TTFT_DEFINITIONS,
    TTFT_PARTS,
    RequestRecords,
    Status,
    busy_s,
    cut_at,
    e2e_s,
    in_window,
    records_of,
    tpot_s,
    ttft_parts,
    ttft_s,
)
from simlib.core.summary import (
    counted_requests,
    pool_busy_s,
    sample,
    summarise,
)
from simlib.errors import InvalidParameterError
from simlib.workload.requests import Requests
from tests.serving import offered_load

NAN = float("nan")
# one request, with a different length for each of its seven parts
STAMPS = {
    "arrival_s": 10.0,
    "routed_s": 10.5,
    "prefill_start_s": 11.5,
    "prefill_end_s": 13.0,
    "transfer_start_s": 16.0,
    "transfer_end_s": 20.0,
    "decode_start_s": 25.0,
    "first_token_s": 31.0,
    "finish_s": 59.0,
}


def one_request(**changes) -> RequestRecords:
    stamps = STAMPS | changes
    requests = Requests(np.array([stamps.pop("arrival_s")]), np.array([100]), np.array([8]))
    return records_of(requests, {name: np.array([value]) for name, value in stamps.items()})


def run(requests: Requests, config: SimConfig) -> RequestRecords:
    return recursion.serve(requests, config)


def columns(*rows: tuple[float, int, int]) -> Requests:
    arrival, prompt, output = zip(*rows, strict=True)
    return Requests(np.array(arrival, dtype=float), np.array(prompt), np.array(output))


@pytest.mark.parametrize(
    ("definition", "expected"),
    [("first_decode_step", 21.0), ("prefill_end", 3.0), ("transfer_end", 10.0)],
)
def test_each_definition_ends_where_its_name_says(definition, expected):
    assert ttft_s(one_request(), definition).tolist() == [expected]


def test_first_decode_step_is_the_default_definition():
    assert ttft_s(one_request()).tolist() == ttft_s(one_request(), TTFT_DEFINITIONS[0]).tolist()


def test_an_unknown_definition_is_refused_with_the_known_ones():
    with pytest.raises(InvalidParameterError) as caught:
        ttft_s(one_request(), "first_byte")
    assert str(caught.value) == (
        "ttft_definition must be one of first_decode_step, prefill_end, transfer_end, "
        "got 'first_byte'"
    )


def test_parts_are_the_gaps_between_stamps_and_sum_to_ttft():
    parts = ttft_parts(one_request())
    assert list(parts) == list(TTFT_PARTS)
    assert [part.item() for part in parts.values()] == [0.5, 1.0, 1.5, 3.0, 4.0, 5.0, 6.0]
    assert sum(part.item() for part in parts.values()) == ttft_s(one_request()).item()


def test_tpot_is_the_mean_gap_after_the_first_token():
    assert tpot_s(one_request()).tolist() == [(59.0 - 31.0) / 7]


def test_tpot_of_a_one_token_output_does_not_exist():
    records = dataclasses.replace(one_request(), output_tokens=np.array([1]))
    assert np.isnan(tpot_s(records)).all()


def test_e2e_is_from_arrival_to_the_last_token():
    assert e2e_s(one_request()).tolist() == [49.0]


def test_records_of_numbers_requests_by_arrival_and_fills_in_a_plain_finish():
    records = one_request()
    assert records.request_id.tolist() == [0]
    assert records.status.tolist() == [Status.FINISHED]
    assert records.preemptions.tolist() == [0]
    assert list(records.columns()) == list(COLUMN_NAMES)


def test_select_keeps_rows_of_every_column():
    requests = columns((0, 8, 4), (1, 8, 4), (2, 8, 4))
    records = run(requests, SimConfig(mode="mono"))
    chosen = records.select(np.array([True, False, True]))
    assert len(chosen) == 2
    for name, column in chosen.columns().items():
        assert column.tolist() == getattr(records, name)[[0, 2]].tolist()


TIMES = [name for name in STAMPS if name != "arrival_s"]


@pytest.mark.parametrize("cut", [STAMPS[name] for name in TIMES])
def test_cut_forgets_events_at_and_after_the_end(cut):
    seen = cut_at(one_request(), cut)
    for name in TIMES:
        stamp = getattr(seen, name).item()
        assert stamp == STAMPS[name] if STAMPS[name] < cut else np.isnan(stamp)
    assert seen.status.tolist() == [Status.UNFINISHED]
    assert seen.prefill_replica.tolist() == [0 if cut > STAMPS["prefill_start_s"] else -1]
    assert seen.decode_replica.tolist() == [0 if cut > STAMPS["decode_start_s"] else -1]


def test_cut_after_the_last_event_changes_nothing():
    records, seen = one_request(), cut_at(one_request(), 59.0 + 1e-9)
    for name in COLUMN_NAMES:
        assert getattr(seen, name).tolist() == getattr(records, name).tolist()


def test_cut_leaves_a_rejected_request_rejected():
    records = dataclasses.replace(one_request(), status=np.array([Status.REJECTED], np.int8))
    assert cut_at(records, 0.0).status.tolist() == [Status.REJECTED]


def test_cut_does_not_touch_its_argument():
    records = one_request()
    cut_at(records, 0.0)
    assert records.finish_s.tolist() == [59.0]


def test_window_takes_its_start_and_leaves_its_end():
    requests = columns((0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1))
    records = run(requests, SimConfig())
    assert in_window(records, 1.0, 3.0).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (2.0, 4.0, 2.0),  # inside
        (-5.0, 1.0, 1.0),  # reaches in from before
        (9.0, 15.0, 1.0),  # reaches out
        (-5.0, 15.0, 10.0),  # covers the window
        (-5.0, -1.0, 0.0),  # before
        (11.0, 12.0, 0.0),  # after
        (10.0, 12.0, 0.0),  # touches the end
        (4.0, NAN, 6.0),  # still running
        (12.0, NAN, 0.0),  # still running, started later
        (NAN, NAN, 0.0),  # never started
    ],
)
def test_busy_time_is_clipped_to_the_window(start, end, expected):
    assert busy_s(np.array([start]), np.array([end]), (0.0, 10.0)) == expected


def test_busy_time_adds_up():
    start, end = np.array([0.0, 5.0, NAN, 9.0]), np.array([2.0, 20.0, NAN, NAN])
    assert busy_s(start, end, (1.0, 10.0)) == 1.0 + 5.0 + 0.0 + 1.0


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("mode", ["mono", "disagg"])
@pytest.mark.parametrize("gpus", [1, 3, 7])
def test_utilisation_of_a_pool_that_never_idles_is_one_and_not_more(mode, gpus, drain):
    n = 3000
    requests = Requests(
        np.linspace(0.0, 9.0, n), np.full(n, 7, dtype=np.int64), np.full(n, 11, dtype=np.int64)
    )
    config = SimConfig(
        mode=mode,
        sim_seconds=9.3,
        warmup_seconds=3.1,
        drain=drain,
        cluster_mono=ClusterMonolithic(
            num_gpus=gpus, prefill_tokens_per_s=33.0, decode_tokens_per_s=17.0
        ),
        cluster_disagg=ClusterDisagg(
            prefill_gpus=gpus,
            decode_gpus=gpus,
            prefill_tokens_per_s=33.0,
            decode_tokens_per_s=17.0,
        ),
    )
    statistics = summarise(run(requests, config), config)
    for name, value in statistics.items():
        if name.startswith("utilization"):
            assert 1.0 - 1e-12 < value <= 1.0


def test_utilisation_is_not_rounded_above_one():
    n = 300
    requests = Requests(np.linspace(0.0, 9.0, n), np.full(n, 20), np.full(n, 11))
    cluster = ClusterMonolithic(num_gpus=1, prefill_tokens_per_s=33.0, decode_tokens_per_s=170.0)
    config = SimConfig(mode="mono", sim_seconds=9.3, warmup_seconds=3.1, cluster_mono=cluster)
    records = run(requests, config)
    busy = pool_busy_s(records, config, (3.1, 9.3))["gpu"]
    assert busy / (9.3 - 3.1) > 1.0  # the sum of busy times does round up here
    assert summarise(records, config)["utilization_gpu"] == 1.0


def test_pool_busy_seconds_by_hand():
    # prefill 1 s, decode 2 s; the second waits for the prefill GPU and then for the decode GPU
    requests = columns((0, 10, 20), (0, 10, 20))
    cluster = ClusterDisagg(
        prefill_gpus=1, decode_gpus=1, prefill_tokens_per_s=10.0, decode_tokens_per_s=10.0
    )
    config = SimConfig(sim_seconds=4.0, warmup_seconds=0.0, cluster_disagg=cluster)
    records = run(requests, config)
    assert pool_busy_s(records, config, (0.0, 4.0)) == {"prefill": 2.0, "decode": 3.0}
    assert summarise(records, config)["utilization_decode"] == 0.75
    assert offered_load(records, config) == {"prefill": 0.5, "decode": 1.0}


def test_throughput_counts_completions_in_the_window_whenever_they_arrived():
    # one GPU, 1 s a request: finishes at 1, 2, 3, 4; the window is [2, 4)
    requests = columns((0, 5, 5), (0, 5, 5), (0, 5, 5), (3, 5, 5))
    cluster = ClusterMonolithic(num_gpus=1, prefill_tokens_per_s=10.0, decode_tokens_per_s=10.0)
    config = SimConfig(mode="mono", sim_seconds=4.0, warmup_seconds=2.0, cluster_mono=cluster)
    statistics = summarise(run(requests, config), config)
    assert statistics["throughput_rps"] == 2 / 2.0
    assert (statistics["arrived"], statistics["num_samples"]) == (1, 1)


def overloaded(drain: bool):
    requests = columns(*[(0.5 * i, 5, 5) for i in range(10)])
    cluster = ClusterMonolithic(num_gpus=1, prefill_tokens_per_s=10.0, decode_tokens_per_s=10.0)
    config = SimConfig(
        mode="mono", sim_seconds=5.0, warmup_seconds=0.0, cluster_mono=cluster, drain=drain
    )
    return run(requests, config), config


def test_without_a_drain_unfinished_requests_are_counted_and_percentiles_marked():
    records, config = overloaded(drain=False)
    statistics = summarise(records, config)
    assert (statistics["arrived"], statistics["finished"], statistics["unfinished"]) == (10, 4, 6)
    assert statistics["num_samples"] == 5
    # half got a first token: the median interpolates into the other half, by any definition
    assert statistics["lower_bounds"] == [
        statistic.name
        for name in (
            "ttft", "e2e", "ttft_first_decode_step", "ttft_prefill_end", "ttft_transfer_end",
        )
        for statistic in METRICS[name].statistics
    ]  # fmt: skip


def test_lower_bounds_really_are_below_what_the_drain_shows():
    cut, config = overloaded(drain=False)
    full, _ = overloaded(drain=True)
    for name in ("ttft", "e2e"):
        shown, truth = (
            sample(METRICS[name], counted_requests(records, config), config, 0)
            for records in (cut, full)
        )
        assert truth.lower_bounds() == []
        for statistic, value in truth.statistics().items():
            assert shown.statistics()[statistic] <= value
            bound = statistic in shown.lower_bounds()
            assert bound or shown.statistics()[statistic] == value


def test_requests_still_waiting_count_with_the_wait_so_far():
    """By hand; those that got a first token alone would show a p99 of nearly 2.6 s at any load."""
    cut, config = overloaded(drain=False)
    # one GPU, 1 s a request (half of it prefill), one more each 0.5 s; the first token comes 0.1 s
    # after the prefill: 0.6, 1.1, 1.6, 2.1 and 2.6 s, then five that have waited 2.5, 2.0, …, 0.5 s
    values = [0.6, 1.1, 1.6, 2.1, 2.6, 2.5, 2.0, 1.5, 1.0, 0.5]
    found = sample(METRICS["ttft"], counted_requests(cut, config), config, 0)
    assert found.values == pytest.approx(values)
    assert found.open.tolist() == [False] * 5 + [True] * 5
    statistics = summarise(cut, config)
    assert statistics["mean_ttft_s"] == pytest.approx(np.mean(values))
    assert statistics["p50_ttft_s"] == pytest.approx(np.percentile(values, 50))
    assert statistics["p99_ttft_s"] == pytest.approx(np.percentile(values, 99))
    # four finished after 1.0, 1.5, 2.0 and 2.5 s; the others have been there since they arrived
    lasted = [1.0, 1.5, 2.0, 2.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5]
    assert statistics["p90_e2e_s"] == pytest.approx(np.percentile(lasted, 90))


def test_rejected_requests_have_no_latency_and_are_not_left_in():
    full, config = overloaded(drain=True)
    status = full.status.copy()
    status[:3] = Status.REJECTED
    rejected = dataclasses.replace(full, status=status)
    others = full.select(np.arange(10) >= 3)
    for name in ("ttft", "tpot", "e2e"):
        found = sample(METRICS[name], counted_requests(rejected, config), config, 0)
        expected = sample(METRICS[name], counted_requests(others, config), config, 0)
        assert found.request_id.tolist() == list(range(3, 10))
        assert found.statistics() == expected.statistics()
    statistics = summarise(rejected, config)
    assert (statistics["arrived"], statistics["rejected"]) == (10, 3)
    assert statistics["num_samples"] == 7


def test_a_run_without_requests_has_counts_of_zero_and_no_percentiles():
    empty = Requests(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    for mode in ("mono", "disagg"):
        config = SimConfig(mode=mode)
        statistics = summarise(run(empty, config), config)
        assert (statistics["arrived"], statistics["num_samples"]) == (0, 0)
        assert np.isnan(statistics["p99_ttft_s"])
        assert statistics["throughput_rps"] == 0.0
        assert statistics["elapsed_s"] == config.sim_seconds


def test_stamps_of_a_finished_request_are_in_order():
    rng = np.random.default_rng(0)
    requests = Requests(
        np.sort(rng.random(500) * 100), rng.integers(1, 900, 500), rng.integers(1, 900, 500)
    )
    for mode in ("mono", "disagg"):
        records = run(requests, SimConfig(mode=mode))
        for earlier, later in pairwise(STAMPS):
            assert (getattr(records, earlier) <= getattr(records, later)).all()
