"""Table latency: iteration seconds interpolated in a table of measured kernels.

`simlib.latency.aiconfigurator` writes the table; reading one needs only this file.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

from simlib.errors import InvalidParameterError
from simlib.latency.models import MAX_STEPS, check_overheads, steps_within

TABLE_FORMAT: Final = 1
"""Version of the table file."""

_Pieces = tuple[list[float], list[float], list[float], list[float]]
"""A piecewise linear function: where pieces start (the first at -inf), and the knot, value at
the knot and slope of each. Below the first knot it is flat, beyond the last it goes on."""


def _pieces(knots: list[float], values: list[float]) -> _Pieces:
    """Return the piecewise linear function through points."""
    starts = [-math.inf, *knots[:-1]]
    slopes = [
        (high - low) / (right - left)
        for (left, right), (low, high) in zip(pairwise(knots), pairwise(values), strict=True)
    ]
    return starts, [knots[0], *knots[:-1]], [values[0], *values[:-1]], [0.0, *slopes]


def _between(grid: list[float], rows: list[list[float]], at: float) -> list[float]:
    """Return the row at a place of a grid of rows: interpolated, flat before, linear after."""
    left = min(max(bisect_right(grid, at) - 1, 0), len(grid) - 2)
    place = max((at - grid[left]) / (grid[left + 1] - grid[left]), 0.0)
    pairs = zip(rows[left], rows[left + 1], strict=True)
    if place > 1.0:  # beyond the grid never fall: noise in its end must not turn the sign
        return [low + place * max(high - low, 0.0) for low, high in pairs]
    return [low + place * (high - low) for low, high in pairs]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Seconds of the three parts of an iteration, each on a grid.

    The parts add up: matrix products, exchanges and the rest depend on the number of tokens,
    prefill attention on a chunk, decode attention on the batch and its mean context.
    """

    model: str
    gpu: str
    tensor_parallel: int
    precision: str
    backend: str
    source: str
    """What computed the table, with its version."""
    kv_bytes_per_token: float
    """Over all GPUs of the replica."""
    kv_capacity_tokens: int
    """Tokens of KV cache of a replica, as the source estimates it."""
    tokens: list[float]
    """Grid of tokens in an iteration, increasing."""
    shared_s: list[float]
    """Seconds of all but attention, per entry of `tokens`."""
    chunk: list[float]
    """Grid of new tokens of a prefill chunk, increasing."""
    before: list[float]
    """Grid of context tokens before a chunk, increasing, from 0."""
    prefill_attention_s: list[list[float]]
    """Seconds of attention of a chunk, ``[chunk][before]``, not decreasing with context."""
    batch: list[float]
    """Grid of decoding sequences, increasing."""
    context: list[float]
    """Grid of mean context tokens per decoding sequence, increasing."""
    decode_attention_s: list[list[float]]
    """Seconds of decode attention, ``[batch][context]``, not decreasing with context."""

    def __post_init__(self) -> None:
        for name in ("tokens", "chunk", "before", "batch", "context"):
            grid = getattr(self, name)
            if len(grid) < 2 or any(low >= high for low, high in pairwise(grid)):
                raise InvalidParameterError(name, grid, "a grid of 2 or more rising numbers")
        shapes = {
            "shared_s": ([self.shared_s], 1, len(self.tokens)),
            "prefill_attention_s": (self.prefill_attention_s, len(self.chunk), len(self.before)),
            "decode_attention_s": (self.decode_attention_s, len(self.batch), len(self.context)),
        }
        for name, (rows, height, width) in shapes.items():
            if len(rows) != height or any(len(row) != width for row in rows):
                raise InvalidParameterError(name, "another shape", f"{height} rows of {width}")
            if not all(0.0 <= value < math.inf for row in rows for value in row):
                raise InvalidParameterError(name, "other values", "finite and >= 0 everywhere")
        if min(self.shared_s) <= 0:
            raise InvalidParameterError("shared_s", min(self.shared_s), "> 0")
        for name in ("prefill_attention_s", "decode_attention_s"):
            for row in getattr(self, name):
                if any(low > high for low, high in pairwise(row)):
                    raise InvalidParameterError(name, row, "not falling with context")

    def write(self, path: Path | str) -> None:
        """Write the table as JSON; the same table always gives the same bytes."""
        content = {"format": TABLE_FORMAT, **asdict(self)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n"
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """Read a table that `write` wrote.

        Raises
        ------
        InvalidParameterError
            If the file is not such a table.
        """
        try:
            content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            version = content.pop("format")
            if version != TABLE_FORMAT:
                raise InvalidParameterError("format", version, str(TABLE_FORMAT), str(path))
            return cls(**content)
        except InvalidParameterError:
            raise
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            allowed = "a latency table that build_latency_table wrote"
            raise InvalidParameterError("table", str(path), allowed, str(error)) from error


class TableLatency:
    """Seconds of an iteration by linear interpolation in a `LatencyTable`.

    Between grid points all parts are linear, at its upper ends they go on along the last piece,
    below the first point they stay at its value. For one batch, decode attention is a continuous
    piecewise linear function of the mean context, so runs of decode steps sum in closed form
    piece by piece.

    Parameters
    ----------
    table
        The grids.
    step_overhead_s, sequence_overhead_s
        Engine overhead per iteration, and per sequence in it.
    """

    __slots__ = ("_chunks", "_fixed_s", "_rows", "_sequence_s", "_shared", "table")

    def __init__(
        self,
        table: LatencyTable,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> None:
        check_overheads(step_overhead_s, sequence_overhead_s)
        self.table = table
        self._fixed_s = step_overhead_s
        self._sequence_s = sequence_overhead_s
        # what was interpolated once, by number of tokens, size of chunk and size of batch
        self._shared: dict[int, float] = {}
        self._chunks: dict[int, _Pieces] = {}
        self._rows: dict[int, tuple[float, _Pieces]] = {}

    @classmethod
    def read(
        cls,
        path: Path | str,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> TableLatency:
        """Return the model of a table file."""
        return cls(
            LatencyTable.read(path),
            step_overhead_s=step_overhead_s,
            sequence_overhead_s=sequence_overhead_s,
        )

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of KV cache per token, over all GPUs of a replica."""
        return self.table.kv_bytes_per_token

    def _new_shared_s(self, tokens: int) -> float:
        """Return the seconds of all but attention, and remember them."""
        rows = [[value] for value in self.table.shared_s]
        value = _between(self.table.tokens, rows, tokens)[0]
        self._shared[tokens] = value
        return value

    def _new_chunk(self, new: int) -> _Pieces:
        """Return a chunk's attention over its context, and remember it."""
        table = self.table
        chunk = _pieces(table.before, _between(table.chunk, table.prefill_attention_s, new))
        self._chunks[new] = chunk
        return chunk

    def _new_row(self, batch: int) -> tuple[float, _Pieces]:
        """Return a batch's seconds: base, and attention over mean context; and remember them."""
        table = self.table
        values = _between(table.batch, table.decode_attention_s, batch)
        rising = list(accumulate(values, max))  # extrapolated batches may lose the order
        base_s = self._fixed_s + batch * self._sequence_s + self._new_shared_s(batch)
        row = (base_s, _pieces(table.context, rising))
        self._rows[batch] = row
        return row

    def iteration_s(
        self, prefill: Sequence[tuple[int, int]], decode_batch: int, decode_context: int
    ) -> float:
        """Return the seconds of one iteration (see `simlib.latency.protocol.LatencyModel`)."""
        seconds = 0.0
        if decode_batch:
            base_s, row = self._rows.get(decode_batch) or self._new_row(decode_batch)
            starts, knots, values, slopes = row
            mean = decode_context / decode_batch
            k = bisect_right(starts, mean) - 1
            seconds = values[k] + slopes[k] * (mean - knots[k])
            if not prefill:
                return base_s + seconds
        tokens = decode_batch
        for new, before in prefill:
            tokens += new
            starts, knots, values, slopes = self._chunks.get(new) or self._new_chunk(new)
            k = bisect_right(starts, before) - 1
            seconds += values[k] + slopes[k] * (before - knots[k])
        shared_s = self._shared.get(tokens) or self._new_shared_s(tokens)
        sequences = decode_batch + len(prefill)
        return seconds + shared_s + self._fixed_s + sequences * self._sequence_s

    def _runs(self, batch: int, context: int, steps: int) -> Iterator[tuple[int, float, float]]:
        """Yield runs of steps within one linear piece: (steps, first step, growth a step)."""
        base_s, row = self._rows.get(batch) or self._new_row(batch)
        starts, knots, values, slopes = row
        mean = context / batch
        k = bisect_right(starts, mean) - 1
        done = 0
        while done < steps:
            at = mean + done
            count = steps - done
            if k + 1 < len(starts):
                count = min(count, max(1, math.ceil(starts[k + 1] - at)))
            yield count, base_s + values[k] + slopes[k] * (at - knots[k]), slopes[k]
            done += count
            while k + 1 < len(starts) and starts[k + 1] <= mean + done:
                k += 1

    def decode_run_s(self, batch: int, context: int, steps: int) -> float:
        """Return the seconds of `steps` decode-only iterations; the context grows by `batch`."""
        seconds = 0.0
        for count, first_s, growth_s in self._runs(batch, context, steps):
            seconds += count * (first_s + 0.5 * growth_s * (count - 1))
        return seconds

    def decode_steps_within(self, batch: int, context: int, budget_s: float) -> int:
        """Return the largest number of steps with ``decode_run_s(…) <= budget_s``."""
        if budget_s == math.inf:
            return MAX_STEPS
        steps, spent_s = 0, 0.0
        for count, first_s, growth_s in self._runs(batch, context, MAX_STEPS):
            run_s = spent_s + count * (first_s + 0.5 * growth_s * (count - 1))
            if run_s > budget_s:
                # the very sums of decode_run_s decide, so that both agree at a budget met exactly
                part = min(count - 1, steps_within(first_s, growth_s, budget_s - spent_s))
                half_s = 0.5 * growth_s
                while spent_s + (part + 1) * (first_s + half_s * part) <= budget_s:
                    part += 1
                while part > 0 and spent_s + part * (first_s + half_s * (part - 1)) > budget_s:
                    part -= 1
                return steps + part
            steps, spent_s = steps + count, run_s
        return steps
