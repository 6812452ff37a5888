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


def write_json(path: Path, data: Any) -> None:
    """Write readable JSON with sorted keys, unless the file already holds it."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return  # an unchanged file keeps its time, so nothing that reads it reruns
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
