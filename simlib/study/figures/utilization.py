"""How busy each pool is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simlib.study.figures.axes import (
    XAxis,
    heading,
    place_title,
    series_legend,
    stability_legend,
    styles_of,
    unstable_levels,
)
from simlib.study.figures.data import Place, StudyData
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.style import GREY, LineStyle
from simlib.study.figures.ttft import draw_marker, pages

POOLS: dict[str, tuple[str, LineStyle]] = {
    "gpu": ("GPUs (monolithic)", "-"),
    "prefill": ("prefill pool", "--"),
    "decode": ("decode pool", ":"),
}


def utilization_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield the figure's name and the figure, one per page."""
    pools = [
        pool for pool in POOLS
        if any(math.isfinite(point.value(f"utilization_{pool}")) for point in data.points)
    ]  # fmt: skip
    for suffix, places in pages(data.places()):
        yield f"utilization{suffix}", _page(data, places, pools)


def _page(data: StudyData, places: list[Place], pools: list[str]) -> Figure:
    # a few lines are compared best within one panel, many need one for each pool
    together = len(data.series()) <= 2 and len(pools) > 1
    columns: list[list[str]] = [pools] if together else [[pool] for pool in pools]
    axis = XAxis(data)
    if together and len(places) > 1:
        grid = _wrapped(places)
    else:
        grid = [[place] * len(columns) for place in places]
    panel = (4.4, 2.8) if len(columns) * len(places) == 1 else (2.9, 2.0)
    legend = [*series_legend(data), *stability_legend(data)]
    if together and axis.numeric:  # on an axis of names, the points say their pool
        legend += [LegendEntry(Line2D([], [], color=GREY, linestyle=POOLS[p][1]), POOLS[p][0])
                   for p in pools]  # fmt: skip
    wrapped = together and len(places) > 1
    depth, aside = axis.room(panel[0])
    sheet = make_sheet(
        [len(row) for row in grid],
        panel,
        heading(
            data,
            "Utilisation: busy share of the pool's GPU-seconds in the window",
            ttft=False,
            intervals=False,
        ),
        row_titles=() if wrapped else [place_title(data, place) for place in places],
        panel_titles=_panel_titles(data, grid, columns),
        legend=legend,
        margins=Margins(
            left=max(0.66, aside + 0.15),
            between_x=0.3,
            bottom=0.52 + depth,
        ),
    )
    for row, its_places in enumerate(grid):
        for column, place in enumerate(its_places):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, axis, place, columns[0 if together else column])
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            ax.tick_params(labelleft=column == 0)
            if column == 0:
                ax.set_ylabel("utilisation")
    return sheet.figure


def _panel_titles(
    data: StudyData, grid: list[list[Place]], columns: list[list[str]]
) -> list[list[str]]:
    if len(columns) > 1:
        return [[POOLS[pools[0]][0] for pools in columns]]
    if len(columns[0]) == 1:
        return [[POOLS[columns[0][0]][0]]]
    return [[place_title(data, place) for place in row] for row in grid]


def _wrapped(places: list[Place]) -> list[list[Place]]:
    width = 3 if len(places) not in (2, 4) else 2
    return [places[i : i + width] for i in range(0, len(places), width)]


def _draw_panel(ax: Axes, data: StudyData, axis: XAxis, place: Place, pools: list[str]) -> None:
    axis.shade(ax, unstable_levels(data, place))
    for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
        found: list[tuple[Any, Any]] = [
            (level, data.point(place, series, level)) for level in axis.order()
        ]
        points = [(axis.position(level, index), p) for level, p in found if p is not None]
        for pool in pools:
            x = [place_x for place_x, _ in points]
            y = [point.value(f"utilization_{pool}") for _, point in points]
            kept = [math.nan if point.unstable else value
                    for value, (_, point) in zip(y, points, strict=True)]  # fmt: skip
            if axis.numeric:
                line = POOLS[pool][1] if len(pools) > 1 else style.linestyle
                ax.plot(x, kept, color=style.color, linestyle=line, zorder=3)
            for where, value, (_, point) in zip(x, y, points, strict=True):
                if math.isfinite(value):
                    draw_marker(ax, where, value, style, unstable=point.unstable,
                                undetermined=point.undetermined)  # fmt: skip
                    if not axis.numeric and len(pools) > 1:
                        ax.annotate(pool, (where, value), (6, 0), textcoords="offset points",
                                    fontsize=7, va="center", color="#555555")  # fmt: skip
    ax.set_ylim(0, 1.04)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
