"""What was measured of points and pairs, kept beside results: an edit measures what is new only.

A kept measurement is used only if all that it depends on is the same: the bytes of the results, the
configuration with its window and definition, the registry of metrics, and the code that measures.
It is no result: deleting it loses time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import scipy

import simlib
from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.files import canonical_json, replacing
from simlib.study.measurement.classes import ClassMeasurement
from simlib.study.measurement.measure import PointMeasurement

_MOST_BYTES = 100_000_000
"""More than any measurement takes."""
T = TypeVar("T")
_MEASURES = ("core", "workload", "serving", "latency", "stats", "study/measurement")
"""Packages whose code decides what is measured of given results."""


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """All that tables show of a point."""

    point: PointMeasurement
    classes: tuple[ClassMeasurement, ...]
    """Each request class, and all together; empty without classes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The place of a measurement of a point or a pair, and the key of what it depends on."""

    path: Path
    key: str

    @classmethod
    def of(cls, config: SimConfig, results: Sequence[Path]) -> Kept:
        """Return the place beside the results of a point's replicates, in order."""
        settings = canonical_json({"config": config.to_dict(), "replicates": len(results)})
        name = f"measured-{_digest(settings.encode())}.json"
        parts = [settings, _registry(), _code(), *(_digest(path.read_bytes()) for path in results)]
        return cls(results[0].parent / name, _digest("\n".join(parts).encode()))

    def compared_with(self, baseline: Kept, margin: float) -> Kept:
        """Return the place, beside a candidate's, of what it and its baseline measured together."""
        sides = canonical_json([str(baseline.path), str(self.path), margin])
        name = f"compared-{_digest(sides.encode())}.json"
        key = "\n".join([baseline.key, self.key, str(margin), _code()])
        return Kept(self.path.parent / name, _digest(key.encode()))

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
        return f"{self.key} {_digest(text.encode())}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _registry() -> str:
    return "\n".join(
        f"{metric.name} {metric.source} {metric.unit!r} {metric.since_arrival} "
        f"{metric.percentiles} {getattr(metric.values, '__qualname__', None)}"
        for metric in METRICS.values()
    )


@cache
def _code() -> str:
    """Return which code measures: a change of it measures anew, and nobody has to think of it."""
    package = Path(simlib.__file__).parent
    files = sorted(path for folder in _MEASURES for path in (package / folder).rglob("*.py"))
    files += [Path(__file__), Path(__file__).with_name("joints.py")]  # say what is kept
    code = b"".join(path.read_bytes() for path in files)
    return f"{_digest(code)} numpy {np.__version__} scipy {scipy.__version__}"


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
        return lambda data: kind(**{name: read(data[name]) for name, read in readers.items()})
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
