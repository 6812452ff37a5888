"""Where TTFT is spent: the mean of each of its parts, stacked."""

from __future__ import annotations

import math
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simlib.core.records import TTFT_PARTS
from simlib.study.figures.axes import finite, heading
from simlib.study.figures.bars import UNSTABLE_BAR, Panels, bar_names, bar_notes, panels, points_at
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet, text_width
from simlib.study.figures.style import GREY, PARTS, seconds_text
from simlib.study.figures.ttft import pages


def parts_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield the figure's name and the figure, one per page."""
    present = [part for part in TTFT_PARTS
               if any(point.value(f"mean_{part}") > 0 for point in data.points)]  # fmt: skip
    if not present:
        return
    for suffix, places in pages(data.places()):
        yield f"ttft_parts{suffix}", _page(data, panels(data, places, across=4), present)


def _page(data: StudyData, grid: Panels, present: list[str]) -> Figure:
    names = bar_names(data)
    panel = (2.35 if max(grid.shape) > 1 else 4.6, max(0.27 * len(names) + 0.22, 0.6))
    handles = [LegendEntry(Patch(facecolor=PARTS[p][1]), PARTS[p][0]) for p in present]
    if any(p is not None and p.unstable for row in grid.cells for place, level in row
           for p in points_at(data, place, level)):  # fmt: skip
        hollow = Patch(edgecolor=GREY, **UNSTABLE_BAR)
        handles.append(LegendEntry(hollow, "unstable (mean of this run)"))
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(
            data,
            "Where the mean TTFT is spent",
            notes=[*grid.notes, *bar_notes(data), *_notes(data)],
        ),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=handles,
        margins=Margins(
            left=max(text_width(n, 8.0) for n in names) + 0.35, between_x=0.3, bottom=0.5
        ),
        share_x=False,
    )
    for row, cells in enumerate(grid.cells):
        for column, (place, level) in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, points_at(data, place, level), present)
            ax.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
            if sheet.lowest(row, column):
                ax.set_xlabel("mean TTFT (s)")
    return sheet.figure


def _notes(data: StudyData) -> list[str]:
    if all(point.line["ttft_definition"] == "first_decode_step" for point in data.points):
        return []
    return ["The parts sum to the TTFT that ends with the first decode step."]


def _draw_panel(ax: Axes, points: list[Point | None], present: list[str]) -> None:
    totals = {
        row: math.fsum(point.value(f"mean_{part}") for part in present)
        for row, point in enumerate(points)
        if point is not None
    }
    stable = [totals[row] for row, p in enumerate(points) if p is not None and not p.unstable]
    longest = max(finite(stable) or finite(list(totals.values())) or [1.0])
    ends = [_interval_end(p, totals[row]) for row, p in enumerate(points) if p is not None]
    limit = 1.34 * max(longest, *finite(ends))  # room for the text after the longest bar
    for row, point in enumerate(points):
        if point is None or not math.isfinite(totals[row]):
            continue
        if point.unstable:
            ax.barh(row, min(totals[row], longest), height=0.66, edgecolor=GREY, **UNSTABLE_BAR)
            text = f"unstable ({seconds_text(totals[row])})"
            ax.text(0.03 * limit, row, text, fontsize=7, color="#555555", va="center")
            continue
        left = 0.0
        for part in present:
            width = point.value(f"mean_{part}")
            ax.barh(row, width, left=left, height=0.66, color=PARTS[part][1])
            left += width
        end = _interval_end(point, left)
        if end > left:
            ax.hlines(row, point.value("mean_ttft_s_low"), end, color="#222222", linewidth=1.0)
        ax.text(end + 0.02 * limit, row, seconds_text(left), va="center", ha="left",
                fontsize=7.5, color="#333333")  # fmt: skip
    ax.set_xlim(0, limit)
    ax.set_ylim(len(points) - 0.45, -0.55)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.grid(visible=False)
    ax.tick_params(axis="y", length=0)


def _interval_end(point: Point, total: float) -> float:
    """Return the upper end of the interval of the mean, `total` where none is drawn."""
    high = point.value("mean_ttft_s_high")
    shown = point.line["ttft_definition"] == "first_decode_step" and not point.unstable
    return max(total, high) if shown and math.isfinite(high) else (0.0 if point.unstable else total)
