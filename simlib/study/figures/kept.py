"""Figures drawn before, by the hash of what they show: an edit draws only what differs."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import matplotlib

import simlib
from simlib.files import replacing
from simlib.study.figures.data import StudyData

_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.(png|svg)")
"""Of a kept figure; other files in the folder are not ours."""


def digest_of(name: str, page: StudyData) -> str:
    """Return the hash of all that can change a page of a kind of figure."""
    return hashlib.sha256(f"{name} {page.digest}".encode()).hexdigest()[:32]


def version() -> str:
    """Return the hash of what draws: the bytes of simlib's code, and matplotlib's version."""
    whole = hashlib.sha256(matplotlib.__version__.encode())
    for path in sorted(Path(simlib.__file__).parent.rglob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


class Kept:
    """A folder of drawn figures that serves one study; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._version = version() if folder else ""
        self._used: set[str] = set()

    def _path(self, digest: str, suffix: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._version}-{digest}{suffix}"

    def take(self, digest: str, files: list[Path]) -> bool:
        """Copy a kept figure to `files`, which differ in their suffix; return whether it was."""
        if self._folder is None:
            return False
        paths = [self._path(digest, file.suffix) for file in files]
        if not all(path.is_file() for path in paths):
            return False
        for path, file in zip(paths, files, strict=True):
            with replacing(file) as temporary:
                shutil.copyfile(path, temporary)  # no link: an edit would reach what is kept
            self._used.add(path.name)
        return True

    def put(self, digest: str, files: list[Path]) -> None:
        """Keep a figure that was drawn to `files`."""
        if self._folder is None:
            return
        for file in files:
            path = self._path(digest, file.suffix)
            with replacing(path) as temporary:
                shutil.copyfile(file, temporary)
            self._used.add(path.name)

    def forget_unused(self) -> None:
        """Remove what no present figure shows."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in self._used:
                path.unlink()
