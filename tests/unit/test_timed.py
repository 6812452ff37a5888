"""Timelines in results and tables: kept whole, found when damaged, measured in the window."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.core.records import RequestRecords, tpot_s
from simlib.core.sampling import sample_requests
from simlib.core.summary import summarise
from simlib.errors import InvalidParameterError
from simlib.serving.assemble import serve
from simlib.serving.timeline import TimedRecords, Timeline
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import read_records, write_records
from simlib.study.measurement.measure import measure_point
from simlib.study.measurement.occupation import Occupation, occupations
from simlib.study.measurement.over_time import gaps_in_window, measure_over_time
from simlib.study.plan.identity import essential, point_id, run_settings


def config_of(**changes: Any) -> SimConfig:
    return SimConfig.from_dict(
        {
            "mode": "mono",
            "serving": "batching",
            "timeline": True,
            "sim_seconds": 30,
            "warmup_seconds": 5,
            "arrival": {"rate_per_s": 4},
            "latency": {"model": "llama-3.1-8b", "step_overhead_s": 0.001},
            **changes,
        }
    )


def timed(config: SimConfig, replicate: int = 0) -> TimedRecords:
    records = simulate(config, replicate)
    assert isinstance(records, TimedRecords)
    return records


# ---------------------------------------------------------------- configuration and identity


def test_a_timeline_is_another_point_and_none_leaves_the_identity_alone() -> None:
    without = config_of(timeline=False)
    assert point_id(config_of()) != point_id(without)
    assert "timeline" not in essential(without)
    assert "timeline" not in run_settings(without)
    assert run_settings(config_of())["timeline"] is True


@pytest.mark.parametrize("changes", [{"serving": "token_rate"}, {"engine": "simpy"}])
def test_only_the_fast_engine_of_batching_keeps_a_timeline(changes: dict[str, str]) -> None:
    ((key, value),) = changes.items()
    with pytest.raises(InvalidParameterError, match=rf"{key} must be .*timeline.*{value}"):
        config_of(**changes)


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_a_timeline_changes_no_record_and_ends_with_the_window(mode: str) -> None:
    config = config_of(mode=mode)
    with_it, without = timed(config), simulate(replace_timeline(config))
    for name, column in without.columns().items():
        np.testing.assert_allclose(with_it.columns()[name], column, rtol=1e-12, err_msg=name)
    timeline = with_it.timeline
    assert without.finish_s.max() > config.sim_seconds
    assert timeline.jumps.start_s.max() < config.sim_seconds
    assert timeline.gaps.time_s.max() < config.sim_seconds
    whole = Timeline()
    serve(sample_requests(config), config, timeline=whole)
    kept = whole.jumps().start_s < config.sim_seconds
    np.testing.assert_array_equal(whole.jumps().blocks[kept], timeline.jumps.blocks)


def replace_timeline(config: SimConfig) -> SimConfig:
    return SimConfig.from_dict({**config.to_dict(), "timeline": False})


def test_a_selection_of_requests_has_no_timeline() -> None:
    records = timed(config_of(sim_seconds=10))
    some = records.select(records.arrival_s > 2)
    assert type(some) is RequestRecords


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("result") / "r0.npz"
    config = config_of(mode="disagg", sim_seconds=6, warmup_seconds=1)
    write_records(
        path, simulate(config), point_id="a" * 16, replicate=0, config=run_settings(config)
    )
    return path


def tables_of(records: TimedRecords) -> dict[str, Any]:
    timeline = records.timeline
    return {
        f"{table}.{name}": column
        for table in ("jumps", "moves", "gaps")
        for name, column in getattr(timeline, table).columns().items()
    } | {"capacity_blocks": timeline.capacity_blocks}


def test_what_is_written_is_read(result: Path) -> None:
    config = config_of(mode="disagg", sim_seconds=6, warmup_seconds=1)
    written, (read, _) = timed(config), read_records(result)
    assert isinstance(read, TimedRecords)
    for name, column in tables_of(written).items():
        np.testing.assert_array_equal(tables_of(read)[name], column, err_msg=name)
    assert len(read.timeline.moves.time_s) > 0
    with np.load(result) as columns:  # readable without simlib
        assert columns["jumps.pool"].dtype == np.uint8
        assert columns["gaps.gap_s"].dtype == np.float64


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_a_timeline_is_refused_or_harmless(
    result: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(result.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    whole, meta = read_records(result)
    try:
        records, read_meta = read_records(damaged, point_id="a" * 16, replicate=0)
    except InvalidParameterError:
        return
    assert read_meta == meta
    assert isinstance(records, TimedRecords)
    assert isinstance(whole, TimedRecords)
    for name, column in tables_of(whole).items():
        assert tables_of(records)[name].tobytes() == column.tobytes()


@pytest.mark.parametrize("lost", ["jumps.start_s", "moves.after", "gaps.count", "capacity_blocks"])
def test_a_missing_member_is_found(result: Path, tmp_path: Path, lost: str) -> None:
    damaged = tmp_path / "r0.npz"
    with zipfile.ZipFile(result) as whole, zipfile.ZipFile(damaged, "w") as part:
        for name in whole.namelist():
            if name != f"{lost}.npy":
                part.writestr(name, whole.read(name))
    with pytest.raises(InvalidParameterError, match="intact result file"):
        read_records(damaged)


def test_columns_of_unequal_length_are_found(tmp_path: Path) -> None:
    records = timed(config_of(sim_seconds=6, warmup_seconds=1))
    gaps = records.timeline.gaps
    short = replace(gaps, count=gaps.count[1:])
    wrong = replace(records, timeline=replace(records.timeline, gaps=short))
    write_records(tmp_path / "r0.npz", wrong, point_id="a" * 16, replicate=0, config={})
    with pytest.raises(InvalidParameterError, match="columns of gaps differ in length"):
        read_records(tmp_path / "r0.npz")


# ---------------------------------------------------------------- inter-token latency


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_itl_over_a_whole_run_averages_to_the_tokens_times(mode: str) -> None:
    config = config_of(mode=mode, warmup_seconds=0)
    timeline = Timeline()
    records = serve(sample_requests(config), config, timeline=timeline)
    whole = TimedRecords(**records.columns(), timeline=timeline.run([1, 1]))
    sample = gaps_in_window(whole, config_of(mode=mode, warmup_seconds=0, sim_seconds=1e6))
    gaps = records.output_tokens - 1
    assert sample.total == gaps.sum()
    total_s = (tpot_s(records)[gaps > 0] * gaps[gaps > 0]).sum()
    assert sample.mean() == pytest.approx(total_s / gaps.sum(), rel=1e-9)


@pytest.mark.parametrize("warmup", [0.0, 8.0])
def test_itl_of_a_window_is_that_of_the_tokens_in_it(warmup: float) -> None:
    """Against tokens counted one by one in the step-by-step twin."""
    from simlib.serving import twin
    from simlib.serving.assemble import deployment_of
    from simlib.serving.deployment import Classes

    config = config_of(mode="disagg", sim_seconds=20, warmup_seconds=warmup)
    run = twin.Twin(
        sample_requests(config), deployment_of(config.batching, config.latency), 0, 0, Classes()
    )
    run.send_all()
    run.env.run()
    ends = np.concatenate([seq.token_s[1:] for seq in run.sequences])
    gaps = np.concatenate([np.diff(seq.token_s) for seq in run.sequences])
    counted = (ends >= warmup) & (ends < config.sim_seconds)
    sample = gaps_in_window(timed(config), config)
    found = np.sort(np.repeat(sample.values, sample.weights))
    np.testing.assert_allclose(found, np.sort(gaps[counted]), rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------- pools


@pytest.mark.parametrize("mode", ["mono", "disagg"])
def test_bins_sum_to_the_window_and_agree_with_the_records(mode: str) -> None:
    config = config_of(mode=mode)
    records = timed(config)
    window = np.array([config.warmup_seconds, config.sim_seconds])
    whole = occupations(records, config, window)
    bins = occupations(records, config, np.linspace(*window, 38))
    statistics = summarise(records, config)
    for name, pool in whole.items():
        for column in ("busy_s", "decoding_s", "sequence_s", "kv_s", "waiting_s"):
            total = getattr(bins[name].total(), column)
            assert total == pytest.approx(getattr(pool, column), rel=1e-9, abs=1e-9), column
        # the utilisation of summary.csv, from other facts
        assert pool.utilization[0] == pytest.approx(statistics[f"utilization_{name}"], rel=1e-9)
        assert 0 < pool.highest_kv <= 1
        assert pool.kv_occupancy[0] <= pool.highest_kv
    decoding = whole["gpu" if mode == "mono" else "decode"]
    if mode == "disagg":  # Little's law on the path: each request decodes in its batch throughout
        start_s, end_s = (np.clip(t, *window) for t in (records.decode_start_s, records.finish_s))
        assert decoding.sequence_s[0] == pytest.approx((end_s - start_s).sum(), rel=1e-9)


def test_waiting_requests_are_counted_by_pool() -> None:
    config = config_of(mode="disagg", arrival={"rate_per_s": 40}, sim_seconds=10)
    records = timed(config)
    found = occupations(records, config, np.array([5.0, 10.0]))
    waits = np.clip(records.prefill_start_s, 5, 10) - np.clip(records.arrival_s, 5, 10)
    assert found["prefill"].waiting_s[0] == pytest.approx(waits.sum(), rel=1e-9)
    moments = np.linspace(5, 10, 20_001)[:-1]
    inside = [
        (moments >= start[:, None]) & (moments < end[:, None])
        for start, end in (
            (records.prefill_end_s, records.transfer_start_s),
            (records.transfer_end_s, records.decode_start_s),
        )
    ]
    sampled = sum(mask.sum() for mask in inside) / len(moments) * 5
    assert found["decode"].waiting_s[0] == pytest.approx(sampled, rel=0.02, abs=0.01)


def test_a_bin_in_which_nothing_decodes_has_no_batch() -> None:
    one, zero = np.ones(1), np.zeros(1)
    idle = Occupation(one, zero, zero, zero, zero, zero, 0.0)
    busy = Occupation(one, one, one, 5 * one, 0.5 * one, zero, 0.75)
    assert np.isnan(idle.decode_batch[0])
    both = Occupation.joined([idle, busy])
    assert both.decode_batch[0] == 5.0  # over the time in which it decodes
    assert both.utilization[0] == 0.5
    assert both.highest_kv == 0.75


# ---------------------------------------------------------------- points


def test_points_have_itl_with_intervals_and_those_without_timelines_have_none() -> None:
    config = config_of(sim_seconds=400)
    replicates = [simulate(config, replicate) for replicate in range(3)]
    point = measure_point(replicates, config)
    assert point.over_time is not None
    for statistic in (one.name for one in METRICS["itl"].statistics):
        interval = point.intervals[statistic]
        assert interval.low <= interval.estimate <= interval.high
        assert len(point.values(statistic)) == 3
    samples = [gaps_in_window(one, config) for one in replicates if isinstance(one, TimedRecords)]
    everything = np.concatenate([np.repeat(s.values, s.weights) for s in samples])
    assert point.intervals["p99_itl_s"].estimate == pytest.approx(np.percentile(everything, 99))
    single = measure_point(replicates[:1], config)
    assert "batches" in single.intervals["mean_itl_s"].method
    plain = replace_timeline(config)
    assert measure_point([simulate(plain)], plain).over_time is None
    assert measure_over_time([replicates[0], simulate(plain)], config, point.length) is None
