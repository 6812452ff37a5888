"""Do the intervals cover, and do the verdicts err as rarely as they say? Measured on known queues.

Each study is what a user would run: replicates of one queue, warm-up left out, an interval from
`simlib.stats`. A thousand studies give the share of intervals that hold the truth. The truth of a
mean or a probability is a closed form, that of a percentile comes from runs that together are 100
times longer than all of a study's replicates (and from a closed form where there is one).

    python benchmarks/interval_coverage.py --output docs/_generated_coverage.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from simlib.stats import queueing
from simlib.stats.compare import holm, paired
from simlib.stats.intervals import (
    Interval,
    batch_means_interval,
    batch_percentile_interval,
    jackknife_percentile,
    mean_interval,
    percentile_interval,
)
from simlib.stats.stability import drift, verdict_of_drifts

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

REPLICATES = 10
REQUESTS = {0.5: 10_000, 0.8: 40_000}
"""Per replicate, by rho: 450 times M/M/1's relaxation time 1 / (1 - sqrt(rho))^2, in services, or
more. Much shorter runs give skewed means, whose t intervals cover less."""
WARMUP = {0.5: 500, 0.8: 2_000}
SHORTER = (4, 10)
"""The same studies with replicates this many times shorter, to show what too short a run costs."""
LONGER = 100
CHUNK_REQUESTS = 12_000_000
MEAN_LIMITS = (93.0, 97.0)
P99_LIMITS = (90.0, 100.0)
AA_LIMITS = (0.0, 5.0)


@dataclass(frozen=True)
class Queue:
    """A queue with Poisson arrivals and a mean service of one second."""

    name: str
    servers: int
    service: Draw
    mean_wait_s: Callable[[float], float]
    p_wait: Callable[[float], float] | None = None
    p99_s: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Row:
    """One line of the coverage table."""

    queue: str
    rho: float
    requests: int
    quantity: str
    method: str
    truth: float
    studies: int
    covered_percent: float
    relative_half_width: float
    limits: tuple[float, float] | None

    @property
    def ok(self) -> bool:
        """Whether the coverage lies within its limits."""
        return self.limits is None or self.limits[0] <= self.covered_percent <= self.limits[1]


def _exponential(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.standard_exponential(shape)


def _constant(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.ones(shape)


def _lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return lognormal services with mean 1 and scv 2, as token counts often are."""
    log_variance = math.log(3.0)
    return np.exp(math.sqrt(log_variance) * rng.standard_normal(shape) - log_variance / 2.0)


def _mmc(servers: int) -> Queue:
    return Queue(
        f"M/M/{servers}",
        servers,
        _exponential,
        lambda rho: queueing.mmc_mean_wait_s(rho * servers, 1.0, servers),
        lambda rho: queueing.mmc_probability_of_wait(rho * servers, 1.0, servers),
        lambda rho: queueing.mmc_wait_percentile_s(99, rho * servers, 1.0, servers),
    )


QUEUES = (
    _mmc(1),
    _mmc(4),
    Queue("M/D/1", 1, _constant, lambda rho: queueing.md1_mean_wait_s(rho, 1.0)),
    Queue(
        "M/G/1 (lognormal, scv 2)",
        1,
        _lognormal,
        lambda rho: queueing.mg1_mean_wait_s(rho, 1.0, 2.0),
    ),
)


def waits(gaps: Floats, service: Floats, servers: int) -> Floats:
    """Return the waits of many independent FCFS queues that start empty.

    Parameters
    ----------
    gaps, service : array, shape (runs, requests)
        Time before each arrival, and its service time, in seconds.
    """
    if servers == 1:  # Lindley's recursion as a running minimum
        walk = np.empty_like(gaps)
        walk[:, 0] = 0.0
        np.cumsum(service[:, :-1] - gaps[:, 1:], axis=1, out=walk[:, 1:])
        return walk - np.minimum.accumulate(walk, axis=1)
    arrival, service = np.cumsum(gaps, axis=1).T.copy(), service.T.copy()
    result = np.empty_like(arrival)
    runs = np.arange(arrival.shape[1])
    free = np.zeros((arrival.shape[1], servers))
    for k, at in enumerate(arrival):  # Kiefer and Wolfowitz: the first server to be free is next
        server = free.argmin(axis=1)
        start = np.maximum(at, free[runs, server])
        free[runs, server] = start + service[k]
        result[k] = start - at
    return result.T


def runs_of(
    queue: Queue, rho: float, n_runs: int, requests: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Yield the waits of `n_runs` runs after their warm-up, shape (some runs, requests) a time."""
    warmup = WARMUP[rho]
    studies_at_once = max(1, CHUNK_REQUESTS // (requests + warmup) // REPLICATES)
    at_once = studies_at_once * REPLICATES
    for first in range(0, n_runs, at_once):
        shape = (min(at_once, n_runs - first), requests + warmup)
        gaps = rng.standard_exponential(shape) / (rho * queue.servers)
        yield waits(gaps, queue.service(rng, shape), queue.servers)[:, warmup:]


def long_run_p99_s(queue: Queue, rho: float, requests: int, seed: int) -> float:
    """Return the p99 of runs that are together `LONGER` times a study's replicates."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    chunks = list(runs_of(queue, rho, LONGER, REPLICATES * requests, rng))
    return float(np.percentile(np.concatenate(chunks, axis=None), 99, overwrite_input=True))


def coverage_rows(
    queue: Queue, rho: float, requests: int, studies: int, seed: int, long_run: float
) -> list[Row]:
    """Return the coverage of every method on one queue at one load; `long_run` is its p99."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    few = max(1, studies // 5)
    means: list[Floats] = []
    waited: list[Floats] = []
    p99: list[Floats] = []
    pooled: list[Floats] = []
    spare: list[Floats] = []
    jackknife: list[Interval] = []
    single: list[tuple[Interval, Interval]] = []
    for chunk in runs_of(queue, rho, studies * REPLICATES, requests, rng):
        means.append(chunk.mean(axis=1))
        waited.append((chunk > 0).mean(axis=1))
        p99.append(np.percentile(chunk, 99, axis=1))
        pooled.append(np.percentile(chunk.reshape(-1, REPLICATES * requests), 99, axis=1))
        for run in chunk:
            if len(single) < studies:  # the batch methods see single runs
                single.append((batch_means_interval(run), batch_percentile_interval(run, 99)))
            if len(jackknife) < few:  # the jackknife is slow, and a fifth of the studies is enough
                spare.append(run.copy())
                if len(spare) == REPLICATES:
                    jackknife.append(jackknife_percentile(spare, 99))
                    spare = []

    def over_replicates(values: list[Floats]) -> list[Interval]:
        return [mean_interval(v) for v in np.concatenate(values).reshape(studies, REPLICATES)]

    def row(
        quantity: str,
        method: str,
        truth: float,
        intervals: list[Interval],
        limits: tuple[float, float] | None,
    ) -> Row:
        hits = 100.0 * float(np.mean([i.contains(truth) for i in intervals]))
        width = float(np.median([i.relative_half_width for i in intervals]))
        return Row(
            queue.name, rho, requests, quantity, method, truth, len(intervals), hits, width, limits
        )

    mean_truth = queue.mean_wait_s(rho)
    rows = [row("mean wait", "t", mean_truth, over_replicates(means), MEAN_LIMITS)]
    if queue.p_wait is not None:
        truth = queue.p_wait(rho)
        rows.append(row("P(wait)", "t", truth, over_replicates(waited), MEAN_LIMITS))
    per_replicate = np.concatenate(p99).reshape(studies, REPLICATES)
    together = np.concatenate(pooled).tolist()
    sectioning = [
        percentile_interval(own, 99, requests, whole)
        for own, whole in zip(per_replicate, together, strict=True)
    ]
    rows.append(row("p99 wait", "sectioning", long_run, sectioning, P99_LIMITS))
    if queue.p99_s is not None:
        exact = queue.p99_s(rho)
        rows.append(row("p99 wait, exact", "sectioning", exact, sectioning, P99_LIMITS))
    rows.append(row("p99 wait", "t", long_run, over_replicates(p99), None))
    rows.append(row("p99 wait", "jackknife", long_run, jackknife, None))
    rows.append(row("mean wait", "batch means, 1 run", mean_truth, [s[0] for s in single], None))
    rows.append(row("p99 wait", "batch p99, 1 run", long_run, [s[1] for s in single], None))
    return [r for r in rows if math.isfinite(r.relative_half_width)]  # else too short for it


def false_families(studies: int, seed: int) -> tuple[float, float, int]:
    """Return how often an A/A study errs, in percent: with Holm, and without any correction.

    A family is a study of M/M/1 at four loads, five metrics each, against itself under another
    seed; its loads share their requests, as a real study's do.
    """
    rhos, requests, warmup = (0.3, 0.5, 0.7, 0.8), 4_000, 1_000
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    percentiles = (50, 90, 95, 99)
    with_holm = without = 0
    shape = (2 * REPLICATES, requests + warmup)
    for _ in range(studies):
        gaps, service = rng.standard_exponential(shape), rng.standard_exponential(shape)
        p_values = []
        for rho in rhos:
            w = waits(gaps / rho, service, 1)[:, warmup:]
            sides = w[:REPLICATES], w[REPLICATES:]
            p_values.append(paired(*(side.mean(axis=1) for side in sides)).p_value)
            own = [np.percentile(side, percentiles, axis=1) for side in sides]
            whole = [np.percentile(side, percentiles).tolist() for side in sides]
            p_values += [
                paired(a, b, pooled).p_value
                for a, b, pooled in zip(*own, zip(*whole, strict=True), strict=True)
            ]
        with_holm += bool(np.any(holm(p_values).rejected))
        without += bool(np.min(p_values) <= 0.05)
    return (
        100.0 * with_holm / studies,
        100.0 * without / studies,
        len(rhos) * (len(percentiles) + 1),
    )


def stability_lines(points: int, seed: int) -> list[str]:
    """Return the table of stability verdicts, from the drift alone (rho not told)."""
    deterministic = Queue("M/D/4", 4, _constant, lambda rho: math.nan)
    lines = [
        "| queue | replicates | requests | rho | unstable % | undetermined % | stable % |",
        "|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    for queue in (QUEUES[0], deterministic):
        for replicates, requests in ((1, 500), (1, 2_000), (4, 2_000)):
            for rho in (0.5, 0.8, 0.9, 0.95, 1.05, 1.2):
                skip = requests // 10
                shape = (points * replicates, requests + skip)
                gaps = rng.standard_exponential(shape) / (rho * queue.servers)
                w = waits(gaps, queue.service(rng, shape), queue.servers)[:, skip:]
                at = np.cumsum(gaps, axis=1)[:, skip:]
                drifts = [drift(*run) for run in zip(w, at, strict=True)]
                groups = [drifts[i : i + replicates] for i in range(0, len(drifts), replicates)]
                found = [verdict_of_drifts({"pool": math.nan}, group).verdict for group in groups]
                shares = [
                    f"{100.0 * found.count(kind) / points:.1f}"
                    for kind in ("unstable", "undetermined", "stable")
                ]
                cells = [queue.name, str(replicates), str(requests), f"{rho:g}", *shares]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(rows: list[Row]) -> list[str]:
    """Return the coverage table in Markdown."""
    lines = [
        "| queue | rho | requests | quantity | method | truth | studies | half-width | covered % "
        "| wanted |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        wanted = "" if r.limits is None else f"{r.limits[0]:g}–{r.limits[1]:g}"
        mark = "" if r.ok else " (missed)"
        lines.append(
            f"| {r.queue} | {r.rho:g} | {r.requests} | {r.quantity} | {r.method} | {r.truth:.4g} "
            f"| {r.studies} | ±{100 * r.relative_half_width:.1f}% | {r.covered_percent:.1f}{mark} "
            f"| {wanted} |"
        )
    return lines


def page(
    rows: list[Row],
    short_rows: list[Row],
    aa: tuple[float, float, int],
    studies: int,
    seed: int,
) -> str:
    """Return the whole page in Markdown."""
    aa_mark = "" if AA_LIMITS[0] <= aa[0] <= AA_LIMITS[1] else " (missed)"
    lengths = ", ".join(
        f"{REQUESTS[rho]:,} requests after a warm-up of {WARMUP[rho]:,} at rho {rho:g}"
        for rho in REQUESTS
    )
    lines = [
        f"<!-- Written by benchmarks/interval_coverage.py --studies {studies} --seed {seed} -->",
        "",
        f"A study has {REPLICATES} replicates of {lengths}. The truth of means and of P(wait) is a "
        f"closed form; that of p99 is a run {LONGER} times longer than a study, or exact where it "
        "says so. simlib reports Student's *t* interval over replicates for means and *sectioning* "
        "for percentiles (the percentile of all replicates together, with the spread of theirs "
        "around it); *t* of the replicates' percentiles and the *jackknife* are alternatives that "
        "were measured and not chosen; *1 run* is the batch method used with a single replicate. "
        "Half-width is the interval's, relative to its "
        f"estimate (median). A coverage of 95% measured on {studies:,} studies has a standard "
        f"error of {100 * math.sqrt(0.95 * 0.05 / studies):.1f} points.",
        "",
        *table(rows),
        "",
        "**Shorter runs.** The same studies with replicates "
        f"{' and '.join(str(times) for times in SHORTER)} times shorter (no limits are set; a "
        "percentile whose batches are too small has no interval and no line):",
        "",
        *table(short_rows),
        "",
        "**A/A test.** A study that compares M/M/1 with itself under another seed, "
        f"{aa[2]} comparisons a family (4 loads, mean and 4 percentiles), finds some significant "
        f"difference in {aa[0]:.1f}%{aa_mark} of {studies:,} families with Holm's procedure at a "
        f"family-wise 5%; without a correction, {aa[1]:.1f}% would.",
        "",
        "**Stability.** Verdicts from the drift of waits alone, with rho not told "
        "(told, rho >= 1 is always unstable):",
        "",
        *stability_lines(max(1, studies // 4), seed),
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--studies", default=1_000, show_default=True, help="Studies per queue and load.")
@click.option("--seed", default=2026, show_default=True, help="Seed of the whole benchmark.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
def main(studies: int, seed: int, output: Path | None) -> None:
    """Measure coverage and error rates, print the page, and fail if one is out of its limits."""
    rows: list[Row] = []
    short_rows: list[Row] = []
    for number, queue in enumerate(QUEUES):
        for rho, requests in REQUESTS.items():
            click.echo(f"{queue.name}, rho {rho:g} ...", err=True)
            long_run = long_run_p99_s(queue, rho, requests, seed + number)
            rows += coverage_rows(queue, rho, requests, studies, seed + number, long_run)
            for times in SHORTER:
                short_rows += coverage_rows(
                    queue, rho, requests // times, studies, seed + number, long_run
                )
    short_rows = [
        replace(row, limits=None) for row in short_rows if row.quantity in ("mean wait", "p99 wait")
    ]
    aa = false_families(studies, seed)
    text = page(rows, short_rows, aa, studies, seed)
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    if not (all(row.ok for row in rows) and AA_LIMITS[0] <= aa[0] <= AA_LIMITS[1]):
        raise SystemExit("some rates are out of their limits")


if __name__ == "__main__":
    main()
