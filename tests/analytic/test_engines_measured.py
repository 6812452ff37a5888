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
def dense_rows() -> list[measured.Row]:
    """Return every fifth dense row that states what a simulation needs."""
    rows = [row for name in FILES for row in measured.read_rows(DATA / name)]
    usable = (
        row for row in rows if scoreboard.is_dense(row) and row.mode == "agg" and row.concurrency
    )
    return list(usable)[::5]


@cache
def errors(who: str) -> np.ndarray:
    """Return absolute relative errors of TTFT and TPOT, a row each."""
    without = scoreboard.left_out_constants()
    found = []
    for row in dense_rows():
        if who == "plain":
            times = measured.predict(measured.plain(row))
        elif who == "engine":
            times = measured.predict(measured.with_engine(row))
        else:
            settings = scoreboard.settings(row, without[row.group])
            times = measured.predict(settings)
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
def test_naming_the_engine_pays() -> None:
    plain, engine = (np.median(errors(who), axis=0) for who in ("plain", "engine"))
    assert engine[0] < 0.5 * plain[0]
    assert engine[1] < 0.8 * plain[1]


@needs_data
def test_every_group_that_can_be_simulated_was_left_out_once() -> None:
    assert {row.group for row in dense_rows()} <= set(scoreboard.left_out_constants())


def test_constants_lie_within_their_stated_spread() -> None:
    names = ("step_overhead_s", "sequence_overhead_s", "front_end_request_s", "front_end_token_s")
    with ENGINES.open(newline="", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            for name in names:
                low, value, high = (float(row[name + end]) for end in ("_low", "", "_high"))
                assert low <= value <= high
            assert row["source"]
