"""Do the intervals cover, and do the verdicts err as rarely as they say? Measured on known queues.

Each study is what a user would run: replicates of one deployment from empty, a warm-up left out,
intervals by `simlib.stats.estimate`. The methods and their limits were chosen on other queues, loads,
lengths and replicates than these (`CHOSEN_ON`).

    python benchmarks/coverage.py --output docs/_generated_coverage.md

Simulated replicates are drawn once a case, and serve every number of replicates and every metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from queues import (
    PERCENTS,
    WARMUP_SHARE,
    Floats,
    Queue,
    Side,
    architectures,
    slower_by,
    waits,
)
from scipy import optimize

from simlib.stats.compare import Crossover
from simlib.stats.crossing import ratio_crossovers
from simlib.stats.curve import Curve
from simlib.stats.estimate import curve_of, units_of
from simlib.stats.family import Comparison, decide
from simlib.stats.intervals import Interval
from simlib.stats.joint import Joint, joint
from simlib.stats.relaxation import RunLength, relaxation_requests
from simlib.stats.stability import Load, drift, judge

QUEUES = (
    Queue("M/M/1", 1, None),
    Queue("M/M/4", 4, None),
    Queue("M/G/1, sigma 0.9", 1, 0.9),
    Queue("M/G/1, sigma 1.5", 1, 1.5),
    Queue("tandem, sigma 0.9", 0, 0.9),
    Queue("tandem, sigma 1.5", 0, 1.5),
)
RHOS = (0.5, 0.8, 0.95)
REQUESTS = (300, 2_000, 20_000)
REPLICATES = (30, 10, 5, 1)
CHOSEN_ON = (
    "M/G/1 with sigma 1.2 and 1.4, M/M/2, M/G/3 with sigma 1.4, tandems of exponential services and "
    "of sigma 1.1; rho 0.45, 0.6, 0.7, 0.85, 0.87, 0.93; 400 to 15,000 requests; 2, 5, 6, 12, 15, 25 "
    "replicates"
)
METRICS: tuple[float | None, ...] = (None, *PERCENTS)
WANTED = (92.0, 98.0)
NEVER_BELOW = 88.0
MOSTLY_OPEN = 50.0
_AT_ONCE = 8_000_000


def name_of(metric: float | None) -> str:
    """Return "mean" or "p99"."""
    return "mean" if metric is None else f"p{metric:g}"


@dataclass(frozen=True)
class Cell:
    """One line of the coverage table."""

    queue: str
    rho: float
    requests: int
    replicates: int
    metric: str
    what: str
    """"value", "difference" or "ratio"."""
    studies: int
    covered_percent: float
    """Of the studies with an interval; an open end counts as covering."""
    above_percent: float
    """Of the same, where the whole interval lies above the truth."""
    open_percent: float
    """Of all studies: intervals with an open end."""
    empty_percent: float
    half_width_percent: float
    """Median, relative to the estimate, of intervals with both ends; NaN without any."""

    @property
    def printed(self) -> bool:
        """Whether any study has an interval."""
        return self.empty_percent < 100.0

    @property
    def two_sided(self) -> bool:
        """Whether most intervals have both ends."""
        return self.printed and self.open_percent < MOSTLY_OPEN

    @property
    def ok(self) -> bool:
        """Whether the coverage is as wanted; of mostly open intervals, at least 92%."""
        return WANTED[0] <= self.covered_percent and (
            not self.two_sided or self.covered_percent <= WANTED[1]
        )


def cell(
    where: tuple[str, float, int, int], metric: float | None, what: str,
    intervals: Sequence[Interval], truth: float,
) -> Cell:
    """Count how often the intervals hold the truth."""
    printed = [one for one in intervals if not math.isnan(one.low)]
    is_open = [math.isinf(one.low) or math.isinf(one.high) or (what == "ratio" and one.low == 0)
               for one in printed]
    both = [one for one, o in zip(printed, is_open, strict=True) if not o]
    n = len(intervals)
    return Cell(
        *where,
        name_of(metric),
        what,
        n,
        _percent(sum(one.contains(truth) for one in printed), len(printed)),
        _percent(sum(one.low > truth for one in printed), len(printed)),
        _percent(sum(is_open), n),
        _percent(n - len(printed), n),
        100.0 * float(np.median([one.relative_half_width for one in both])) if both else math.nan,
    )


def _percent(count: int, of: int) -> float:
    return 100.0 * count / of if of else math.nan


def replicates_of(
    queue: Queue, rho: float, requests: int, count: int, seed: int
) -> Iterator[Floats]:
    """Yield windows of runs that started empty, some runs at a time."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    warmup = int(WARMUP_SHARE * requests)
    most = max(1, _AT_ONCE // (requests + warmup) // 30) * 30
    for first in range(0, count, most):
        runs = min(most, count - first)
        yield queue.draw(rng, rho, runs, requests + warmup)[:, warmup:]


def value_cells(
    queue: Queue, rho: float, requests: int, studies: int, seed: int, truth: Sequence[float]
) -> list[Cell]:
    """Return the coverage of every metric and number of replicates of one case."""
    found: dict[tuple[int, float | None], list[Interval]] = {}
    for chunk in replicates_of(queue, rho, requests, 30 * studies, seed):
        for replicates in REPLICATES:
            length = queue.run_length(rho, replicates, requests)
            for first in range(0, len(chunk) - replicates + 1, replicates):
                mine = found.setdefault((replicates, None), [])
                if len(mine) >= 2 * studies:
                    break
                units = units_of(chunk[first : first + replicates], length)
                for metric in METRICS:
                    intervals = found.setdefault((replicates, metric), [])
                    intervals.append(curve_of(units, metric).interval())
    return [
        cell((queue.name, rho, requests, replicates), metric, "value", intervals,
             truth[METRICS.index(metric)])
        for (replicates, metric), intervals in found.items()
    ]


def pair_cells(sigma: float, rho: float, requests: int, studies: int, seed: int) -> list[Cell]:
    """Return the coverage of differences and ratios between two architectures, by metric."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    warmup = int(WARMUP_SHARE * requests)
    truths = _pair_truth(sigma, rho)
    scv = math.exp(sigma**2) - 1.0
    relaxation = relaxation_requests(rho, scv)
    name = f"2 mono against 1P1D, sigma {sigma:g}"
    cells = []
    for replicates in (30, 10, 5):
        length = RunLength(replicates, requests, warmup, relaxation, math.exp(4 * sigma**2))
        found: dict[float | None, list[Joint]] = {metric: [] for metric in METRICS}
        for _ in range(studies):
            runs = architectures(rng, sigma, rho, replicates, requests + warmup)
            sides = [units_of(side[:, warmup:], length) for side in runs]
            for metric in METRICS:
                found[metric].append(joint(*(curve_of(side, metric) for side in sides)))
        where = (name, rho, requests, replicates)
        for metric, (b, c) in zip(METRICS, truths, strict=True):
            differences = [one.difference for one in found[metric]]
            cells.append(cell(where, metric, "difference", differences, c - b))
            cells.append(cell(where, metric, "ratio", [o.ratio for o in found[metric]], c / b))
    return cells


def _pair_truth(sigma: float, rho: float) -> list[tuple[float, float]]:
    rng = np.random.default_rng(np.random.SeedSequence(78))
    chunks = [architectures(rng, sigma, rho, 400, 25_000) for _ in range(4)]
    sides = [np.concatenate([chunk[side][:, 5_000:].ravel() for chunk in chunks]) for side in (0, 1)]
    b, c = ([float(np.mean(side)), *np.percentile(side, PERCENTS).tolist()] for side in sides)
    return list(zip(b, c, strict=True))


@dataclass(frozen=True)
class Power:
    """What families of comparisons find where the truth is a planted difference."""

    change_percent: float
    same_requests: bool
    families: int
    tests: int
    """Comparisons that could be tested, in all."""
    wrong_percent: float
    """Families with a wrong claim: of a difference that is none, or of the wrong sign."""
    wrong_equal_percent: float
    """Families that call equal what differs by the margin (5%) or more."""
    found_percent: float
    """Tests that claim the difference."""
    equal_percent: float
    """Tests that claim equality within 5%."""


def power(change: float, same_requests: bool, families: int, seed: int) -> Power:
    """Return how often families claim right and wrong: M/M/1 at four loads, mean and p99.

    The four loads of a family share their requests, as a real study's do.
    """
    rhos, requests, replicates = (0.3, 0.5, 0.7, 0.8), 4_000, 10
    warmup = int(WARMUP_SHARE * requests)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    shape = (replicates, requests + warmup)
    counts = dict.fromkeys(("tests", "wrong", "wrong_equal", "found", "equal"), 0)
    for _ in range(families):
        draws = [(rng.standard_exponential(shape), rng.standard_exponential(shape)) for _ in "bc"]
        family = []
        for rho in rhos:
            curves = []
            for k, side in enumerate((Side(), slower_by(change, rho))):
                gaps, work = draws[0 if same_requests else k]
                ttft = side.ttft(np.cumsum(gaps, axis=1) / rho, work)[:, warmup:]
                units = units_of(ttft, side.run_length(rho, replicates, requests))
                curves.append([curve_of(units, metric) for metric in (None, 99.0)])
            family += [Comparison(joint(b, c), True) for b, c in zip(*curves, strict=True)]
        outcomes = [one.outcome for one in decide(family)]
        counts["tests"] += sum(one != "not tested" for one in outcomes)
        right = "slower" if change > 0 else "none"
        counts["found"] += outcomes.count("slower") if change > 0 else 0
        counts["wrong"] += any(one in ("faster", "slower") and one != right for one in outcomes)
        counts["equal"] += outcomes.count("equal")
        counts["wrong_equal"] += change >= 0.05 and "equal" in outcomes
    return Power(
        100.0 * change,
        same_requests,
        families,
        counts["tests"],
        _percent(counts["wrong"], families),
        _percent(counts["wrong_equal"], families),
        _percent(counts["found"], counts["tests"]),
        _percent(counts["equal"], counts["tests"]),
    )


@dataclass(frozen=True)
class Crossings:
    """Crossovers of a faster server behind a constant transfer against a slower one."""

    metric: str
    requests: int
    replicates: int
    truth: float
    studies: int
    covered_percent: float
    """Of the studies with exactly one crossover."""
    one_percent: float
    open_percent: float
    bias_percent: float
    """Of the median estimate, relative to the truth."""
    contradicted_percent: float
    """Studies in which a claimed difference lies inside the crossover's interval."""


CANDIDATE = Side(0.8, 1.0)
LOADS = (0.2, 0.35, 0.5, 0.65, 0.75, 0.85)


def crossing_rows(requests: int, replicates: int, studies: int, seed: int) -> list[Crossings]:
    """Return how well crossovers of mean and p99 are found along the load."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    warmup = int(WARMUP_SHARE * requests)
    shape = (replicates, requests + warmup)
    metrics = (None, 99.0)
    found: dict[float | None, list[tuple[list[Crossover], bool]]] = {m: [] for m in metrics}
    for _ in range(studies):
        gaps, work = rng.standard_exponential(shape), rng.standard_exponential(shape)
        curves: dict[float | None, list[tuple[Curve, Curve]]] = {m: [] for m in metrics}
        for rho in LOADS:
            arrival = np.cumsum(gaps, axis=1) / rho
            units = [
                units_of(
                    side.ttft(arrival, work)[:, warmup:],
                    side.run_length(rho, replicates, requests),
                )
                for side in (Side(), CANDIDATE)
            ]
            for metric in metrics:
                curves[metric].append((curve_of(units[0], metric), curve_of(units[1], metric)))
        pairs = [pair for metric in metrics for pair in curves[metric]]
        decisions = decide([Comparison(joint(b, c), True) for b, c in pairs])
        bands = [
            joint(b, c, level=one.level).ratio for (b, c), one in zip(pairs, decisions, strict=True)
        ]
        for k, metric in enumerate(metrics):
            part = slice(k * len(LOADS), (k + 1) * len(LOADS))
            crossings = ratio_crossovers(LOADS, bands[part])
            claimed = [
                at
                for at, one in zip(LOADS, decisions[part], strict=True)
                if one.outcome in ("faster", "slower")
            ]
            inside = any(one.x.low < at < one.x.high for one in crossings for at in claimed)
            found[metric].append((crossings, inside))
    rows = []
    for place, metric in ((0, None), (3, 99.0)):
        truth = optimize.brentq(
            lambda rho, i=place: CANDIDATE.truth(rho)[i] - Side().truth(rho)[i], 0.05, 0.9
        )
        single = [crossings[0].x for crossings, _ in found[metric] if len(crossings) == 1]
        rows.append(
            Crossings(
                name_of(metric), requests, replicates, float(truth), studies,
                _percent(sum(x.contains(truth) for x in single), len(single)),
                _percent(len(single), studies),
                _percent(sum(math.isinf(x.low) or math.isinf(x.high) for x in single), studies),
                100.0 * (float(np.median([x.estimate for x in single])) / truth - 1.0)
                if single else math.nan,
                _percent(sum(inside for _, inside in found[metric]), studies),
            )
        )
    return rows


@dataclass(frozen=True)
class Verdicts:
    """Stability verdicts at one load."""

    rho: float
    requests: int
    replicates: int
    rho_known: bool
    points: int
    stable_percent: float
    undetermined_percent: float
    unstable_percent: float


def stability_rows(points: int, seed: int) -> list[Verdicts]:
    """Return the verdicts on M/M/1, with rho measured on the requests, and without it."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
    rows = []
    for requests, replicates in ((500, 1), (2_000, 1), (2_000, 10), (20_000, 10)):
        warmup = int(WARMUP_SHARE * requests)
        shape = (replicates, requests + warmup)
        for rho in (0.5, 0.8, 0.95, 0.98, 1.0, 1.02, 1.05, 1.2):
            found: dict[bool, list[str]] = {True: [], False: []}
            for _ in range(points if requests < 20_000 else points // 4):
                gaps, work = rng.standard_exponential(shape), rng.standard_exponential(shape)
                arrival = np.cumsum(gaps, axis=1) / rho
                waited = waits(arrival, work, 1)[:, warmup:]
                drifts = [
                    drift(*run) for run in zip(waited, arrival[:, warmup:], strict=True)
                ]
                measured = Load.measured(
                    float(np.sum(work) / np.sum(arrival[:, -1])), work.size, 1.0
                )
                relaxation = relaxation_requests(measured.rho, 1.0)
                found[True].append(
                    judge({"pool": measured}, drifts, requests / relaxation).verdict
                )
                found[False].append(judge({"pool": Load(math.nan)}, drifts, math.nan).verdict)
            for known, verdicts in found.items():
                shares = [
                    _percent(verdicts.count(kind), len(verdicts))
                    for kind in ("stable", "undetermined", "unstable")
                ]
                rows.append(Verdicts(rho, requests, replicates, known, len(verdicts), *shares))
    return rows


@dataclass(frozen=True)
class Control:
    """What control variates gain."""

    queue: str
    rho: float
    replicates: int
    controls: int
    metric: str
    studies: int
    gain: float
    """Variance of the plain estimate over that of the controlled one, over the studies."""
    width_gain: float
    """Median ratio of the intervals' widths, squared."""
    covered_percent: float


def control_rows(
    sigma: float | None, rho: float, replicates: int, studies: int, seed: int
) -> list[Control]:
    """Return the gain of controlling arrivals, work and squared work, for mean and median."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(5,)))
    requests, warmup = 2_000, 500
    queue = Queue("M/M/1" if sigma is None else f"M/G/1, sigma {sigma:g}", 1, sigma)
    moments = [queue.work_moment(k) for k in (1, 2)]
    length = queue.run_length(rho, replicates, requests)
    truth = queue.truth(rho)
    rows = []
    shape = (replicates, requests + warmup)
    found: dict[tuple[float | None, bool], list[Interval]] = {}
    controls = 0
    for _ in range(studies):
        gaps = rng.standard_exponential(shape)
        prompt, work = queue.draw_work(rng, shape)
        arrival = np.cumsum(gaps, axis=1) / rho
        ttft = (waits(arrival, work, 1) + prompt)[:, warmup:]
        deviations = np.stack(
            [
                gaps.mean(axis=1) - 1.0,
                work.mean(axis=1) - moments[0],
                (work**2).mean(axis=1) - moments[1],
            ],
            axis=1,
        )
        for use in (False, True):
            units = units_of(ttft, length, deviations=deviations if use else None)
            controls = max(controls, units.design.controls if units.design else 0)
            for metric in (None, 50.0, 90.0):
                found.setdefault((metric, use), []).append(curve_of(units, metric).interval())
    for metric in (None, 50.0, 90.0):
        plain, sharp = found[metric, False], found[metric, True]
        true = truth[METRICS.index(metric)]
        spread = [float(np.var([one.estimate for one in side])) for side in (plain, sharp)]
        widths = [
            (a.half_width / b.half_width) ** 2
            for a, b in zip(plain, sharp, strict=True)
            if math.isfinite(a.half_width + b.half_width)
        ]
        rows.append(
            Control(
                queue.name, rho, replicates, controls, name_of(metric), studies,
                spread[0] / spread[1],
                float(np.median(widths)) if widths else math.nan,
                _percent(sum(one.contains(true) for one in sharp), studies),
            )
        )
    return rows
