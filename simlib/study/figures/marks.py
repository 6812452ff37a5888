"""Points, lines and intervals of a series: one artist for many points, not one for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from simlib.study.figures.data import Line, Point
from simlib.study.figures.layout import LegendEntry
from simlib.study.figures.style import GREY, SeriesStyle

FILLED, HALF, HOLLOW, CROSS, DOT = "filled", "half filled", "hollow", "cross", "dot"
EQUAL = "equal"
SIGNIFICANT = ("faster", "slower")
_SHAPES = {CROSS: "x", DOT: ".", EQUAL: "$=$"}
_EDGES = {CROSS: 1.4, EQUAL: 0.5}
Limits = tuple[float, float]


def state_of(point: Point) -> str:
    """Return how a point is drawn: hollow if unstable, half filled if nobody knows."""
    if point.unstable:
        return HOLLOW
    return HALF if point.undetermined else FILLED


def state_of_verdict(line: Line) -> str:
    """Return how a line of comparison.csv is drawn."""
    if line_unstable(line):
        return HOLLOW
    verdict = line["verdict"]
    if verdict in SIGNIFICANT:
        return FILLED
    if verdict == "identical" or verdict.startswith("equal within"):
        return EQUAL
    return DOT if verdict == "not tested" else CROSS


def turned(line: Line) -> bool:
    """Return whether another definition of TTFT gives a line of comparison.csv another verdict."""
    return bool(line["other_definitions"]) and not line_unstable(line)


def line_unstable(line: Line) -> bool:
    """Return whether one of the compared sides is unstable."""
    return "unstable" in (line["baseline_stability"], line["candidate_stability"])


def draw_markers(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    states: Sequence[str],
    style: SeriesStyle,
    limits: Limits = (-math.inf, math.inf),
) -> None:
    """Draw points, each in its state; those beyond the axis stand at its edge, as arrowheads.

    Points without a value are left out.
    """
    low, high = limits
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for place, value, state in zip(x, y, states, strict=True):
        if math.isnan(value):
            continue
        marker = _SHAPES.get(state, style.marker)
        if not low <= value <= high:
            marker = "^" if value > high else "v"
        spot = (place, min(max(value, low), high))
        groups.setdefault((state, marker), []).append(spot)
    for (state, marker), spots in groups.items():
        ax.plot(
            [place for place, _ in spots],
            [value for _, value in spots],
            linestyle="none",
            marker=marker,
            color=style.color,
            markerfacecolor="white" if state == HOLLOW else style.color,
            markeredgewidth=_EDGES.get(state, 1.0),
            fillstyle="left" if state == HALF else "full",
            markerfacecoloralt="white",
            zorder=4,
            clip_on=False,
        )


def draw_rings(
    ax: Axes, x: Sequence[float], y: Sequence[float], color: str, limits: Limits
) -> None:
    """Draw a ring around each of some points within the axis."""
    spots = [spot for spot in zip(x, y, strict=True) if limits[0] <= spot[1] <= limits[1]]
    if spots:
        ax.plot(
            [place for place, _ in spots],
            [value for _, value in spots],
            color=color,
            zorder=4,
            clip_on=False,
            **_RING,
        )


def ring_legend(lines: Sequence[Line]) -> list[LegendEntry]:
    """Return the entry of rings around the verdicts that another definition of TTFT turns."""
    if not any(map(turned, lines)):
        return []
    handle = Line2D([], [], color=GREY, **_RING)
    return [LegendEntry(handle, "another TTFT definition says otherwise")]


_RING: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markersize": 11, "markerfacecolor": "none",
    "markeredgewidth": 0.9,
}  # fmt: skip


def draw_intervals(
    ax: Axes,
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    color: str,
    limits: Limits,
) -> None:
    """Draw the intervals that are known; an open end goes on to the edge of the axis."""
    known = [ends for ends in zip(x, low, high, strict=True) if not math.isnan(ends[1] + ends[2])]
    if not known:
        return
    ax.vlines(
        [place for place, _, _ in known],
        [max(lower, limits[0]) for _, lower, _ in known],
        [min(upper, limits[1]) for _, _, upper in known],
        color=color, linewidth=1.2, zorder=3,
    )  # fmt: skip
    for index, edge, marker in ((1, limits[0], 11), (2, limits[1], 10)):  # carets, base at the edge
        opened = [ends[0] for ends in known if math.isinf(ends[index])]
        if opened:
            ax.plot(opened, [edge] * len(opened), linestyle="none", marker=marker, markersize=5,
                    color=color, zorder=3, clip_on=False)  # fmt: skip


def mark_legend(
    drawn: Sequence[tuple[str, float, Limits]], *, verdicts: bool, equal: str = "identical"
) -> list[LegendEntry]:
    """Return legend entries of the marks that are drawn, given state, value and axis of each.

    `equal` are the words of sides that are practically equal.
    """
    states, beyond = set(), False
    for state, value, (low, high) in drawn:
        if low <= value <= high:
            states.add(state)
        elif not math.isnan(value):
            beyond = True
    words = {
        FILLED: "significant difference" if verdicts else "",
        EQUAL: equal,
        CROSS: "too close to call",
        DOT: "not tested",
        HALF: "stability undetermined",
        HOLLOW: "some side unstable" if verdicts else "unstable",
    }
    looks: dict[str, dict[str, Any]] = {
        FILLED: {"marker": "o"},
        EQUAL: {"marker": _SHAPES[EQUAL], "markeredgewidth": _EDGES[EQUAL]},
        CROSS: {"marker": _SHAPES[CROSS], "markeredgewidth": _EDGES[CROSS]},
        DOT: {"marker": _SHAPES[DOT]},
        HALF: {"marker": "o", "fillstyle": "left", "markerfacecoloralt": "white"},
        HOLLOW: {"marker": "o", "markerfacecolor": "white"},
    }
    entries = [
        LegendEntry(Line2D([], [], color=GREY, linestyle="none", **looks[state]), text)
        for state, text in words.items()
        if text and state in states
    ]
    if beyond:
        arrow = Line2D([], [], color=GREY, linestyle="none", marker="^", markerfacecolor="white")
        entries.append(LegendEntry(arrow, f"{words[HOLLOW]}, beyond the axis"))
    return entries


def open_legend(ends: Sequence[float]) -> list[LegendEntry]:
    """Return the entry of intervals that the data leave open, of which these are ends."""
    handle = Line2D([], [], color=GREY, marker=10, markevery=[1], markersize=5, linewidth=1.2)
    is_open = any(math.isinf(end) for end in ends)
    return [LegendEntry(handle, "interval open on this side")] if is_open else []
