"""What commands wrote into a folder: a manifest with hashes, by which it is checked and cleaned.

A folder may hold files of others, or be a link to one that does. A command therefore writes its own
files by name, and removes a file only if the manifest says that it wrote it, and what it wrote is
still there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from simlib.errors import InvalidParameterError
from simlib.files import read_json, write_json

_NAME = re.compile(r"\w[^/\\\0]*")
_HASH = re.compile(r"[0-9a-f]{64}")

Unchanged = Callable[[Path, str], bool]
"""Whether a file has a SHA-256."""


def manifest_path(folder: Path, writer: str) -> Path:
    """Return where a writer (``tables``, ``figures``) notes what it wrote into a folder."""
    return folder / f".{writer}.manifest.json"


def record(folder: Path, writer: str, names: Iterable[str]) -> None:
    """Note the files that `writer` has just written; remove those that it wrote before only."""
    path = manifest_path(folder, writer)
    try:
        before = read_manifest(path)
    except InvalidParameterError:  # none, or damaged: then nothing is known to be ours
        before = {}
    now = {name: sha256(folder / name) for name in sorted(names)}
    for name, digest in before.items():
        if name not in now:
            remove_unchanged(folder / name, digest)
    write_json(path, now)


def remove_unchanged(path: Path, digest: str) -> None:
    """Remove a file if it is there and still what was written; a link is never ours."""
    if not path.is_symlink() and path.is_file() and sha256(path) == digest:
        path.unlink()


def read_manifest(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its name.

    Raises
    ------
    InvalidParameterError
        If there is no manifest, or not one that `record` wrote.
    """
    files = read_json(path, "manifest")
    for name, digest in files.items():
        if not (_NAME.fullmatch(name) and isinstance(digest, str) and _HASH.fullmatch(digest)):
            raise InvalidParameterError("manifest", name, "names and hashes of files", str(path))
    return files


def problems(folder: Path, writer: str, unchanged: Unchanged) -> Iterator[tuple[Path, str]]:
    """Yield the files that are missing or altered, and which of both."""
    path = manifest_path(folder, writer)
    try:
        files = read_manifest(path)
    except InvalidParameterError as error:
        yield path, "corrupt: " + str(error) if path.exists() else "missing"
        return
    for name, digest in files.items():
        file = folder / name
        if not file.is_file():
            yield file, "missing"
        elif not unchanged(file, digest):
            yield file, "altered since it was written"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
