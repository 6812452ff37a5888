"""Arrival times of synthetic load."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def poisson_arrivals(
    rate_per_s: float, sim_seconds: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the arrival times of a Poisson process in [0, sim_seconds), in seconds.

    Unit-rate gaps are drawn and divided by the rate, so that for one generator state the n-th
    request of every rate is the same one, only earlier or later.
    """
    horizon = rate_per_s * sim_seconds
    expected = int(horizon + 6.0 * horizon**0.5) + 16
    gaps = rng.standard_exponential(expected)
    times = np.cumsum(gaps)
    while times[-1] < horizon:
        gaps = np.concatenate([gaps, rng.standard_exponential(expected)])
        times = np.cumsum(gaps)
    times /= rate_per_s
    # after the division: a time just below the horizon may round up to sim_seconds
    return times[: np.searchsorted(times, sim_seconds, side="left")]
