"""Batching deployments for the coverage of intervals: runs as studies make them, and truths.

Nothing here is a recursion of its own: requests, engine, window and what arrived are the
product's. Loads are set by `simlib.serving.saturation`, as tables report them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from queues import WARMUP_SHARE, Floats, Truth

from simlib.core.config import SimConfig
from simlib.core.records import ttft_s
from simlib.core.summary import counted_requests
from simlib.serving.saturation import Need, needs_of
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.length import Work, work_of

_LONG_RUN = 200_000
_LONG_RUNS = 12
_LONG_RUN_SEED = 900_001


@dataclass(frozen=True)
class Serving:
    """A deployment that batches, with Poisson arrivals."""

    name: str
    settings: dict[str, Any] = field(hash=False)

    @cached_property
    def needs(self) -> dict[str, Need]:
        """What requests need of its pools."""
        return needs_of(SimConfig.from_dict(self.settings))

    @cached_property
    def capacity(self) -> float:
        """Requests per second at which the first pool is saturated."""
        config = SimConfig.from_dict(self.settings | {"sim_seconds": 100_000.0})
        config = SimConfig.from_dict({**config.to_dict(), "arrival": {"rate_per_s": 1.0}})
        records = simulate(config, 0)
        return 1.0 / max(float(np.mean(need.seconds(records))) for need in self.needs.values())

    def at(self, rho: float, requests: float, seed: int) -> SimConfig:
        """Return a run whose window has about so many requests."""
        rate = rho * self.capacity
        window_s = requests / rate
        return SimConfig.from_dict(
            self.settings
            | {
                "arrival": {"rate_per_s": rate},
                "sim_seconds": window_s * (1.0 + WARMUP_SHARE),
                "warmup_seconds": window_s * WARMUP_SHARE,
                "random_seed": seed,
            }
        )

    def runs(
        self, rho: float, requests: float, count: int, seed: int
    ) -> Iterator[tuple[Floats, Work]]:
        """Yield TTFT in order of arrival, and what arrived, of so many replicates."""
        config = self.at(rho, requests, seed)
        for replicate in range(count):
            records = simulate(config, replicate)
            counted = counted_requests(records, config)
            yield ttft_s(counted, config.ttft_definition), work_of(records, config, self.needs)

    def truth(self, rho: float) -> Truth:
        """Return mean and percentiles of TTFT in the long run."""
        long = self.runs(rho, _LONG_RUN, _LONG_RUNS, _LONG_RUN_SEED)
        return Truth.of_runs(ttft for ttft, _ in long)


_LLAMA_70B = {
    "serving": "batching",
    "latency": {
        "kind": "roofline",
        "model": "llama-3.1-70b",
        "step_overhead_s": 0.0015,
        "sequence_overhead_s": 50e-6,
    },
    "prompt_tokens": {"mode": "p50_p90", "p50": 1500, "p90": 4000},
    "output_tokens": {"mode": "p50_p90", "p50": 250, "p90": 600},
}
SERVING = (
    Serving("Llama 70B, 2 mono", _LLAMA_70B | {"mode": "mono"}),
    Serving(
        "Llama 70B, 2 mono of 12 sequences",
        _LLAMA_70B | {"mode": "mono", "batching_mono": {"pool": {"max_batch_size": 12}}},
    ),
    Serving("Llama 70B, 1P1D", _LLAMA_70B | {"mode": "disagg"}),
)
