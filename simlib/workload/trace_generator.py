r"""Synthetic traces with the burstiness and the length mix of production load.

Arrivals are a gamma renewal process run on a clock whose speed is random (a doubly stochastic
process, Cox 1955, doi:10.1111/j.2517-6161.1955.tb00188.x). Gamma gaps are what production LLM
traces are modelled with in BurstGPT (Wang et al., arXiv:2401.17644). Two scales of burstiness:

- Within seconds: gaps on the clock are gamma distributed with coefficient of variation
  :math:`c_b`, that is with shape :math:`1/c_b^2`.
- Over minutes: the rate is :math:`r\,m(t)`, where :math:`\ln m` is a stationary Gauss-Markov
  (Ornstein-Uhlenbeck) process with correlation time :math:`\tau`, and :math:`m` has mean 1 over
  the trace and coefficient of variation :math:`c_l`.

A gap in front of load m is the clock's gap divided by m, and a fraction m of all gaps falls there,
so that for :math:`\tau` much longer than a gap the coefficient of variation :math:`c` of all gaps
follows from :math:`E[m]\,E[1/m] = 1 + c_l^2` for lognormal m:

.. math:: 1 + c^2 = (1 + c_b^2)(1 + c_l^2).

`interarrival_cv` is c, and :math:`c_b` is solved for.

Lengths are a mixture of classes, each lognormal in prompt and in output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.workload.lengths import whole_tokens
from simlib.workload.requests import Requests


def _check(name: str, value: float, least: float, where: str = "") -> None:
    if not (value >= least and math.isfinite(value)):
        raise InvalidParameterError(name, value, f"a finite number >= {least:g}", where)


@dataclass(frozen=True, slots=True)
class LengthClass:
    """One kind of request: lognormal lengths, rounded to whole tokens."""

    name: str
    weight: float
    """Share of requests, relative to the other classes; > 0."""
    prompt_median: float
    """Tokens, >= 1."""
    prompt_sigma: float
    """Standard deviation of the logarithm, >= 0."""
    output_median: float
    """Tokens, >= 1."""
    output_sigma: float
    """Standard deviation of the logarithm, >= 0."""

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        where = f"length class {self.name!r}"
        for field, least in (("prompt_median", 1.0), ("output_median", 1.0)):
            _check(field, getattr(self, field), least, where)
        for field in ("prompt_sigma", "output_sigma"):
            _check(field, getattr(self, field), 0.0, where)
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise InvalidParameterError("weight", self.weight, "a finite number > 0", where)


DEFAULT_MIX = (
    LengthClass("chat", 0.45, 350.0, 1.0, 240.0, 0.7),
    LengthClass("chat with context", 0.30, 1600.0, 0.6, 180.0, 0.8),
    LengthClass("code completion", 0.25, 1800.0, 0.8, 15.0, 0.8),
)
"""Short questions with long answers; questions with history or documents; code, whose outputs are
short. The orders of magnitude are those of public chat and code traces."""

MIN_PROMPT_TOKENS = 2
MAX_PROMPT_TOKENS = 16_384
MAX_OUTPUT_TOKENS = 2_048
"""Longer draws become this long, as a service's context limit does."""

_STEPS_PER_CORRELATION_TIME = 50
_MAX_EXPECTED = 50_000_000


def generate_trace(
    *,
    seed: int = 42,
    duration_s: float = 1_800.0,
    mean_rate_per_s: float = 3.0,
    interarrival_cv: float = 2.0,
    load_cv: float = 0.4,
    load_correlation_s: float = 120.0,
    mix: Sequence[LengthClass] = DEFAULT_MIX,
) -> Requests:
    """Return a synthetic trace; the same arguments give the same trace.

    Parameters
    ----------
    seed : int
        Random seed, >= 0. Its streams are not those of a simulation with the same seed.
    duration_s : float
        Requests arrive in [0, duration_s) seconds, the first at 0; > 0.
    mean_rate_per_s : float
        Mean arrival rate in requests per second; > 0.
    interarrival_cv : float
        Coefficient of variation of the gaps between requests: 1 is Poisson's if `load_cv` is 0.
        Above what the load's own modulation brings (`load_cv`).
    load_cv : float
        Coefficient of variation of the rate's slow modulation; 0 is a constant rate.
    load_correlation_s : float
        Correlation time of that modulation in seconds; > 0.
    mix : sequence of LengthClass
        What requests look like; at least one class.

    Returns
    -------
    Requests
        Arrivals are whole multiples of 100 ns, so that a trace file holds them exactly.

    Raises
    ------
    InvalidParameterError
        If an argument is out of its range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidParameterError("seed", seed, "a whole number >= 0")
    _check("duration_s", duration_s, 1e-3)
    _check("mean_rate_per_s", mean_rate_per_s, 1e-9)
    _check("load_cv", load_cv, 0.0)
    _check("load_correlation_s", load_correlation_s, max(1e-3, duration_s / 1e6))
    if not duration_s * mean_rate_per_s <= _MAX_EXPECTED:
        raise InvalidParameterError(
            "duration_s * mean_rate_per_s", duration_s * mean_rate_per_s, f"<= {_MAX_EXPECTED}"
        )
    if not (load_cv < interarrival_cv <= 100.0):
        raise InvalidParameterError(
            "interarrival_cv", interarrival_cv, f"> load_cv, which is {load_cv}, and <= 100"
        )
    if len(mix) == 0:
        raise InvalidParameterError("mix", mix, "at least one length class")
    streams = [
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(4)
    ]
    load_rng, gap_rng, class_rng, length_rng = streams
    load, step_s = _load(duration_s, load_cv, load_correlation_s, load_rng)
    burst_cv = math.sqrt((1.0 + interarrival_cv**2) / (1.0 + load_cv**2) - 1.0)
    arrival_s = _arrivals(load, step_s, duration_s, mean_rate_per_s, burst_cv, gap_rng)
    prompt_tokens, output_tokens = _lengths(len(arrival_s), mix, class_rng, length_rng)
    return Requests(arrival_s, prompt_tokens, output_tokens)


def _load(
    duration_s: float, cv: float, correlation_s: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """Return the load relative to its mean in equal steps of the trace, and the step in seconds.

    The logarithm is x_{k+1} = a x_k + sqrt(1 - a²) s z_k, a = exp(-step/correlation time), where
    s² = ln(1 + cv²) gives the lognormal load its coefficient of variation.
    """
    steps = max(1, math.ceil(duration_s / correlation_s * _STEPS_PER_CORRELATION_TIME))
    step_s = duration_s / steps
    sigma = math.sqrt(math.log1p(cv * cv))
    keep = math.exp(-step_s / correlation_s)
    fresh = sigma * math.sqrt(1.0 - keep * keep)
    normals = rng.standard_normal(steps)
    level = sigma * float(normals[0])
    levels = [level]
    for normal in normals[1:].tolist():
        level = keep * level + fresh * normal
        levels.append(level)
    load = np.exp(np.array(levels))
    return load / load.mean(), step_s


def _arrivals(
    load: NDArray[np.float64],
    step_s: float,
    duration_s: float,
    rate_per_s: float,
    burst_cv: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return arrival times in [0, duration_s), the first at 0, in whole multiples of 100 ns."""
    shape = 1.0 / burst_cv**2
    work_end = duration_s * rate_per_s  # on the clock that load drives, gaps have mean 1
    block = int(work_end + 6.0 * burst_cv * work_end**0.5) + 64
    works = [np.zeros(1)]
    while works[-1][-1] < work_end:
        works.append(works[-1][-1] + np.cumsum(rng.gamma(shape, 1.0 / shape, block)))
    work = np.concatenate(works)
    work = work[work < work_end]
    work_at = np.append(0.0, np.cumsum(load)) * (step_s * rate_per_s)
    times = np.interp(work, work_at, np.arange(len(work_at)) * step_s)
    ticks = np.floor(times * 1e7).astype(np.int64)
    # as the reader of trace files computes it, so that a written trace reads back bit by bit
    arrival_s: NDArray[np.float64] = (ticks * 100) / 1e9
    return arrival_s[arrival_s < duration_s]


def _lengths(
    n: int,
    mix: Sequence[LengthClass],
    class_rng: np.random.Generator,
    length_rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return prompt and output lengths in tokens of n requests."""
    weights = np.array([kind.weight for kind in mix])
    kinds = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], class_rng.random(n), "right")
    normals = length_rng.standard_normal((n, 2))

    def draw(medians: list[float], sigmas: list[float], column: int) -> NDArray[np.float64]:
        drawn: NDArray[np.float64] = np.array(medians)[kinds] * np.exp(
            np.minimum(np.array(sigmas)[kinds] * normals[:, column], 50.0)
        )
        return drawn

    prompts = draw([k.prompt_median for k in mix], [k.prompt_sigma for k in mix], 0)
    outputs = draw([k.output_median for k in mix], [k.output_sigma for k in mix], 1)
    return (
        whole_tokens(np.minimum(prompts, MAX_PROMPT_TOKENS), MIN_PROMPT_TOKENS),
        whole_tokens(np.minimum(outputs, MAX_OUTPUT_TOKENS), 1),
    )
