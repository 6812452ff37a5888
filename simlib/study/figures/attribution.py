"""Why the compared sides differ: each part's share of the difference of the mean TTFT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simlib.core.records import TTFT_PARTS
from simlib.study.figures.axes import heading
from simlib.study.figures.bars import UNSTABLE_BAR, Panels, panels
from simlib.study.figures.data import Line, Place, StudyData, lines_at, number
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet, text_width
from simlib.study.figures.style import GREY, PARTS, level_text, seconds_text, shortened, side_text
from simlib.study.figures.ttft import pages

TOTAL = "total"
ROUNDING_S = 1e-9
"""Differences that small are rounding, and get no place in the legend."""


def attribution_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield the figure's name and the figure; nothing without a comparison."""
    present = [
        part for part in TTFT_PARTS
        if any(abs(number(line, "difference_s")) > ROUNDING_S
               for line in data.attribution if line["part"] == part)
    ]  # fmt: skip
    if not present:
        return
    for suffix, places in pages(data.places()):
        yield f"attribution{suffix}", _page(data, panels(data, places, across=4), present)


def _page(data: StudyData, grid: Panels, present: list[str]) -> Figure:
    assert data.compare is not None
    factor = data.compare["factor"]
    candidates = data.candidates()
    names = [shortened(level_text(factor, level)) for level in candidates]
    panel = (2.35 if max(grid.shape) > 1 else 4.6, max(0.3 * len(names) + 0.2, 0.62))
    diamond = Line2D([], [], color="#222222", linestyle="-", marker="D", markersize=4)
    legend = [
        *(LegendEntry(Patch(facecolor=PARTS[p][1]), PARTS[p][0]) for p in present),
        LegendEntry(diamond, "sum, 95% interval"),
    ]
    if any(point.unstable for point in data.points):
        legend.append(LegendEntry(Patch(edgecolor=GREY, **UNSTABLE_BAR), "some side unstable"))
    baseline = side_text(factor, data.compare["baseline"])
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(
            data,
            f"Why the mean TTFT differs from {baseline}: difference of each part",
            notes=grid.notes,
        ),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=legend,
        margins=Margins(
            left=max(text_width(n, 8.0) for n in names) + 0.35, between_x=0.3, bottom=0.5
        ),
        share_x=False,
    )
    for row, cells in enumerate(grid.cells):
        for column, (place, level) in enumerate(cells):
            ax = sheet.axes[row][column]
            where = dict(place)
            if level is not None and data.x is not None:
                where[data.x.name] = level
            _draw_panel(ax, data, where, present)
            ax.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
            if sheet.lowest(row, column):
                ax.set_xlabel("difference (s)")
    return sheet.figure


def _unstable(data: StudyData, where: Place, candidate: Any) -> bool:
    assert data.compare is not None
    own = data.x is data.colour
    levels = (candidate, data.compare["baseline"])
    x = where.get(data.x.name) if data.x is not None and not own else None
    points = [data.point(where, level, level if own else x) for level in levels]
    return any(point is not None and point.unstable for point in points)


def _draw_panel(ax: Axes, data: StudyData, where: Place, present: list[str]) -> None:
    reach: dict[bool, list[float]] = {True: [], False: []}
    bars: list[tuple[int, bool, dict[str, Line]]] = []
    for row, candidate in enumerate(data.candidates()):
        lines = {
            line["part"]: line
            for line in lines_at(data.attribution, where, candidate=str(candidate))
        }
        if not lines or not math.isfinite(number(lines[TOTAL], "difference_s")):
            continue
        unstable = _unstable(data, where, candidate)
        bars.append((row, unstable, lines))
        sizes = [number(lines[part], "difference_s") for part in present]
        ends = [number(lines[TOTAL], f"difference_s_{end}") for end in ("low", "high")]
        reach[unstable] += [
            math.fsum(v for v in sizes if v > 0),
            math.fsum(v for v in sizes if v < 0),
        ]
        if not unstable:
            reach[unstable] += [end for end in ends if math.isfinite(end)]
    known = reach[False] or reach[True] or [1.0]
    low, high = min(0.0, *known), max(0.0, *known)
    span = (high - low) or 1.0
    low, high = low - 0.1 * span, high + 0.1 * span
    for row, unstable, lines in bars:
        if unstable:
            _draw_unstable(ax, row, lines, (low, high))
        else:
            _draw_stack(ax, row, lines, present)
    ax.axvline(0, color="#222222", linewidth=0.9)
    ax.set_xlim(low, high)
    ax.set_ylim(len(data.candidates()) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.grid(visible=False)
    ax.tick_params(axis="y", length=0)


def _draw_stack(ax: Axes, row: int, lines: dict[str, Line], present: list[str]) -> None:
    """Stack what slows to the right of zero and what speeds up to its left."""
    ends = {True: 0.0, False: 0.0}
    for part in present:
        size = number(lines[part], "difference_s")
        ax.barh(row, size, left=ends[size > 0], height=0.62, color=PARTS[part][1])
        ends[size > 0] += size
    total = lines[TOTAL]
    low, high = number(total, "difference_s_low"), number(total, "difference_s_high")
    if math.isfinite(low):
        ax.hlines(row, low, high, color="#222222", linewidth=1.2, zorder=4)
    ax.plot([number(total, "difference_s")], [row], marker="D", markersize=4, color="#222222",
            markeredgecolor="white", markeredgewidth=0.6, zorder=5)  # fmt: skip


def _draw_unstable(ax: Axes, row: int, lines: dict[str, Line], limits: tuple[float, float]) -> None:
    total = number(lines[TOTAL], "difference_s")
    width = min(max(total, limits[0]), limits[1])
    ax.barh(row, width, height=0.62, edgecolor=GREY, **UNSTABLE_BAR)
    sign = "−" if total < 0 else "+"
    middle = (limits[0] + limits[1]) / 2
    text = f"unstable ({sign}{seconds_text(abs(total))})"
    ax.text(middle, row, text, fontsize=7, color="#555555", va="center", ha="center")
