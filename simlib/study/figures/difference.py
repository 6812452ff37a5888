"""The paired difference to the baseline with its interval, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from simlib.study.figures.axes import (
    XAxis,
    heading,
    place_title,
    stability_legend,
    styles_of,
)
from simlib.study.figures.data import UNSTABLE, Line, Place, StudyData, lines_at, number
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.style import (
    GREY,
    STATISTICS,
    SeriesStyle,
    axis_label,
    level_text,
    side_text,
)
from simlib.study.figures.ttft import pages

PANELS = ("mean_ttft_s", "p99_ttft_s")
SIGNIFICANT = ("faster", "slower")
LOG_FROM_RATIO = 40.0
"""Differences whose sizes span more than this need a symmetric logarithmic axis."""


def difference_figures(data: StudyData) -> Iterator[tuple[str, Figure]]:
    """Yield the figure's name and the figure; nothing without a comparison."""
    shown = [
        statistic for statistic in PANELS
        if any(math.isfinite(number(line, "difference_s"))
               for line in lines_at(data.comparison, {}, statistic=statistic))
    ]  # fmt: skip
    if not shown:
        return
    for suffix, places in pages(data.places()):
        yield f"difference{suffix}", _page(data, places, shown)


def line_unstable(line: Line) -> bool:
    """Return whether one of the compared sides is unstable."""
    return UNSTABLE in (line["baseline_stability"], line["candidate_stability"])


def candidate_styles(data: StudyData) -> list[tuple[int, Any, SeriesStyle]]:
    """Return index, level and style of each candidate, as it looks in the other figures."""
    styles = dict(zip(map(str, data.series()), styles_of(data), strict=True))
    return [(i, level, styles[str(level)]) for i, level in enumerate(data.candidates())]


def _page(data: StudyData, places: list[Place], shown: list[str]) -> Figure:
    axis = XAxis(data)
    big = len(shown) * len(places) <= 2
    panel = (3.9, 2.9) if big else (3.2, 2.1)
    assert data.compare is not None
    factor = data.compare["factor"]
    baseline = side_text(factor, data.compare["baseline"])
    rows = [place_title(data, place) for place in places]
    depth, aside = axis.room(panel[0])
    sheet = make_sheet(
        [len(shown)] * len(places),
        panel,
        heading(
            data,
            f"Difference of TTFT to {baseline}, paired by common random numbers",
            extra="verdicts at a family-wise 5% (Holm)",
        ),
        row_titles=rows,
        panel_titles=[[f"{STATISTICS[statistic]} TTFT" for statistic in shown]],
        legend=_legend(data, factor),
        margins=Margins(left=max(0.85, aside + 0.15), between_x=0.72, bottom=0.55 + depth),
    )
    for column, statistic in enumerate(shown):
        for row, place in enumerate(places):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, axis, place, statistic)
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            _say_direction(ax, baseline)
            if column == 0:
                ax.set_ylabel("difference (s)")
    return sheet.figure


def _legend(data: StudyData, factor: str) -> list[LegendEntry]:
    entries = []
    if data.x is not data.colour:
        if factor != "mode":
            entries.append(LegendEntry(None, axis_label(factor)))
        for _, level, style in candidate_styles(data):
            handle = Line2D([], [], color=style.color, linestyle=style.linestyle,
                            marker=style.marker)  # fmt: skip
            entries.append(LegendEntry(handle, level_text(factor, level)))
    lines = list(lines_at(data.comparison, {}))
    if any(line["verdict"] in SIGNIFICANT for line in lines):
        filled = Line2D([], [], color=GREY, linestyle="none", marker="o")
        entries.append(LegendEntry(filled, "significant difference"))
    if any(line["verdict"] not in SIGNIFICANT for line in lines):
        cross = Line2D([], [], color=GREY, linestyle="none", marker="x", markeredgewidth=1.4)
        entries.append(LegendEntry(cross, "no significant difference"))
    return [*entries, *(e for e in stability_legend(data) if e.label != "stability undetermined")]


def _draw_panel(ax: Axes, data: StudyData, axis: XAxis, place: Place, statistic: str) -> None:
    unstable_at = []
    sizes: list[float] = []
    candidates = candidate_styles(data)
    for index, candidate, style in candidates:
        drawn: list[tuple[float, Line]] = []
        for level in axis.order():
            where = {k: v for k, v in data.where(place, candidate, level).items()
                     if data.compare and k != data.compare["factor"]}  # fmt: skip
            if data.x is data.colour and level != candidate:
                continue
            found = lines_at(data.comparison, where, statistic=statistic, candidate=str(candidate))
            for line in found:
                if math.isfinite(number(line, "difference_s")):
                    drawn.append((axis.position(level, _slot(data, index)), line))
                    if line_unstable(line):
                        unstable_at.append(level)
        _draw_line(ax, drawn, style, joined=axis.numeric)
        for _, line in drawn:
            ends = ("",) if line_unstable(line) else ("", "_low", "_high")
            sizes += [number(line, f"difference_s{end}") for end in ends]
    axis.shade(ax, unstable_at)
    ax.axhline(0, color="#222222", linewidth=0.9, zorder=2)
    _scale(ax, [size for size in sizes if math.isfinite(size)])


def _slot(data: StudyData, candidate_index: int) -> int:
    """Return the place of a candidate among the study's series."""
    levels = list(data.series())
    return levels.index(data.candidates()[candidate_index])


def _draw_line(
    ax: Axes, drawn: list[tuple[float, Line]], style: SeriesStyle, *, joined: bool
) -> None:
    if joined:
        y = [math.nan if line_unstable(line) else number(line, "difference_s") for _, line in drawn]
        ax.plot([x for x, _ in drawn], y, color=style.color, linestyle=style.linestyle,
                linewidth=1.1, zorder=3)  # fmt: skip
    for x, line in drawn:
        low, high = number(line, "difference_s_low"), number(line, "difference_s_high")
        unstable = line_unstable(line)
        if math.isfinite(low) and not unstable:
            ax.vlines(x, low, high, color=style.color, linewidth=1.3, zorder=3)
        significant = line["verdict"] in SIGNIFICANT
        ax.plot(
            [x],
            [number(line, "difference_s")],
            linestyle="none",
            color=style.color,
            marker=style.marker if significant or unstable else "x",
            markerfacecolor="white" if unstable else style.color,
            markeredgewidth=1.0 if significant or unstable else 1.4,
            zorder=4,
        )


def _scale(ax: Axes, values: list[float]) -> None:
    """Choose an axis that shows milliseconds beside minutes, with zero in it."""
    sizes = sorted(abs(value) for value in values if value != 0)
    if not sizes:
        ax.set_ylim(-1, 1)
        return
    low, high = min(0.0, *values), max(0.0, *values)
    typical = float(np.quantile(sizes, 0.1))
    if sizes[-1] / typical < LOG_FROM_RATIO:
        pad = 0.16 * (high - low)
        ax.set_ylim(low - pad, high + pad)
        ax.yaxis.set_major_locator(MaxNLocator(6))
        return
    linear = 10.0 ** math.floor(math.log10(max(typical, sizes[-1] * 1e-6)))
    ax.set_yscale("symlog", linthresh=linear, linscale=0.5)
    ax.set_ylim(min(low * 3, -linear), max(high * 3, linear))
    first, last = round(math.log10(linear)), math.ceil(math.log10(sizes[-1]))
    stride = max(1, math.ceil((last - first + 1) / 5))
    decades = [10.0**k for k in range(first, last + 1, stride)]
    ticks = [0.0, *(d for d in decades if d <= high * 3), *(-d for d in decades if d <= -low * 3)]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def _say_direction(ax: Axes, baseline: str) -> None:
    style: dict[str, Any] = {
        "transform": ax.transAxes, "fontsize": 7, "color": "#666666", "ha": "left",
    }  # fmt: skip
    ax.text(0.015, 0.985, f"▲ slower than {baseline}", va="top", **style)
    ax.text(0.015, 0.015, f"▼ faster than {baseline}", va="bottom", **style)
