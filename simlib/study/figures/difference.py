"""The paired difference of TTFT to the baseline with its interval, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from simlib.study.figures.axes import XAxis, heading, place_title, shade_legend, styles_of
from simlib.study.figures.data import Line, StudyData, number
from simlib.study.figures.latency import which
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.marks import (
    Limits,
    draw_intervals,
    draw_markers,
    draw_rings,
    line_unstable,
    mark_legend,
    open_legend,
    ring_legend,
    state_of_verdict,
    turned,
)
from simlib.study.figures.place import Place
from simlib.study.figures.style import SeriesStyle, axis_label, level_text, side_text

PANELS = ("mean_ttft_s", "p99_ttft_s")
LOG_FROM_RATIO = 40.0
"""Differences whose sizes span more than this need a symmetric logarithmic axis."""
Drawn = list[tuple[float, Line]]
"""Lines of comparison.csv from left to right, with where they stand."""


def difference_figure(data: StudyData) -> Figure | None:
    """Return the figure; None without a comparison."""
    shown = [
        statistic for statistic in PANELS
        if any(math.isfinite(number(line, "difference_s"))
               for line in data.comparison.at({}, statistic=statistic))
    ]  # fmt: skip
    return _page(data, data.places(), shown) if shown else None


def candidate_styles(data: StudyData) -> list[tuple[Any, SeriesStyle]]:
    """Return level and style of each candidate, as it looks in the other figures."""
    styles = dict(zip(map(str, data.series()), styles_of(data), strict=True))
    return [(level, styles[str(level)]) for level in data.candidates()]


def candidate_legend(data: StudyData) -> list[LegendEntry]:
    """Return the legend entries of the candidates; none where the x axis names them."""
    if data.compare is None or data.x is data.colour:
        return []
    factor = data.compare["factor"]
    entries = [LegendEntry(None, axis_label(factor))] if factor != "mode" else []
    for level, style in candidate_styles(data):
        handle = Line2D([], [], color=style.color, linestyle=style.linestyle, marker=style.marker)
        entries.append(LegendEntry(handle, level_text(factor, level)))
    return entries


def compared(data: StudyData, axis: XAxis, place: Place, candidate: Any, statistic: str) -> Drawn:
    """Return the comparisons of a candidate along x."""
    assert data.compare is not None
    slot = list(data.series()).index(candidate)
    drawn: Drawn = []
    for level in axis.order():
        if data.x is data.colour and level != candidate:
            continue
        where = data.where(place, candidate, level)
        where.pop(data.compare["factor"], None)
        drawn += [
            (axis.position(level, slot), line)
            for line in data.comparison.at(where, statistic=statistic, candidate=str(candidate))
        ]
    return drawn


def draw_comparisons(
    ax: Axes, drawn: Drawn, column: str, style: SeriesStyle, limits: Limits, *, joined: bool
) -> None:
    """Draw differences or ratios with their intervals and verdicts; `column` names the estimate."""
    x = [place for place, _ in drawn]
    y = [number(line, column) for _, line in drawn]
    stable = [not line_unstable(line) for _, line in drawn]
    kept, low, high = (
        [number(line, column + end) if ok else math.nan
         for (_, line), ok in zip(drawn, stable, strict=True)]
        for end in ("", "_low", "_high")
    )  # fmt: skip
    if joined:
        ax.plot(x, kept, color=style.color, linestyle=style.linestyle, linewidth=1.1, zorder=3)
    draw_intervals(ax, x, low, high, style.color, limits)
    draw_markers(ax, x, y, [state_of_verdict(line) for _, line in drawn], style, limits)
    rings = [(at, value) for at, value, (_, line) in zip(x, y, drawn, strict=True) if turned(line)]
    draw_rings(ax, [at for at, _ in rings], [value for _, value in rings], style.color, limits)


def shade_unstable(ax: Axes, data: StudyData, axis: XAxis, place: Place, statistic: str) -> None:
    """Shade the levels of x where a compared side is unstable."""
    found = {
        x
        for candidate in data.candidates()
        for x, line in compared(data, axis, place, candidate, statistic)
        if line_unstable(line)
    }
    levels = [
        level for level in axis.order()
        if any(axis.position(level, slot) in found for slot in range(len(data.series())))
    ]  # fmt: skip
    axis.shade(ax, levels)


def comparison_legend(
    data: StudyData, lines: list[Line], column: str, limits: list[Limits]
) -> list[LegendEntry]:
    """Return the entries of what is drawn of these lines, each on an axis with its limits."""
    known = [(line, ends) for line, ends in zip(lines, limits, strict=True)
             if not math.isnan(number(line, column))]  # fmt: skip
    stable = [line for line, _ in known if not line_unstable(line)]
    unstable = len(stable) < len(known)
    drawn = [(state_of_verdict(line), number(line, column), ends) for line, ends in known]
    return [
        *candidate_legend(data),
        *mark_legend(drawn, verdicts=True, equal=equal_words([line for line, _ in known])),
        *ring_legend([line for line, _ in known]),
        *open_legend([number(line, f"{column}_{e}") for line in stable for e in ("low", "high")]),
        *(shade_legend(data) if unstable else []),
    ]


def equal_words(lines: Iterable[Line]) -> str:
    """Return the verdict on sides that are practically equal: it says the study's margin."""
    words = {line["verdict"] for line in lines if line["verdict"].startswith("equal within")}
    return ", ".join(sorted(words)) or "identical"


def has_intervals(lines: list[Line], column: str) -> bool:
    """Return whether any of the lines has an interval that is drawn."""
    return any(
        not math.isnan(number(line, f"{column}_low")) for line in lines if not line_unstable(line)
    )


def _page(data: StudyData, places: list[Place], shown: list[str]) -> Figure:
    axis = XAxis(data)
    big = len(shown) * len(places) <= 2
    panel = (3.9, 2.9) if big else (3.2, 2.1)
    assert data.compare is not None
    baseline = side_text(data.compare["factor"], data.compare["baseline"])
    lines = {statistic: data.comparison.at({}, statistic=statistic) for statistic in shown}
    scales = {statistic: _Scale.of(lines[statistic]) for statistic in shown}
    depth, aside = axis.room(panel[0])
    every = [line for statistic in shown for line in lines[statistic]]
    limits = [scales[statistic].limits for statistic in shown for _ in lines[statistic]]
    sheet = make_sheet(
        [len(shown)] * len(places),
        panel,
        heading(
            data,
            f"Difference of TTFT to {baseline}, paired by common random numbers",
            extra="verdicts held to 5% together over the study (Holm)",
            intervals=has_intervals(every, "difference_s"),
        ),
        row_titles=[place_title(place) for place in places],
        panel_titles=[[f"{which(statistic)} TTFT" for statistic in shown]],
        legend=comparison_legend(data, every, "difference_s", limits),
        margins=Margins(left=max(0.85, aside + 0.15), between_x=0.72, bottom=0.55 + depth),
    )
    for column, statistic in enumerate(shown):
        for row, place in enumerate(places):
            ax = sheet.axes[row][column]
            scales[statistic].dress(ax)
            shade_unstable(ax, data, axis, place, statistic)
            ax.axhline(0, color="#222222", linewidth=0.9, zorder=2)
            for candidate, style in candidate_styles(data):
                drawn = compared(data, axis, place, candidate, statistic)
                draw_comparisons(ax, drawn, "difference_s", style, scales[statistic].limits,
                                 joined=axis.numeric)  # fmt: skip
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            say_direction(ax, baseline)
            if column == 0:
                ax.set_ylabel("difference (s)")
    return sheet.figure


class _Scale:
    """The vertical axis of a statistic, the same for all places: milliseconds beside minutes."""

    def __init__(self, values: list[float], tops: list[float]) -> None:
        sizes = sorted(abs(value) for value in values if value != 0)
        if not sizes:
            self.limits, self._linear, self._largest = (-1.0, 1.0), 0.0, 1.0
            return
        low, high = min(0.0, *values, *tops), max(0.0, *values, *tops)
        typical = float(np.quantile(sizes, 0.1))
        self._largest = max(-low, high)
        if self._largest / typical < LOG_FROM_RATIO:
            pad = 0.16 * (high - low)
            self.limits, self._linear = (low - pad, high + pad), 0.0
            return
        self._linear = 10.0 ** math.floor(math.log10(max(typical, self._largest * 1e-4)))
        self.limits = min(low * 3, -self._linear), max(high * 3, self._linear)

    @classmethod
    def of(cls, lines: list[Line]) -> _Scale:
        """Return the scale that shows the stable differences, where there are any."""
        stable = [line for line in lines if not line_unstable(line)]
        kept = [v for line in stable or lines if math.isfinite(v := number(line, "difference_s"))]
        most = 4.0 * max(map(abs, kept), default=0.0)  # wider intervals end at the edge
        ends = [number(line, f"difference_s_{end}") for line in stable for end in ("low", "high")]
        return cls(kept, [min(max(end, -most), most) for end in ends if math.isfinite(end)])

    def dress(self, ax: Axes) -> None:
        """Set the scale, limits and ticks of an axis."""
        low, high = self.limits
        if self._linear:
            ax.set_yscale("symlog", linthresh=self._linear, linscale=0.5)
            first, last = round(math.log10(self._linear)), math.ceil(math.log10(self._largest))
            stride = max(1, math.ceil((last - first + 1) / 5))
            decades = [10.0**k for k in range(first, last + 1, stride)]
            ticks = [0.0, *(d for d in decades if d <= high), *(-d for d in decades if d <= -low)]
            ax.yaxis.set_major_locator(FixedLocator(ticks))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        else:
            ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.set_ylim(low, high)


def say_direction(ax: Axes, baseline: str) -> None:
    """Write what lies above and below the line of no difference."""
    style: dict[str, Any] = {
        "transform": ax.transAxes, "fontsize": 7, "color": "#666666", "ha": "left",
    }  # fmt: skip
    ax.text(0.015, 0.985, f"▲ slower than {baseline}", va="top", **style)
    ax.text(0.015, 0.015, f"▼ faster than {baseline}", va="bottom", **style)
