"""Request traces as CSV in the format of the Azure LLM inference dataset 2023.

The format: a header ``TIMESTAMP,ContextTokens,GeneratedTokens``, then one row per request in order
of time, such as ``2023-11-16 18:17:03.9799600,4808,10``. It is the format of the traces published
with Splitwise (Patel et al., ISCA 2024, doi:10.1109/ISCA59077.2024.00019).

Whole columns are parsed at once when every row looks like the first one. Otherwise the rows are
read one by one, which takes any mix of the accepted spellings, and finds the place of an error.
"""

from __future__ import annotations

import re
from datetime import MAXYEAR, UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.workload.requests import Requests

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MAX_TOKENS = 999_999_999
"""Longest prompt or output that a trace may hold."""
MAX_SPAN_DAYS = 36_525
"""Longest trace, a century: more is a broken clock, and nanoseconds would not fit 64 bits."""

_HEADER = ",".join(COLUMNS)
_TOKENS_ALLOWED = f"a whole number from 1 to {MAX_TOKENS}"
_STAMP_ALLOWED = "a time such as 2023-11-16 18:17:03.9799600"
_STAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_MAX_STAMP_WIDTH = len("2023-11-16 18:17:03.123456789+00:00")
_DIGITS = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
"""Positions of the digits of date and time in a timestamp; a fraction starts at 20."""
_NS = 1_000_000_000
_NS_PER_DAY = 86_400 * _NS


def recognises(data: bytes, _suffix: str) -> bool:
    """Return whether a file is of this format, by its first column's name."""
    return data.startswith(COLUMNS[0].encode())


def parse(data: bytes, file: str) -> Requests:
    """Return the requests in the bytes of a CSV file, the first of them at 0 s.

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
        Naming line, column and value, if a row or the header is not as it must be.
    """
    requests = parse_columns(data)
    return parse_rows(data, file) if requests is None else requests


def text_lines(data: bytes, file: str) -> list[str]:
    """Return the lines of a text file without their ends; blank lines at its end are left out."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        raise InvalidParameterError(
            "trace",
            data[error.start : error.start + 1],
            "UTF-8 text",
            f"{file}, line {line}, column {column}",
        ) from None
    # not splitlines(), which also breaks at characters that may stand inside a line
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def shown(text: str) -> str:
    """Return a text of a file as errors quote it: not longer than a line."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_rows(data: bytes, file: str) -> Requests:
    """Parse row by row: as `parse`, slowly."""
    lines = text_lines(data, file)
    _check_header(lines[0] if lines else "", file)
    if len(lines) == 1:
        raise InvalidParameterError(
            "trace", "a header only", "at least one request", f"{file}, line 2, column TIMESTAMP"
        )
    rows: list[tuple[int, int, int]] = []
    first: _Stamp | None = None
    for number, line in enumerate(lines[1:], start=2):
        fields = _fields(line, number, file)
        place = f"{file}, line {number}, column {COLUMNS[0]}"
        stamp = _stamp(fields[0])
        if stamp is None:
            raise InvalidParameterError(COLUMNS[0], shown(fields[0]), _STAMP_ALLOWED, place)
        first = first or stamp
        if stamp.has_offset != first.has_offset:
            kind = "with" if first.has_offset else "without"
            raise InvalidParameterError(
                COLUMNS[0], fields[0], f"{kind} a UTC offset, as in line 2", place
            )
        since_first = stamp.ns - first.ns
        if rows and since_first < rows[-1][0]:
            before = lines[number - 2].partition(",")[0]
            raise InvalidParameterError(
                COLUMNS[0], fields[0], f"not before {before}, the row above (sort the rows)", place
            )
        if since_first > MAX_SPAN_DAYS * _NS_PER_DAY:
            raise InvalidParameterError(
                COLUMNS[0], fields[0], f"within {MAX_SPAN_DAYS} days of the first", place
            )
        rows.append(
            (since_first, _tokens(1, fields[1], number, file), _tokens(2, fields[2], number, file))
        )
    table = np.array(rows, dtype=np.int64)
    return Requests(table[:, 0] / 1e9, table[:, 1].copy(), table[:, 2].copy())


class _Stamp(NamedTuple):
    ns: int
    """Nanoseconds since the calendar's start; offsets taken off."""
    has_offset: bool


def _stamp(text: str) -> _Stamp | None:
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, offset = match.group(7) or "", match.group(8)
    if hour > 23 or minute > 59 or second > 59:
        return None
    try:
        days = date(year, month, day).toordinal()
    except ValueError:
        return None
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second
    if offset not in (None, "Z"):
        offset_hours, offset_minutes = int(offset[1:3]), int(offset[-2:])
        if offset_hours > 23 or offset_minutes > 59:
            return None
        sign = -1 if offset[0] == "-" else 1
        seconds -= sign * (offset_hours * 3600 + offset_minutes * 60)
    return _Stamp(seconds * _NS + int(fraction.ljust(9, "0")), offset is not None)


def _fields(line: str, number: int, file: str) -> list[str]:
    if not line.strip():
        raise InvalidParameterError(
            "row",
            line,
            f"{_HEADER} (blank lines may stand at the end only)",
            f"{file}, line {number}, column {COLUMNS[0]}",
        )
    fields = line.split(",")
    if len(fields) != len(COLUMNS):
        missing = len(fields) < len(COLUMNS)
        column = COLUMNS[len(fields)] if missing else str(len(COLUMNS) + 1)
        raise InvalidParameterError(
            "row",
            shown(line),
            f"3 fields ({_HEADER}), not {len(fields)}",
            f"{file}, line {number}, column {column}",
        )
    return fields


def _tokens(column: int, text: str, number: int, file: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 12 and 1 <= int(text) <= MAX_TOKENS:
        return int(text)
    raise InvalidParameterError(
        COLUMNS[column],
        shown(text),
        _TOKENS_ALLOWED,
        f"{file}, line {number}, column {COLUMNS[column]}",
    )


def _check_header(line: str, file: str) -> None:
    fields = line.split(",")
    if fields == list(COLUMNS):
        return
    allowed = _HEADER
    column = 1
    missing = [name for name in COLUMNS if name not in fields]
    for index, field in enumerate(fields, start=1):
        near = nearest(field, COLUMNS)
        if field not in COLUMNS and near is not None:
            allowed += f" (nearest to {shown(field)!r} is {near!r})"
            column = index
            break
    else:
        if missing and len(missing) < len(COLUMNS):
            allowed += f" ({missing[0]} is missing)"
    raise InvalidParameterError("header", shown(line), allowed, f"{file}, line 1, column {column}")


def nearest(name: str, names: tuple[str, ...]) -> str | None:
    """Return the one of `names` that is spelt most like `name`, if any is."""
    import difflib  # errors only: not at the start of every job

    by_folded = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(name.strip().casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def parse_columns(data: bytes) -> Requests | None:
    """Parse whole columns at once: as `parse`, or None unless all rows are right and alike."""
    header, _, body = data.partition(b"\n")
    if header.removesuffix(b"\r") != _HEADER.encode():
        return None
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
    text = np.frombuffer(body.rstrip(b"\n"), dtype=np.uint8)
    ends = np.append(np.flatnonzero(text == ord("\n")), len(text))
    starts = np.append(0, ends[:-1] + 1)
    commas = np.flatnonzero(text == ord(","))
    if len(commas) != 2 * len(starts):
        return None
    first_commas, second_commas = commas[0::2], commas[1::2]
    width = int(first_commas[0])
    if width > _MAX_STAMP_WIDTH or (first_commas - starts != width).any():
        return None
    # a second comma on a line of another row leaves a line end among the digits of a number
    since_first = _since_first_ns(text[starts[:, None] + np.arange(width)])
    prompt_tokens = _whole_numbers(text, first_commas + 1, second_commas)
    output_tokens = _whole_numbers(text, second_commas + 1, ends)
    if since_first is None or prompt_tokens is None or output_tokens is None:
        return None
    return Requests(since_first / 1e9, prompt_tokens, output_tokens)


def _since_first_ns(stamps: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return nanoseconds since the first of the timestamps, given as rows of characters."""
    first = _STAMP.fullmatch(stamps[0].tobytes().decode("latin-1"))
    if first is None or _stamp(first.group()) is None:
        return None
    fraction_digits = len(first.group(7) or "")
    positions = np.append(_DIGITS, 20 + np.arange(fraction_digits))
    # all else must equal the first row's: separators, and the offset, which then cancels
    others = np.delete(np.arange(stamps.shape[1]), positions)
    digits = stamps[:, positions] - np.uint8(ord("0"))  # what is below "0" wraps to above 9
    if (digits > 9).any() or (stamps[:, others] != stamps[0, others]).any():
        return None

    def number(begin: int, end: int) -> NDArray[np.int64]:
        return digits[:, begin:end] @ 10 ** np.arange(end - begin - 1, -1, -1, dtype=np.int64)

    hour, minute, second = number(8, 10), number(10, 12), number(12, 14)
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None
    dates, which = np.unique(number(0, 8), return_inverse=True)
    try:
        ordinals = [date(d // 10_000, d // 100 % 100, d % 100).toordinal() for d in dates.tolist()]
    except ValueError:
        return None
    if ordinals[-1] - ordinals[0] >= MAX_SPAN_DAYS:
        return None
    days = np.array(ordinals, dtype=np.int64)[which] - ordinals[0]
    ns = (((days * 24 + hour) * 60 + minute) * 60 + second) * _NS
    if fraction_digits:
        ns += number(14, 14 + fraction_digits) * 10 ** (9 - fraction_digits)
    return None if (np.diff(ns) < 0).any() else ns - ns[0]


def _whole_numbers(
    text: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return the numbers in text[begin:end] of each row, or None if one is no length in tokens."""
    widths = ends - begins
    if widths.min() < 1 or widths.max() > len(str(MAX_TOKENS)):
        return None
    values = np.zeros(len(widths), dtype=np.int64)
    for place in range(int(widths.max())):
        present = widths > place
        digits = text[ends - 1 - np.minimum(place, widths - 1)] - np.uint8(ord("0"))
        if (digits > 9).any():
            return None
        values += np.where(present, digits, 0) * np.int64(10**place)
    return None if values.min() < 1 else values


def to_csv(requests: Requests, start: datetime) -> bytes:
    """Return requests as CSV; timestamps are rounded to 100 ns, as in the published traces.

    Parameters
    ----------
    requests : Requests
        At least one.
    start : datetime
        Date and time of arrival_s = 0; one with a time zone is written in UTC.
    """
    if len(requests) == 0:
        raise InvalidParameterError("requests", "no request", "at least one")
    for column in ("prompt_tokens", "output_tokens"):
        longest = int(getattr(requests, column).max())
        if longest > MAX_TOKENS:
            raise InvalidParameterError(column, longest, f"<= {MAX_TOKENS}")
    if start.tzinfo is not None:
        start = start.astimezone(UTC).replace(tzinfo=None)
    last_s = float(requests.arrival_s[-1])
    if not last_s < (datetime(MAXYEAR, 12, 31) - start).total_seconds():
        raise InvalidParameterError("arrival_s", last_s, f"before the year {MAXYEAR}")
    ticks = np.rint(requests.arrival_s * 1e7).astype(np.int64) + start.microsecond * 10
    start = start.replace(microsecond=0)
    rows = [_HEADER]
    for tick, prompt, output in zip(
        ticks.tolist(),
        requests.prompt_tokens.tolist(),
        requests.output_tokens.tolist(),
        strict=True,
    ):
        second, fraction = divmod(tick, 10_000_000)
        stamp = start + timedelta(seconds=second)
        rows.append(f"{stamp.isoformat(' ')}.{fraction:07d},{prompt},{output}")
    rows.append("")
    return "\n".join(rows).encode()
