"""The distribution of TTFT over requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from simlib.core.records import Status
from simlib.study.figures.axes import heading, series_legend, styles_of
from simlib.study.figures.bars import Panels, panels, points_at
from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import LegendEntry, Margins, make_sheet
from simlib.study.figures.style import GREY

END_COLUMN = {
    "first_decode_step": "first_token_s",
    "prefill_end": "prefill_end_s",
    "transfer_end": "transfer_end_s",
}
_STEPS = np.concatenate((np.linspace(0, 0.98, 246), np.linspace(0.981, 1.0, 58)))
"""Where curves are evaluated: a drawing cannot show every one of a million requests."""


def ecdf_figure(data: StudyData) -> Figure | None:
    """Return the figure; None without the table of requests."""
    if data.requests is None:
        return None
    grid = panels(data, data.places())
    curves = read_curves(data.requests, {p.point_id: p for p in _shown(data, grid)})
    return _page(data, grid, curves) if curves else None


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def _shown(data: StudyData, grid: Panels) -> Iterator[Point]:
    for row in grid.cells:
        for place, level in row:
            yield from (p for p in points_at(data, place, level) if p is not None)


def read_curves(path: Path, points: dict[str, Point]) -> dict[str, Curve]:
    """Return TTFT in seconds and the fraction of requests at most that slow, by point.

    Requests in the window that were accepted, all replicates together; a request without a
    first token counts as slower than all, so a curve that ends below 1 shows what was lost.
    """
    import pyarrow.compute as pc  # 0.1 s that studies without this figure save
    import pyarrow.parquet as pq

    ends = sorted({END_COLUMN[point.line["ttft_definition"]] for point in points.values()})
    table = pq.read_table(
        path,
        columns=["point_id", "in_window", "status", "arrival_s", *ends],
        filters=[("point_id", "in", list(points)), ("in_window", "=", True),
                 ("status", "!=", int(Status.REJECTED))],
    )  # fmt: skip
    curves = {}
    for point_id, point in points.items():
        own = table.filter(pc.equal(pc.cast(table["point_id"], "string"), point_id))
        end = own[END_COLUMN[point.line["ttft_definition"]]].to_numpy()
        ttft_s = end - own["arrival_s"].to_numpy()
        served = np.sort(ttft_s[~np.isnan(ttft_s)])
        if len(served):
            curves[point_id] = (
                np.quantile(served, _STEPS, method="inverted_cdf"),
                _STEPS * len(served) / len(ttft_s),
            )
    return curves


def _page(data: StudyData, grid: Panels, curves: dict[str, Curve]) -> Figure:
    panel = (2.9, 1.9) if sum(grid.shape) > 2 else (3.6, 2.8)
    legend = series_legend(data, markers=False)
    if any(p.unstable for p in _shown(data, grid)):
        handle = Line2D([], [], color=GREY, linestyle=(0, (1, 1.2)), linewidth=1.0)
        legend.append(LegendEntry(handle, "unstable: grows with the run"))
    sheet = make_sheet(
        grid.shape,
        panel,
        heading(
            data,
            "Distribution of TTFT over the requests of all replicates",
            notes=grid.notes,
            intervals=False,
        ),
        row_titles=grid.row_titles,
        panel_titles=grid.panel_titles,
        legend=legend,
        margins=Margins(left=0.66, between_x=0.25, bottom=0.52),
    )
    stable = {p.point_id for p in _shown(data, grid) if not p.unstable}
    low, high = _limits(
        [c for name, c in curves.items() if name in stable] or list(curves.values())
    )
    for row, cells in enumerate(grid.cells):
        for column, (place, level) in enumerate(cells):
            ax = sheet.axes[row][column]
            _draw_panel(ax, data, points_at(data, place, level), curves)
            ax.set_xscale("log")
            ax.set_xlim(low, high)
            ax.xaxis.set_major_locator(LogLocator(base=10, numticks=7))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_ylim(0, 1.02)
            ax.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1])
            ax.tick_params(labelleft=column == 0)
            if sheet.lowest(row, column):
                ax.set_xlabel("TTFT (s)")
            if column == 0:
                ax.set_ylabel("fraction of requests")
    return sheet.figure


def _draw_panel(
    ax: Axes, data: StudyData, points: list[Point | None], curves: dict[str, Curve]
) -> None:
    for point, style in zip(points, styles_of(data), strict=True):
        if point is None or point.point_id not in curves:
            continue
        ttft_s, fraction = curves[point.point_id]
        ax.step(
            ttft_s,
            fraction,
            where="post",
            color=style.color,
            linestyle=(0, (1, 1.2)) if point.unstable else style.linestyle,
            linewidth=1.0 if point.unstable else 1.5,
        )


def _limits(curves: list[Curve]) -> tuple[float, float]:
    low = min(float(ttft_s[3]) for ttft_s, _ in curves)  # the fastest percent may cut off
    high = max(float(ttft_s[-1]) for ttft_s, _ in curves)
    low = max(low, high * 1e-7, 1e-9)
    return low / 1.3, max(high, low * 10) * 1.3
