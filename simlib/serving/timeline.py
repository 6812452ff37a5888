"""What replicas do over time, noted on request: batches, KV occupancy, gaps between tokens.

Hand a `Timeline` to `simlib.serving.cluster.simulate`. It notes every jump (iterations alike), not
every iteration, and still knows each gap between two tokens exactly: within a jump all sequences
share the iterations, and only the first gap of a jump can differ between them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.serving.protocol import LatencyModel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Jumps:
    """Columns, a row per jump, in the order in which replicas ended them."""

    pool: Ints
    """0 where requests arrive, 1 for the decode pool."""
    replica: Ints
    start_s: Floats
    end_s: Floats
    steps: Ints
    """Decode steps of each sequence; 0 if only prompts were worked on."""
    prefill_tokens: Ints
    decode_batch: Ints
    decode_context: Ints
    """Tokens of context of all decoding sequences at the start."""
    waiting: Ints
    """Requests in the queue at the start."""
    blocks: Ints
    """Blocks of KV cache held at the end, before completions free theirs."""


class Timeline:
    """Notes of one run; make a new one for each."""

    def __init__(self) -> None:
        self._ints = array("q")
        self._floats = array("d")
        self._gaps = array("d")
        self._last_token_s: dict[int, float] = {}
        self._latency: dict[int, LatencyModel] = {}

    def note(
        self,
        pool: int,
        replica: int,
        latency: LatencyModel,
        span_s: tuple[float, float, float],
        shape: tuple[int, int, int, int, int, int],
        decoding: Iterable[int],
    ) -> None:
        """Note a jump that ends.

        Parameters
        ----------
        pool, replica, latency
            Who.
        span_s
            Its start, the end of its first iteration, and its end.
        shape
            Steps, prefill tokens, decode batch, decode context, waiting, blocks.
        decoding
            Requests that decoded.
        """
        start, first, end = span_s
        self._floats.extend((start, end))
        self._ints.extend((pool, replica, *shape))
        self._latency[pool] = latency
        last = self._last_token_s
        for request in decoding:
            if request in last:
                self._gaps.append(first - last[request])
            last[request] = end

    def emitted(self, request: int, time_s: float) -> None:
        """Note a first token that a prefill emitted."""
        self._last_token_s[request] = time_s

    def jumps(self) -> Jumps:
        """Return what was noted."""
        times = np.frombuffer(self._floats).reshape(-1, 2)
        shape = np.frombuffer(self._ints, np.int64).reshape(-1, 8)
        pool, replica, steps, tokens, batch, context, waiting, blocks = shape.T
        return Jumps(
            pool, replica, times[:, 0], times[:, 1], steps, tokens, batch, context, waiting, blocks
        )

    def itl_s(self) -> tuple[Floats, Ints]:
        """Return the gaps between consecutive tokens of a request, and how many took each."""
        jumps = self.jumps()
        values = [np.frombuffer(self._gaps)]
        weights = [np.ones(len(self._gaps), np.int64)]
        for pool, latency in self._latency.items():
            rows = np.flatnonzero((jumps.pool == pool) & (jumps.steps > 1))
            seconds = [
                latency.iteration_s((), batch, context + step * batch)
                for batch, context, steps in zip(
                    jumps.decode_batch[rows].tolist(),
                    jumps.decode_context[rows].tolist(),
                    jumps.steps[rows].tolist(),
                    strict=True,
                )
                for step in range(1, steps)
            ]
            values.append(np.array(seconds))
            weights.append(np.repeat(jumps.decode_batch[rows], jumps.steps[rows] - 1))
        return np.concatenate(values), np.concatenate(weights)

    def utilisation(self, pool: int, replica: int, window: tuple[float, float]) -> float:
        """Return the share of `window` (seconds) in which a replica worked."""
        low, high = window
        if not high > low:
            raise InvalidParameterError("window", window, "an end after the start")
        jumps = self.jumps()
        mine = (jumps.pool == pool) & (jumps.replica == replica)
        clipped = np.minimum(jumps.end_s[mine], high) - np.maximum(jumps.start_s[mine], low)
        return float(np.maximum(clipped, 0.0).sum()) / (high - low)


def weighted_quantile(values: Floats, weights: Ints, q: float) -> float:
    """Return the smallest value with at least a share `q` of the weight at or below it."""
    if not 0 <= q <= 1:
        raise InvalidParameterError("q", q, "in [0, 1]")
    if len(values) == 0:
        return float("nan")
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    at = int(np.searchsorted(below, q * below[-1]))
    return float(values[order[min(at, len(values) - 1)]])
