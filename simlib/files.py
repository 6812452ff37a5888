"""Reading and writing files: nobody sees half of one, and a wrong one is told in one line."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from simlib.errors import InvalidParameterError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

MAX_JSON_BYTES = 256 * 2**20
"""Largest JSON file that is read; the description of 50,000 points takes 100 MB."""
LEFTOVER = re.compile(r"\.\d+\..+")
"""Name of a file that a job is writing, or was when it was killed."""
_ABANDONED_S = 3600.0
"""A file that nobody has written to for so long has no writer, where locks cannot tell."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if all went well.

    While it is written it is locked, so that `tidy` can tell it from what a killed writer left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the ending is kept: some writers choose the format by it
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with temporary.open("ab") as file:
            _locked(file)
            yield temporary
            os.fsync(file.fileno())
        make_way(path, path.parent)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def tidy(folder: Path, names: Container[str], root: Path) -> None:
    """Make a folder fit for writing files of these names: `make_way`, and without leftovers.

    Leftovers are what killed writers left half-written.
    """
    try:
        with os.scandir(folder) as entries:
            odd = [
                (entry.name, LEFTOVER.fullmatch(entry.name) is not None)
                for entry in entries
                if entry.name[0] == "." or not entry.is_file()
            ]
    except FileNotFoundError:
        return
    except OSError:  # a file stands in place of the folder, or of one above it
        make_way(folder / "any", root)
        return
    for name, leftover in odd:
        path = folder / name
        if leftover:
            _remove_abandoned(path)
        elif name in names:
            make_way(path, root)


def _remove_abandoned(path: Path) -> None:
    try:
        if stat.S_ISREG(path.lstat().st_mode) and _abandoned(path):
            path.unlink()
    except OSError:  # its writer just ended, or it is not ours to remove
        return


def _locked(file: IO[bytes]) -> bool | None:
    """Lock a file; return whether that was possible, None where files cannot be locked."""
    if fcntl is None:  # pragma: no cover
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _abandoned(path: Path) -> bool:
    with path.open("rb") as file:
        locked = _locked(file)
    return time.time() - path.stat().st_mtime > _ABANDONED_S if locked is None else locked


def make_way(path: Path, root: Path) -> None:
    """Move aside what stands where a file of ours must be: a folder, a pipe, a dangling link.

    The same for a file that stands in place of a folder between `root` and `path`. Nothing is
    deleted: it gets another name, which is told on stderr.
    """
    for place in (*reversed([p for p in path.parents if root in p.parents]), path):
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            if not place.is_symlink():
                return
        except OSError:  # a link that leads to itself
            if not place.is_symlink():
                raise
        else:
            if stat.S_ISREG(mode) if place == path else stat.S_ISDIR(mode):
                continue
        number = 1
        while (aside := place.with_name(f"{place.name}.aside-{number}")).exists():
            number += 1
        place.rename(aside)
        print(
            f"moved aside what stood in place of a result: {place} is now {aside}", file=sys.stderr
        )


def canonical_json(data: Any) -> str:
    """Return JSON that is equal for equal data: sorted keys, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON with sorted keys, a line per key or list item, unless the file already holds it.

    Lines are whole items, not single values: the writing of thousands of rows takes a tenth of
    the time, and a difference still shows the row.
    """
    lines = ",\n".join(f"{json.dumps(key)}: {_in_lines(data[key])}" for key in sorted(data))
    text = f"{{\n{lines}\n}}\n".encode()
    try:
        if path.stat().st_size == len(text) and path.read_bytes() == text:
            return  # an unchanged file keeps its time, so nothing that reads it reruns
    except OSError:
        pass
    with replacing(path) as temporary:
        temporary.write_bytes(text)


def _in_lines(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    items = ",\n".join(json.dumps(item, sort_keys=True, allow_nan=False) for item in value)
    return f"[\n{items}\n]"


def read_text(path: Path, name: str, most_bytes: int) -> str:
    """Return the text of a regular file of UTF-8.

    Raises
    ------
    InvalidParameterError
        If it cannot be read, is no file (a folder, a pipe that would wait for ever), is larger
        than `most_bytes`, or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise InvalidParameterError(name, str(path), f"a readable file (it is {what})")
        if status.st_size > most_bytes:
            allowed = f"a file of at most {most_bytes} bytes"
            raise InvalidParameterError(name, f"{status.st_size} bytes", allowed, str(path))
        return path.read_bytes().decode("utf-8-sig")
    except InvalidParameterError:
        raise
    except OSError as error:
        raise InvalidParameterError(
            name, str(path), f"a readable file ({error.strerror})"
        ) from None
    except ValueError as error:  # not UTF-8, or a null byte in the path
        raise InvalidParameterError(name, str(path), f"UTF-8 text ({error})") from None


def read_json(path: Path, name: str = "file") -> dict[str, Any]:
    """Return the mapping that a JSON file holds.

    Raises
    ------
    InvalidParameterError
        If it cannot be read, or holds no JSON, or no mapping, or a key twice.
    """
    text = read_text(path, name, MAX_JSON_BYTES)
    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidParameterError(name, str(path), f"a file of JSON ({error})") from None
    if not isinstance(data, dict):
        raise InvalidParameterError(name, str(path), "a file of JSON that holds a mapping")
    return data


class RepeatedKeyError(ValueError):
    """A mapping of JSON has a key twice."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"the key {key!r} stands there twice")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping from JSON's pairs, none of which may have the key of another."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RepeatedKeyError(twice[:80])
    return data


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
