"""Measurements that are kept in a file, and used only where all that they depend on is the same."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

import simlib
from simlib.files import replacing

_MOST_BYTES = 100_000_000
"""More than any measurement takes."""
T = TypeVar("T")
_MEASURES = ("core", "workload", "serving", "latency", "stats", "study/measurement")
"""Packages whose code decides what is measured of given results."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """The place of a measurement, and the key of what it depends on.

    It is no result: deleting it loses time and nothing else.
    """

    path: Path
    key: str

    def read(self, kind: type[T]) -> T | None:
        """Return what was kept; None if there is nothing, or of something else, or damaged."""
        try:
            if not self.path.is_file() or self.path.stat().st_size > _MOST_BYTES:
                return None  # a pipe would wait for ever
            head, _, text = self.path.read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        if head != self._head(text):
            return None
        reader: Callable[[Any], T] = _reader(kind)  # type: ignore[arg-type]
        kept = reader(json.loads(text))
        return kept

    def write(self, measured: object) -> None:
        """Keep a dataclass of plain values; not where somebody else's folder has its name."""
        if self.path.is_dir():
            return
        text = json.dumps(_to_plain(measured))
        with replacing(self.path) as temporary:
            temporary.write_text(f"{self._head(text)}\n{text}", encoding="utf-8")

    def _head(self, text: str) -> str:
        """Return the first line: the key, and a checksum that shows damage."""
        return f"{self.key} {digest_of(text.encode())}"


def digest_of(content: bytes) -> str:
    """Return the hash of some bytes, in 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@cache
def code_that_measures(*others: Path) -> str:
    """Return which code measures: a change of it measures anew, and nobody has to think of it.

    Parameters
    ----------
    others
        Files beyond those of the packages that simulate and measure, which say what is kept.
    """
    package = Path(simlib.__file__).parent
    files = sorted(path for folder in _MEASURES for path in (package / folder).rglob("*.py"))
    code = b"".join(path.read_bytes() for path in [*files, *others])
    return f"{digest_of(code)} numpy {np.__version__}"


def _to_plain(value: Any) -> Any:
    """Return dataclasses and arrays as what JSON can hold; numbers keep every bit."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return what turns the plain form of a type back into it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
        # most fields are plain already
        turned = {name: read for name, read in readers.items() if read is not _as_it_is}
        return lambda data: kind(**data | {name: read(data[name]) for name, read in turned.items()})
    if origin in (Union, types.UnionType):
        some = _reader(next(one for one in arguments if one is not types.NoneType))
        return lambda data: None if data is None else some(data)
    if origin is np.ndarray:
        return lambda data: np.array(data, dtype=np.float64)
    if origin is tuple:
        each = _reader(arguments[0])
        return lambda data: tuple(map(each, data))
    if origin is dict and _reader(arguments[1]) is not _as_it_is:
        each = _reader(arguments[1])
        return lambda data: {key: each(value) for key, value in data.items()}
    return _as_it_is


def _as_it_is(data: Any) -> Any:
    return data
