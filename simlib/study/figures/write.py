"""Drawing all figures of a study into a folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from simlib.study.figures.attribution import attribution_figures
from simlib.study.figures.crossover import crossover_figures
from simlib.study.figures.data import StudyData
from simlib.study.figures.difference import difference_figures
from simlib.study.figures.ecdf import ecdf_figures
from simlib.study.figures.parts import parts_figures
from simlib.study.figures.percentiles import percentile_figures
from simlib.study.figures.slo import slo_figures
from simlib.study.figures.style import STYLE
from simlib.study.figures.timeline import timeline_figures
from simlib.study.figures.ttft import batching_figures, ttft_figures
from simlib.study.figures.utilization import utilization_figures

KINDS: tuple[Callable[[StudyData], Iterator[tuple[str, Figure]]], ...] = (
    ttft_figures,
    ecdf_figures,
    parts_figures,
    utilization_figures,
    percentile_figures,
    slo_figures,
    difference_figures,
    attribution_figures,
    crossover_figures,
    batching_figures,
    timeline_figures,
)
PNG_DPI = 150


def write_figures(study_path: Path, tables: Path, output: Path) -> list[Path]:
    """Draw every figure of a study from study.json and its tables, as PNG and SVG.

    The folder `output` is made under another name and renamed at the end; what stood there is
    replaced. Equal tables give equal bytes.

    Returns
    -------
    list of Path
        The files, in the order drawn.

    Raises
    ------
    InvalidParameterError
        If the tables belong to another version of the study.
    """
    data = StudyData.read(study_path, tables)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    replaced = output.with_name(f".{os.getpid()}.old.{output.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    names = []
    try:
        with rc_context(STYLE):
            for kind in KINDS:
                for stem, figure in kind(data):
                    names += _save(figure, temporary, stem)
        if output.exists():
            output.rename(replaced)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return [output / name for name in names]


def _save(figure: Figure, folder: Path, stem: str) -> list[str]:
    # neither date nor version: the same tables give the same bytes
    figure.savefig(folder / f"{stem}.png", dpi=PNG_DPI, metadata={"Software": None})
    figure.savefig(folder / f"{stem}.svg", metadata={"Date": None, "Creator": None})
    return [f"{stem}.png", f"{stem}.svg"]
