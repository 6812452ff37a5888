"""File times that tell what is up to date, whatever happened to clocks and copies.

Snakemake compares times. They mislead after a clock was set back, and after a copy that did not
keep them. What tables and figures were made from is therefore kept beside them, and times are
put right by it before Snakemake looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

MARKS = {"tables": ".tables-of", "figures": ".figures-of"}
"""In a study's folder: the content of all that its tables and figures were made from."""


def settle(study: Path) -> None:
    """Put the times of a study's folder in the order that their contents ask for."""
    described, summary = study / "study.json", study / "tables" / "summary.csv"
    provenance = study / "tables" / "provenance.json"
    drawn = study / "figures" / ".snakemake_timestamp"
    _back_from_the_future([described, summary, provenance, drawn])
    _order(study / MARKS["figures"], [described, summary], [drawn])
    _order(study / MARKS["tables"], [described], [summary, provenance])


def not_ahead(files: Iterable[Path]) -> None:
    """Set times that lie ahead of the clock back: Snakemake refuses what is made from such files.

    For files whose order in time does not matter.
    """
    now = time.time_ns()
    for path in files:
        if path.stat().st_mtime_ns > now:
            os.utime(path, ns=(now, now))


def _back_from_the_future(files: Sequence[Path]) -> None:
    """Shift times that lie ahead of the clock, all by as much, so that their order stays."""
    times = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    ahead = max(times.values(), default=0) - time.time_ns()
    if ahead > 0:
        for path, stamp in times.items():
            os.utime(path, ns=(stamp - ahead, stamp - ahead))


def _order(mark: Path, sources: Sequence[Path], made: Sequence[Path]) -> None:
    """Make `sources` no newer than `made` if that was made from them, and newer if it was not."""
    files = (mark, *sources, *made)
    if not all(path.exists() for path in files):
        return
    oldest = min(path.stat().st_mtime_ns for path in made)
    if mark.read_bytes() == b"".join(path.read_bytes() for path in sources):
        for path in sources:
            if path.stat().st_mtime_ns > oldest:
                os.utime(path, ns=(oldest, oldest))
    elif all(path.stat().st_mtime_ns <= oldest for path in sources):
        now = time.time_ns()
        os.utime(sources[0], ns=(now, now))
