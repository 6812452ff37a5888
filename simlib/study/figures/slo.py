"""SLO attainment of each request class against the horizontal factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from simlib.study.figures.axes import (
    XAxis,
    finite,
    heading,
    place_title,
    series_legend,
    shade_legend,
    styles_of,
    unstable_levels,
)
from simlib.study.figures.data import Line, Point, StudyData, number
from simlib.study.figures.latency import BANDS_UP_TO
from simlib.study.figures.layout import ROWS_PER_PAGE, Margins, make_sheet
from simlib.study.figures.marks import draw_intervals, draw_markers, mark_legend, state_of
from simlib.study.figures.place import Place
from simlib.study.figures.style import SeriesStyle, seconds_text

STATISTIC = "slo_attainment"
ACROSS = 4
"""Panels beside each other."""
Drawn = tuple[float, Point, Line]
"""Where a point stands on the horizontal axis, and its line of classes.csv."""


def slo_rows_per_page(data: StudyData) -> int:
    """Return how many places fit a page, each of which has a row or more of classes."""
    rows = math.ceil(len(shown_classes(data.classes)) / ACROSS)
    return max(1, ROWS_PER_PAGE // max(rows, 1))


def slo_figure(data: StudyData) -> Figure | None:
    """Return the figure; None without an SLO."""
    shown = shown_classes(data.classes)
    return _page(data, data.places(), shown) if shown else None


def _all_classes() -> str:
    from simlib.core.classes import ALL_CLASSES  # with pydantic, which takes 0.15 s to import

    return ALL_CLASSES


def shown_classes(lines: Sequence[Line]) -> list[str]:
    """Return the classes that have an SLO, and all together if these are several."""
    with_slo = dict.fromkeys(
        line["request_class"] for line in lines if math.isfinite(number(line, STATISTIC))
    )
    if not with_slo:
        return []
    together = _all_classes()
    names = [name for name in with_slo if name != together]
    return [*names, together] if len(names) > 1 else names


def _page(data: StudyData, places: list[Place], shown: list[str]) -> Figure:
    axis = XAxis(data)
    n_rows = math.ceil(len(shown) / ACROSS)
    width = math.ceil(len(shown) / n_rows)
    chunks = [shown[i : i + width] for i in range(0, len(shown), width)]
    cells = [[(place, name) for name in chunk] for place in places for chunk in chunks]
    titles = [[_title(data, name) for name in chunk] for chunk in chunks]
    panel = (4.4, 2.8) if len(shown) * len(places) == 1 else (2.9, 2.1)
    depth, aside = axis.room(panel[0])
    row_titles = [place_title(place) if i == 0 else "" for place in places for i in range(n_rows)]
    sheet = make_sheet(
        [len(row) for row in cells],
        panel,
        heading(
            data,
            "SLO attainment: requests whose TTFT is within their class's SLO",
            notes=_notes(data, shown),
        ),
        row_titles=row_titles,
        panel_titles=titles * len(places) if n_rows > 1 else titles,
        legend=[
            *series_legend(data),
            *mark_legend([(state_of(p), 1.0, (0.0, 1.0)) for p in data.points], verdicts=False),
            *shade_legend(data),
        ],
        margins=Margins(left=max(0.72, aside + 0.15), between_x=0.3, bottom=0.52 + depth),
    )
    bottom = _bottom(data, shown)
    for row, its_cells in enumerate(cells):
        for column, (place, name) in enumerate(its_cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, axis, place, name)
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            ax.set_ylim(bottom, 1.0 + 0.04 * (1.0 - bottom))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            ax.tick_params(labelleft=column == 0)
            if column == 0:
                ax.set_ylabel("SLO attainment")
    return sheet.figure


def _notes(data: StudyData, shown: list[str]) -> list[str]:
    """Return a note on classes with an SLO that have no attainment anywhere."""
    missing = dict.fromkeys(
        line["request_class"] for line in data.classes
        if line["ttft_slo_s"] and line["request_class"] not in shown
    )  # fmt: skip
    return [f"Left out: {', '.join(missing)} (reasons in classes.csv)."] if missing else []


def _title(data: StudyData, name: str) -> str:
    """Return a class with its SLO, if that is the same at all points."""
    if name == _all_classes():
        return "all classes"
    slos = {number(line, "ttft_slo_s") for line in data.classes if line["request_class"] == name}
    return f"{name} (SLO {seconds_text(slos.pop())})" if len(slos) == 1 else name


def _bottom(data: StudyData, shown: list[str]) -> float:
    """Return where the axis starts: at 0, or higher where all attainments are high."""
    ends = ("", "_low")
    values = finite(
        [number(line, f"{STATISTIC}{end}") for line in data.classes for end in ends
         if line["request_class"] in shown]
    )  # fmt: skip
    least = min(values)
    return next(bottom for bottom in (0.9, 0.5, 0.0) if least >= bottom)


def _draw_panel(ax: Axes, data: StudyData, axis: XAxis, place: Place, name: str) -> None:
    axis.shade(ax, unstable_levels(data, place))
    band = axis.numeric and len(data.series()) <= BANDS_UP_TO
    for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
        points = _points(data, axis, place, series, index, name)
        _draw_series(ax, points, style, joined=axis.numeric, band=band)


def _points(
    data: StudyData, axis: XAxis, place: Place, series: Any, index: int, name: str
) -> list[Drawn]:
    found = []
    for level in axis.order():
        where = data.where(place, series, level)
        point = data.point(place, series, level)
        line = next(iter(data.classes.at(where, request_class=name)), None)
        if point is not None and line is not None and math.isfinite(number(line, STATISTIC)):
            found.append((axis.position(level, index), point, line))
    return found


def _draw_series(
    ax: Axes, points: list[Drawn], style: SeriesStyle, *, joined: bool, band: bool
) -> None:
    """Draw a line through what is stable; the rest stands alone, hollow."""
    x = [place for place, _, _ in points]
    stable = [not point.unstable for _, point, _ in points]
    low, value, high = (
        [number(line, f"{STATISTIC}{end}") if kept else math.nan
         for (_, _, line), kept in zip(points, stable, strict=True)]
        for end in ("_low", "", "_high")
    )  # fmt: skip
    if joined:
        ax.plot(x, value, color=style.color, linestyle=style.linestyle, zorder=3)
        if band:
            # where there is no interval the band narrows to the line
            ends = zip(low, value, high, strict=True)
            closed = [(v, v) if math.isnan(lo) else (lo, hi) for lo, v, hi in ends]
            ax.fill_between(x, [lo for lo, _ in closed], [hi for _, hi in closed],
                            color=style.color, alpha=0.18, linewidth=0, zorder=2)  # fmt: skip
    draw_intervals(ax, x, low, high, style.color, (0.0, 1.0))
    shares = [number(line, STATISTIC) for _, _, line in points]
    draw_markers(ax, x, shares, [state_of(point) for _, point, _ in points], style)
