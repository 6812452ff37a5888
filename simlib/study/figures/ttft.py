"""A latency against the horizontal factor: mean and percentiles with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from simlib.study.figures.analytic import TheoryCurve, theory_curve
from simlib.study.figures.axes import (
    XAxis,
    finite,
    heading,
    place_title,
    series_legend,
    stability_legend,
    styles_of,
    unstable_levels,
)
from simlib.study.figures.data import Place, Point, StudyData, agrees
from simlib.study.figures.layout import Heading, LegendEntry, Margins, make_sheet
from simlib.study.figures.style import GREY, SeriesStyle, level_phrase


@dataclass(frozen=True, slots=True)
class Metric:
    """A latency of requests, or of tokens, that summary.csv has statistics of."""

    key: str
    """What names of columns call it."""
    title: str
    short: str

    @property
    def panels(self) -> tuple[str, ...]:
        """The statistics that are drawn."""
        return tuple(f"{which}_{self.key}_s" for which in ("mean", "p50", "p90", "p99"))


TTFT = Metric("ttft", "Time to first token", "TTFT")
BATCHING_METRICS = (
    Metric("tpot", "Time per output token after the first", "TPOT"),
    Metric("itl", "Inter-token latency: every gap between two tokens of a request", "ITL"),
    Metric("e2e", "End-to-end latency: arrival to last token", "E2E"),
)
"""Without batching TPOT is a constant of the configuration, and says nothing that E2E would not."""
ROWS_PER_PAGE = 6
BANDS_UP_TO = 4
"""With more lines, bands of intervals would cover each other; bars stay."""


def pages(places: list[Place], most: int = ROWS_PER_PAGE) -> Iterator[tuple[str, list[Place]]]:
    """Yield a suffix of the file's name and the rows of panels of each page."""
    count = math.ceil(len(places) / most)
    size = math.ceil(len(places) / count)
    for number in range(count):
        suffix = f"_{number + 1}" if count > 1 else ""
        yield suffix, places[number * size : (number + 1) * size]


def ttft_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield the figure's name and the figure, one per page."""
    yield from _figures(data, TTFT)


def batching_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield TPOT, ITL and E2E as `ttft_figures` does TTFT; nothing without batching."""
    if any(point.config["serving"] == "batching" for point in data.points):
        for metric in BATCHING_METRICS:
            yield from _figures(data, metric)


def _figures(data: StudyData, metric: Metric) -> Iterator[tuple[str, Figure]]:
    stem = f"{metric.key}_vs_{data.x.slug}" if data.x else metric.key
    shown = [s for s in metric.panels if finite([point.value(s) for point in data.points])]
    if not shown:
        return
    for suffix, places in pages(data.places()):
        page = _single_level_page if len(data.x_levels()) == 1 else _page
        yield stem + suffix, page(data, places, metric, shown)


def _heading(data: StudyData, metric: Metric) -> Heading:
    notes = missing_notes(data, metric.panels)
    return heading(data, metric.title, notes=notes, ttft=metric is TTFT)


def _page(data: StudyData, places: list[Place], metric: Metric, shown: list[str]) -> Figure:
    axis = XAxis(data)
    # one place: two by two; more: a row each
    cells = [[(place, statistic) for statistic in shown] for place in places]
    panel = (2.6, 2.0)
    if len(places) == 1:
        cells = [cells[0][i : i + 2] for i in range(0, len(shown), 2)]
        panel = (3.6, 2.4)
    titles = [[f"{which(statistic)} {metric.short}" for _, statistic in row] for row in cells]
    theory = {str(place): _theory(data, place, axis) for place in places if metric is TTFT}
    labels = dict.fromkeys(curve.label for curves in theory.values() for curve in curves)
    depth, aside = axis.room(panel[0])
    sheet = make_sheet(
        [len(row) for row in cells],
        panel,
        _heading(data, metric),
        row_titles=[place_title(data, place) for place in places],
        panel_titles=titles if len(places) == 1 else titles[:1],
        legend=[*series_legend(data), *_mark_legend(data, metric, list(labels))],
        margins=Margins(left=max(0.72, aside + 0.15), between_x=0.48, bottom=0.55 + depth),
    )
    for row, its_cells in enumerate(cells):
        for column, (place, statistic) in enumerate(its_cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, axis, place, statistic)
            if statistic == "mean_ttft_s":
                for curve in theory[str(place)]:
                    ax.plot(curve.x, curve.mean_ttft_s, color="black", linestyle=":",
                            linewidth=1.0, zorder=4)  # fmt: skip
            log_seconds(ax, _limits(data, places, statistic))
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            if column == 0:
                ax.set_ylabel(f"{metric.short} (s)")
    return sheet.figure


def _single_level_page(
    data: StudyData, places: list[Place], metric: Metric, shown: list[str]
) -> Figure:
    """Return a page with the statistics along x: a lone level needs no axis."""
    n_series = len(data.series())
    step = min(0.8 / n_series, 0.16)
    panel = (max(4.4, 0.1 * n_series * len(shown)), 2.6 if len(places) == 1 else 1.8)
    lone = level_phrase(data.x.name, data.x.levels[0]) if data.x else ""
    sheet = make_sheet(
        [1] * len(places),
        panel,
        _heading(data, metric),
        row_titles=[place_title(data, place) for place in places],
        panel_titles=[[lone]],
        legend=[*series_legend(data), *_mark_legend(data, metric, [])],
        margins=Margins(left=0.72, bottom=0.34),
    )
    limits = [_limits(data, places, statistic) for statistic in shown]
    for row, place in enumerate(places):
        ax = sheet.axes[row][0]
        for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
            point = data.point(place, series, data.x_levels()[0])
            if point is None:
                continue
            for i, statistic in enumerate(shown):
                where = i + (index - (n_series - 1) / 2) * step
                draw_series(ax, [(where, point)], statistic, style, joined=False, band=False)
        log_seconds(ax, (min(low for low, _ in limits), max(high for _, high in limits)))
        ax.set_xlim(-0.5, len(shown) - 0.5)
        ax.set_xticks(range(len(shown)), [which(s) for s in shown])
        ax.tick_params(labelbottom=True)
        ax.xaxis.grid(visible=False)
        ax.set_ylabel(f"{metric.short} (s)")
    return sheet.figure


def _mark_legend(data: StudyData, metric: Metric, theory: list[str]) -> list[LegendEntry]:
    entries = stability_legend(data)
    if any(metric.key in point.line["lower_bounds"] for point in data.points):
        arrow = Line2D([], [], color=GREY, linestyle="none", marker=_ARROW, markersize=9)
        entries.append(LegendEntry(arrow, "lower bound: unserved requests"))
    handle = Line2D([], [], color="black", linestyle=":", linewidth=1.0)
    return [*entries, *(LegendEntry(handle, label) for label in theory)]


def _theory(data: StudyData, place: Place, axis: XAxis) -> list[TheoryCurve]:
    lines = [line_points(data, axis, place, s, i) for i, s in enumerate(data.series())]
    return [curve for line in lines if (curve := theory_curve(line, axis)) is not None]


def _draw_panel(ax: Axes, data: StudyData, axis: XAxis, place: Place, statistic: str) -> None:
    axis.shade(ax, unstable_levels(data, place))
    bands = axis.numeric and len(data.series()) <= BANDS_UP_TO
    for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
        points = line_points(data, axis, place, series, index)
        draw_series(ax, points, statistic, style, joined=axis.numeric, band=bands)


def line_points(
    data: StudyData, axis: XAxis, place: Place, series: Any, index: int
) -> list[tuple[float, Point]]:
    """Return the points of a series from left to right, with where they stand."""
    found = ((level, data.point(place, series, level)) for level in axis.order())
    return [(axis.position(level, index), point) for level, point in found if point is not None]


def draw_series(
    ax: Axes,
    points: list[tuple[float, Point]],
    statistic: str,
    style: SeriesStyle,
    *,
    joined: bool,
    band: bool,
) -> None:
    """Draw a line through what is stable; the rest stands alone, hollow."""
    x = [place for place, _ in points]
    y = [point.value(statistic) for _, point in points]
    kept = [
        math.nan if point.unstable else value for value, (_, point) in zip(y, points, strict=True)
    ]
    low = [point.value(f"{statistic}_low") for _, point in points]
    high = [point.value(f"{statistic}_high") for _, point in points]
    # on a logarithmic axis an interval that reaches zero goes on to the axis' end
    low = [max(value, 1e-12) for value in low]
    if joined:
        ax.plot(x, kept, color=style.color, linestyle=style.linestyle, zorder=3)
        if band:
            ax.fill_between(
                x, low, high, where=[math.isfinite(v) for v in kept],
                color=style.color, alpha=0.18, linewidth=0, zorder=2,
            )  # fmt: skip
    for place, value, lower, upper, (_, point) in zip(x, y, low, high, points, strict=True):
        if not math.isfinite(value):
            continue
        if not point.unstable and math.isfinite(lower):
            ax.vlines(place, lower, upper, color=style.color, linewidth=1.1, zorder=3)
        draw_marker(ax, place, value, style, unstable=point.unstable,
                    undetermined=point.undetermined)  # fmt: skip
        if statistic in point.line["lower_bounds"].split():
            ax.annotate("↑", (place, value), (0, 3), textcoords="offset points", ha="center",
                        va="bottom", color=style.color)  # fmt: skip


_ARROW = r"$\uparrow$"


def draw_marker(
    ax: Axes, x: float, y: float, style: SeriesStyle, *, unstable: bool, undetermined: bool
) -> None:
    """Draw a point: hollow if unstable, half filled if nobody knows."""
    ax.plot(
        [x],
        [y],
        linestyle="none",
        marker=style.marker,
        color=style.color,
        markerfacecolor="white" if unstable else style.color,
        fillstyle="left" if undetermined else "full",
        markerfacecoloralt="white",
        zorder=4,
        clip_on=False,
    )


def _limits(data: StudyData, places: list[Place], statistic: str) -> tuple[float, float]:
    """Return one range for all panels of a statistic, so that rows can be compared."""
    values = []
    for point in data.points:
        if any(agrees(point.coordinates, place) for place in places):
            values.append(point.value(statistic))
            if not point.unstable:
                values += [point.value(f"{statistic}_low"), point.value(f"{statistic}_high")]
    known = [value for value in finite(values) if value > 0]
    estimates = [point.value(statistic) for point in data.points]
    least = min(value for value in finite(estimates) if value > 0) / 5
    low, high = max(min(known), least), max(known)
    if high / low < 3:  # a log axis needs a tick or two
        middle = math.sqrt(low * high)
        low, high = min(low, middle / 1.8), max(high, middle * 1.8)
    return low / 1.2, high * 1.3


def log_seconds(ax: Axes, limits: tuple[float, float]) -> None:
    """Give an axis of times a logarithmic scale with readable ticks."""
    ax.set_yscale("log")
    ax.set_ylim(*limits)
    decades = math.log10(limits[1] / limits[0])
    steps: tuple[float, ...] = (1.0,)
    if decades < 0.8:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    elif decades < 2.2:
        steps = (1.0, 2.0, 5.0)
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=steps, numticks=12))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if limits[0] >= 1e-4 and limits[1] < 1e5:
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        ax.yaxis.set_major_formatter(LogFormatterSciNotation())


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
