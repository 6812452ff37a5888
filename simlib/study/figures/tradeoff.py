"""What an architecture trades: the latency of the first token against that of those that follow."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from simlib.core.metrics import METRICS, Metric
from simlib.study.figures.axes import (
    XAxis,
    heading,
    place_title,
    series_legend,
    styles_of,
    unstable_levels,
)
from simlib.study.figures.data import Line, StudyData, number
from simlib.study.figures.difference import (
    candidate_styles,
    compared,
    comparison_legend,
    draw_comparisons,
    has_intervals,
    say_direction,
    shade_unstable,
)
from simlib.study.figures.latency import (
    line_points,
    log_axis,
    shown_unit,
    shown_value,
    stable_limits,
    which,
)
from simlib.study.figures.layout import Margins, make_sheet
from simlib.study.figures.marks import Limits, draw_markers, line_unstable, state_of
from simlib.study.figures.place import Place
from simlib.study.figures.style import side_text

STATISTICS = ("p99", "p95", "p90", "mean")
"""In order of preference: the first one that the data support."""
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def tradeoff_figure(data: StudyData) -> Figure | None:
    """Return the figure; None where the sides' time between tokens is the same, or not compared."""
    if data.compare is None:
        return None
    ttft, itl, tpot = (METRICS[name] for name in ("ttft", "itl", "tpot"))
    later = next((m for m in (itl, tpot) if _statistic(data, m)), None)
    first = _statistic(data, ttft)
    if later is None or not first:
        return None
    shown = [(ttft, first), (later, _statistic(data, later))]
    of_gaps = data.comparison.at({}, statistic=shown[-1][1])
    if later is itl and all(line["verdict"] == "not tested" for line in of_gaps):
        # single runs have verdicts on requests, but not on gaps between tokens
        shown += [(tpot, name)] if (name := _statistic(data, tpot)) else []
    others = [data.comparison.at({}, statistic=name) for _, name in shown[1:]]
    if not any(_differs(line) for lines in others for line in lines):
        return None
    return _page(data, data.places(), shown)


def _differs(line: Line) -> bool:
    ratio = number(line, "ratio")
    return not line_unstable(line) and abs(ratio - 1.0) > 1e-9


def _statistic(data: StudyData, metric: Metric) -> str:
    """Return the statistic of a metric that all stable comparisons have; none: an empty text."""
    for name in (f"{one}_{metric.name}_s" for one in STATISTICS):
        lines = [x for x in data.comparison.at({}, statistic=name) if not line_unstable(x)]
        if lines and all(math.isfinite(number(line, "ratio")) for line in lines):
            return name
    return ""


def _page(data: StudyData, places: list[Place], shown: list[tuple[Metric, str]]) -> Figure:
    assert data.compare is not None
    axis = XAxis(data)
    panel = (3.1, 2.6) if len(places) == 1 else (2.9, 2.0)
    baseline = side_text(data.compare["factor"], data.compare["baseline"])
    lines = [line for _, name in shown for line in data.comparison.at({}, statistic=name)]
    ratios = _ratio_limits(lines)
    depth, aside = axis.room(panel[0])
    (first, x_name), (later, y_name) = shown[:2]
    titles = [f"{which(y_name)} {later.label} against {which(x_name)} {first.label}"]
    titles += [f"{which(name)} {metric.label}, ratio to {baseline}" for metric, name in shown]
    # each side in the legend once: as a series, with the baseline
    entries = comparison_legend(data, lines, "ratio", [ratios] * len(lines))
    series = series_legend(data)
    entries = [entry for entry in entries if entry.label not in {one.label for one in series}]
    sheet = make_sheet(
        [1 + len(shown)] * len(places),
        panel,
        heading(
            data,
            "What is traded: the wait for the first token against the pace of the others",
            extra="verdicts at a family-wise 5% (Holm)",
            intervals=has_intervals(lines, "ratio"),
            notes=_notes(data),
        ),
        row_titles=[place_title(place) for place in places],
        panel_titles=[titles],
        legend=[*series, *entries],
        margins=Margins(left=max(0.72, aside + 0.15), between_x=0.72, bottom=0.55 + depth),
        share_x=False,
    )
    limits = [stable_limits(data, metric, name) for metric, name in shown[:2]]
    for row, place in enumerate(places):
        _draw_path(sheet.axes[row][0], data, axis, place, (shown[0], shown[1]), limits)
        for column, (_, name) in enumerate(shown, start=1):
            ax = sheet.axes[row][column]
            _ratio_axis(ax, ratios)
            shade_unstable(ax, data, axis, place, name)
            ax.axhline(1, color="#222222", linewidth=0.9, zorder=2)
            for candidate, style in candidate_styles(data):
                drawn = compared(data, axis, place, candidate, name)
                draw_comparisons(ax, drawn, "ratio", style, ratios, joined=axis.numeric)
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            say_direction(ax, baseline)
    return sheet.figure


def _draw_path(
    ax: Axes,
    data: StudyData,
    axis: XAxis,
    place: Place,
    pair: tuple[tuple[Metric, str], tuple[Metric, str]],
    limits: list[Limits],
) -> None:
    """Draw each series from its lowest to its highest stable level of x, towards less of both."""
    (first, x_name), (later, y_name) = pair
    log_axis(ax, limits[0], along="x")
    log_axis(ax, limits[1])
    for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
        points = [p for _, p in line_points(data, axis, place, series, index) if not p.unstable]
        x = [shown_value(first, point, x_name) for point in points]
        y = [shown_value(later, point, y_name) for point in points]
        if axis.numeric:
            ax.plot(x, y, color=style.color, linestyle=style.linestyle, linewidth=1.1, zorder=3)
        draw_markers(ax, x, y, [state_of(point) for point in points], style)
        if points and axis.numeric and math.isfinite(x[-1] + y[-1]):
            ax.annotate("highest load", (x[-1], y[-1]), (0, 6), textcoords="offset points",
                        fontsize=7, color="#555555", ha="center", va="bottom")  # fmt: skip
    ax.set_xlabel(f"{which(x_name)} {first.label} ({shown_unit(first)})")
    ax.set_ylabel(f"{which(y_name)} {later.label} ({shown_unit(later)})")


def _notes(data: StudyData) -> list[str]:
    notes = ["Left panel: a line goes from the lowest to the highest level; lower left is better."]
    if any(unstable_levels(data, place) for place in data.places()):
        notes.append("Unstable points are left out of it.")
    return notes


def _ratio_limits(lines: list[Line]) -> Limits:
    """Return a range around 1 that holds the stable ratios."""
    stable = [line for line in lines if not line_unstable(line)]
    known = [v for line in stable for end in ("", "_low", "_high")
             if math.isfinite(v := number(line, f"ratio{end}")) and v > 0]  # fmt: skip
    low, high = min(known, default=1.0), max(known, default=1.0)
    low, high = max(low, RATIOS[0]), min(high, RATIOS[-1])
    return min(low, 0.6) / 1.35, max(high, 1.7) * 1.35


def _ratio_axis(ax: Axes, limits: Limits) -> None:
    ax.set_yscale("log")
    ax.set_ylim(*limits)
    ax.yaxis.set_major_locator(FixedLocator([r for r in RATIOS if limits[0] <= r <= limits[1]]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
