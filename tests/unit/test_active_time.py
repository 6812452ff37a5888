"""Active time of replicas: what overlaps on a replica counts once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.core.records import active_s, busy_s

NAN = float("nan")


def active(intervals: list[tuple[float, float, int]], window: tuple[float, float]) -> float:
    columns = np.array(intervals, dtype=float).reshape(-1, 3)
    return active_s(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.int32), window)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], 0.0),
        ([(2, 5, 0)], 3.0),
        ([(2, 5, 0), (3, 4, 0)], 3.0),  # one within the other
        ([(3, 4, 0), (2, 5, 0)], 3.0),  # in any order
        ([(2, 5, 0), (4, 7, 0)], 5.0),  # overlap counts once
        ([(2, 5, 0), (5, 7, 0)], 5.0),  # touching
        ([(2, 3, 0), (6, 7, 0)], 2.0),  # a gap counts nothing
        ([(2, 5, 0), (2, 5, 1)], 6.0),  # another replica is another machine
        ([(2, 8, 0), (3, 4, 0), (5, 6, 0)], 6.0),  # a long one spans several
        ([(-4, 2, 0)], 2.0),  # clipped to the window
        ([(-4, 40, 0)], 10.0),
        ([(-4, -1, 0), (11, 12, 0)], 0.0),
        ([(10, 12, 0), (-1, 0, 0)], 0.0),  # half open on both sides
        ([(8, NAN, 0)], 2.0),  # without an end: to the window's end
        ([(NAN, NAN, -1)], 0.0),  # never started
        ([(NAN, NAN, -1), (1, 2, 0)], 1.0),
        ([(4, 4, 0)], 0.0),
    ],
)
def test_overlapping_intervals_on_a_replica_count_once(intervals, expected):
    assert active(intervals, (0.0, 10.0)) == pytest.approx(expected, abs=1e-12)


INTERVALS = st.lists(
    st.tuples(
        st.one_of(st.integers(-5, 25), st.just(NAN)),
        st.one_of(st.integers(0, 12), st.just(NAN)),
        st.integers(0, 3),
    ).map(lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2])),
    max_size=30,
)


@given(intervals=INTERVALS, low=st.integers(-3, 10), length=st.integers(1, 15))
def test_equals_counting_unit_cells_one_by_one(intervals, low, length):
    """Whole-numbered intervals: a cell counts where any interval of the replica covers it."""
    high = low + length
    cells = 0
    for replica in range(4):
        for cell in range(low, high):
            cells += any(
                owner == replica and start <= cell and (np.isnan(end) or cell < end)
                for start, end, owner in intervals
                if not np.isnan(start)
            )
    assert active(intervals, (float(low), float(high))) == cells


@given(intervals=INTERVALS)
def test_is_never_above_busy_time_and_equals_it_where_nothing_overlaps(intervals):
    columns = np.array(intervals, dtype=float).reshape(-1, 3)
    window = (0.0, 20.0)
    assert active(intervals, window) <= busy_s(columns[:, 0], columns[:, 1], window) + 1e-9
    alone = [(start, end, index) for index, (start, end, _) in enumerate(intervals)]
    assert active(alone, window) == pytest.approx(busy_s(columns[:, 0], columns[:, 1], window))


def test_summed_over_windows_it_is_that_of_the_whole():
    rng = np.random.default_rng(1)
    start = rng.uniform(0, 100, 500)
    end = start + rng.exponential(0.4, 500)
    replica = rng.integers(0, 5, 500).astype(np.int32)
    parts = [active_s(start, end, replica, (low, low + 10.0)) for low in range(0, 110, 10)]
    assert sum(parts) == pytest.approx(active_s(start, end, replica, (0.0, 110.0)), rel=1e-12)
