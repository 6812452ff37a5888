"""Request traces as JSON lines in the format of Mooncake's published traces.

One object per line, in order of time, such as
``{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}``: timestamp
in milliseconds, lengths in tokens, other keys ignored (Qin et al., FAST 2025, arXiv:2407.00079).
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.files import RepeatedKeyError, unique
from simlib.workload.azure_csv import MAX_SPAN_DAYS, MAX_TOKENS, nearest, shown, text_lines
from simlib.workload.requests import Requests

KEYS = ("timestamp", "input_length", "output_length")
_MAX_SPAN_MS = MAX_SPAN_DAYS * 86_400_000


def recognises(data: bytes, suffix: str) -> bool:
    """Return whether a file is JSON lines, by its first character or its name."""
    return data[:1] == b"{" or suffix in (".jsonl", ".json")


def parse(data: bytes, file: str) -> Requests:
    """Return the requests in the bytes of a JSON-lines file, the first of them at 0 s.

    Parameters
    ----------
    data : bytes
        UTF-8 text, without a byte-order mark; lines end with LF or CRLF. Blank lines at the end
        do not count.
    file : str
        Name of the file in errors.

    Raises
    ------
    InvalidParameterError
        Naming line, column (the key, or the character that is no JSON) and value.
    """
    lines = text_lines(data, file)
    if not lines:
        raise InvalidParameterError(
            "trace", "an empty file", "at least one request", f"{file}, line 1, column 1"
        )
    times_ms: list[float] = []
    lengths: list[tuple[int, int]] = []
    for number, line in enumerate(lines, start=1):
        entry = _entry(line, number, file)
        time_ms = _time_ms(entry, number, file)
        if times_ms and time_ms < times_ms[-1]:
            raise InvalidParameterError(
                KEYS[0],
                time_ms,
                f">= {times_ms[-1]}, the line above's (sort the lines)",
                f"{file}, line {number}, column {KEYS[0]}",
            )
        if times_ms and time_ms - times_ms[0] > _MAX_SPAN_MS:
            raise InvalidParameterError(
                KEYS[0],
                time_ms,
                f"within {MAX_SPAN_DAYS} days of the first (in ms)",
                f"{file}, line {number}, column {KEYS[0]}",
            )
        times_ms.append(time_ms)
        lengths.append((_tokens(entry, 1, number, file), _tokens(entry, 2, number, file)))
    # subtracted in Python: whole milliseconds since 1970 or any other start stay exact
    arrival_s = np.array([time_ms - times_ms[0] for time_ms in times_ms], dtype=np.float64) / 1e3
    table = np.array(lengths, dtype=np.int64)
    return Requests(arrival_s, table[:, 0].copy(), table[:, 1].copy())


def _entry(line: str, number: int, file: str) -> dict[str, Any]:
    place = f"{file}, line {number}"
    if not line.strip():
        raise InvalidParameterError(
            "line",
            line,
            "a JSON object (blank lines may stand at the end only)",
            f"{place}, column 1",
        )
    try:
        entry = json.loads(line, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InvalidParameterError(
            "line", shown(line), f"JSON ({error.msg})", f"{place}, column {error.colno}"
        ) from None
    except RepeatedKeyError as error:
        raise InvalidParameterError(
            error.key, "two values", "given once", f"{place}, column {error.key}"
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets in brackets
        raise InvalidParameterError(
            "line", shown(line), "JSON with plain numbers", f"{place}, column 1"
        ) from None
    if not isinstance(entry, dict):
        raise InvalidParameterError(
            "line", shown(line), f"a JSON object with {', '.join(KEYS)}", f"{place}, column 1"
        )
    return entry


def _value(entry: dict[str, Any], key: str, number: int, file: str) -> Any:
    if key in entry:
        return entry[key]
    for other in entry:
        if other not in KEYS and nearest(other, KEYS) == key:
            allowed = f"present (nearest to {shown(other)!r} is {key!r})"
            break
    else:
        allowed = f"present (a line needs {', '.join(KEYS)})"
    raise InvalidParameterError(
        key, [shown(other) for other in entry][:8], allowed, f"{file}, line {number}, column {key}"
    )


def _time_ms(entry: dict[str, Any], number: int, file: str) -> float:
    value = _value(entry, KEYS[0], number, file)
    # bool is an int to Python, and not to JSON; whole numbers stay whole, hence exact
    if type(value) in (int, float) and 0 <= value <= 1e18 and math.isfinite(value):
        return value  # type: ignore[no-any-return]
    raise InvalidParameterError(
        KEYS[0], _quoted(value), "a number of ms >= 0", f"{file}, line {number}, column {KEYS[0]}"
    )


def _tokens(entry: dict[str, Any], index: int, number: int, file: str) -> int:
    value = _value(entry, KEYS[index], number, file)
    if type(value) is int and 1 <= value <= MAX_TOKENS:
        return value
    raise InvalidParameterError(
        KEYS[index],
        _quoted(value),
        f"a whole number from 1 to {MAX_TOKENS}",
        f"{file}, line {number}, column {KEYS[index]}",
    )


def _quoted(value: Any) -> Any:
    return value if len(repr(value)) <= 80 else shown(repr(value))
