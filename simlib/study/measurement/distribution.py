"""The distribution of TTFT over a point's requests, lean enough for a table of every point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simlib.core.records import Floats
from simlib.core.summary import Sample

SHARES: Floats = np.concatenate([np.arange(100) / 100, np.arange(991, 1001) / 1000])
"""Shares of the requests with a first token, in rising order: every percent, and ten beyond 99%."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many requests had at most which TTFT, all replicates together."""

    ttft_s: Floats
    """The least TTFT that is not exceeded by each of `SHARES`; nine digits."""
    served: float
    """Share of the accepted requests in the window that got a first token before the run ended."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Distribution | None:
        """Return the distribution of the replicates' TTFT; None if nobody got a first token."""
        served = np.concatenate([one.values[~one.open] for one in samples])
        if len(served) == 0:
            return None
        steps = np.quantile(served, SHARES, method="inverted_cdf")
        total = sum(len(one.values) for one in samples)
        return cls(np.array([float(f"{step:.9g}") for step in steps]), len(served) / total)

    def columns(self) -> tuple[Floats, Floats]:
        """Return the steps of the curve: shares of all accepted requests, and the TTFT in seconds.

        A curve that ends below a share of 1 shows what was not served.
        """
        return SHARES * self.served, self.ttft_s
