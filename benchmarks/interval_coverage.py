"""Do the intervals cover? Measured on queues with known answers that no method was tuned on.

Each study is what a user would run: replicates of one deployment from empty, a warm-up left out,
run lengths as the requests tell them, intervals by `simlib.stats.estimate`. A case is a deployment,
a load and a length; its cells, one for each number of replicates and each metric, are appended to
a file as they come. Cases are made in random order, so that a run that is cut short is a fair
sample; a run that goes on makes what is missing.

    python benchmarks/interval_coverage.py docs/coverage.csv
    python benchmarks/coverage_page.py docs
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np
from queues import WARMUP_SHARE, Floats, Queue, Truth, architecture_truths, architectures
from serving import SERVING, Serving
from verdicts import METRICS, crossings, name_of

from simlib.stats.estimate import curve_of, units_of
from simlib.stats.intervals import Interval
from simlib.stats.joint import joint
from simlib.study.measurement.length import Work, length_of

QUEUES = (
    Queue("M/M/1", 1, None),
    Queue("M/M/5", 5, None),
    Queue("M/H2/1, scv 2.5", 1, None, 2.5),
    Queue("M/G/1, sigma 0.8", 1, 0.8),
    Queue("M/G/2, sigma 1.3", 2, 1.3),
    Queue("tandem, sigma 0.6", 0, 0.6),
    Queue("tandem, sigma 1.3", 0, 1.3),
)
RHOS = (0.45, 0.78, 0.92, 0.96)
REQUESTS = (1_000, 8_000)
REPLICATES = (1, 3, 5, 10, 30)
PAIR_SIGMAS = (0.8, 1.3)
PAIR_RHOS = (0.45, 0.78, 0.92)
PAIR_REPLICATES = (3, 5, 10, 30)
SERVING_RHOS = (0.5, 0.85)
SERVING_REQUESTS = (1_000, 4_000)
_RUNS_AT_ONCE = 300


@dataclass(frozen=True)
class Cell:
    """How often one interval of one case held the truth."""

    queue: str
    rho: float
    """NaN for a crossover, which is sought along it."""
    requests: int
    replicates: int
    metric: str
    what: str
    """"value", "difference", "ratio" or "crossover"."""
    studies: int
    printed: int
    """Studies with an interval; the others left it empty."""
    open: int
    """Of these, with an open end."""
    held: int
    """Of the printed, those that hold the truth; an open end holds all beyond it."""
    above: int
    """Of the printed, those that lie wholly above the truth."""
    closed_held: int
    """Of those with both ends, those that hold the truth."""
    half_width_percent: float
    """Median, relative to the estimate, of those with both ends; NaN without any."""
    truth_error: float
    """Standard error of the truth over that median half-width; NaN likewise."""

    @classmethod
    def read(cls, row: dict[str, str]) -> Cell:
        """Return the cell that a line of the file holds."""
        kinds = {"str": str, "int": int, "float": float}
        return cls(**{one.name: kinds[str(one.type)](row[one.name]) for one in fields(cls)})


def cell(
    where: tuple[str, float, int, int],
    metric: float | None,
    what: str,
    intervals: Sequence[Interval],
    truth: float,
    truth_error: float = 0.0,
) -> Cell:
    """Count how often the intervals hold the truth."""
    printed = [one for one in intervals if not math.isnan(one.low)]
    closed = [
        one
        for one in printed
        if not (math.isinf(one.low) or math.isinf(one.high) or (what == "ratio" and one.low == 0))
    ]
    width = float(np.median([one.half_width for one in closed])) if closed else math.nan
    relative = [one.relative_half_width for one in closed]
    return Cell(
        *where,
        name_of(metric),
        what,
        len(intervals),
        len(printed),
        len(printed) - len(closed),
        sum(one.contains(truth) for one in printed),
        sum(one.low > truth for one in printed),
        sum(one.contains(truth) for one in closed),
        round(100.0 * float(np.median(relative)), 2) if closed else math.nan,
        round(truth_error / width, 4) if width > 0 else math.nan,
    )


def queue_cells(queue: Queue, rho: float, studies: int, rng: np.random.Generator) -> list[Cell]:
    """Return the coverage of every length, metric and number of replicates."""
    truth = queue.truth(rho)
    each = [value_cells(queue, rho, requests, studies, rng, truth) for requests in REQUESTS]
    return [one for cells in each for one in cells]


def value_cells(
    queue: Queue, rho: float, requests: int, studies: int, rng: np.random.Generator, truth: Truth
) -> list[Cell]:
    """Return the coverage of every metric and number of replicates, at one length.

    Of 30 replicates, two thirds as many studies are made as of fewer.
    """
    warmup = int(WARMUP_SHARE * requests)
    found: dict[tuple[int, float | None], list[Interval]] = {
        (replicates, metric): [] for replicates in REPLICATES for metric in METRICS
    }
    for runs in _chunks(studies):
        ttft, works = queue.draw(rng, rho, runs, requests + warmup).window(warmup)
        for replicates in REPLICATES:
            mine = found[replicates, None]
            for of, arrived in _studies(ttft, works, replicates):
                if len(mine) == studies:
                    break
                units = units_of(of, length_of(arrived))
                for metric in METRICS:
                    found[replicates, metric].append(curve_of(units, metric).interval())
    return [
        cell(
            (queue.name, rho, requests, replicates),
            metric,
            "value",
            intervals,
            truth.values[METRICS.index(metric)],
            truth.errors[METRICS.index(metric)],
        )
        for (replicates, metric), intervals in found.items()
    ]


def _chunks(studies: int) -> Iterator[int]:
    """Yield runs to draw at once: enough for two thirds of the studies with 30 replicates."""
    for first in range(0, 20 * studies, _RUNS_AT_ONCE):
        yield min(_RUNS_AT_ONCE, 20 * studies - first)


def _studies(
    ttft: Floats, works: list[Work], replicates: int
) -> Iterator[tuple[Floats, list[Work]]]:
    for first in range(0, len(ttft) - replicates + 1, replicates):
        yield ttft[first : first + replicates], works[first : first + replicates]


def pair_cells(sigma: float, rho: float, studies: int, rng: np.random.Generator) -> list[Cell]:
    """Return the coverage of differences and ratios between two architectures, by metric."""
    truths = architecture_truths(sigma, rho)
    each = [_pair_cells(sigma, rho, requests, studies, rng, truths) for requests in REQUESTS]
    return [one for cells in each for one in cells]


def _pair_cells(
    sigma: float,
    rho: float,
    requests: int,
    studies: int,
    rng: np.random.Generator,
    truths: tuple[Truth, Truth],
) -> list[Cell]:
    warmup = int(WARMUP_SHARE * requests)
    differences, ratios = truths
    found: dict[tuple[int, float | None, str], list[Interval]] = {
        (replicates, metric, what): []
        for replicates in PAIR_REPLICATES
        for metric in METRICS
        for what in ("difference", "ratio")
    }
    for runs in _chunks(studies):
        drawn = architectures(rng, sigma, rho, runs, requests + warmup)
        sides = [side.window(warmup) for side in drawn]
        for replicates in PAIR_REPLICATES:
            mine = found[replicates, None, "ratio"]
            both_sides = [_studies(*side, replicates) for side in sides]
            for study in zip(*both_sides, strict=True):
                if len(mine) == studies:
                    break
                lengths = [length_of(works) for _, works in study]
                batches = min(length.batches() for length in lengths)
                units = [
                    units_of(ttft, length, batches=batches)
                    for (ttft, _), length in zip(study, lengths, strict=True)
                ]
                for metric in METRICS:
                    both = joint(*(curve_of(side, metric) for side in units))
                    found[replicates, metric, "difference"].append(both.difference)
                    found[replicates, metric, "ratio"].append(both.ratio)
    name = f"2 mono : 1P1D, sigma {sigma:g}"
    cells = []
    for (replicates, metric, what), intervals in found.items():
        truth = differences if what == "difference" else ratios
        at = METRICS.index(metric)
        where = (name, rho, requests, replicates)
        cells.append(cell(where, metric, what, intervals, truth.values[at], truth.errors[at]))
    return cells


def crossover_cells(
    requests: int, replicates: int, studies: int, rng: np.random.Generator
) -> list[Cell]:
    """Return the coverage of crossovers, of the studies that find exactly one."""
    where = ("M/M/1 : 1.4 times as fast + constant", math.nan, requests, replicates)
    return [
        cell(
            where,
            metric,
            "crossover",
            [
                one[0].x if len(one) == 1 else Interval(math.nan, math.nan, math.nan, "")
                for one in each
            ],
            truth,
        )
        for metric, truth, each in crossings(requests, replicates, studies, rng)
    ]


def batching_cells(
    serving: Serving, rho: float, studies: int, rng: np.random.Generator
) -> list[Cell]:
    """Return the coverage of TTFT's metrics where requests are batched."""
    truth = serving.truth(rho)
    cells = []
    for requests in SERVING_REQUESTS:
        seed = int(rng.integers(1, 2**31))
        runs = list(serving.runs(rho, requests, 4 * studies, seed))
        for replicates in REPLICATES:
            found: dict[float | None, list[Interval]] = {metric: [] for metric in METRICS}
            most = min(len(runs), studies * replicates)
            for first in range(0, most - replicates + 1, replicates):
                mine = runs[first : first + replicates]
                length = length_of([work for _, work in mine])
                units = units_of([ttft for ttft, _ in mine], length)
                for metric in METRICS:
                    found[metric].append(curve_of(units, metric).interval())
            where = (serving.name, rho, requests, replicates)
            cells += [
                cell(where, metric, "value", intervals, truth.values[k], truth.errors[k])
                for k, (metric, intervals) in enumerate(found.items())
            ]
    return cells


Case = tuple[str, Callable[[np.random.Generator], list[Cell]]]


def cases(studies: int) -> list[Case]:
    """Return name and computation of each case."""
    found: list[Case] = []
    for queue, rho in product(QUEUES, RHOS):
        found.append((f"{queue.name}, rho {rho:g}", partial(queue_cells, queue, rho, studies)))
    for sigma, rho in product(PAIR_SIGMAS, PAIR_RHOS):
        name = f"pairs, sigma {sigma:g}, rho {rho:g}"
        found.append((name, partial(pair_cells, sigma, rho, studies)))
    for requests, replicates in product(REQUESTS, (5, 30)):
        name = f"crossovers, {requests} requests, {replicates} replicates"
        found.append((name, partial(crossover_cells, requests, replicates, studies)))
    for serving, rho in product(SERVING, SERVING_RHOS):
        name = f"{serving.name}, rho {rho:g}"
        found.append((name, partial(batching_cells, serving, rho, studies)))
    return found


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Cell.read(row) for row in csv.DictReader(file)]


@click.command()
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--studies", default=300, show_default=True, help="Studies a cell.")
@click.option("--seed", default=20261215, show_default=True)
@click.option("--most", type=int, help="Stop after so many cases.")
@click.option("--only", default="", help="Only cases whose name has this part.")
def main(output: Path, studies: int, seed: int, most: int | None, only: str) -> None:
    """Append the cells of the cases that OUTPUT (a CSV file) lacks, case by case."""
    every = cases(studies)
    order = np.random.default_rng(seed).permutation(len(every))
    done_at = output.with_suffix(".done")
    done = done_at.read_text(encoding="utf-8").splitlines() if done_at.exists() else []
    for count, number in enumerate(order.tolist()):
        name, make = every[number]
        if most is not None and count >= most:
            break
        if name in done or only not in name:
            continue
        cells = make(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,))))
        new = not output.exists()
        with output.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [one.name for one in fields(Cell)], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(asdict(one) for one in cells)
        with done_at.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        click.echo(f"{name}: {len(cells)} cells", err=True)


if __name__ == "__main__":
    main()
