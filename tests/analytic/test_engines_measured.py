"""Serving engines as data against measured servers: the errors that the validation states hold."""

from __future__ import annotations

import csv
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SIMLIB_SHARED_DATA", REPO.parent / "shared" / "data"))
FILES = ("measured_serving_development.csv", "measured_h100_vllm_closed_loop.csv")
ENGINES = REPO / "simlib" / "latency" / "catalog" / "engines.csv"

sys.path.insert(0, str(REPO / "benchmarks"))
import measured  # noqa: E402 - lies beside the scripts
import scoreboard  # noqa: E402

sys.path.remove(str(REPO / "benchmarks"))

needs_data = pytest.mark.skipif(
    not all((DATA / name).exists() for name in FILES), reason="measured serving points absent"
)


@cache
def all_rows() -> list[measured.Row]:
    return [row for name in FILES for row in measured.read_rows(DATA / name)]


@cache
def dense_rows() -> list[measured.Row]:
    """Return every fifth dense row that states what a simulation needs."""
    usable = (
        row
        for row in all_rows()
        if measured.is_dense(row) and row.mode == "agg" and row.concurrency
    )
    return list(usable)[::5]


@cache
def mixture_rows(mode: str) -> list[measured.Row]:
    """Return rows of mixtures of experts that state what a simulation needs."""
    return [
        row
        for row in all_rows()
        if row.mode == mode and not measured.is_dense(row) and row.concurrency and row.pools
    ]


def left_out_errors(rows: list[measured.Row]) -> np.ndarray:
    """Return errors with constants that were fitted without each row's group."""
    without = scoreboard.left_out_constants()
    found = [measured.predict(scoreboard.settings(row, without[row.group])) for row in rows]
    return np.abs(
        [(t / row.ttft_s - 1, p / row.tpot_s - 1) for (t, p), row in zip(found, rows, strict=True)]
    )


@cache
def errors(who: str) -> np.ndarray:
    """Return absolute relative errors of TTFT and TPOT, a row each."""
    if who == "left out":
        return left_out_errors(dense_rows())
    settings = {"plain": measured.plain, "engine": measured.with_engine}[who]
    found = []
    for row in dense_rows():
        times = measured.predict(settings(row))
        found.append((times[0] / row.ttft_s - 1, times[1] / row.tpot_s - 1))
    return np.abs(found)


@pytest.mark.slow
@needs_data
def test_an_engine_on_systems_it_was_not_fitted_to() -> None:
    """Medians over rows whose group was left out of the fit; of a fifth of the rows."""
    assert len(dense_rows()) > 100
    ttft, tpot = np.median(errors("left out"), axis=0)
    assert ttft < 0.21
    assert tpot < 0.085


@pytest.mark.slow
@needs_data
def test_mixtures_of_experts_on_systems_the_engines_were_not_fitted_to() -> None:
    ttft, tpot = np.median(left_out_errors(mixture_rows("agg")), axis=0)
    assert ttft < 0.24
    assert tpot < 0.19
    ttft, tpot = np.median(left_out_errors(mixture_rows("disagg")), axis=0)
    assert ttft < 0.48
    assert tpot < 0.27


@needs_data
def test_sizes_that_repeat_a_measurement_of_fewer_gpus_are_told() -> None:
    rows = all_rows()
    doubtful = [rows[number] for number in sorted(measured.contradicted(rows))]
    assert {(row.group[2], row.gpus) for row in doubtful} == {
        ("DeepSeek-R1", 64),
        ("MiniMax-M2.5", 16),
    }
    one = next(row for row in rows if row.group[2] == "gpt-oss-120b" and row.gpus == 4)
    assert measured.contradicted([one]) == set()


@pytest.mark.slow
@needs_data
def test_naming_the_engine_pays() -> None:
    plain, engine = (np.median(errors(who), axis=0) for who in ("plain", "engine"))
    assert engine[0] < 0.5 * plain[0]
    assert engine[1] < 0.8 * plain[1]


@needs_data
def test_every_group_that_can_be_simulated_was_left_out_once() -> None:
    rows = [*dense_rows(), *mixture_rows("agg"), *mixture_rows("disagg")]
    assert {row.group for row in rows} == set(scoreboard.left_out_constants())


def test_constants_lie_within_their_stated_spread() -> None:
    with ENGINES.open(newline="", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            for name in scoreboard.Constants._fields:
                low, value, high = (float(row[name + end]) for end in ("_low", "", "_high"))
                assert low <= value <= high
            assert row["source"]
