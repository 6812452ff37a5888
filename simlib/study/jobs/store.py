"""The file of one simulated replicate: its per-request records and where they come from.

A run that kept its timeline has it in the same file, a member per column, such as
``jumps.start_s``, of the smallest type that holds its numbers, and compressed.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from simlib import __version__
from simlib.core.model_version import MODEL_VERSION
from simlib.core.records import COLUMN_NAMES, RequestRecords
from simlib.errors import InvalidParameterError
from simlib.files import replacing
from simlib.serving.timeline import Gaps, Jumps, Moves, RunTimeline, Table, TimedRecords

MAX_RATIO = 50
"""Most that an archive may unpack to, over its size; timelines reach 3."""
MAX_MEMBERS = 100


def result_path(results: Path, point_id: str, replicate: int) -> Path:
    """Return where a replicate's records are kept under the results folder."""
    return results / "points" / point_id / f"r{replicate}.npz"


def write_records(
    path: Path, records: RequestRecords, *, point_id: str, replicate: int, config: dict[str, Any]
) -> None:
    """Write one replicate as NPZ, whole or not at all; its members carry checksums.

    `TimedRecords` are written with their timeline.
    """
    columns = records.columns()
    kind = np.dtype([(name, column.dtype) for name, column in columns.items()])
    rows = np.empty(len(records), dtype=kind)
    for name, column in columns.items():
        rows[name] = column
    meta = {
        "point_id": point_id,
        "replicate": replicate,
        "config": config,
        "simlib_version": __version__,
        "model_version": MODEL_VERSION,
    }
    members: dict[str, Any] = {}
    if isinstance(records, TimedRecords):
        members = _timeline_members(records.timeline)
        meta["timeline"] = True
    save = np.savez_compressed if members else np.savez
    with replacing(path) as temporary, temporary.open("wb") as file:
        save(file, records=rows, meta=np.bytes_(json.dumps(meta, sort_keys=True)), **members)


def read_records(
    path: Path, *, point_id: str | None = None, replicate: int | None = None
) -> tuple[RequestRecords, dict[str, Any]]:
    """Read one replicate and its provenance, and check that it is the one asked for.

    A run that kept its timeline comes as `TimedRecords`.

    Raises
    ------
    InvalidParameterError
        If the file is missing, damaged, or belongs to another point, replicate or model version.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError if not path.exists() else OSError("it is no file")
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path.stat().st_size)
            records, meta = _content(archive)
    except FileNotFoundError:
        raise InvalidParameterError("result", str(path), "an existing file") from None
    except _DAMAGE as error:
        raise InvalidParameterError(
            "result", str(path), f"an intact result file ({error}); delete it and run again"
        ) from None
    expected = {"point_id": point_id, "replicate": replicate, "model_version": MODEL_VERSION}
    for key, wanted in expected.items():
        if wanted is not None and meta.get(key) != wanted:
            raise InvalidParameterError(
                f"{key} of the result",
                meta.get(key),
                f"{wanted!r}; delete it and run again",
                str(path),
            )
    return records, meta


_DAMAGE = (
    OSError, MemoryError, ArithmeticError, RuntimeError, SyntaxError, AttributeError, EOFError,
    LookupError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged archive may end with, by where it is damaged."""


def _content(archive: zipfile.ZipFile) -> tuple[RequestRecords, dict[str, Any]]:
    """Return records and provenance; checksums are compared before anything is parsed."""
    rows, meta = _member(archive, "records"), _member(archive, "meta")
    provenance: Any = json.loads(meta.item())
    if not isinstance(provenance, dict):
        raise ValueError("the provenance is no mapping")
    known = rows.dtype.names or ()
    # results from before front ends have no routed_s: the router got requests on arrival
    columns = {
        name: np.ascontiguousarray(rows[name])
        for name in COLUMN_NAMES
        if name in known or name != "routed_s"
    }
    columns.setdefault("routed_s", columns["arrival_s"])
    for name, column in columns.items():
        if column.dtype.kind != ("f" if name.endswith("_s") else "i"):
            raise ValueError(f"the column {name} holds no numbers of its kind")
    if provenance.get("timeline"):
        return TimedRecords(**columns, timeline=_timeline(archive)), provenance
    return RequestRecords(**columns), provenance


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive that says it unpacks to far more than what simulations write does."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or unpacked > MAX_RATIO * size:
        raise ValueError(f"{len(members)} members of {unpacked} bytes in a file of {size}")


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """Return the array of a member; its header must agree with its size before it is believed."""
    content = archive.read(f"{name}.npy")
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{name} has another format")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    if fortran or kind.hasobject or len(shape) > 1:
        raise ValueError(f"{name} is no column")
    count = math.prod(shape)
    if count * kind.itemsize != len(content) - file.tell():
        raise ValueError(f"{name} is not as long as it says")
    return np.frombuffer(content, kind, count, file.tell()).reshape(shape)


_TABLES: dict[str, type[Table]] = {"jumps": Jumps, "moves": Moves, "gaps": Gaps}


def _timeline_members(timeline: RunTimeline) -> dict[str, Any]:
    members = {"capacity_blocks": timeline.capacity_blocks}
    for table in _TABLES:
        for name, column in getattr(timeline, table).columns().items():
            members[f"{table}.{name}"] = _smallest(column)
    return members


def _smallest(column: Any) -> Any:
    """Return a column of whole numbers >= 0 in the smallest type that holds them."""
    if column.dtype.kind == "f":
        return column
    return column.astype(np.min_scalar_type(int(column.max(initial=0))))


def _timeline(archive: zipfile.ZipFile) -> RunTimeline:
    tables: dict[str, Any] = {}
    for table, kind in _TABLES.items():
        columns = {f.name: _member(archive, f"{table}.{f.name}") for f in fields(kind)}
        if len({column.shape for column in columns.values()}) > 1:
            raise ValueError(f"columns of {table} differ in length")
        tables[table] = kind(**columns)
    return RunTimeline(**tables, capacity_blocks=_member(archive, "capacity_blocks"))
