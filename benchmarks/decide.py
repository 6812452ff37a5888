"""Do capacities and verdicts keep what they promise? Measured against closed form and brute force.

Token-rate deployments, a search of `simlib.study.decide` for each seed, in memory. The truth is a
closed form (M/M/1), or the root of attainment over many more replicates of other seeds on a fine
grid of rates around it. Verdicts: a group of deployments is made faster by a factor that makes its
best as good as the other group's best, or better by a known margin; time scales, so this moves
pseudo-values by the factor's logarithm and changes nothing else.

    python benchmarks/decide.py --seeds 100 --output docs/_generated_decide.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from simlib.core import recursion
from simlib.core.config import SimConfig
from simlib.core.sampling import sample_requests
from simlib.core.slo import Slo, within
from simlib.stats.ranking import duel
from simlib.stats.root_finding import Attainment, Capacity, find_capacity
from simlib.study.decide.first_guess import first_guess
from simlib.study.decide.load import snapped

RELATIVE = 0.02
MOST_REPLICATES = 40
TRUTH_SEED = 10_000_000
"""Seeds of truths lie above those of searches; each case has its own."""
TRUTH_REPLICATES = 120
GRID = 5
BRUTE_REPLICATES = 40
"""A user's brute force: a grid of 21 rates with as many replicates as the search may use."""
BRUTE_RATES = 21
REQUESTS = 6_000
WARMUP = 0.2

WORKLOADS: dict[str, tuple[dict, dict]] = {
    "chat, TTFT 1 s": ({}, {"ttft_s": 1.0, "attainment": 0.95}),
    "exponential lengths, TTFT 2 s": (
        {
            "prompt_tokens": {"mode": "exponential", "mean": 2000},
            "output_tokens": {"mode": "exponential", "mean": 300},
        },
        {"ttft_s": 2.0, "attainment": 0.9},
    ),
    "heavy tail, E2E 10 s": (
        {
            "prompt_tokens": {"mean": 7.0, "sigma": 1.2},
            "output_tokens": {"mean": 5.0, "sigma": 1.2},
        },
        {"e2e_s": 10.0, "attainment": 0.95},
    ),
    "fixed lengths, TTFT 0.5 s, 99%": (
        {
            "prompt_tokens": {"mode": "fixed", "value": 1000},
            "output_tokens": {"mode": "fixed", "value": 200},
        },
        {"ttft_s": 0.5, "attainment": 0.99},
    ),
}
DEPLOYMENTS: dict[str, dict] = {
    "mono 4": {"mode": "mono", "cluster_mono": {"num_gpus": 4}},
    "mono 8": {"mode": "mono", "cluster_mono": {"num_gpus": 8}},
    "1P3D": {"mode": "disagg", "cluster_disagg": {"prefill_gpus": 1, "decode_gpus": 3}},
    "2P2D": {"mode": "disagg", "cluster_disagg": {"prefill_gpus": 2, "decode_gpus": 2}},
    "3P5D": {"mode": "disagg", "cluster_disagg": {"prefill_gpus": 3, "decode_gpus": 5}},
    "5P3D": {"mode": "disagg", "cluster_disagg": {"prefill_gpus": 5, "decode_gpus": 3}},
}
GROUPS = (("mono 4", "1P3D", "2P2D"), ("mono 8", "3P5D", "5P3D"))
"""Of equal GPUs, the monolithic one first."""
MM1 = (0.5, 0.8, 0.9)
"""Loads at the capacity."""


@dataclass
class Case:
    """A deployment under a workload, and how its searches fared."""

    name: str
    settings: dict
    slo: Slo
    seeds: int = 0
    """Where its seeds begin: deployments that are compared share them, others do not, because
    their errors would be alike."""
    truth: float = math.nan
    found: list[Capacity] = field(default_factory=list)
    simulations: list[int] = field(default_factory=list)

    def at(self, rate: float, seed: int) -> SimConfig:
        seconds = self.settings["sim_seconds"]
        return SimConfig.from_dict(
            {
                **self.settings,
                "random_seed": seed,
                "warmup_seconds": WARMUP * seconds,
                "arrival": {"rate_per_s": rate},
            }
        )

    def share(self, rate: float, seed: int, replicate: int) -> tuple[float, int]:
        config = self.at(rate, seed)
        records = recursion.serve(sample_requests(config, replicate), config)
        good = within(records, config, self.slo, replicate)
        return float(np.mean(good)), good.size

    def search(self, seed: int) -> None:
        runs: dict[float, list[tuple[float, int]]] = {}
        seed += self.seeds

        def measure(rate: float, replicates: int) -> Attainment:
            had = runs.setdefault(rate, [])
            had += [self.share(rate, seed, k) for k in range(len(had), replicates)]
            return Attainment(np.array([s for s, _ in had]), min(n for _, n in had))

        guess = first_guess(self.at(1.0, seed), self.slo)
        self.found.append(
            find_capacity(
                measure,
                target=self.slo.attainment,
                start=guess,
                lowest=snapped(guess / 50.0),
                relative=RELATIVE,
                max_replicates=MOST_REPLICATES,
                snap=snapped,
            )
        )
        self.simulations.append(sum(map(len, runs.values())))

    def find_truth(self) -> None:
        """Read the root between rates of a fine grid, each of many replicates of other seeds."""
        centre = float(np.median([one.interval.estimate for one in self.found]))
        rates = centre * np.linspace(0.97, 1.03, GRID)
        seed = TRUTH_SEED + sum(self.name.encode())
        misses = [
            1.0 - np.mean([self.share(r, seed, k)[0] for k in range(TRUTH_REPLICATES)])
            for r in rates
        ]
        gap = np.log(misses) - math.log1p(-self.slo.attainment)
        line = np.polyfit(rates, gap, 2)
        roots = np.roots(line)
        real = roots[np.isreal(roots)].real
        self.truth = float(real[np.argmin(np.abs(real - centre))])

    @property
    def covered(self) -> float:
        return float(np.mean([one.interval.contains(self.truth) for one in self.found]))

    def line(self) -> str:
        widths = [one.interval.relative_half_width for one in self.found]
        errors = [one.interval.estimate / self.truth - 1.0 for one in self.found]
        return (
            f"| {self.name} | {self.truth:.4g} | {100 * self.covered:.1f} | "
            f"{100 * np.mean(errors):+.2f} | {100 * np.mean(widths):.1f} | "
            f"{np.mean(self.simulations):.0f} |"
        )


def mm1(load: float) -> Case:
    """One GPU with exponential service of mean 1 s; TTFT at the prefill's end is the sojourn."""
    limit = -math.log(0.05) / (1.0 - load)
    settings = {
        "mode": "mono",
        "ttft_definition": "prefill_end",
        "sim_seconds": 12_500.0 / load,
        "prompt_tokens": {"mode": "exponential", "mean": 1e6, "min_value": 1},
        "output_tokens": {"mode": "fixed", "value": 1},
        "cluster_mono": {"num_gpus": 1, "prefill_tokens_per_s": 1e6, "decode_tokens_per_s": 1e12},
    }
    case = Case(f"M/M/1, load {load:g} at the capacity", settings, Slo(ttft_s=limit))
    case.truth = load
    return case


def cases() -> list[Case]:
    found = [mm1(load) for load in MM1]
    for workload, (lengths, slo) in WORKLOADS.items():
        for deployment, pools in DEPLOYMENTS.items():
            case = Case(f"{deployment}, {workload}", {**lengths, **pools}, Slo.from_dict(slo))
            case.settings["sim_seconds"] = 600.0
            groups = [deployment in group for group in GROUPS].index(True)
            case.seeds = 10_000 * (len(GROUPS) * list(WORKLOADS).index(workload) + groups)
            guess = first_guess(case.at(1.0, 0), case.slo)
            case.settings["sim_seconds"] = float(f"{REQUESTS / guess:.2g}")
            found.append(case)
    return found


def verdicts(found: list[Case]) -> list[str]:
    """Count claims where the best of both groups are as good, and where one is better."""
    by_name = {case.name: case for case in found}
    lines = []
    for margin in (0.0, 0.1, -0.1):
        right = wrong = tries = 0
        for workload in WORKLOADS:
            for mono, *splits in GROUPS:
                one = by_name[f"{mono}, {workload}"]
                group = [by_name[f"{split}, {workload}"] for split in splits]
                best = max(case.truth for case in group)
                shift = math.log1p(margin) + math.log(one.truth / best)
                for i, capacity in enumerate(one.found):
                    if any(case.found[i].outcome != "found" for case in (one, *group)):
                        continue
                    claim = duel(
                        {c.name: c.found[i].log_pseudo_values + shift for c in group},
                        {one.name: capacity.log_pseudo_values},
                        indifference=math.log1p(RELATIVE),
                    ).claim
                    tries += 1
                    truth = {True: "first", False: "second"}[margin > 0]
                    right += margin != 0 and claim == truth
                    wrong += claim not in ("too close to call", truth if margin else "")
        lines.append(
            f"| {100 * margin:+.0f} | {tries} | {100 * right / tries:.1f} | "
            f"{100 * wrong / tries:.1f} |"
        )
    return lines


def _verdict_table(found: list[Case]) -> list[str]:
    return [
        "",
        "| true margin (%) | tries | right claim (%) | wrong claim (%) |",
        "|---|---|---|---|",
        *verdicts(found),
    ]


@click.command()
@click.option("--seeds", type=int, default=100, show_default=True)
@click.option("--only", default="", help="Only cases whose name holds this; then no verdicts.")
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file of the tables.")
def main(seeds: int, only: str, output: Path | None) -> None:
    """Measure coverage of capacity intervals, and how often verdicts err."""
    found = [case for case in cases() if only in case.name]
    for case in found:
        for seed in range(seeds):
            case.search(seed)
        if math.isnan(case.truth):
            case.find_truth()
        click.echo(case.line())
    coverage = np.mean([case.covered for case in found])
    error = 100 * math.sqrt(coverage * (1 - coverage) / (seeds * len(found)))
    brute = BRUTE_RATES * BRUTE_REPLICATES
    share = np.mean([np.mean(case.simulations) for case in found]) / brute
    text = "\n".join(
        [
            f"{seeds} searches of each case, each to {RELATIVE:.0%} or {MOST_REPLICATES} "
            "replicates. Coverage: share of the 95% intervals that hold the truth.",
            "",
            "| case | truth (1/s) | coverage (%) | mean error (%) | half width (%) | simulations |",
            "|---|---|---|---|---|---|",
            *(case.line() for case in found),
            "",
            f"All together: {100 * coverage:.1f}% (standard error {error:.1f}%), with "
            f"{100 * share:.0f}% of the simulations of a grid of {BRUTE_RATES} rates with "
            f"{BRUTE_REPLICATES} replicates each.",
            *([] if only else _verdict_table(found)),
            "",
        ]
    )
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
