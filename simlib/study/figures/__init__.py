"""The figures of a study."""

from simlib.study.figures.write import write_figures

__all__ = ["write_figures"]
