"""Why the compared sides differ: each part's share of the difference of the mean TTFT."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simlib.core.records import TTFT_PARTS
from simlib.study.figures.axes import heading
from simlib.study.figures.bars import UNSTABLE_BAR, Panels, panels
from simlib.study.figures.data import Line, StudyData, number
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet, text_width
from simlib.study.figures.place import Place
from simlib.study.figures.style import GREY, PARTS, level_text, shortened, side_text

TOTAL = "total"
VISIBLE = 0.004
"""Smallest share of a bar that is worth a place in the legend."""
ROUNDING_S = 1e-9
Bar = tuple[int, bool, dict[str, Line]]
"""Its row, whether some side is unstable, and the lines of attribution.csv by part."""


def attribution_figure(data: StudyData) -> Figure | None:
    """Return the figure; None without a comparison, or without any difference."""
    if data.compare is None or not data.attribution:
        return None
    grid = panels(data, data.places())
    bars = [[_bars(data, place, level) for place, level in row] for row in grid.cells]
    stable = [
        _shares(lines) for row in bars for cell in row for _, unstable, lines in cell
        if not unstable
    ]  # fmt: skip
    present = [part for part in TTFT_PARTS if any(abs(s.get(part, 0.0)) > VISIBLE for s in stable)]
    return _page(data, grid, bars, present) if present else None


def _shares(lines: dict[str, Line]) -> dict[str, float]:
    """Return the parts' differences as shares of the sum of their sizes; empty without any."""
    differences = {part: number(lines[part], "difference_s") for part in lines if part != TOTAL}
    whole = math.fsum(map(abs, differences.values()))
    if not whole > ROUNDING_S:
        return {}
    return {part: value / whole for part, value in differences.items()}


def _bars(data: StudyData, place: Place, level: Any) -> list[Bar]:
    where = dict(place)
    if level is not None and data.x is not None:
        where[data.x.name] = level
    found = []
    for row, candidate in enumerate(data.candidates()):
        at = data.attribution.at(where, candidate=str(candidate))
        lines = {line["part"]: line for line in at}
        if lines and math.isfinite(number(lines[TOTAL], "difference_s")):
            found.append((row, _unstable(data, where, candidate), lines))
    return found


def _interval(lines: dict[str, Line]) -> tuple[float, float] | None:
    low, high = (number(lines[TOTAL], f"difference_s_{end}") for end in ("low", "high"))
    return None if math.isnan(low + high) else (low, high)


def _unstable(data: StudyData, where: Place, candidate: Any) -> bool:
    assert data.compare is not None
    own = data.x is data.colour
    levels = (candidate, data.compare["baseline"])
    x = where.get(data.x.name) if data.x is not None and not own else None
    points = [data.point(where, level, level if own else x) for level in levels]
    return any(point is not None and point.unstable for point in points)


def _page(data: StudyData, grid: Panels, bars: list[list[list[Bar]]], present: list[str]) -> Figure:
    assert data.compare is not None
    factor = data.compare["factor"]
    names = [shortened(level_text(factor, level)) for level in data.candidates()]
    panel = (2.9 if max(grid.shape) > 1 else 4.6, max(0.3 * len(names) + 0.2, 0.62))
    drawn = [bar for row in bars for cell in row for bar in cell]
    legend = [LegendEntry(Patch(facecolor=PARTS[p][1]), PARTS[p][0]) for p in present]
    if any(unstable for _, unstable, _ in drawn):
        legend.append(LegendEntry(Patch(edgecolor=GREY, **UNSTABLE_BAR), "some side unstable"))
    baseline = side_text(factor, data.compare["baseline"])
    stable = [_shares(lines) for _, unstable, lines in drawn if not unstable]
    least = min((_sum(shares, faster=True) for shares in stable), default=0.0)
    texts = [_total_text(lines[TOTAL]) for _, unstable, lines in drawn if not unstable]
    longest = max((text_width(text, 7.5) for text in texts), default=0.0)
    # the text after a full bar takes this share of the panel
    share = min((longest + 0.1) / panel[0], 0.75)
    limits = (least - 0.04, 1 + (1.04 - least) * share / (1 - share))
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(
            data,
            f"Why the mean TTFT differs from {baseline}, by as much as is written beside each bar",
            notes=grid.notes,
            intervals=any(_interval(lines) for _, unstable, lines in drawn if not unstable),
        ),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=legend,
        margins=Margins(
            left=max(text_width(n, 8.0) for n in names) + 0.35, between_x=0.3, bottom=0.5
        ),
    )
    for row, cells in enumerate(bars):
        for column, cell in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, cell, len(names), limits)
            ax.set_yticks(range(len(names)), names)
            ax.tick_params(labelleft=column == 0)
            if sheet.lowest(row, column):
                ax.set_xlabel("◀ speeds up   share of the change   slows ▶")
    return sheet.figure


def _sum(shares: dict[str, float], *, faster: bool) -> float:
    return math.fsum(v for v in shares.values() if (v < 0) == faster)


def _draw_panel(ax: Axes, bars: list[Bar], n_rows: int, limits: tuple[float, float]) -> None:
    least = limits[0] + 0.04
    for row, unstable, lines in bars:
        shares = _shares(lines)
        if unstable:
            ax.barh(row, 1 - least, left=least, height=0.62, edgecolor=GREY, **UNSTABLE_BAR)
            ax.text((1 + least) / 2, row, "unstable", fontsize=7, color="#555555", va="center",
                    ha="center")  # fmt: skip
            continue
        ends = {True: 0.0, False: 0.0}
        for part, share in shares.items():  # what slows to the right of zero, the rest to the left
            ax.barh(row, share, left=ends[share > 0], height=0.62, color=PARTS[part][1])
            ends[share > 0] += share
        ax.text(ends[True] + 0.05, row, _total_text(lines[TOTAL]), va="center", ha="left",
                fontsize=7.5, color="#333333")  # fmt: skip
    ax.axvline(0, color="#222222", linewidth=0.9)
    ax.set_xlim(*limits)
    steps = (-1.0, 0.0, 1.0) if least < -0.5 else (0.0, 0.5, 1.0)
    ticks = [tick for tick in steps if tick >= limits[0]]
    ax.set_xticks(ticks, [f"{abs(tick):.0%}" for tick in ticks])
    ax.set_ylim(n_rows - 0.4, -0.6)
    ax.yaxis.grid(visible=False)
    ax.tick_params(axis="y", length=0)


def _total_text(line: Line) -> str:
    """Return the difference of the sum, with its interval where there is one."""
    value = number(line, "difference_s")
    scale, unit = (1e3, "ms") if abs(value) < 0.1 else (1.0, "s")
    ends = _interval({TOTAL: line})
    text = _signed(scale * value)
    if ends:
        text += f" [{_signed(scale * ends[0])}, {_signed(scale * ends[1])}]"
    return f"{text} {unit}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")
