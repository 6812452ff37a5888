"""Percentiles of TTFT as bars side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simlib.study.figures.axes import finite, heading, stability_legend, styles_of
from simlib.study.figures.bars import Panels, bar_names, bar_notes, panels, points_at
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.style import STATISTICS, SeriesStyle
from simlib.study.figures.ttft import draw_marker, missing_notes, pages


def percentile_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield the figure's name and the figure, one per page."""
    shown = [s for s in STATISTICS if finite([point.value(s) for point in data.points])]
    if not shown:
        return
    across = 4 if len(data.series()) <= 4 else 2
    for suffix, places in pages(data.places()):
        yield f"ttft_percentiles{suffix}", _page(data, panels(data, places, across), shown)


def _page(data: StudyData, grid: Panels, shown: list[str]) -> Figure:
    n = len(data.series())
    panel = (min(max(2.5, 0.09 * n * len(shown)), 5.2), 1.9)
    if grid.shape == [1]:
        panel = (max(panel[0], 4.2), 2.8)
    styles = styles_of(data)
    legend = [
        LegendEntry(Patch(**_face(style, index)), name)
        for index, (name, style) in enumerate(zip(bar_names(data), styles, strict=True))
    ]
    legend += stability_legend(data, shaded=False)
    notes = [*grid.notes, *bar_notes(data), *missing_notes(data, tuple(STATISTICS))]
    if any(point.unstable for point in data.points):
        notes.append("Unstable points have no bar: their TTFT grows with the length of the run.")
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(data, "Mean and percentiles of TTFT, side by side", notes=notes),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=legend,
        margins=Margins(left=0.7, between_x=0.48, between_y=0.24, bottom=0.34),
        share_x=False,
    )
    for row, cells in enumerate(grid.cells):
        for column, (place, level) in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, points_at(data, place, level), styles, shown)
            if column == 0:
                ax.set_ylabel("TTFT (s)")
    return sheet.figure


def _face(style: SeriesStyle, index: int) -> dict[str, Any]:
    """Return a bar's colours; beyond the palette, hatches tell bars of one colour apart."""
    hatch = {"-": None, "--": "////", "-.": "....", ":": "xxxx"}[style.linestyle]
    return {"facecolor": style.color, "edgecolor": "white", "hatch": hatch, "linewidth": 0.5}


def _draw_panel(
    ax: Axes, points: list[Point | None], styles: list[SeriesStyle], shown: list[str]
) -> None:
    present = [(i, point) for i, point in enumerate(points) if point is not None]
    width = 0.82 / max(len(present), 1)
    stable = [p.value(f"{s}{end}") for _, p in present if not p.unstable
              for s in shown for end in ("", "_high")]  # fmt: skip
    every = [p.value(s) for _, p in present for s in shown]
    tallest = max(finite(stable) or finite(every) or [1.0])
    top = 1.08 * tallest
    for slot, (index, point) in enumerate(present):
        style = styles[index]
        for group, statistic in enumerate(shown):
            value = point.value(statistic)
            if not math.isfinite(value):
                continue
            x = group + (slot - (len(present) - 1) / 2) * width
            if point.unstable:
                draw_marker(
                    ax, x, 0.96 * top if stable else value, style, unstable=True, undetermined=False
                )
                continue
            ax.bar(x, value, width * 0.94, **_face(style, index))
            low, high = point.value(f"{statistic}_low"), point.value(f"{statistic}_high")
            if math.isfinite(low):
                ax.vlines(x, max(low, 0.0), high, color="#222222", linewidth=0.9)
    ax.set_ylim(0, top)
    ax.set_xlim(-0.55, len(shown) - 0.45)
    ax.set_xticks(range(len(shown)), [STATISTICS[s] for s in shown])
    ax.tick_params(axis="x", length=0)
    ax.xaxis.grid(visible=False)
    ax.yaxis.set_major_locator(MaxNLocator(5))
