"""Where TTFT is spent: the mean of each of its parts, stacked."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simlib.core.records import TTFT_PARTS
from simlib.study.figures.axes import heading
from simlib.study.figures.bars import UNSTABLE_BAR, Panels, bar_names, bar_notes, panels, points_at
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet, text_width
from simlib.study.figures.style import GREY, PARTS, seconds_text

VISIBLE = 0.004
"""Smallest share of a bar that is worth a place in the legend."""
TEXT_ROOM = 0.42
"""Room for the text after a bar, as a share of its length."""


def parts_figure(data: StudyData) -> Figure | None:
    """Return the figure; None where no request was served."""
    grid = panels(data, data.places())
    shown = [p for row in grid.cells for place, level in row
             for p in points_at(data, place, level) if p is not None]  # fmt: skip
    stable = [point for point in shown if not point.unstable]
    present = [
        part for part in TTFT_PARTS
        if any(part_s(point, part) > VISIBLE * total_s(point) for point in stable)
    ]  # fmt: skip
    return _page(data, grid, shown, present) if present else None


def part_s(point: Point, part: str) -> float:
    """Return the mean of a part of the point's TTFT, 0 for what comes after its TTFT ends."""
    return point.value(f"mean_{part}") if part in point.parts else 0.0


def total_s(point: Point) -> float:
    """Return the mean TTFT, as the sum of its parts."""
    return math.fsum(part_s(point, part) for part in TTFT_PARTS)


def _page(data: StudyData, grid: Panels, shown: list[Point], present: list[str]) -> Figure:
    names = bar_names(data)
    panel = (2.9 if max(grid.shape) > 1 else 4.6, max(0.27 * len(names) + 0.22, 0.6))
    legend = [LegendEntry(Patch(facecolor=PARTS[p][1]), PARTS[p][0]) for p in present]
    if any(point.unstable for point in shown):
        hollow = Patch(edgecolor=GREY, **UNSTABLE_BAR)
        legend.append(LegendEntry(hollow, "unstable: waits grow with the run"))
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(
            data,
            "What the mean TTFT, written beside each bar, is spent on",
            notes=[*grid.notes, *bar_notes(data)],
            intervals=False,
        ),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=legend,
        margins=Margins(
            left=max(text_width(n, 8.0) for n in names) + 0.35, between_x=0.3, bottom=0.5
        ),
    )
    for row, cells in enumerate(grid.cells):
        for column, (place, level) in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, points_at(data, place, level))
            ax.set_yticks(range(len(names)), names)
            ax.tick_params(labelleft=column == 0)
            if sheet.lowest(row, column):
                ax.set_xlabel("share of the mean TTFT")
    return sheet.figure


def _draw_panel(ax: Axes, points: list[Point | None]) -> None:
    for row, point in enumerate(points):
        if point is None:
            continue
        total = total_s(point)
        if point.unstable:
            ax.barh(row, 1.0, height=0.66, edgecolor=GREY, **UNSTABLE_BAR)
            ax.text(0.5, row, "unstable", fontsize=7, color="#555555", va="center", ha="center")
        elif total > 0:
            left = 0.0
            for part in TTFT_PARTS:
                width = part_s(point, part) / total
                if width > 0:
                    ax.barh(row, width, left=left, height=0.66, color=PARTS[part][1])
                    left += width
            ax.text(1.03, row, seconds_text(total), va="center", ha="left", fontsize=7.5,
                    color="#333333")  # fmt: skip
    ax.set_xlim(0, 1 + TEXT_ROOM)
    ax.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    ax.set_ylim(len(points) - 0.45, -0.55)
    ax.yaxis.grid(visible=False)
    ax.tick_params(axis="y", length=0)
