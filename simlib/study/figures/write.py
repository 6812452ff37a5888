"""Drawing all figures of a study into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from simlib.files import replacing
from simlib.study.figures.attribution import attribution_figures
from simlib.study.figures.crossover import crossover_figures
from simlib.study.figures.data import StudyData
from simlib.study.figures.difference import difference_figures
from simlib.study.figures.ecdf import ecdf_figures
from simlib.study.figures.parts import parts_figures
from simlib.study.figures.percentiles import percentile_figures
from simlib.study.figures.plain_text import draw_text_as_it_is
from simlib.study.figures.slo import slo_figures
from simlib.study.figures.style import STYLE
from simlib.study.figures.timeline import timeline_figures
from simlib.study.figures.ttft import batching_figures, ttft_figures
from simlib.study.figures.utilization import utilization_figures
from simlib.study.jobs import outputs

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

    Figures of an earlier call that the study no longer has are removed if they are unchanged;
    other files of the folder are left alone. Equal tables give equal bytes.

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
    names = []
    with rc_context(STYLE):
        for kind in KINDS:
            for stem, figure in kind(data):
                names += _save(figure, output, stem)
    outputs.record(output, "figures", names)
    return [output / name for name in names]


def _save(figure: Figure, folder: Path, stem: str) -> list[str]:
    draw_text_as_it_is(figure)
    # neither date nor version: the same tables give the same bytes
    with replacing(folder / f"{stem}.png") as temporary:
        figure.savefig(temporary, dpi=PNG_DPI, metadata={"Software": None})
    with replacing(folder / f"{stem}.svg") as temporary:
        figure.savefig(temporary, metadata={"Date": None, "Creator": None})
    return [f"{stem}.png", f"{stem}.svg"]
