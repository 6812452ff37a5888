"""Do verdicts err as rarely as they say? Families, crossovers and stability.

Measured on queues with known answers.

    python benchmarks/verdicts.py docs
    python benchmarks/coverage_page.py docs
"""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from queues import PERCENTS, WARMUP_SHARE, Side, slower_by, waits
from scipy import optimize

from simlib.stats.compare import Crossover
from simlib.stats.crossing import ratio_crossovers
from simlib.stats.curve import Curve
from simlib.stats.estimate import curve_of, units_of
from simlib.stats.family import Comparison, decide
from simlib.stats.joint import joint
from simlib.stats.relaxation import relaxation_requests
from simlib.stats.stability import Load, drift, judge
from simlib.study.measurement.length import length_of

POWER, STABILITY = "verdicts.csv", "stability.csv"
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
                ttft, works = side.serve(gaps / rho, work).window(warmup)
                units = units_of(ttft, length_of(works))
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


CANDIDATE = Side(0.7, 4.0)
LOADS = (0.2, 0.4, 0.5, 0.65, 0.75, 0.86)


def crossings(
    requests: int, replicates: int, studies: int, rng: np.random.Generator
) -> list[tuple[float | None, float, list[list[Crossover]]]]:
    """Return, for mean and p99, the true crossover along the load, and those of each study.

    A faster server behind a constant transfer against a slower one.
    """
    warmup = int(WARMUP_SHARE * requests)
    shape = (replicates, requests + warmup)
    metrics = (None, 99.0)
    found: dict[float | None, list[list[Crossover]]] = {metric: [] for metric in metrics}
    for _ in range(studies):
        gaps, work = rng.standard_exponential(shape), rng.standard_exponential(shape)
        curves: dict[float | None, list[tuple[Curve, Curve]]] = {m: [] for m in metrics}
        for rho in LOADS:
            served = [side.serve(gaps / rho, work).window(warmup) for side in (Side(), CANDIDATE)]
            lengths = [length_of(works) for _, works in served]
            batches = min(length.batches() for length in lengths)
            units = [
                units_of(ttft, length, batches=batches)
                for (ttft, _), length in zip(served, lengths, strict=True)
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
            found[metric].append(ratio_crossovers(LOADS, bands[part]))
    truths = [
        optimize.brentq(
            lambda rho, i=place: CANDIDATE.truth(rho)[i] - Side().truth(rho)[i], 0.05, 0.95
        )
        for place in (0, 3)
    ]
    return [(m, float(truth), found[m]) for m, truth in zip(metrics, truths, strict=True)]


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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--families", default=1000, show_default=True, help="Of the A/A comparison.")
@click.option("--planted", default=200, show_default=True, help="Families of each difference.")
@click.option("--points", default=200, show_default=True, help="Points of each load.")
@click.option("--seed", default=20261202, show_default=True)
def main(folder: Path, families: int, planted: int, points: int, seed: int) -> None:
    """Append what verdicts came to to verdicts.csv and stability.csv in FOLDER, as it comes.

    What is there is not made again.
    """
    made = {(row["change_percent"], row["same_requests"]) for row in rows_of(folder / POWER)}
    for change in (0.0, 0.05, 0.1, 0.2):
        for same in (False, True) if change else (False,):
            if (str(100.0 * change), str(same)) not in made:
                append(folder / POWER, power(change, same, planted if change else families, seed))
    if not rows_of(folder / STABILITY):
        for row in stability_rows(points, seed):
            append(folder / STABILITY, row)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the lines of a file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Power | Verdicts) -> None:
    """Append a line to a file."""
    values = asdict(row)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(values), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(values)


if __name__ == "__main__":
    main()
