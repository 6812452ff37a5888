"""Do verdicts err as rarely as they say? Families, crossovers, stability and control variates.

Measured on queues with known answers, as `coverage.py`, which writes the page of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from queues import PERCENTS, WARMUP_SHARE, Queue, Side, slower_by, waits
from scipy import optimize

from simlib.stats.compare import Crossover
from simlib.stats.crossing import ratio_crossovers
from simlib.stats.curve import Curve
from simlib.stats.estimate import curve_of, units_of
from simlib.stats.family import Comparison, decide
from simlib.stats.intervals import Interval
from simlib.stats.joint import joint
from simlib.stats.relaxation import relaxation_requests
from simlib.stats.stability import Load, drift, judge

METRICS: tuple[float | None, ...] = (None, *PERCENTS)


def name_of(metric: float | None) -> str:
    """Return "mean" or "p99"."""
    return "mean" if metric is None else f"p{metric:g}"


def percent(count: int, of: int) -> float:
    """Return a share in percent; NaN of nothing."""
    return 100.0 * count / of if of else math.nan


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
        percent(counts["wrong"], families),
        percent(counts["wrong_equal"], families),
        percent(counts["found"], counts["tests"]),
        percent(counts["equal"], counts["tests"]),
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


CANDIDATE = Side(0.8, 2.0)
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
                name_of(metric),
                requests,
                replicates,
                float(truth),
                studies,
                percent(sum(x.contains(truth) for x in single), len(single)),
                percent(len(single), studies),
                percent(sum(math.isinf(x.low) or math.isinf(x.high) for x in single), studies),
                100.0 * (float(np.median([x.estimate for x in single])) / truth - 1.0)
                if single
                else math.nan,
                percent(sum(inside for _, inside in found[metric]), studies),
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
                drifts = [drift(*run) for run in zip(waited, arrival[:, warmup:], strict=True)]
                measured = Load.measured(
                    float(np.sum(work) / np.sum(arrival[:, -1])), work.size, 1.0
                )
                relaxation = relaxation_requests(measured.rho, 1.0)
                found[True].append(judge({"pool": measured}, drifts, requests / relaxation).verdict)
                found[False].append(judge({"pool": Load(math.nan)}, drifts, math.nan).verdict)
            for known, verdicts in found.items():
                shares = [
                    percent(verdicts.count(kind), len(verdicts))
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
    """Return the gain of controlling the offered load, squared work and arrivals."""
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
                work.mean(axis=1) - moments[0] - (gaps.mean(axis=1) - 1.0),  # offered load
                (work**2).mean(axis=1) - moments[1],
                gaps.mean(axis=1) - 1.0,
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
                queue.name,
                rho,
                replicates,
                controls,
                name_of(metric),
                studies,
                spread[0] / spread[1],
                float(np.median(widths)) if widths else math.nan,
                percent(sum(one.contains(true) for one in sharp), studies),
            )
        )
    return rows
