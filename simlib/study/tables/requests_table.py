"""requests.parquet: every request of a study, in large row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simlib.core.config import SimConfig
from simlib.core.records import COLUMN_NAMES, RequestRecords, in_window
from simlib.core.sampling import sample_classes
from simlib.files import replacing

GROUP_ROWS = 100_000
"""Fewest rows of a row group but the last: small ones cost more than their content."""

Part = tuple[dict[str, Any], SimConfig, int, RequestRecords]
"""A row of study.json, its configuration, a replicate and its records."""


class RequestsTable:
    """Takes the records of one replicate after the other; holds a row group at most."""

    def __init__(self, path: Path, *, classes: bool) -> None:
        self._path = path
        self._classes = classes
        self._parts: list[Part] = []
        self._held = 0
        self._writer: pq.ParquetWriter | None = None

    def add(
        self, row: dict[str, Any], config: SimConfig, replicate: int, records: RequestRecords
    ) -> None:
        """Append the requests of a replicate of a row of study.json."""
        self._parts.append((row, config, replicate, records))
        self._held += len(records)
        if self._held >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._parts:
            self._flush()
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        table = _table(self._parts, classes=self._classes)
        self._parts, self._held = [], 0
        self._writer = self._writer or _writer(self._path, table.schema)
        self._writer.write_table(table, row_group_size=len(table) or None)


@contextmanager
def requests_table(path: Path, rows: Sequence[dict[str, Any]]) -> Iterator[RequestsTable]:
    """Yield the table of the rows of a study.json; the file appears if all went well."""
    with replacing(path) as temporary:
        classes = any(row["config"].get("request_classes") for row in rows)
        table = RequestsTable(temporary, classes=classes)
        try:
            yield table
            table.close()
        finally:
            table.abandon()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # times compress best with their bytes split by significance, texts by dictionary
    times = [column.name for column in schema if pa.types.is_floating(column.type)]
    texts = [column.name for column in schema if pa.types.is_dictionary(column.type)]
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=texts, use_byte_stream_split=times
    )


def _table(parts: Sequence[Part], *, classes: bool) -> pa.Table:
    lengths = [len(records) for *_, records in parts]
    columns: dict[str, Any] = {
        key: _texts([row["coordinates"][key] for row, *_ in parts], lengths)
        for key in parts[0][0]["coordinates"]
    }
    columns["point_id"] = _texts([row["point_id"] for row, *_ in parts], lengths)
    replicates = np.array([replicate for _, _, replicate, _ in parts], np.int32)
    columns["replicate"] = np.repeat(replicates, lengths)
    columns["in_window"] = np.concatenate(
        [
            in_window(records, config.warmup_seconds, config.sim_seconds)
            for _, config, _, records in parts
        ]
    )
    if classes:
        columns["request_class"] = pa.concat_arrays([_classes(*part) for part in parts])
    for name in COLUMN_NAMES:
        columns[name] = np.concatenate([getattr(records, name) for *_, records in parts])
    return pa.table(columns)


def _texts(values: Sequence[Any], lengths: Sequence[int]) -> pa.DictionaryArray:
    """Return each value as text, null for None, as often as its length says."""
    texts = pa.array([None if value is None else str(value) for value in values], pa.string())
    places = pa.array(np.repeat(np.arange(len(values), dtype=np.int32), lengths))
    return texts.take(places).dictionary_encode()


def _classes(
    _row: dict[str, Any], config: SimConfig, replicate: int, records: RequestRecords
) -> pa.DictionaryArray:
    names = pa.array(list(config.request_classes), pa.string())
    if not config.request_classes:
        return pa.nulls(len(records), pa.string()).dictionary_encode()
    drawn = pa.array(sample_classes(config, replicate, records.request_id), pa.int32())
    return names.take(drawn).dictionary_encode()
