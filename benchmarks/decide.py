"""Do capacities and verdicts keep what they promise? Measured against closed form and brute force.

Searches of `simlib.study.decide`, in two rounds as in a decision, each with a seed of its own. The
truth is a closed form (M/M/1), or the root of attainment over many replicates of other seeds. The
method was chosen on other workloads, deployments and seeds than those below (M/M/1: other seeds).

Verdicts: deployments of equal GPUs are compared seed by seed, as they are: pairs of M/M/1 that are
10% apart, pairs whose disaggregated side has GPUs of a speed that makes the margin about 10%, and
whatever else is further apart than that. And after one side's capacities are multiplied by what
makes its best as good as the other's best, or better or worse by a known margin. (A service that
is f times faster under an SLO that is f times shorter has f times the capacity, and the same
pseudo-values but for the logarithm of f.)

Every truth and every search is a line of the results file, the truths first, then seed by seed, and
cheap cases before those that batch: the script goes on where it was killed, and with --seeds 0
makes tables of what there is.

    python benchmarks/decide.py --seeds 60 --output docs/_generated_decide.md
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numba  # noqa: F401 - the token-rate engine compiles where it is there already
import numpy as np

from simlib.core.config import ClusterDisagg, SimConfig
from simlib.core.slo import Slo, within
from simlib.stats.ranking import contenders, duel
from simlib.stats.stability import Drift, Stability
from simlib.study.decide.first_guess import first_guess
from simlib.study.decide.load import KeptRuns, Load, Run
from simlib.study.decide.search import capacity_of
from simlib.study.jobs.simulate import simulate
from simlib.study.plan.decision import Accuracy
from simlib.study.plan.searches import screening

ACCURACY = Accuracy(max_replicates=40)
TRUTH_SEED = 10_000_000
"""Seeds of truths lie above those of searches."""
TRUTH_REPLICATES = 3000
BRUTE_RATES = 21
"""A brute force looks at so many rates, with as many replicates as the search needed near one."""
WARMUP = 0.2
MM1 = (0.5, 0.8, 0.9)
"""Loads at the capacity."""
PAIRS = (0.9, 1.1)
"""Capacities of the disaggregated M/M/1 over the monolithic one's."""


def lengths(p50: float, p90: float) -> dict[str, Any]:
    return {"mode": "p50_p90", "p50": p50, "p90": p90}


def pools(mono: int, *splits: tuple[int, int], speed: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return token-rate deployments of equal GPUs, the monolithic one first.

    Disaggregated ones are `speed` times as fast.
    """
    found = {f"mono {mono}": {"mode": "mono", "cluster_mono": {"num_gpus": mono}}}
    for p, d in splits:
        cluster = {"prefill_gpus": p, "decode_gpus": d}
        name = f"{p}P{d}D"
        if speed != 1.0:
            rates = ClusterDisagg()
            cluster["prefill_tokens_per_s"] = speed * rates.prefill_tokens_per_s
            cluster["decode_tokens_per_s"] = speed * rates.decode_tokens_per_s
            name += f", {speed:g} times as fast"
        found[name] = {"mode": "disagg", "cluster_disagg": cluster}
    return found


def replicas(count: int, tp: int) -> dict[str, Any]:
    return {"replicas": count, "tensor_parallel": tp, "gpu": "h100_sxm"}


H100 = {
    "4 x TP1": {"mode": "mono", "batching_mono": {"pool": replicas(4, 1)}},
    "2 x TP2": {"mode": "mono", "batching_mono": {"pool": replicas(2, 2)}},
    "1P TP1 + 3D TP1": {
        "mode": "disagg",
        "batching_disagg": {"prefill": replicas(1, 1), "decode": replicas(3, 1)},
    },
    "2P TP1 + 1D TP2": {
        "mode": "disagg",
        "batching_disagg": {"prefill": replicas(2, 1), "decode": replicas(1, 2)},
    },
}
BATCHING = {
    "serving": "batching",
    "latency": {
        "model": "llama-3.1-8b",
        "step_overhead_s": 0.0015,
        "sequence_overhead_s": 50e-6,
    },
}
SMALL, LARGE = pools(3, (1, 2), (2, 1)), pools(6, (2, 4), (4, 2))
WORKLOADS: dict[str, tuple[dict, dict, int, list[dict[str, dict]]]] = {
    "summaries": (
        {"prompt_tokens": lengths(3000, 9000), "output_tokens": lengths(150, 400)},
        {"ttft_s": 3.0, "e2e_s": 8.0, "attainment": 0.9},
        2000,
        [SMALL, LARGE],
    ),
    "heavy tail": (
        {"prompt_tokens": lengths(1000, 6000), "output_tokens": lengths(30, 150)},
        {"ttft_s": 4.0, "attainment": 0.95},
        2000,
        [SMALL, LARGE],
    ),
    "two classes": (
        {
            "prompt_tokens": {"mode": "exponential", "mean": 900},
            "output_tokens": {"mode": "exponential", "mean": 250},
            "request_classes": {"chat": {"share": 0.7}, "batch": {"share": 0.3}},
        },
        {"classes": {"chat": {"ttft_s": 0.8}, "batch": {"ttft_s": 5.0}}, "attainment": 0.95},
        2000,
        [SMALL, LARGE],
    ),
    "8B chat": (
        {**BATCHING, "prompt_tokens": lengths(1000, 3000), "output_tokens": lengths(150, 400)},
        {"ttft_s": 1.0, "tpot_s": 0.02, "attainment": 0.95},
        1500,
        [H100],
    ),
    "8B documents": (
        {**BATCHING, "prompt_tokens": lengths(4000, 12000), "output_tokens": lengths(100, 250)},
        {"ttft_s": 2.0, "tpot_s": 0.04, "attainment": 0.9},
        1500,
        [H100],
    ),
}
"""Lengths, SLO, requests of a run, and groups of deployments that have equal GPUs."""
SPEEDS = {"summaries": (1.17, 1.42), "heavy tail": (1.29, 1.56), "two classes": (1.53, 1.83)}
"""Of GPUs with which 2P1D carries about 10% less and more than `mono 3`."""


class InMemory(Load):
    """A load that keeps nothing in files, and measures nothing but what is within the SLO.

    Whether queues grow without end is not looked at: the limits are missed long before.
    """

    def _kept(self, config: SimConfig) -> Any:  # type: ignore[override]
        return self

    def read(self, kind: type[KeptRuns]) -> None:
        """Find nothing."""

    def write(self, runs: KeptRuns) -> None:
        """Keep nothing."""

    def _run(self, config: SimConfig, replicate: int) -> Run:
        good = within(simulate(config, replicate), config, self.slo, replicate)
        share = {config.ttft_definition: np.array([np.mean(good)])}
        return Run(share, good.size, {}, {}, math.nan, {}, {}, Drift(0.0, 0.0, 0.0, good.size, 0))

    def stability(self, rate: float) -> Stability:
        """Return that it is stable."""
        return Stability("stable", "not looked at")


@dataclass(frozen=True)
class Case:
    """A deployment under a workload."""

    name: str
    group: str
    """Those of a group share seeds, and are compared."""
    settings: dict[str, Any]
    slo: Slo
    truth: float = math.nan
    rival: str = ""
    """The case that alone it is compared with."""

    def config(self, seed: int) -> SimConfig:
        warmup = WARMUP * self.settings["sim_seconds"]
        return SimConfig.from_dict({**self.settings, "random_seed": seed, "warmup_seconds": warmup})

    @property
    def seeds(self) -> int:
        return sum(self.group.encode()) * 1000

    def search(self, seed: int) -> dict[str, Any]:
        config = self.config(self.seeds + seed)
        load = InMemory(config, self.slo, Path("nowhere"))
        began = time.process_time()
        first = capacity_of(load, screening(ACCURACY, 2))
        found = capacity_of(load, ACCURACY, known=tuple(load.runs))
        return {
            "case": self.name,
            "seed": seed,
            "outcome": found.outcome,
            "ends": [found.interval.low, found.interval.estimate, found.interval.high],
            "replicates": found.replicates,
            "simulations": sum(map(len, load.runs.values())),
            "values": found.log_pseudo_values.tolist(),
            "first": first.log_pseudo_values.tolist(),
            "cpu_s": time.process_time() - began,
        }

    def find_truth(self) -> dict[str, Any]:
        """Read the root between two close rates, each of many replicates of other seeds."""
        if not math.isnan(self.truth):
            return {"case": self.name, "truth": self.truth}
        config = self.config(TRUTH_SEED + self.seeds)
        load = InMemory(config, self.slo, Path("nowhere"))
        near = capacity_of(load, ACCURACY).interval.estimate
        rates = near * np.array([0.985, 1.015])
        shares = np.array([self._shares(load.at(rate)) for rate in rates])
        gap = np.log(1.0 - shares) - math.log1p(-self.slo.attainment)
        share = -gap[0] / (gap[1] - gap[0])
        return {"case": self.name, "truth": rates[0] + share * (rates[1] - rates[0])}

    def _shares(self, config: SimConfig) -> float:
        return float(
            np.mean(
                [
                    np.mean(within(simulate(config, k), config, self.slo, k))
                    for k in range(TRUTH_REPLICATES)
                ]
            )
        )


def mm1(load: float, pair: float | None = None) -> Case:
    """One GPU with exponential service of mean 1 s; TTFT at the prefill's end is the sojourn.

    Its partner in a `pair` is disaggregated, and so much faster that it carries `pair` times that.
    """
    limit_s = -math.log(0.05) / (1.0 - load)
    carried = load if pair is None else pair * load
    tokens_per_s = 1e6 * (carried - math.log(0.05) / limit_s)
    rates = {"prefill_tokens_per_s": tokens_per_s, "decode_tokens_per_s": 1e12}
    settings = {
        "mode": "mono" if pair is None else "disagg",
        "ttft_definition": "prefill_end",
        "sim_seconds": 4_000.0 / load,
        "prompt_tokens": {"mode": "exponential", "mean": 1e6, "min_value": 1},
        "output_tokens": {"mode": "fixed", "value": 1},
        "cluster_mono": {"num_gpus": 1, **rates},
        "cluster_disagg": {"prefill_gpus": 1, "decode_gpus": 1, **rates},
    }
    group = f"M/M/1, load {load:g} at the capacity"
    name = group if pair is None else f"{group}, {pair - 1.0:+.0%}"
    rival = "" if pair is None else group
    return Case(name, group, settings, Slo(ttft_s=limit_s), carried, rival)


def case_of(workload: str, group: int, deployment: str, its: dict, rival: str = "") -> Case:
    """Return a deployment under a workload, with runs of so many requests as the workload has."""
    settings, slo, requests, _ = WORKLOADS[workload]
    merged = {**settings, **its, "sim_seconds": 600.0}
    guess = first_guess(SimConfig.from_dict(merged), Slo.from_dict(slo))
    merged["sim_seconds"] = float(f"{requests / guess:.2g}")
    name = f"{workload}, {deployment}"
    return Case(name, f"{workload} {group}", merged, Slo.from_dict(slo), rival=rival)


def cases() -> list[Case]:
    found = [mm1(load, pair) for load in MM1 for pair in (None, *PAIRS)]
    for workload, (_, _, _, groups) in WORKLOADS.items():
        for number, group in enumerate(groups):
            found += [case_of(workload, number, name, its) for name, its in group.items()]
        for speed in SPEEDS.get(workload, ()):
            _, (name, its) = pools(3, (2, 1), speed=speed).items()
            found.append(case_of(workload, 0, name, its, f"{workload}, mono 3"))
    return found


def lines_of(case: Case, done: dict[str, list[dict]], truth: dict[str, float]) -> str:
    runs = [run for run in done[case.name] if run["outcome"] == "found"]
    low, estimate, high = np.array([run["ends"] for run in runs]).T
    true = truth[case.name]
    covered = np.mean((low <= true) & (true <= high))
    width = np.mean((high - low) / 2.0 / estimate)
    brute = np.mean([run["simulations"] / (BRUTE_RATES * run["replicates"]) for run in runs])
    return (
        f"| {case.name} | {true:.4g} | {len(runs)} | {100 * covered:.1f} | "
        f"{100 * np.mean(high < true):.1f} / {100 * np.mean(low > true):.1f} | "
        f"{100 * (np.mean(estimate) / true - 1.0):+.2f} | {100 * width:.1f} | "
        f"{np.mean([run['simulations'] for run in runs]):.0f} | {100 * brute:.0f} |"
    )


def fields(
    found: list[Case], done: dict[str, list[dict]], truth: dict[str, float]
) -> Iterator[tuple[list[Case], float, dict[str, dict[str, np.ndarray]]]]:
    """Yield cases, true margin (logarithm) and pseudo-values of each seed that all of them have.

    As in a decision, only those that may be the best of their architecture have more replicates
    than the first round's.
    """
    for group in compared(found):
        sides = {"mono": [], "disagg": []}
        for case in group:
            sides[case.settings["mode"]].append(case)
        if not all(sides.values()) or any(case.name not in truth for case in group):
            continue
        best = {s: max(truth[c.name] for c in of) for s, of in sides.items()}
        by_seed = [{r["seed"]: r for r in done[c.name] if r["outcome"] == "found"} for c in group]
        runs_of = {case.name: runs for case, runs in zip(group, by_seed, strict=True)}
        for seed in set.intersection(*(set(runs) for runs in by_seed)):
            values = {}
            for side, of in sides.items():
                first = {c.name: np.array(runs_of[c.name][seed]["first"]) for c in of}
                may = contenders(first)
                values[side] = {
                    n: np.array(runs_of[n][seed]["values"]) if n in may else first[n] for n in first
                }
            yield group, math.log(best["disagg"] / best["mono"]), values


def compared(found: list[Case]) -> list[list[Case]]:
    """Return the groups, and each pair that was made for a margin."""
    by_name = {case.name: case for case in found}
    groups = [
        [case for case in found if case.group == name and not case.rival]
        for name in dict.fromkeys(case.group for case in found)
    ]
    return groups + [[by_name[c.rival], c] for c in found if c.rival in by_name]


def verdict_lines(samples: list[tuple[list[Case], float, dict]]) -> list[str]:
    """Return a row for each kind of try: pairs made for a margin, as they are, and moved ones."""

    def row(what: str, tries: list[tuple[float, float, dict]]) -> str:
        right = wrong = covered = 0
        for true, wanted, values in tries:
            moved = {n: v + wanted - true for n, v in values["disagg"].items()}
            found = duel(moved, values["mono"], indifference=math.log1p(ACCURACY.indifference))
            truth = ("first" if wanted > 0 else "second") if wanted else ""
            right += found.claim == truth
            wrong += found.claim not in ("too close to call", truth)
            covered += found.margin.contains(wanted)
        shares = [f"{100 * count / len(tries):.1f}" for count in (right, wrong, covered)]
        return f"| {what} | {len(tries)} | {' | '.join(shares)} |"

    made = [one for one in samples if one[0][-1].rival]
    plain = [one for one in samples if not one[0][-1].rival]
    kinds = {
        "M/M/1, 10 apart": [(t, t, v) for g, t, v in made if "M/M/1" in g[0].name],
        "made for about 10": [(t, t, v) for g, t, v in made if "M/M/1" not in g[0].name],
        "as they are, beyond 10": [(t, t, v) for _, t, v in plain if abs(t) > math.log(1.1)],
    }
    kinds |= {
        f"moved to {100 * to:+.0f}": [(t, math.log1p(to), v) for _, t, v in plain]
        for to in (0.0, 0.1, -0.1)
    }
    return [row(what, tries) for what, tries in kinds.items() if tries]


def report(found: list[Case], done: dict[str, list[dict]], truth: dict[str, float]) -> str:
    shown = [case for case in found if case.name in truth and done.get(case.name)]
    runs = [(c, r) for c in shown for r in done[c.name] if r["outcome"] == "found"]
    inside = [r["ends"][0] <= truth[c.name] <= r["ends"][2] for c, r in runs]
    coverage = float(np.mean(inside))
    error = 100 * math.sqrt(coverage * (1 - coverage) / len(inside))
    brute = np.mean([r["simulations"] / (BRUTE_RATES * r["replicates"]) for _, r in runs])
    return "\n".join(
        [
            f"Searches to {ACCURACY.relative:.0%}, or {ACCURACY.max_replicates} replicates. "
            "Coverage: share of the 95% intervals that hold the truth; beside it, the share that "
            "lies below and above it.",
            "",
            "| case | truth (1/s) | searches | coverage (%) | below / above (%) | mean error (%) "
            "| half width (%) | simulations | of brute force (%) |",
            "|---|---|---|---|---|---|---|---|---|",
            *(lines_of(case, done, truth) for case in shown),
            "",
            f"All {len(runs)} together: {100 * coverage:.1f}% (standard error {error:.1f}%), with "
            f"{100 * brute:.0f}% of the simulations of a grid of {BRUTE_RATES} rates with as many "
            "replicates each.",
            "",
            "| margin (%) | tries | right claim (%) | wrong claim (%) | margins covered (%) |",
            "|---|---|---|---|---|",
            *verdict_lines(list(fields(found, done, truth))),
            "",
        ]
    )


def read(path: Path) -> tuple[dict[str, list[dict]], dict[str, float]]:
    done: dict[str, list[dict]] = {}
    truth: dict[str, float] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        line = json.loads(text)
        if "truth" in line:
            truth[line["case"]] = line["truth"]
        else:
            done.setdefault(line["case"], []).append(line)
    return done, truth


@click.command()
@click.option("--seeds", type=int, default=60, show_default=True, help="Searches of each case.")
@click.option("--only", default="", help="Only cases whose name holds this.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default="benchmark_decide.jsonl",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file of the tables.")
def main(seeds: int, only: str, results: Path, output: Path | None) -> None:
    """Measure coverage of capacity intervals, and how often verdicts err."""
    found = [case for case in cases() if only in case.name]
    done, truth = read(results)
    had = {(line["case"], line["seed"]) for runs in done.values() for line in runs}
    left: list[tuple[Case, int | None]] = []
    for batching in (False, True):  # the cheap ones first
        those = [case for case in found if ("serving" in case.settings) == batching]
        left += [(case, None) for case in those if seeds and case.name not in truth]
        left += [(c, s) for s in range(seeds) for c in those if (c.name, s) not in had]
    for case, seed in left:
        line = case.find_truth() if seed is None else case.search(seed)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    text = report(found, *read(results))
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
