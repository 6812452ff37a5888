"""What each pool has left: busy time; with timelines also places in the batch, and KV cache."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from simlib.study.figures.axes import (
    XAxis,
    heading,
    place_title,
    series_legend,
    shade_legend,
    styles_of,
    unstable_levels,
)
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.latency import line_points
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.marks import draw_markers, mark_legend, state_of
from simlib.study.figures.place import Place
from simlib.study.figures.style import GREY, LineStyle

POOLS: dict[str, tuple[str, LineStyle]] = {
    "gpu": ("GPUs (monolithic)", "-"),
    "prefill": ("prefill pool", "--"),
    "decode": ("decode pool", ":"),
}
Value = Callable[[Point, str], float]
"""A share of what a pool has, of a point and the pool's name; NaN where it has none."""


def _busy(point: Point, pool: str) -> float:
    return point.value(f"utilization_{pool}")


def _batch(point: Point, pool: str) -> float:
    if point.config["serving"] != "batching":
        return math.nan
    section = point.config[f"batching_{point.config['mode']}"]
    settings = section.get("pool" if pool == "gpu" else pool, {})
    limit = settings.get("max_batch_size", math.nan) * settings.get("data_parallel_size", 1)
    return point.value(f"decode_batch_{pool}") / float(limit)


def _kv_cache(point: Point, pool: str) -> float:
    return point.value(f"max_kv_occupancy_{pool}")


BUSY: dict[str, Value] = {"busy share of the pool's GPU-seconds": _busy}
BATCHING: dict[str, Value] = {
    "time in iterations": _busy,
    "mean decode batch, of its limit": _batch,
    "KV cache, highest use of a replica": _kv_cache,
}
"""A batching replica is busy as long as it holds a single request: what runs out is the batch's
places, KV cache, or, where time in iterations is full and waits grow, the time itself."""


def utilization_figure(data: StudyData) -> Figure | None:
    """Return the figure; None where no pool's use is known."""
    batching = any(point.config["serving"] == "batching" for point in data.points)
    measures = {
        title: value for title, value in (BATCHING if batching else BUSY).items()
        if any(math.isfinite(value(point, pool)) for point in data.points for pool in POOLS)
    }  # fmt: skip
    return _page(data, data.places(), measures, batching=batching) if measures else None


def _page(
    data: StudyData, places: list[Place], measures: dict[str, Value], *, batching: bool
) -> Figure:
    axis = XAxis(data)
    columns = _columns(data, measures)
    pools = [pool for pool in POOLS if any(pool in shown for _, shown, _ in columns)]
    panel = (4.4, 2.8) if len(columns) * len(places) == 1 else (2.9, 2.0)
    marks = [(state_of(point), 1.0, (0.0, 1.0)) for point in data.points]
    legend = [*series_legend(data), *mark_legend(marks, verdicts=False)]
    together = any(len(shown) > 1 for _, shown, _ in columns)
    if together and axis.numeric:  # on an axis of names, the points say their pool
        legend += [LegendEntry(Line2D([], [], color=GREY, linestyle=POOLS[p][1]), POOLS[p][0])
                   for p in pools]  # fmt: skip
    single = len(columns) == 1
    across = {2: 2, 4: 2}.get(len(places), 3)
    grid = [[(place, column) for column in columns] for place in places]
    if single:  # places beside each other
        cells = [row[0] for row in grid]
        grid = [cells[i : i + across] for i in range(0, len(cells), across)]
    titles = [[place_title(place) for place, _ in row] for row in grid]
    depth, aside = axis.room(panel[0])
    sheet = make_sheet(
        [len(row) for row in grid],
        panel,
        heading(
            data,
            "What is scarce in each pool" if batching
            else "Utilisation: busy share of the pool's GPU-seconds in the window",
            ttft=False,
            intervals=False,
            notes=["Busy is not full: a replica that holds one request iterates all the time."]
            if batching else [],
        ),
        row_titles=() if single else [place_title(place) for place in places],
        panel_titles=titles if single else [[title for title, _, _ in columns]],
        legend=[*legend, *shade_legend(data)],
        margins=Margins(left=max(0.66, aside + 0.15), between_x=0.48, bottom=0.52 + depth),
    )  # fmt: skip
    tops = {title: _top(data, value, shown) if batching else 1.0
            for title, shown, value in columns}  # fmt: skip
    for row, cells in enumerate(grid):
        for column, (place, (title, shown, value)) in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, axis, place, shown, value)
            axis.dress(ax, panel[0], labelled=sheet.lowest(row, column))
            ax.set_ylim(0, 1.04 * tops[title])
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            if column == 0:
                ax.set_ylabel("share" if batching else "busy share")
    return sheet.figure


Column = tuple[str, list[str], Value]
"""Title, pools and value of a column of panels."""


def _columns(data: StudyData, measures: dict[str, Value]) -> list[Column]:
    """Return the columns: few lines are compared best in one panel, many need one for each pool."""
    columns: list[Column] = []
    for title, value in measures.items():
        pools = [pool for pool in POOLS
                 if any(math.isfinite(value(point, pool)) for point in data.points)]  # fmt: skip
        if len(data.series()) <= 2:
            columns.append((title, pools, value))
        else:
            named = len(measures) > 1
            columns += [
                (f"{POOLS[p][0]}: {title}" if named else POOLS[p][0], [p], value) for p in pools
            ]
    return columns


def _top(data: StudyData, value: Value, pools: list[str]) -> float:
    """Return where an axis of shares ends: at all there is, or at a tenth where little is used."""
    known = [v for point in data.points for pool in pools
             if math.isfinite(v := value(point, pool))]  # fmt: skip
    return next(top for top in (0.1, 0.25, 0.5, 1.0) if max(known) <= top or top == 1.0)


def _draw_panel(
    ax: Axes, data: StudyData, axis: XAxis, place: Place, pools: list[str], value: Value
) -> None:
    axis.shade(ax, unstable_levels(data, place))
    for index, (series, style) in enumerate(zip(data.series(), styles_of(data), strict=True)):
        points = line_points(data, axis, place, series, index)
        x = [place_x for place_x, _ in points]
        for pool in pools:
            y = [value(point, pool) for _, point in points]
            kept = [math.nan if point.unstable else share
                    for share, (_, point) in zip(y, points, strict=True)]  # fmt: skip
            if axis.numeric:
                line = POOLS[pool][1] if len(pools) > 1 else style.linestyle
                ax.plot(x, kept, color=style.color, linestyle=line, zorder=3)
            draw_markers(ax, x, y, [state_of(point) for _, point in points], style)
            if not axis.numeric and len(pools) > 1:
                for where, share in zip(x, y, strict=True):
                    if math.isfinite(share):
                        ax.annotate(pool, (where, share), (6, 0), textcoords="offset points",
                                    fontsize=7, va="center", color="#555555")  # fmt: skip
