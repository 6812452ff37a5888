"""The distribution of TTFT over requests."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from simlib.study.figures.axes import heading, series_legend, styles_of
from simlib.study.figures.bars import Panels, panels, points_at
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.place import level_key
from simlib.study.figures.style import GREY


def ecdf_figure(data: StudyData) -> Figure | None:
    """Return the figure; None if nobody got a first token."""
    if data.distribution is None:
        return None
    grid = panels(data, data.places())
    curves = read_curves(data.distribution, list(_shown(data, grid)))
    return _page(data, grid, curves) if curves else None


Place = tuple[str | None, ...]
"""The level of every factor, by which a point is known in any table."""
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def _shown(data: StudyData, grid: Panels) -> Iterator[Point]:
    for row in grid.cells:
        for place, level in row:
            yield from (p for p in points_at(data, place, level) if p is not None)


def _place(point: Point) -> Place:
    return tuple(point.coordinates.values())


def read_curves(path: Path, points: Sequence[Point]) -> dict[Place, Curve]:
    """Return TTFT in seconds and the fraction of requests at most that slow, by place of a point.

    Requests in the window that were accepted, all replicates together; a request without a
    first token counts as slower than all, so a curve that ends below 1 shows what was lost.
    """
    if not points:
        return {}
    wanted = {_place(point) for point in points}
    found: dict[Place, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        column = {name: number for number, name in enumerate(next(lines, ()))}
        levels = [column[name] for name in points[0].coordinates]
        ttft_s, share = column["ttft_s"], column["share"]
        for line in lines:
            place = tuple([level_key(line[number]) for number in levels])
            if place in wanted:
                found.setdefault(place, []).append((float(line[ttft_s]), float(line[share])))
    return {place: (np.array(steps)[:, 0], np.array(steps)[:, 1]) for place, steps in found.items()}


def _page(data: StudyData, grid: Panels, curves: dict[Place, Curve]) -> Figure:
    panel = (2.9, 1.9) if sum(grid.shape) > 2 else (3.6, 2.8)
    legend = series_legend(data, markers=False)
    if any(p.unstable for p in _shown(data, grid)):
        handle = Line2D([], [], color=GREY, linestyle=(0, (1, 1.2)), linewidth=1.0)
        legend.append(LegendEntry(handle, "unstable: grows with the run"))
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(
            data,
            "Distribution of TTFT over the requests of all replicates",
            notes=grid.notes,
            intervals=False,
        ),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=legend,
        margins=Margins(left=0.66, between_x=0.25, bottom=0.52),
    )
    stable = {_place(p) for p in _shown(data, grid) if not p.unstable}
    low, high = _limits(
        [curve for place, curve in curves.items() if place in stable] or list(curves.values())
    )
    for row, cells in enumerate(grid.cells):
        for column, (place, level) in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, points_at(data, place, level), curves)
            ax.set_xscale("log")
            ax.set_xlim(low, high)
            ax.xaxis.set_major_locator(LogLocator(base=10, numticks=7))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_ylim(0, 1.02)
            ax.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1])
            ax.tick_params(labelleft=column == 0)
            if sheet.lowest(row, column):
                ax.set_xlabel("TTFT (s)")
            if column == 0:
                ax.set_ylabel("fraction of requests")
    return sheet.figure


def _draw_panel(
    ax: Axes, data: StudyData, points: list[Point | None], curves: dict[Place, Curve]
) -> None:
    for point, style in zip(points, styles_of(data), strict=True):
        if point is None or _place(point) not in curves:
            continue
        ttft_s, fraction = curves[_place(point)]
        ax.step(
            ttft_s,
            fraction,
            where="post",
            color=style.color,
            linestyle=(0, (1, 1.2)) if point.unstable else style.linestyle,
            linewidth=1.0 if point.unstable else 1.5,
        )


def _limits(curves: list[Curve]) -> tuple[float, float]:
    low = min(float(ttft_s[3]) for ttft_s, _ in curves)  # the fastest percent may cut off
    high = max(float(ttft_s[-1]) for ttft_s, _ in curves)
    low = max(low, high * 1e-7, 1e-9)
    return low / 1.3, max(high, low * 10) * 1.3
