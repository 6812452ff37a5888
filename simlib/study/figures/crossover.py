"""Who wins where: a map over two swept factors, with the line where the winner changes."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from simlib.study.figures.axes import heading, styles_of
from simlib.study.figures.data import Factor, Line, StudyData, number
from simlib.study.figures.difference import candidate_styles, equal_words
from simlib.study.figures.latency import which
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet, text_width
from simlib.study.figures.marks import CROSS, DOT, EQUAL, line_unstable, state_of_verdict
from simlib.study.figures.place import Place
from simlib.study.figures.style import (
    axis_label,
    level_phrase,
    level_text,
    shortened,
    side_text,
)

PANELS = ("mean_ttft_s", "p99_ttft_s")
PRACTICALLY_EQUAL: dict[str, Any] = {"facecolor": "#cfcfcf"}
UNDECIDED: dict[str, Any] = {"facecolor": "#f6f6f6", "hatch": "////", "edgecolor": "#c4c4c4"}
"""Of cells where the data do not say which side is faster, nor that they are equal."""
CELLS_WITH_TEXT = 150
_BELOW = 0.2
"""How far below the middle of its row a crossing is drawn, to leave the text readable."""


def crossover_rows(data: StudyData) -> list[Place]:
    """Return a row for each candidate and each level of what the map does not span."""
    if data.crossover is None or data.compare is None:
        return []
    taken = (data.crossover["x"], data.crossover["y"], data.compare["factor"])
    others = [f for f in data.factors if f.name not in taken and len(f.levels) > 1]
    rows = [
        {**dict(zip([f.name for f in others], levels, strict=True)), "candidate": candidate}
        for levels in itertools.product(*(f.levels for f in others))
        for candidate in data.candidates()
    ]
    return [row for row in rows if data.comparison.at(row)]


def crossover_figure(data: StudyData) -> Figure | None:
    """Return the map; None if the study asks for none."""
    rows = crossover_rows(data)
    if data.crossover is None or not rows:
        return None
    x, y = data.factor(data.crossover["x"]), data.factor(data.crossover["y"])
    return _page(data, x, y, rows)


def _page(data: StudyData, x: Factor, y: Factor, places: list[Place]) -> Figure:
    assert data.compare is not None
    factor = data.compare["factor"]
    baseline = side_text(factor, data.compare["baseline"])
    y_texts = [shortened(level_text(y.name, level)) for level in y.levels]
    label = "\n".join(textwrap.wrap(axis_label(y.name), 24))
    panel = (min(max(0.56 * len(x.levels), 2.4), 5.5), min(max(0.36 * len(y.levels), 1.7), 4.0))
    several = len(data.candidates()) > 1
    titles = []
    for place in places:
        words = [level_phrase(name, level) for name, level in place.items() if name != "candidate"]
        if several:
            words.append(f"{level_text(factor, place['candidate'])} against {baseline}")
        titles.append(", ".join(words))
    sheet = make_sheet(
        [len(PANELS)] * len(places),
        panel,
        heading(
            data,
            "Who has the lower TTFT; in each cell the ratio to " + baseline,
            extra="significant at a family-wise 5% (Holm)",
        ),
        row_titles=titles,
        panel_titles=[[f"{which(statistic)} TTFT" for statistic in PANELS]],
        legend=_legend(data),
        margins=Margins(
            left=max(text_width(text, 8.0) for text in y_texts) + 0.45 + 0.16 * label.count("\n"),
            between_x=0.3,
            bottom=0.52,
        ),
    )
    for row, place in enumerate(places):
        for column, statistic in enumerate(PANELS):
            ax = sheet.axes[row][column]
            _draw_map(ax, data, x, y, place, statistic)
            ax.set_yticks(range(len(y.levels)), y_texts if column == 0 else [""] * len(y_texts))
            if row == len(places) - 1:
                ax.set_xlabel(axis_label(x.name))
            if column == 0:
                ax.set_ylabel(label)
    return sheet.figure


def _pale(color: str) -> tuple[float, float, float]:
    red, green, blue = (0.42 * part + 0.58 for part in to_rgb(color))
    return red, green, blue


def _legend(data: StudyData) -> list[LegendEntry]:
    assert data.compare is not None
    factor, baseline = data.compare["factor"], data.compare["baseline"]
    entries = [LegendEntry(Patch(facecolor=_pale(_baseline_color(data))),
                           f"{side_text(factor, baseline)} faster")]  # fmt: skip
    entries += [
        LegendEntry(Patch(facecolor=_pale(style.color)), f"{side_text(factor, level)} faster")
        for level, style in candidate_styles(data)
    ]
    lines = [line for line in data.comparison if line["statistic"] in PANELS]
    shown = {state_of_verdict(line) for line in lines}
    if EQUAL in shown:
        entries.append(LegendEntry(Patch(**PRACTICALLY_EQUAL), equal_words(lines)))
    undecided = {CROSS: "too close to call", DOT: "not tested"}
    if words := [undecided[state] for state in undecided if state in shown]:
        entries.append(LegendEntry(Patch(**UNDECIDED, linewidth=0), ", or ".join(words)))
    if any(line_unstable(line) for line in lines):
        hollow = Patch(facecolor="white", edgecolor="#999999", linestyle=(0, (2, 1.5)))
        entries.append(LegendEntry(hollow, "some side unstable"))
    if any(map(_bounded, data.crossings)):
        line = Line2D([], [], color="black", marker="|", markersize=7, linewidth=1.3)
        entries.append(LegendEntry(line, "crossover, 95% interval"))
    return entries


def _baseline_color(data: StudyData) -> str:
    assert data.compare is not None
    index = list(map(str, data.series())).index(str(data.compare["baseline"]))
    return styles_of(data)[index].color


def _draw_map(
    ax: Axes, data: StudyData, x: Factor, y: Factor, place: Place, statistic: str
) -> None:
    candidate = place["candidate"]
    where = {name: level for name, level in place.items() if name != "candidate"}
    color = {str(level): style.color for level, style in candidate_styles(data)}
    columns = sorted(x.levels)
    # crossings pass below the cells' texts
    raised = 0.17 if any(math.isfinite(number(c, "crossover")) for c in data.crossings) else 0.0
    with_text = len(columns) * len(y.levels) <= CELLS_WITH_TEXT
    for row, y_level in enumerate(y.levels):
        for column, x_level in enumerate(columns):
            here = {**where, x.name: x_level, y.name: y_level}
            found = data.comparison.at(here, statistic=statistic, candidate=str(candidate))
            line = next(iter(found), None)
            if line is None:
                continue
            winners = {"faster": color[str(candidate)], "slower": _baseline_color(data)}
            _draw_cell(ax, column, row, line, winners, with_text=with_text, raised=raised)
    _draw_crossings(ax, data, columns, y, where, str(candidate), statistic)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(-0.5, len(y.levels) - 0.5)
    ax.set_xticks(range(len(columns)), [level_text(x.name, level) for level in columns])
    ax.tick_params(length=0)
    ax.grid(visible=False)


def _draw_cell(
    ax: Axes,
    column: int,
    row: int,
    line: Line,
    winners: dict[str, str],
    *,
    with_text: bool,
    raised: float,
) -> None:
    style: dict[str, Any] = {"edgecolor": "white", "linewidth": 1.0}
    verdict = line["verdict"]
    if line_unstable(line):
        style = {"facecolor": "white", "edgecolor": "#999999", "linestyle": (0, (2, 1.5)),
                 "linewidth": 0.8}  # fmt: skip
    elif verdict in winners:
        style["facecolor"] = _pale(winners[verdict])
    else:
        style |= PRACTICALLY_EQUAL if state_of_verdict(line) == EQUAL else UNDECIDED
    inset = 0.47 if line_unstable(line) else 0.5
    ax.add_patch(Rectangle((column - inset, row - inset), 2 * inset, 2 * inset, **style))
    ratio = number(line, "ratio")
    if with_text and math.isfinite(ratio):
        text = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.3g}"
        text = "–" if line_unstable(line) else text
        ax.text(column, row + raised, text, ha="center", va="center", fontsize=7.5, color="#222222")


def _draw_crossings(
    ax: Axes,
    data: StudyData,
    columns: list[Any],
    y: Factor,
    where: Place,
    candidate: str,
    statistic: str,
) -> None:
    """Draw each crossing with its interval, joined along y where there is one per level.

    One that the data bound on no side is none to look at; an open end goes on to the map's edge.
    """
    joined: list[tuple[float, float]] = []
    for row, level in enumerate(y.levels):
        here = {**where, y.name: level}
        lines = [
            line
            for line in data.crossings.at(here, statistic=statistic, candidate=candidate)
            if _bounded(line)
        ]
        for line in lines:
            place = _between(number(line, "crossover"), columns)
            low, high = _ends(line)
            reach = (
                _between(low, columns) if math.isfinite(low) else -0.5,
                _between(high, columns) if math.isfinite(high) else len(columns) - 0.5,
            )
            ax.hlines(row - _BELOW, *reach, color="black", linewidth=1.3, zorder=4)
            ax.plot(
                [place, place],
                [row - _BELOW - 0.16, row - _BELOW + 0.16],
                color="black",
                linewidth=1.3,
                zorder=4,
            )
        single = _between(number(lines[0], "crossover"), columns) if len(lines) == 1 else math.nan
        joined.append((single, row - _BELOW))
    ax.plot([x for x, _ in joined], [row for _, row in joined], color="black", linewidth=1.0,
            zorder=4)  # fmt: skip


def _ends(line: Line) -> tuple[float, float]:
    """Return the ends of a crossing's interval; infinite, or NaN without one, where it is open."""
    return number(line, "crossover_low"), number(line, "crossover_high")


def _bounded(line: Line) -> bool:
    """Return whether there is a crossing that the data bound on some side."""
    return math.isfinite(number(line, "crossover")) and any(map(math.isfinite, _ends(line)))


def _between(value: float, levels: list[Any]) -> float:
    """Return where a value of x lies among the equally wide cells of its levels."""
    clipped = min(max(value, levels[0]), levels[-1])
    return float(np.interp(clipped, levels, np.arange(len(levels))))
