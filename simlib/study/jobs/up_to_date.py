"""File times that tell what is up to date, whatever happened to clocks and copies.

Snakemake compares times. They mislead after a clock was set back, and after a copy that did not
keep them. What tables and figures were made from is therefore kept beside them, and times are
put right by it before Snakemake looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

TABLES_OF, FIGURES_OF = ".tables-of", ".figures-of"
"""In a study's folder: the content of all that its tables and figures were made from."""


def tables_sources(study: Path) -> list[Path]:
    """Return what the tables of a study's folder are made from, results aside."""
    return [study / "study.json"]


def figures_sources(study: Path) -> list[Path]:
    """Return what the figures of a study's folder are made from."""
    return [study / "study.json", study / "tables" / "summary.csv"]


def settle(study: Path, *, altered: Container[str] = (), dryrun: bool = False) -> None:
    """Put the times of a study's folder in the order that their contents ask for.

    Of what is to be made again, a file by which Snakemake knows it is removed: where contents are
    what they were, newer times do not convince it. A dry run removes nothing.

    Parameters
    ----------
    study : Path
        The folder.
    altered : container of str
        Which of ``tables`` and ``figures`` are not what was written.
    dryrun : bool
        Only show what a run would do.
    """
    described, summary = figures_sources(study)
    provenance, drawn = study / "tables" / "provenance.json", study / FIGURES_OF
    _back_from_the_future([described, summary, provenance, drawn])
    if is_made_from(drawn, figures_sources(study)) and "figures" not in altered:
        _no_newer([described, summary], [drawn])
    elif not dryrun:
        drawn.unlink(missing_ok=True)
    if is_made_from(study / TABLES_OF, tables_sources(study)) and "tables" not in altered:
        if summary.exists() and provenance.exists():
            _no_newer([described], [summary, provenance])
        return
    if summary.exists() and provenance.exists():
        _newer(described, [summary, provenance])
    if not dryrun:
        summary.unlink(missing_ok=True)


def is_made_from(mark: Path, sources: Sequence[Path]) -> bool:
    """Return whether a mark holds the content of these files."""
    if not all(path.is_file() for path in (mark, *sources)):
        return False
    if mark.stat().st_size != sum(path.stat().st_size for path in sources):
        return False
    return mark.read_bytes() == b"".join(path.read_bytes() for path in sources)


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


def _no_newer(sources: Sequence[Path], made: Sequence[Path]) -> None:
    oldest = min(path.stat().st_mtime_ns for path in made)
    for path in sources:
        if path.stat().st_mtime_ns > oldest:
            os.utime(path, ns=(oldest, oldest))


def _newer(source: Path, made: Sequence[Path]) -> None:
    if source.stat().st_mtime_ns <= min(path.stat().st_mtime_ns for path in made):
        now = time.time_ns()
        os.utime(source, ns=(now, now))
