"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the ending is kept: some writers choose the format by it
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def canonical_json(data: Any) -> str:
    """Return JSON that is equal for equal data: sorted keys, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON with sorted keys, a line per key or list item, unless the file already holds it.

    Lines are whole items, not single values: the writing of thousands of rows takes a tenth of
    the time, and a difference still shows the row.
    """
    lines = ",\n".join(f"{json.dumps(key)}: {_in_lines(data[key])}" for key in sorted(data))
    text = f"{{\n{lines}\n}}\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return  # an unchanged file keeps its time, so nothing that reads it reruns
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _in_lines(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    items = ",\n".join(json.dumps(item, sort_keys=True, allow_nan=False) for item in value)
    return f"[\n{items}\n]"
