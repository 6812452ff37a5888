"""When requests arrive: kinds of arrival, one function and one entry of `ARRIVALS` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Gaps = Callable[[int], Times]
"""Draws so many gaps of mean 1."""

_TRACE_LINE_BYTES = 12
"""Fewest of a line of a trace: more requests are expected rather than fewer."""


@dataclass(frozen=True, slots=True)
class ArrivalKind:
    """A way in which requests arrive; functions get the section ``arrival`` of a configuration."""

    keys: tuple[str, ...]
    """What it reads of that section, `kind` aside."""
    expected: Callable[[Any, float], float]
    """About how many requests arrive, from the section and the seconds simulated."""
    times: Callable[[Any, float, np.random.Generator], Times] | None
    """Draw the times, rising, within the seconds simulated; None where a trace holds them."""
    phrase: str
    """What people call it."""
    closed: bool = False
    """Whether the engine finds when each request is sent: the one before has ended."""

    @property
    def replayed(self) -> bool:
        """Whether a trace is replayed, lengths included."""
        return self.times is None

    @property
    def at_rate(self) -> bool:
        """Whether requests are drawn at a rate that the configuration states."""
        return "rate_per_s" in self.keys


def poisson(arrival: Any, sim_seconds: float, rng: np.random.Generator) -> Times:
    """Poisson process: exponential gaps."""
    return poisson_arrivals(arrival.rate_per_s, sim_seconds, rng)


def gamma(arrival: Any, sim_seconds: float, rng: np.random.Generator) -> Times:
    """Renewal process of gamma gaps, burstier than Poisson with a `cv` above 1.

    Gamma gaps are what production LLM traces are modelled with in BurstGPT (Wang et al.,
    arXiv:2401.17644). The first request is one gap after the start.
    """
    shape = arrival.cv**-2
    return _renewals(
        arrival.rate_per_s, sim_seconds, lambda n: rng.standard_gamma(shape, n) / shape
    )


def closed_loop(arrival: Any, _sim_seconds: float, _rng: np.random.Generator) -> Times:
    """As many requests in flight as stated: all are at hand from the start."""
    return np.zeros(arrival.requests)


def _at_rate(arrival: Any, sim_seconds: float) -> float:
    return float(arrival.rate_per_s * sim_seconds)


def _of_file(arrival: Any, _sim_seconds: float) -> float:
    return Path(arrival.path).stat().st_size / _TRACE_LINE_BYTES


ARRIVALS: dict[str, ArrivalKind] = {
    "poisson": ArrivalKind(("rate_per_s",), _at_rate, poisson, "Poisson arrivals"),
    "gamma": ArrivalKind(("rate_per_s", "cv"), _at_rate, gamma, "bursty (gamma) arrivals"),
    "trace": ArrivalKind(
        ("path", "speed", "start_s", "length_s"), _of_file, None, "arrivals of a trace"
    ),
    "closed_loop": ArrivalKind(
        ("concurrency", "requests"),
        lambda arrival, _: float(arrival.requests),
        closed_loop,
        "a closed loop",
        closed=True,
    ),
}
"""All kinds by name."""

if TYPE_CHECKING:
    ArrivalName = str
else:
    ArrivalName = Literal[tuple(ARRIVALS)]


def poisson_arrivals(rate_per_s: float, sim_seconds: float, rng: np.random.Generator) -> Times:
    """Return the arrival times of a Poisson process in [0, sim_seconds), in seconds.

    Unit-rate gaps are drawn and divided by the rate, so that for one generator state the n-th
    request of every rate is the same one, only earlier or later.
    """
    return _renewals(rate_per_s, sim_seconds, rng.standard_exponential)


def _renewals(rate_per_s: float, sim_seconds: float, draw: Gaps) -> Times:
    horizon = rate_per_s * sim_seconds
    expected = int(horizon + 6.0 * horizon**0.5) + 16
    gaps = draw(expected)
    times = np.cumsum(gaps)
    while times[-1] < horizon:
        gaps = np.concatenate([gaps, draw(expected)])
        times = np.cumsum(gaps)
    times /= rate_per_s
    # after the division: a time just below the horizon may round up to sim_seconds
    return times[: np.searchsorted(times, sim_seconds, side="left")]
