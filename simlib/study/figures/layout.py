"""Sheets of equal panels, laid out in inches: heading, panels, legend at the right, notes."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simlib.study.figures.style import WARNING

ROWS_PER_PAGE = 6
_INCH_PER_CHARACTER = 0.0085
"""Mean width of a character of the figures' font, inches per point of its size."""
_LINE = 0.155
"""Height of a line of small text, inches."""
_SMALL, _TITLE = 8.0, 12.0


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above and below the panels."""

    title: str
    subtitle: str = ""
    warnings: tuple[str, ...] = ()
    """Printed in red."""
    notes: tuple[str, ...] = ()
    """Printed below the panels."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A handle with its label; None for a heading within the legend."""

    handle: Artist | None
    label: str


@dataclass(frozen=True, slots=True)
class Margins:
    """Room around each panel for its ticks and labels, inches."""

    left: float = 0.62
    """Also the room for an axis label of the first column."""
    between_x: float = 0.5
    between_y: float = 0.24
    bottom: float = 0.55


@dataclass(frozen=True, slots=True)
class Sheet:
    """A figure and its panels, `axes[row][column]`."""

    figure: Figure
    axes: list[list[Axes]] = field(default_factory=list)

    def lowest(self, row: int, column: int) -> bool:
        """Return whether no panel stands below this one."""
        return row + 1 == len(self.axes) or column >= len(self.axes[row + 1])


def text_width(text: str, size: float = 8.5) -> float:
    """Return about how wide a text is, inches."""
    return _INCH_PER_CHARACTER * size * len(text)


def make_sheet(
    shape: Sequence[int],
    panel: tuple[float, float],
    heading: Heading,
    *,
    row_titles: Sequence[str] = (),
    panel_titles: Sequence[Sequence[str]] = (),
    legend: Sequence[LegendEntry] = (),
    margins: Margins = Margins(),
    share_x: bool = True,
) -> Sheet:
    """Return a sheet with `shape[row]` panels in each row, `panel` inches wide and high.

    `panel_titles` are by row and column; later rows may have none. With `share_x`, only the
    lowest panel of a column has tick labels.
    """
    n_rows, n_columns = len(shape), max(shape)
    has_rows = any(row_titles)
    row_title = 0.26 if has_rows else 0.0
    titled = [row < len(panel_titles) and any(panel_titles[row]) for row in range(n_rows)]
    title_heights = [0.22 if has_titles else 0.0 for has_titles in titled]
    # where a row is shorter, the panels above its end need room for their labels
    ragged = any(later < earlier for earlier, later in itertools.pairwise(shape))
    labelled = not share_x or ragged
    gap_y = margins.between_y + row_title + (margins.bottom - 0.1 if labelled else 0.0)
    panels_width = n_columns * panel[0] + (n_columns - 1) * margins.between_x
    panels_height = n_rows * (panel[1] + gap_y) - gap_y + sum(title_heights[1:])
    longest = max((text_width(entry.label) for entry in legend), default=0.0)
    legend_width = longest + 0.75 if legend else 0.2
    width = max(margins.left + panels_width + legend_width, 6.6)
    lines = _wrapped(heading, width - 0.3)
    head = 0.14 + 0.24 * len(lines.title) + _LINE * (len(lines.subtitle) + len(lines.warnings))
    top = head + 0.2 + row_title + title_heights[0]
    foot = margins.bottom + (_LINE * len(lines.notes) + 0.06 if lines.notes else 0.0)
    legend_height = 0.19 * len(legend) + 0.1
    height = max(top + panels_height + foot, head + 0.2 + legend_height)

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    _write_heading(figure, lines, width, height)
    sheet = Sheet(figure, [[] for _ in shape])
    for row in range(n_rows):
        above = row * (panel[1] + gap_y) + sum(title_heights[1 : row + 1])
        bottom = height - top - panel[1] - above
        for column in range(shape[row]):
            left = margins.left + column * (panel[0] + margins.between_x)
            box = (left / width, bottom / height, panel[0] / width, panel[1] / height)
            ax = figure.add_axes(box)
            sheet.axes[row].append(ax)
            if titled[row]:
                ax.set_title(panel_titles[row][column], pad=5.0)
            below = row + 1 < n_rows and column < shape[row + 1]
            if share_x and below:
                ax.tick_params(labelbottom=False)
        if has_rows:
            y = bottom + panel[1] + 0.09 + title_heights[row]
            figure.text(
                margins.left / width, y / height, row_titles[row],
                ha="left", va="bottom", fontsize=9.0, fontweight="bold", color="#333333",
            )  # fmt: skip
    if legend:
        left = margins.left + panels_width + 0.12
        figure.legend(
            handles=[entry.handle or _invisible() for entry in legend],
            labels=[entry.label for entry in legend],
            loc="upper left",
            bbox_to_anchor=(left / width, (height - head - 0.12) / height),
            borderaxespad=0.0,
            handlelength=2.2,
        )
    return sheet


@dataclass(frozen=True, slots=True)
class _Lines:
    title: list[str]
    subtitle: list[str]
    warnings: list[str]
    notes: list[str]


def _wrapped(heading: Heading, width: float) -> _Lines:
    def wrap(text: str, size: float) -> list[str]:
        characters = max(int(width / (_INCH_PER_CHARACTER * size)), 20)
        return textwrap.wrap(text, characters)

    return _Lines(
        title=wrap(heading.title, 1.12 * _TITLE),  # bold is wider
        subtitle=wrap(heading.subtitle, _SMALL),
        warnings=[line for text in heading.warnings for line in wrap(text, 1.12 * _SMALL)],
        notes=[line for text in heading.notes for line in wrap(text, _SMALL)],
    )


def _write_heading(figure: Figure, lines: _Lines, width: float, height: float) -> None:
    left = 0.15 / width
    y = height - 0.1
    for texts, step, style in (
        (lines.title, 0.24, {"fontsize": _TITLE, "fontweight": "bold"}),
        (lines.subtitle, _LINE, {"fontsize": _SMALL, "color": "#555555"}),
        (lines.warnings, _LINE, {"fontsize": _SMALL, "color": WARNING, "fontweight": "bold"}),
    ):
        keywords: dict[str, Any] = dict(style)
        for text in texts:
            figure.text(left, y / height, text, ha="left", va="top", **keywords)
            y -= step
    y = 0.06 + _LINE * len(lines.notes)
    for text in lines.notes:
        figure.text(left, y / height, text, ha="left", va="top", fontsize=_SMALL, color="#555555")
        y -= _LINE


def _invisible() -> Artist:
    return Line2D([], [], linestyle="none")
