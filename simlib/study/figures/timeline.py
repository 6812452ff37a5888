"""What each pool does over time: utilisation, KV cache, waiting requests and batch size."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from simlib.study.figures.axes import (
    finite,
    heading,
    place_title,
    series_legend,
    styles_of,
    unstable_levels,
    x_phrase,
)
from simlib.study.figures.data import Line, StudyData, number
from simlib.study.figures.layout import Margins, make_sheet
from simlib.study.figures.place import Place
from simlib.study.figures.style import SeriesStyle
from simlib.study.figures.utilization import POOLS

COLUMNS = {
    "utilization": "time in iterations",
    "kv_occupancy": "KV cache in use",
    "waiting": "waiting requests",
    "decode_batch": "decode batch size",
}
"""Panels of a pool; the last one not of a pool that only prefills."""
SHARES = ("utilization", "kv_occupancy")
Drawn = list[tuple[list[Line], SeriesStyle]]
"""The lines of timeline.csv of each series, with its style."""


def timeline_figure(data: StudyData) -> Figure | None:
    """Return the figure of one place; None without timelines."""
    return _page(data, data.places()[0]) if data.timeline else None


def shown_level(data: StudyData, place: Place) -> Any:
    """Return the highest level of x where all is stable; the lowest one if none is."""
    if data.x is None:
        return None
    levels = sorted(data.x.levels) if data.x.numeric else list(data.x.levels)
    unstable = unstable_levels(data, place)
    return next((level for level in reversed(levels) if level not in unstable), levels[0])


def _which_level(data: StudyData, place: Place, level: Any) -> str:
    assert data.x is not None
    unstable = unstable_levels(data, place)
    if level in unstable:
        which = "the lowest level: some side is unstable there, and at all others"
    elif not data.x.numeric:
        which = "the last level where all is stable" if unstable else "the last level"
    else:
        which = "the highest level where all is stable" if unstable else "the highest level"
    return f"Shown: {which}; every level is in timeline.csv."


def _page(data: StudyData, place: Place) -> Figure | None:
    own = data.x is data.colour  # then each series stands at its own level
    level = None if own else shown_level(data, place)
    found = [data.point(place, s, s if own else level) for s in data.series()]
    shown = {point.point_id for point in found if point is not None}
    by_point: dict[str, dict[str, list[Line]]] = {}
    for line in data.timeline:
        if line["point_id"] in shown:
            pools = by_point.setdefault(line["point_id"], {})
            pools.setdefault(line["pool"], []).append(line)
    rows: list[tuple[str, Drawn]] = []
    for pool in ("gpu", "decode", "prefill"):
        drawn = [
            (by_point[point.point_id][pool], style)
            for point, style in zip(found, styles_of(data), strict=True)
            if point is not None and pool in by_point.get(point.point_id, {})
        ]
        if drawn:
            rows.append((pool, drawn))
    if not rows:
        return None
    columns = [list(COLUMNS)[: 3 if pool == "prefill" else 4] for pool, _ in rows]
    where = [place_title(place)] if place else []
    if data.x is not None and not own:
        where.append(x_phrase(data, level))
    first = next(iter(by_point.values()))
    bins = next(iter(first.values()))
    length_s = number(bins[0], "end_s") - number(bins[0], "start_s")
    sheet = make_sheet(
        [len(names) for names in columns],
        (2.3, 1.35),
        heading(
            data,
            "Pools over time" + (f" at {', '.join(where)}" if where else ""),
            extra=f"bins of {length_s:.3g} s",
            ttft=False,
            intervals=False,
            notes=_notes(data, place, own),
        ),
        row_titles=[POOLS[pool][0] for pool, _ in rows],
        panel_titles=[[COLUMNS[name] for name in columns[0]]],
        legend=series_legend(data, markers=False),
        margins=Margins(left=0.6, between_x=0.5, between_y=0.2, bottom=0.52),
    )
    tops = {name: _top(rows, name) for name in COLUMNS}
    for row, (_, drawn) in enumerate(rows):
        for column, name in enumerate(columns[row]):
            ax = sheet.axes[row][column]
            _draw_panel(ax, drawn, name)
            ax.set_ylim(0, tops[name])
            ax.set_xlim(number(bins[0], "start_s"), number(bins[-1], "end_s"))
            ax.xaxis.set_major_locator(MaxNLocator(4))
            if sheet.lowest(row, column):
                ax.tick_params(labelbottom=True)
                ax.set_xlabel("simulated time (s)")
    return sheet.figure


def _notes(data: StudyData, place: Place, own: bool) -> list[str]:
    notes = ["Means over each bin and over the replicates; batch size: while a replica decodes."]
    if data.x is not None and not own and len(data.x.levels) > 1:
        notes.append(_which_level(data, place, shown_level(data, place)))
    return notes


def _top(rows: list[tuple[str, Drawn]], name: str) -> float:
    """Return where an axis ends: the same for all pools, so that they can be compared."""
    if name == "utilization":
        return 1.05
    lines = [line for _, drawn in rows for its_lines, _ in drawn for line in its_lines]
    highest = max(finite([number(line, name) for line in lines]), default=0.0)
    least = 0.05 if name in SHARES else 1.0
    return 1.08 * max(highest, least)


def _draw_panel(ax: Axes, drawn: Drawn, name: str) -> None:
    for lines, style in drawn:
        # a bin is a step as wide as itself; where nothing decodes the line is broken
        edges = [number(line, "start_s") for line in lines] + [number(lines[-1], "end_s")]
        values = [number(line, name) for line in lines]
        ax.stairs(
            values,
            edges,
            baseline=None,
            color=style.color,
            linestyle=style.linestyle,
            linewidth=1.0,
        )
    if name in SHARES:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    locator = FixedLocator([0, 0.5, 1]) if name == "utilization" else MaxNLocator(3)
    ax.yaxis.set_major_locator(locator)
