"""What the workflow costs: studies of many cheap points, from nothing, unchanged, and edited.

python benchmarks/workflow.py [--points 100 1000 5000] [--cores 2]

Prints a Markdown table: wall seconds, CPU seconds per simulation (all processes), wall seconds of
the check that finds everything up to date, of a run after one point was edited, and of tabulating
and drawing all points again, each with its peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[1]
TABLES = "results/studies/cheap/tables"
HEADINGS = (
    "points", "cold, s", "CPU/job, s", "up to date, s", "one point edited, s", "jobs then",
    "tables, s", "tables, MiB", "figures, s", "figures, MiB",
)  # fmt: skip


def snakemake(folder: Path, cores: int) -> tuple[float, float, str]:
    """Run the workflow; return wall and CPU seconds, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(REPO / "Snakefile"), "--cores",
         str(cores), "--nocolor", "simulations", f"{TABLES}/summary.csv"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.stderr


def stage(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run a stage of the study by hand; return wall seconds and the peak MiB of its process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "simlib.cli.run", "study", *arguments], cwd=folder,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{arguments[0]} failed")
    process.returncode = 0
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def write(folder: Path, rates: list[float]) -> None:
    study = {
        "defaults": {"sim_seconds": 20, "warmup_seconds": 2},
        "replicates": 1,
        "studies": {"cheap": {"sweep": {"grid": {"arrival.rate_per_s": rates}}}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def measure(points: int, cores: int) -> list[str]:
    rates = [round(1 + position / points, 6) for position in range(points)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, rates)
        cold, cpu, _ = snakemake(folder, cores)
        snakemake(folder, cores)  # the first check reads every result
        unchanged, _, _ = snakemake(folder, cores)
        rates[points // 2] += 0.5 / points
        write(folder, rates)
        edited, _, said = snakemake(folder, cores)
        ran = next(line for line in said.splitlines() if line.startswith("ran "))
        study = "results/studies/cheap/study.json"
        tables = stage(folder, "tables", study, "--output", TABLES)
        figures = stage(folder, "figures", study, "--tables", TABLES, "--output", "figures")
        results = list(folder.glob("results/points/*/r0.npz"))
        assert len(results) == points + 1, "points were lost"
        assert json.loads((folder / "results/.verified.json").read_text())["files"]
    return [
        f"{points}", f"{cold:.1f}", f"{cpu / points:.3f}", f"{unchanged:.1f}", f"{edited:.1f}",
        ran.removeprefix("ran ").split(";")[0], f"{tables[0]:.1f}", f"{tables[1]:.0f}",
        f"{figures[0]:.1f}", f"{figures[1]:.0f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + "---|" * len(HEADINGS))
    for points in arguments.points:
        print("| " + " | ".join(measure(points, arguments.cores)) + " |", flush=True)


if __name__ == "__main__":
    main()
