"""The file of one simulated replicate: its per-request records and where they come from."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from simlib import __version__
from simlib.core.model_version import MODEL_VERSION
from simlib.core.records import COLUMN_NAMES, RequestRecords
from simlib.errors import InvalidParameterError
from simlib.study.files import replacing


def result_path(results: Path, point_id: str, replicate: int) -> Path:
    """Return where a replicate's records are kept under the results folder."""
    return results / "points" / point_id / f"r{replicate}.npz"


def write_records(
    path: Path, records: RequestRecords, *, point_id: str, replicate: int, config: dict[str, Any]
) -> None:
    """Write one replicate as NPZ, whole or not at all; its members carry checksums."""
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
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, records=rows, meta=np.bytes_(json.dumps(meta, sort_keys=True)))


def read_records(
    path: Path, *, point_id: str | None = None, replicate: int | None = None
) -> tuple[RequestRecords, dict[str, Any]]:
    """Read one replicate and its provenance, and check that it is the one asked for.

    Raises
    ------
    InvalidParameterError
        If the file is missing, damaged, or belongs to another point, replicate or model version.
    """
    try:
        rows, meta = _members(path)
        records = RequestRecords(
            **{name: np.ascontiguousarray(rows[name]) for name in COLUMN_NAMES}
        )
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
    OSError, ValueError, KeyError, IndexError, EOFError, RuntimeError, SyntaxError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged archive may end with, by where it is damaged."""


def _members(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the table and the provenance; checksums are compared before anything is parsed."""
    with zipfile.ZipFile(path) as archive:
        rows, meta = (
            np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            for name in ("records", "meta")
        )
    provenance: dict[str, Any] = json.loads(meta.item())
    return rows, provenance
