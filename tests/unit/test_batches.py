"""Which simulations share a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from simlib.errors import InvalidParameterError
from simlib.study.jobs.batches import Batch, compose, read_batches, write_batches
from simlib.study.jobs.run_batch import run_batch

CHEAP = [(f"{position:016x}", replicate) for position in range(10) for replicate in range(2)]


def test_batches_hold_each_cheap_simulation_once_in_order_and_none_is_too_long() -> None:
    batches = compose(CHEAP, lambda _: 0.3, 2.0)
    assert [one for batch in batches for one in batch.simulations] == CHEAP
    assert [len(batch.simulations) for batch in batches] == [6, 6, 6, 2]


def test_a_long_simulation_and_one_alone_are_in_no_batch() -> None:
    long = ("ffffffffffffffff", 0)

    def seconds(point_id: str) -> float:
        return 5.0 if point_id == long[0] else 0.5

    assert compose([CHEAP[0], long], seconds, 2.0) == []
    (batch,) = compose([CHEAP[4], long, CHEAP[6]], seconds, 2.0)
    assert batch.simulations == (CHEAP[4], CHEAP[6])


def test_no_batches_on_request() -> None:
    assert compose(CHEAP, lambda _: 0.0, 0.0) == []


def test_a_name_follows_from_the_simulations() -> None:
    one, same, other = Batch(tuple(CHEAP[:3])), Batch(tuple(CHEAP[:3])), Batch(tuple(CHEAP[1:4]))
    assert one.name == same.name != other.name


def test_batches_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_batches(tmp_path) == []
    batches = compose(CHEAP, lambda _: 0.3, 2.0)
    write_batches(tmp_path, batches)
    read = {batch.name: batch for batch in read_batches(tmp_path)}
    assert read == {batch.name: batch for batch in batches}


def test_an_unknown_batch_is_refused(tmp_path: Path) -> None:
    write_batches(tmp_path, [Batch(tuple(CHEAP[:2]))])
    with pytest.raises(InvalidParameterError, match="batch"):
        run_batch(tmp_path, "0123456789ab")
