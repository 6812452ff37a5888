"""The kinds of figures: adding one is a function and an entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from simlib.study.figures.attribution import attribution_figure
from simlib.study.figures.crossover import crossover_figure, crossover_rows
from simlib.study.figures.data import StudyData, representative
from simlib.study.figures.difference import difference_figure
from simlib.study.figures.ecdf import ecdf_figure
from simlib.study.figures.latency import latency_figure
from simlib.study.figures.layout import ROWS_PER_PAGE
from simlib.study.figures.parts import parts_figure
from simlib.study.figures.place import Place
from simlib.study.figures.slo import slo_figure, slo_rows_per_page
from simlib.study.figures.timeline import timeline_figure
from simlib.study.figures.tradeoff import tradeoff_figure
from simlib.study.figures.utilization import utilization_figure


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of figure: how a page is drawn, from the data of that page alone."""

    draw: Callable[[StudyData], Figure | None]
    """Returns the figure, or None where the study has nothing to show in it."""
    shows: str
    """What a reader sees, for the table in the user guide."""
    rows: Callable[[StudyData], list[Place]] = StudyData.places
    """The places that have a row of panels each."""
    rows_per_page: Callable[[StudyData], int] = lambda _: ROWS_PER_PAGE


KINDS: dict[str, Kind] = {
    "ttft_vs_<factor>": Kind(
        partial(latency_figure, "ttft"),
        "mean, p50, p90 and p99 of TTFT over the first numeric factor, with 95% intervals; where a "
        "closed form holds for the monolithic mean, theory as a dotted black line",
    ),
    "ttft_ecdf": Kind(
        ecdf_figure,
        "the share of requests with at most that TTFT, at a low, a middle and the highest stable "
        "level of the horizontal factor",
    ),
    "ttft_parts": Kind(
        parts_figure,
        "what TTFT is spent on: the share of each part up to where `ttft_definition` ends; waits "
        "are dark, service is light; beside each bar the mean TTFT",
    ),
    "utilization": Kind(
        utilization_figure,
        "busy share of each pool; with `serving: batching`, where a replica is busy as long as it "
        "holds a request, also the decode batch over its limit and the fullest KV cache",
    ),
    "slo_attainment": Kind(
        slo_figure,
        "of studies with `request_classes`: the share of requests whose TTFT is within the SLO of "
        "their class, a panel per class and one for all",
        rows_per_page=slo_rows_per_page,
    ),
    "difference": Kind(
        difference_figure,
        "paired difference of TTFT to the baseline with its interval, and a line at zero: above it "
        "the candidate is slower",
    ),
    "tradeoff": Kind(
        tradeoff_figure,
        "of studies with `compare` whose sides differ in ITL or TPOT: what a side trades, the wait "
        "for the first token against the pace of the others; as a path over the load, and as "
        "ratios to the baseline with verdicts",
    ),
    "attribution": Kind(
        attribution_figure,
        "which part of TTFT makes the difference: what slows to the right of zero, what speeds up "
        "to the left, as shares; beside each bar the difference with its interval",
    ),
    "crossover_map": Kind(
        crossover_figure,
        "who wins over two swept factors, the ratio to the baseline in each cell, and the "
        "crossover with its interval",
        rows=crossover_rows,
        rows_per_page=lambda _: 4,
    ),
    "tpot_vs_<factor>": Kind(
        partial(latency_figure, "tpot"),
        "of studies with `serving: batching`: the same of time per output token",
    ),
    "itl_vs_<factor>": Kind(
        partial(latency_figure, "itl"),
        "of studies with `timeline`: the same of inter-token latency",
    ),
    "e2e_vs_<factor>": Kind(
        partial(latency_figure, "e2e"),
        "of studies with `serving: batching`: the same of the time from arrival to last token",
    ),
    "timeline": Kind(
        timeline_figure,
        "of studies with `timeline`: time in iterations, KV cache in use, waiting requests and "
        "batch size of each pool over time, at the highest level of the horizontal factor where "
        "all is stable (a note says so if none is)",
        rows=lambda data: representative(data.places(), 4) if data.timeline else [],
        rows_per_page=lambda _: 1,
    ),
}
"""By the name of their files, of which `<factor>` is the factor along the horizontal axis."""


def pages(name: str, data: StudyData) -> Iterator[tuple[str, StudyData]]:
    """Yield the name of the file of each page of a kind, and all that stands on that page."""
    kind = KINDS[name]
    stem = name.replace("<factor>", data.x.slug) if data.x else name.removesuffix("_vs_<factor>")
    rows = kind.rows(data)
    if not rows:
        return
    count = math.ceil(len(rows) / kind.rows_per_page(data))
    size = math.ceil(len(rows) / count)
    for number in range(count):
        suffix = f"_{number + 1}" if count > 1 else ""
        yield stem + suffix, data.page(rows[number * size : (number + 1) * size])
