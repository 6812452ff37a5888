"""Drawing all figures of a study into a folder."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from simlib.files import replacing
from simlib.study.figures.data import StudyData
from simlib.study.figures.kept import Kept, digest_of
from simlib.study.figures.kinds import KINDS, pages
from simlib.study.figures.plain_text import spell_out_powers
from simlib.study.figures.style import STYLE
from simlib.study.jobs import outputs
from simlib.study.jobs.described import read_study

PNG_DPI = 150


def write_figures(
    study_path: Path, tables: Path, output: Path, *, kept: Path | None = None
) -> list[Path]:
    """Draw every figure of a study from study.json and its tables, as PNG and SVG.

    Figures of an earlier call that the study no longer has are removed if they are unchanged;
    other files of the folder are left alone. Equal tables give equal bytes. In the folder `kept`,
    if given, figures are kept by what they show, and one whose data, code and style are as before
    is not drawn again.

    Returns
    -------
    list of Path
        The files, in the order drawn.

    Raises
    ------
    InvalidParameterError
        If the tables belong to another version of the study.
    """
    study = read_study(study_path)
    if study.get("decision") is not None:
        written = _decision_figures(tables, output, svg=study["svg"])
        outputs.record(output, "figures", [path.name for path in written])
        return written
    data = StudyData.read(study_path, tables)
    suffixes = (".png", ".svg") if data.svg else (".png",)
    store = Kept(kept)
    written = []
    with rc_context(STYLE):
        for name, kind in KINDS.items():
            for stem, page in pages(name, data):
                files = [output / f"{stem}{suffix}" for suffix in suffixes]
                digest = digest_of(name, page)
                if not store.take(digest, files):
                    figure = kind.draw(page)
                    if figure is None:
                        continue
                    _save(figure, files)
                    store.put(digest, files)
                written += files
    outputs.record(output, "figures", [path.name for path in written])
    store.forget_unused()
    return written


def _decision_figures(tables: Path, output: Path, *, svg: bool) -> list[Path]:
    from simlib.study.figures.decision import decision_figures  # its imports cost others time

    written: list[Path] = []
    with rc_context(STYLE):
        for name, figure in decision_figures(tables):
            files = [output / f"{name}{suffix}" for suffix in (".png", ".svg")[: 1 + svg]]
            _save(figure, files)
            written += files
    return written


def _save(figure: Figure, files: list[Path]) -> None:
    spell_out_powers(figure)
    # neither date nor version: the same tables give the same bytes
    for file in files:
        with replacing(file) as temporary:
            if file.suffix == ".png":
                figure.savefig(temporary, dpi=PNG_DPI, metadata={"Software": None},
                               pil_kwargs={"compress_level": 3})  # fmt: skip
            else:
                figure.savefig(temporary, metadata={"Date": None, "Creator": None})
