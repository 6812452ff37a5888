"""One run at a time in a folder, and no trace of one that was killed."""

from __future__ import annotations

import atexit
import base64
import binascii
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: Snakemake's own lock must do
    fcntl = None  # type: ignore[assignment]


class FolderInUseError(RuntimeError):
    """Another run works in this folder."""


_HELD: dict[Path, IO[str]] = {}
"""Open for the life of the process: the system drops the lock with it, however it ends."""


def hold(folder: Path) -> None:
    """Take the lock of a working directory for the life of this process.

    If the run before this one was killed on this machine, nobody holds what Snakemake locked for
    it, so that is unlocked. After a kill on another machine, Snakemake asks for ``--unlock``.

    Raises
    ------
    FolderInUseError
        If another run holds the lock.
    """
    if fcntl is None:  # pragma: no cover
        return
    path = folder.resolve() / ".snakemake" / "simlib.lock"
    if path in _HELD:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            holder = _holder(file) or "another process"
        raise FolderInUseError(
            f"{holder} is running the studies of this folder; "
            "wait until it ends, or run in another folder"
        ) from None
    except OSError:  # a file system without locks
        file.close()
        return
    host = platform.node()
    if _holder(file).endswith(f" on {host}"):
        for left in (folder / ".snakemake" / "locks").glob("*.lock"):
            left.unlink(missing_ok=True)
    file.truncate(0)
    json.dump(f"process {os.getpid()} on {host}", file)
    file.flush()
    _HELD[path] = file
    atexit.register(_release, file, os.getpid())


def _holder(file: IO[str]) -> str:
    """Return who wrote the lock file; empty after a run that ended by itself."""
    file.seek(0)
    try:
        return str(json.load(file))
    except ValueError:
        return ""


def _release(file: IO[str], owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        file.truncate(0)
        file.close()


def keep_finished(folder: Path, intact: Iterable[Path]) -> None:
    """Tell Snakemake that intact results are whole, though their job was never seen to end.

    Results appear by renaming, so one that passes its checks is finished. Snakemake, which
    cannot know, would make those again that were running when it was killed.
    """
    marks = folder / ".snakemake" / "incomplete"
    if not marks.is_dir():
        return
    wanted = {str(path) for path in intact}
    for mark in marks.iterdir():
        try:
            name = base64.urlsafe_b64decode(mark.name).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if name in wanted:
            mark.unlink(missing_ok=True)
