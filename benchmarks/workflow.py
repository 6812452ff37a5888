"""What the workflow costs a user: whole runs with tables, comparison and figures, and edits.

python benchmarks/workflow.py [--points 1000] [--cores 2] [--against CHECKOUT]

Prints a Markdown table of wall and CPU seconds (all processes): of the shipped studies from
nothing, and of a study of mode and rate from nothing, up to date, and after one rate was edited.
With --against, the same in another checkout of this repository, whose environment is its .venv,
right after each other (the shipped studies are then the other's), and the ratio of the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

REPO = Path(__file__).resolve().parents[1]


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float
    ran: str
    """What the run says that it ran."""


def snakemake(checkout: Path, folder: Path, cores: int) -> Cost:
    """Run the workflow of a checkout in a folder."""
    python = sys.executable if checkout == REPO else str(checkout / ".venv/bin/python")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [python, "-m", "snakemake", "--snakefile", str(checkout / "Snakefile"),
         "--cores", str(cores), "--nocolor"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ran = [line for line in done.stderr.splitlines() if line.startswith("ran ")]
    return Cost(wall_s, cpu_s, ran[0].removeprefix("ran ").split(";")[0] if ran else "nothing")


def write(folder: Path, rates: list[float]) -> None:
    study = {
        "defaults": {"sim_seconds": 20, "warmup_seconds": 2},
        "replicates": 1,
        "studies": {
            "cheap": {
                "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": rates}},
                "compare": {"factor": "mode", "baseline": "mono"},
            }
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def shipped(checkout: Path, cores: int, config: Path) -> dict[str, Cost]:
    """Run the studies that come with a repository."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_bytes(config.read_bytes())
        return {"shipped studies, from nothing": snakemake(checkout, folder, cores)}


def sweep(checkout: Path, cores: int, points: int) -> dict[str, Cost]:
    """Run a study of two factors, again, and after an edit of one rate."""
    rates = [round(1 + position / points, 6) for position in range(points // 2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, rates)
        costs = {f"{points} points, from nothing": snakemake(checkout, folder, cores)}
        snakemake(checkout, folder, cores)  # the first check reads every result
        costs[f"{points} points, up to date"] = snakemake(checkout, folder, cores)
        rates[points // 4] += 0.5 / points
        write(folder, rates)
        costs[f"{points} points, one rate edited"] = snakemake(checkout, folder, cores)
        results = list(folder.glob("results/points/*/r0.npz"))
        assert len(results) == 2 * len(rates) + 2, "points were lost"
        assert json.loads((folder / "results/.verified.json").read_text())["files"]
    return costs


def two_sides(text: str) -> int:
    """Return a number of points: as many rates of each of the two sides, one at least."""
    if not text.isdigit() or int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f"an even number of points, 2 or more, not {text}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=two_sides, nargs="+", default=[1000])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout, with a .venv")
    arguments = parser.parse_args()
    headings = ["run", "wall, s", "CPU, s", "ran"]
    if arguments.against:
        headings += ["wall there, s", "CPU there, s", "CPU ratio"]
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    config = (arguments.against or REPO) / "config.yaml"
    cases = [(shipped, (config,)), *((sweep, (points,)) for points in arguments.points)]
    for case, given in cases:
        here = case(REPO, arguments.cores, *given)
        there = {}
        if arguments.against:
            there = case(arguments.against.resolve(), arguments.cores, *given)
        for name, cost in here.items():
            cells = [name, f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", cost.ran]
            if name in there:
                other = there[name]
                ratio = cost.cpu_s / other.cpu_s
                cells += [f"{other.wall_s:.1f}", f"{other.cpu_s:.1f}", f"{ratio:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
