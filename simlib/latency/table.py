"""Table latency: iteration seconds interpolated in a table of measured kernels.

`simlib.latency.aiconfigurator` writes the table; reading one needs only this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final

from simlib.errors import InvalidParameterError
from simlib.latency.protocol import MAX_STEPS, Formula, LatencyModel, check_seconds

TABLE_FORMAT: Final = 1
"""Version of the table file."""

_HEAD: Final = 7
"""Parameters before the grids: two overheads, and the lengths of the five grids."""


def rank(p: Sequence[float], at: int, count: int, value: float) -> int:
    """Return how many of the `count` rising numbers from `at` on are at most `value`."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if p[at + middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


def between(p: Sequence[float], grid: int, count: int, value: float, at: int, width: int) -> float:
    """Interpolate over a grid: flat before it, linear after it, but never falling there.

    The `count` points from `grid` on have their values at `at`, `width` apart.
    """
    left = min(max(rank(p, grid, count, value) - 1, 0), count - 2)
    place = max((value - p[grid + left]) / (p[grid + left + 1] - p[grid + left]), 0.0)
    low = p[at + left * width]
    rise = p[at + (left + 1) * width] - low
    if place > 1.0:  # noise in the end of the grid must not turn the sign
        rise = max(rise, 0.0)
    return low + place * rise


def shared_s(p: Sequence[float], tokens: int) -> float:
    """Return the seconds of all but attention."""
    count = int(p[2])
    return between(p, _HEAD, count, tokens, _HEAD + count, 1)


def surface(
    p: Sequence[float], grid: int, count: int, width: int, batch: float, mean: float
) -> tuple[float, float, int]:
    """Interpolate over a batch and a mean: return the value, its slope in the mean, for how long.

    From `grid` on stand `count` batches, `width` means, and a row of values per batch. Over the
    mean, pieces never fall.
    """
    knots = grid + count
    values = knots + width
    piece = rank(p, knots, width - 1, mean)
    value = between(p, grid, count, batch, values, width)
    if piece == 0:
        return value, 0.0, max(1, math.ceil(p[knots] - mean))
    following = value
    for k in range(1, piece + 1):  # batches beyond the grid may lose the order
        value = following
        following = max(following, between(p, grid, count, batch, values + k, width))
    left = p[knots + piece - 1]
    slope = (following - value) / (p[knots + piece] - left)
    steps = MAX_STEPS
    if piece < width - 1:
        steps = max(1, math.ceil(p[knots + piece] - mean))
    return value + slope * (mean - left), slope, steps


def decode_attention(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of decode attention, its slope in the mean context, and for how long."""
    chunks = _HEAD + 2 * int(p[2])
    grid = chunks + int(p[3]) + int(p[4]) + int(p[3]) * int(p[4])
    return surface(p, grid, int(p[5]), int(p[6]), batch, context / batch)


def chunk(p: Sequence[float], new: int, before: int) -> float:
    """Return the seconds of a chunk's attention."""
    grid = _HEAD + 2 * int(p[2])
    count, width = int(p[3]), int(p[4])
    knots = grid + count
    values = knots + width
    piece = rank(p, knots, width - 1, before)
    if piece == 0:
        return between(p, grid, count, new, values, width)
    low = between(p, grid, count, new, values + piece - 1, width)
    high = between(p, grid, count, new, values + piece, width)
    left = p[knots + piece - 1]
    return low + (high - low) / (p[knots + piece] - left) * (before - left)


def iteration(
    p: Sequence[float], work: float, tokens: int, chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    seconds = work
    if batch > 0:
        seconds += decode_attention(p, batch, context)[0]
    return seconds + shared_s(p, tokens + batch) + p[0] + (batch + chunks) * p[1]


def decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, and by how much the next is longer, and how long so."""
    attention_s, slope, steps = decode_attention(p, batch, context)
    return p[0] + batch * p[1] + shared_s(p, batch) + attention_s, slope, steps


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


FORMULA = Formula(chunk, iteration, decode)


class TableLatency(LatencyModel):
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

    __slots__ = ("table",)

    def __init__(
        self,
        table: LatencyTable,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> None:
        check_seconds(step_overhead_s=step_overhead_s, sequence_overhead_s=sequence_overhead_s)
        self.table = table
        grids = (table.tokens, table.chunk, table.before, table.batch, table.context)
        parameters = [step_overhead_s, sequence_overhead_s, *map(len, grids)]
        parameters += table.tokens + table.shared_s
        parameters += table.chunk + table.before + list(chain(*table.prefill_attention_s))
        parameters += table.batch + table.context + list(chain(*table.decode_attention_s))
        super().__init__(FORMULA, parameters, table.kv_bytes_per_token)

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
