"""A latency against the horizontal factor: mean and percentiles with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

from simlib.core.metrics import METRICS, Metric
from simlib.study.figures.analytic import TheoryCurve, theory_curve
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
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import Heading, LegendEntry, Margins, make_sheet
from simlib.study.figures.marks import (
    Limits,
    draw_intervals,
    draw_markers,
    mark_legend,
    open_legend,
    state_of,
)
from simlib.study.figures.place import Place
from simlib.study.figures.style import GREY, SeriesStyle, level_phrase

BANDS_UP_TO = 4
"""With more lines, bands of intervals would cover each other; bars stay."""
WIDEST_INTERVAL = 4.0
"""The axis ends at this many times the highest estimate, whatever intervals say."""


def latency_figure(name: str, data: StudyData) -> Figure | None:
    """Return the statistics of a metric over x; None where the study has none.

    Without batching, TPOT is a constant of the configuration, and so says nothing of E2E.
    """
    metric = METRICS[name]
    if metric.name != "ttft" and not any(p.config["serving"] == "batching" for p in data.points):
        return None
    known = {s: finite([point.value(s) for point in data.points]) for s in drawn_statistics(metric)}
    shown = [statistic for statistic, values in known.items() if values]
    if not shown:
        return None
    page = _single_level_page if len(data.x_levels()) == 1 else _page
    return page(data, data.places(), metric, shown)


def drawn_statistics(metric: Metric) -> tuple[str, ...]:
    """Return the columns of the statistics that figures show of a metric."""
    return tuple(one.name for one in metric.statistics if one.percent not in metric.not_drawn)


def shown_unit(metric: Metric) -> str:
    """Return the unit in which figures show a metric."""
    return "ms" if metric.drawn_in_ms else metric.unit


def shown_value(metric: Metric, point: Point, column: str) -> float:
    """Return a number of a point's line, in that unit."""
    return point.value(column) * (1e3 if metric.drawn_in_ms else 1.0)


def stable_limits(data: StudyData, metric: Metric, statistic: str) -> Limits:
    """Return the range of a logarithmic axis: of what is stable, where anything is.

    What overload makes of a latency depends on the length of the run, and would squash the rest.
    """
    kept = [p for p in data.points if not p.unstable and shown_value(metric, p, statistic) > 0]
    kept = kept or [p for p in data.points if shown_value(metric, p, statistic) > 0]
    if not kept:
        return 0.1, 1.0
    estimates = [shown_value(metric, point, statistic) for point in kept]
    ends = [shown_value(metric, p, f"{statistic}_{end}") for p in kept for end in ("low", "high")]
    known = [*estimates, *(end for end in finite(ends) if end > 0)]
    low = max(min(known), min(estimates) / 5)
    high = min(max(known), WIDEST_INTERVAL * max(estimates))
    if high / low < 3:  # a log axis needs a tick or two
        middle = math.sqrt(low * high)
        low, high = min(low, middle / 1.8), max(high, middle * 1.8)
    return low / 1.2, high * 1.3


def _heading(data: StudyData, metric: Metric, shown: Sequence[str]) -> Heading:
    notes = missing_notes(data, drawn_statistics(metric))
    ends = [point.value(f"{s}_{end}") for point in data.points for s in shown
            for end in ("low", "high")]  # fmt: skip
    return heading(
        data, metric.title, notes=notes, ttft=metric.name == "ttft",
        intervals=any(not math.isnan(end) for end in ends),
    )  # fmt: skip


def _page(data: StudyData, places: list[Place], metric: Metric, shown: list[str]) -> Figure:
    axis = XAxis(data)
    # one place: two by two; more: a row each
    cells = [[(place, statistic) for statistic in shown] for place in places]
    panel = (2.6, 2.0)
    if len(places) == 1:
        cells = [cells[0][i : i + 2] for i in range(0, len(shown), 2)]
        panel = (3.6, 2.4)
    titles = [[f"{which(statistic)} {metric.label}" for _, statistic in row] for row in cells]
    theory = {str(place): _theory(data, place, axis) for place in places if metric.name == "ttft"}
    labels = dict.fromkeys(curve.label for curves in theory.values() for curve in curves)
    limits = {statistic: stable_limits(data, metric, statistic) for statistic in shown}
    depth, aside = axis.room(panel[0])
    sheet = make_sheet(
        [len(row) for row in cells],
        panel,
        _heading(data, metric, shown),
        row_titles=[place_title(place) for place in places],
        panel_titles=titles if len(places) == 1 else titles[:1],
        legend=[*series_legend(data), *_legend(data, metric, limits, list(labels)),
                *shade_legend(data)],
        margins=Margins(left=max(0.72, aside + 0.15), between_x=0.48, bottom=0.55 + depth),
    )  # fmt: skip
    for row, its_cells in enumerate(cells):
        for column, (place, statistic) in enumerate(its_cells):
            ax = sheet.axes[row][column]
            log_axis(ax, limits[statistic])
            _draw_panel(ax, data, axis, place, metric, statistic, limits[statistic])
            if statistic == "mean_ttft_s":
                for curve in theory[str(place)]:
                    ax.plot(curve.x, curve.mean_ttft_s, color="black", linestyle=":",
                            linewidth=1.0, zorder=4)  # fmt: skip
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            if column == 0:
                ax.set_ylabel(f"{metric.label} ({shown_unit(metric)})")
    return sheet.figure


def _single_level_page(
    data: StudyData, places: list[Place], metric: Metric, shown: list[str]
) -> Figure:
    """Return a page with the statistics along x: a lone level needs no axis."""
    n_series = len(data.series())
    step = min(0.8 / n_series, 0.16)
    panel = (max(4.4, 0.1 * n_series * len(shown)), 2.6 if len(places) == 1 else 1.8)
    lone = level_phrase(data.x.name, data.x.levels[0]) if data.x else ""
    each = {statistic: stable_limits(data, metric, statistic) for statistic in shown}
    limits = min(low for low, _ in each.values()), max(high for _, high in each.values())
    sheet = make_sheet(
        [1] * len(places),
        panel,
        _heading(data, metric, shown),
        row_titles=[place_title(place) for place in places],
        panel_titles=[[lone]],
        legend=[*series_legend(data), *_legend(data, metric, dict.fromkeys(shown, limits), [])],
        margins=Margins(left=0.72, bottom=0.34),
    )
    for row, place in enumerate(places):
        ax = sheet.axes[row][0]
        log_axis(ax, limits)
        for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
            point = data.point(place, series, data.x_levels()[0])
            if point is None:
                continue
            for position, statistic in enumerate(shown):
                where = position + (index - (n_series - 1) / 2) * step
                draw_series(ax, [(where, point)], metric, statistic, style, limits,
                            joined=False, band=False)  # fmt: skip
        ax.set_xlim(-0.5, len(shown) - 0.5)
        ax.set_xticks(range(len(shown)), [which(s) for s in shown])
        ax.tick_params(labelbottom=True)
        ax.xaxis.grid(visible=False)
        ax.set_ylabel(f"{metric.label} ({shown_unit(metric)})")
    return sheet.figure


def _legend(
    data: StudyData, metric: Metric, limits: dict[str, Limits], theory: list[str]
) -> list[LegendEntry]:
    drawn = [(state_of(point), shown_value(metric, point, s), limits[s])
             for point in data.points for s in limits]  # fmt: skip
    entries = mark_legend(drawn, verdicts=False)
    entries += open_legend(
        [point.value(f"{s}_{end}") for point in data.points if not point.unstable
         for s in limits for end in ("low", "high")]
    )  # fmt: skip
    if any(metric.name in point.line["lower_bounds"] for point in data.points):
        arrow = Line2D([], [], color=GREY, linestyle="none", marker=6, markersize=6)
        entries.append(LegendEntry(arrow, "lower bound: unserved requests"))
    handle = Line2D([], [], color="black", linestyle=":", linewidth=1.0)
    return [*entries, *(LegendEntry(handle, label) for label in theory)]


def _theory(data: StudyData, place: Place, axis: XAxis) -> list[TheoryCurve]:
    lines = [line_points(data, axis, place, s, i) for i, s in enumerate(data.series())]
    return [curve for line in lines if (curve := theory_curve(line, axis)) is not None]


def _draw_panel(
    ax: Axes,
    data: StudyData,
    axis: XAxis,
    place: Place,
    metric: Metric,
    statistic: str,
    limits: Limits,
) -> None:
    axis.shade(ax, unstable_levels(data, place))
    bands = axis.numeric and len(data.series()) <= BANDS_UP_TO
    for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
        points = line_points(data, axis, place, series, index)
        draw_series(ax, points, metric, statistic, style, limits, joined=axis.numeric, band=bands)


def line_points(
    data: StudyData, axis: XAxis, place: Place, series: Any, index: int
) -> list[tuple[float, Point]]:
    """Return the points of a series from left to right, with where they stand."""
    found = ((level, data.point(place, series, level)) for level in axis.order())
    return [(axis.position(level, index), point) for level, point in found if point is not None]


def draw_series(
    ax: Axes,
    points: list[tuple[float, Point]],
    metric: Metric,
    statistic: str,
    style: SeriesStyle,
    limits: Limits,
    *,
    joined: bool,
    band: bool,
) -> None:
    """Draw a line through what is stable; the rest stands alone, hollow, or at the axis' edge."""
    x = [place for place, _ in points]
    stable = [not point.unstable for _, point in points]
    y = [shown_value(metric, point, statistic) for _, point in points]
    kept, low, high = (
        [shown_value(metric, point, statistic + end) if ok else math.nan
         for (_, point), ok in zip(points, stable, strict=True)]
        for end in ("", "_low", "_high")
    )  # fmt: skip
    if joined:
        ax.plot(x, kept, color=style.color, linestyle=style.linestyle, zorder=3)
        if band:
            ax.fill_between(
                x, [max(value, limits[0]) for value in low],
                [min(value, limits[1]) for value in high],
                where=[not math.isnan(a + b) for a, b in zip(low, high, strict=True)],
                color=style.color, alpha=0.18, linewidth=0, zorder=2,
            )  # fmt: skip
    draw_intervals(ax, x, low, high, style.color, limits)
    draw_markers(ax, x, y, [state_of(point) for _, point in points], style, limits)
    for place, value, (_, point) in zip(x, y, points, strict=True):
        if statistic in point.line["lower_bounds"].split() and math.isfinite(value):
            ax.annotate("↑", (place, min(value, limits[1])), (0, 3), textcoords="offset points",
                        ha="center", va="bottom", color=style.color)  # fmt: skip


def log_axis(ax: Axes, limits: Limits, *, along: str = "y") -> None:
    """Give an axis of times a logarithmic scale with readable ticks."""
    axis = ax.yaxis if along == "y" else ax.xaxis
    if along == "y":
        ax.set_yscale("log")
        ax.set_ylim(*limits)
    else:
        ax.set_xscale("log")
        ax.set_xlim(*limits)
    decades = math.log10(limits[1] / limits[0])
    steps: tuple[float, ...] = (1.0,)
    if decades < 0.8:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if along == "y" else (1.0, 2.0, 3.0, 5.0)
    elif decades < 2.2:
        steps = (1.0, 2.0, 5.0) if along == "y" else (1.0, 3.0)
    axis.set_major_locator(LogLocator(base=10, subs=steps, numticks=12))
    axis.set_minor_locator(NullLocator())  # small ticks cost more than the curves
    if limits[0] >= 1e-4 and limits[1] < 1e5:
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axis.set_major_formatter(LogFormatterSciNotation())


def which(statistic: str) -> str:
    """Return what a statistic is of its metric, such as p99."""
    return statistic.partition("_")[0]


def missing_notes(data: StudyData, statistics: tuple[str, ...]) -> list[str]:
    """Return a note on statistics that are left empty at some points."""
    missing = []
    for statistic in statistics:
        count = sum(math.isnan(point.value(statistic)) for point in data.points)
        if count:
            where = (
                "everywhere"
                if count == len(data.points)
                else f"at {count} of {len(data.points)} points"
            )
            missing.append(f"{which(statistic)} {where}")
    if not missing:
        return []
    return [f"Left out, as the sample is too small: {', '.join(missing)} (reasons in summary.csv)."]
