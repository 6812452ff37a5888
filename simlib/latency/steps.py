"""Latency of one's own measurements: iterations that only prefill, and that only decode."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError
from simlib.files import read_text
from simlib.latency.protocol import Formula, LatencyModel, Limits, check_seconds
from simlib.latency.table import between, surface

COLUMNS: Final = ("phase", "tokens", "context", "seconds")
PHASES: Final = ("prefill", "decode")
MAX_FILE_BYTES: Final = 16 * 2**20
_HEAD: Final = 6
"""Parameters before the grids: two overheads, and the lengths of the four grids."""


def prefill_s(p: Sequence[float], tokens: float) -> float:
    """Return the seconds of so many prompt tokens without context before them."""
    count, width = int(p[2]), int(p[3])
    return between(p, _HEAD, count, tokens, _HEAD + count + width, width)


def chunk(p: Sequence[float], new: int, before: int) -> float:
    """Return the seconds that a chunk takes longer for the context before it."""
    count, width = int(p[2]), int(p[3])
    whole_s = surface(p, _HEAD, count, width, new, before)[0]
    return max(whole_s - between(p, _HEAD, count, new, _HEAD + count + width, width), 0.0)


def decode_steps(p: Sequence[float], batch: int, mean: float) -> tuple[float, float, int]:
    """Return the seconds of a decode step, its slope in the mean context, and for how long."""
    count, width = int(p[2]), int(p[3])
    return surface(p, _HEAD + count + width + count * width, int(p[4]), int(p[5]), batch, mean)


def iteration(
    p: Sequence[float], work: float, tokens: int, chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    seconds = p[0] + (batch + chunks) * p[1] + prefill_s(p, tokens + batch) + work
    if batch > 0:
        seconds += decode_steps(p, batch, context / batch)[0] - decode_steps(p, batch, 0.0)[0]
    return seconds


def decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, by how much the next is longer, and how long so."""
    seconds, slope, steps = decode_steps(p, batch, context / batch)
    return p[0] + batch * p[1] + seconds, slope, steps


@dataclass(frozen=True, slots=True)
class StepTable:
    """Seconds of iterations by tokens and context, one grid for each of the two phases."""

    tokens: list[float]
    """Prefill: prompt tokens of an iteration, rising."""
    before: list[float]
    """Prefill: tokens of context before them, rising from 0."""
    prefill_s: list[list[float]]
    """``[tokens][before]``."""
    batch: list[float]
    """Decode: sequences, rising."""
    context: list[float]
    """Decode: mean context of a sequence, tokens, rising."""
    decode_s: list[list[float]]
    """``[batch][context]``."""

    @classmethod
    def read(cls, path: Path | str) -> StepTable:
        """Read a CSV file of the columns `COLUMNS`, in any order of lines.

        ``phase`` is ``prefill`` (``tokens`` are the new tokens of a prompt, ``context`` those
        before them) or ``decode`` (``tokens`` are sequences, one token each, ``context`` their
        mean context). Each phase is a whole grid of at least 2 x 2. Seconds are of the whole
        iteration, and must not fall with context.

        Raises
        ------
        InvalidParameterError
            Naming the line that is wrong, or the pair that is missing.
        """
        cells: dict[str, dict[tuple[float, float], float]] = {phase: {} for phase in PHASES}
        text = read_text(Path(path), "path", MAX_FILE_BYTES)
        reader = csv.DictReader(io.StringIO(text))
        if sorted(reader.fieldnames or []) != sorted(COLUMNS):
            allowed = "a CSV file with the columns " + ", ".join(COLUMNS)
            raise InvalidParameterError("path", reader.fieldnames, allowed, str(path))
        for number, line in enumerate(reader, start=2):
            where = f"{path}, line {number}"
            phase = line["phase"]
            if phase not in PHASES:
                raise InvalidParameterError("phase", phase, "prefill or decode", where)
            tokens = _number(line, "tokens", 1.0, where)
            context = _number(line, "context", 0.0, where)
            if (tokens, context) in cells[phase]:
                allowed = "given once for each phase"
                raise InvalidParameterError("tokens, context", (tokens, context), allowed, where)
            seconds = _number(line, "seconds", 0.0, where)
            if seconds == 0.0:
                raise InvalidParameterError("seconds", line["seconds"], "> 0", where)
            cells[phase][tokens, context] = seconds
        prefill, decoding = (_grid(phase, cells[phase], str(path)) for phase in PHASES)
        if prefill[1][0] != 0.0:
            allowed = "0 in the first lines of prefill: prompts without context before them"
            raise InvalidParameterError("context", prefill[1][0], allowed, str(path))
        return cls(*prefill, *decoding)


_Grid = tuple[list[float], list[float], list[list[float]]]


def _grid(phase: str, cells: Mapping[tuple[float, float], float], where: str) -> _Grid:
    """Return rising tokens and contexts, and the seconds of each pair."""
    rows = sorted({tokens for tokens, _ in cells})
    columns = sorted({context for _, context in cells})
    if len(rows) < 2 or len(columns) < 2:
        got = f"{len(rows)} and {len(columns)}"
        allowed = "at least 2 of each"
        raise InvalidParameterError(f"tokens and contexts of {phase}", got, allowed, where)
    for row in rows:
        for column in columns:
            if (row, column) not in cells:
                got = f"no line for tokens {row:g}, context {column:g}"
                raise InvalidParameterError(phase, got, "a whole grid", where)
    seconds = [[cells[row, column] for column in columns] for row in rows]
    for row, values in zip(rows, seconds, strict=True):
        if values != sorted(values):
            name = f"seconds of {phase}, tokens {row:g}"
            raise InvalidParameterError(name, values, "not falling with context", where)
    return rows, columns, seconds


def _number(line: Mapping[str, str], name: str, least: float, where: str) -> float:
    try:
        value = float(line[name])
    except (TypeError, ValueError):
        value = math.nan
    if not least <= value < math.inf:
        raise InvalidParameterError(name, line[name], f"a number >= {least:g}", where)
    return value


FORMULA = Formula(chunk, iteration, decode)


class StepTableLatency(LatencyModel):
    """Seconds of an iteration by linear interpolation in a `StepTable`.

    An iteration of one kind is what the table says. Where sequences decode along with prompts,
    all tokens go through the prefill table as one prompt, and what the decode table says more for
    their context than for the least context comes on top. Several prompts in one iteration count
    as one of as many tokens. Below the first tokens and contexts, seconds stay at their value;
    above the last the table says nothing, and engines refuse to go there (`Limits`).

    Parameters
    ----------
    table
        The grids.
    kv_bytes_per_token
        Bytes of KV cache per token over the replica's GPUs.
    step_overhead_s, sequence_overhead_s
        Engine overhead per iteration, and per sequence in it, that the table does not contain.
    """

    __slots__ = ("table",)

    def __init__(
        self,
        table: StepTable,
        kv_bytes_per_token: float,
        *,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> None:
        check_seconds(step_overhead_s=step_overhead_s, sequence_overhead_s=sequence_overhead_s)
        self.table = table
        grids = (table.tokens, table.before, table.batch, table.context)
        parameters = [step_overhead_s, sequence_overhead_s, *map(len, grids)]
        parameters += table.tokens + table.before + list(chain(*table.prefill_s))
        parameters += table.batch + table.context + list(chain(*table.decode_s))
        limits = Limits(
            tokens=table.tokens[-1],
            before=table.before[-1],
            batch=table.batch[-1],
            context=table.context[-1],
        )
        super().__init__(FORMULA, parameters, kv_bytes_per_token, limits)
