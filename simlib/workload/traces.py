"""Traces of requests: reading, replaying, hashing and writing them."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import time
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.workload import azure_csv, mooncake_jsonl
from simlib.workload.requests import Requests


class TraceFormat(NamedTuple):
    """A format of trace files."""

    recognises: Callable[[bytes, str], bool]
    """Whether a file is of it, from its bytes and the ending of its name, in lower case."""
    parse: Callable[[bytes, str], Requests]
    """Read a file's bytes; errors name the path as given."""


FORMATS: dict[str, TraceFormat] = {
    "mooncake_jsonl": TraceFormat(mooncake_jsonl.recognises, mooncake_jsonl.parse),
    "azure_csv": TraceFormat(azure_csv.recognises, azure_csv.parse),
}
"""Formats by name. A file is of the first that recognises it; of Azure's, whose errors say what a
table must have, if none does."""

DEFAULT_START = datetime(2024, 1, 1)
"""Date and time that `write_trace` gives to arrival_s = 0."""

MAX_FILE_BYTES = 2 * 2**30
"""Largest trace."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SETTLED_NS = 2_000_000_000


def load_trace(path: Path) -> Requests:
    """Read a trace of requests.

    The content tells the format: a file whose first character is ``{`` is Mooncake JSON lines
    (`simlib.workload.mooncake_jsonl`), as is one whose name ends in ``.jsonl``; any other is
    Azure CSV (`simlib.workload.azure_csv`).

    Parameters
    ----------
    path : Path
        The file: UTF-8, lines that end with LF or CRLF.

    Returns
    -------
    Requests
        Columns of one entry per request, read-only. Arrivals are seconds since the first request,
        to the precision of the file (100 ns in the published Azure traces).

    Raises
    ------
    InvalidParameterError
        If the file cannot be read or holds no request; and, naming line, column and value, if a
        row is malformed, a length is not positive, or the times are not in order.
    """
    version = _file_version(path)
    return _load_once(version) if version.settled() else _load(version)


def replay(
    trace: Requests, *, speed: float = 1.0, start_s: float = 0.0, length_s: float | None = None
) -> Requests:
    """Return the requests of a window of a trace, on a clock that starts with the window.

    A request that arrives at t of the trace arrives at (t - start_s) / speed.

    Parameters
    ----------
    trace : Requests
        As `load_trace` returns it.
    speed : float
        2.0 halves every gap, which doubles the rate; > 0.
    start_s, length_s : float
        The window [start_s, start_s + length_s) in seconds of the trace's own clock; without a
        length it reaches to the trace's end.

    Raises
    ------
    InvalidParameterError
        If a value is out of its range, or no request lies in the window.
    """
    if not (speed > 0 and math.isfinite(speed)):
        raise InvalidParameterError("speed", speed, "a finite number > 0")
    if not (start_s >= 0 and math.isfinite(start_s)):
        raise InvalidParameterError("start_s", start_s, "a finite number >= 0")
    if length_s is not None and not length_s > 0:
        raise InvalidParameterError("length_s", length_s, "> 0")
    # edges are compared on the trace's clock: windows side by side lose and repeat no request
    begin = int(np.searchsorted(trace.arrival_s, start_s, side="left"))
    end = len(trace)
    if length_s is not None:
        end = int(np.searchsorted(trace.arrival_s, start_s + length_s, side="left"))
    if begin >= end:
        window = f"[{start_s:g}, {'end' if length_s is None else f'{start_s + length_s:g}'}) s"
        raise InvalidParameterError("window", window, f"one that holds requests; {_span(trace)}")
    with np.errstate(over="ignore"):
        arrival_s = (trace.arrival_s[begin:end] - start_s) / speed
    if not np.isfinite(arrival_s[-1]):
        raise InvalidParameterError("speed", speed, "large enough for finite times")
    return Requests(arrival_s, trace.prompt_tokens[begin:end], trace.output_tokens[begin:end])


def trace_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    It is computed once per process and state of the file (path, size, time of change).

    Raises
    ------
    InvalidParameterError
        If the file cannot be read.
    """
    version = _file_version(path)
    return _sha256_once(version) if version.settled() else _sha256(version)


def write_trace(requests: Requests, path: Path, start: datetime = DEFAULT_START) -> None:
    """Write a trace in Azure's CSV format; the file appears whole or not at all.

    Arrivals are rounded to 100 ns. `load_trace` counts from the first request, so an earlier
    first arrival than 0 s is all that a round trip loses.

    Parameters
    ----------
    requests : Requests
        At least one.
    path : Path
        Where to; missing folders are made.
    start : datetime
        Date and time of arrival_s = 0; one with a time zone is written in UTC.
    """
    path = Path(path)
    data = azure_csv.to_csv(requests, start)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _FileVersion(NamedTuple):
    """A state of a file: what is known of one state stays true."""

    shown: str
    """The path as the caller wrote it."""
    path: str
    size: int
    mtime_ns: int
    inode: int

    def settled(self) -> bool:
        """Return whether a later change would show: clocks of file systems are coarse."""
        return time.time_ns() - self.mtime_ns > _SETTLED_NS


def _file_version(path: Path) -> _FileVersion:
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from None
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise InvalidParameterError("path", str(path), f"a readable trace file (it is {what})")
    if status.st_size > MAX_FILE_BYTES:
        allowed = f"a trace file of at most {MAX_FILE_BYTES} bytes"
        raise InvalidParameterError("path", f"{status.st_size} bytes", allowed, str(path))
    return _FileVersion(
        str(path), str(Path(path).absolute()), status.st_size, status.st_mtime_ns, status.st_ino
    )


def _unreadable(path: str, error: Exception) -> InvalidParameterError:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidParameterError("path", path, f"a readable trace file ({reason})")


def _read(version: _FileVersion) -> bytes:
    try:
        return Path(version.path).read_bytes()
    except OSError as error:
        raise _unreadable(version.shown, error) from None


def _load(version: _FileVersion) -> Requests:
    data = _read(version).removeprefix(_BYTE_ORDER_MARK)
    if not data.strip():
        raise InvalidParameterError(
            "trace", "an empty file", "at least one request", f"{version.shown}, line 1, column 1"
        )
    suffix = Path(version.path).suffix.lower()
    of = (form for form in FORMATS.values() if form.recognises(data, suffix))
    requests = next(of, FORMATS["azure_csv"]).parse(data, version.shown)
    for column in (requests.arrival_s, requests.prompt_tokens, requests.output_tokens):
        column.flags.writeable = False  # callers share it
    return requests


def _sha256(version: _FileVersion) -> str:
    return hashlib.sha256(_read(version)).hexdigest()


_load_once = lru_cache(maxsize=4)(_load)
_sha256_once = lru_cache(maxsize=256)(_sha256)


def _span(trace: Requests) -> str:
    if len(trace) == 0:
        return "the trace holds none"
    return f"the trace covers [{trace.arrival_s[0]:g}, {trace.arrival_s[-1]:.10g}] s"
