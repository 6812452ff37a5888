"""Fit the four constants of each serving engine to measured servers, and test them on others.

    python benchmarks/fit_engines.py MEASURED.csv [MEASURED.csv …] [--write]

Give development data only. A group is a GPU, an engine and a model. The overheads of a step and of
a sequence are those of the least error of TPOT on a grid, then the front end's two constants those
of the least error of TTFT. Errors are absolute logarithms of simulated over measured, of which
what exceeds a factor of two counts as that; each group counts alike, whatever its number of rows.

Each group is then simulated with constants that were fitted without it. Whether an engine's
constants are fitted to its own groups, or to all of them alike, is decided by the error of these
left-out groups; a group whose engine has no other takes those of all. `--write` replaces the
numbers of ``simlib/latency/catalog/engines.csv``, with these errors and the constants' spread, and
``benchmarks/engines_left_out.csv``, the constants fitted without each group.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from measured import RefusedError, Row, predict, read_rows, with_engine

FILE = Path(__file__).resolve().parent.parent / "simlib" / "latency" / "catalog" / "engines.csv"
LEFT_OUT = Path(__file__).with_name("engines_left_out.csv")
CONSTANTS = (
    "step_overhead_s",
    "sequence_overhead_s",
    "front_end_request_s",
    "front_end_token_s",
)
STEPS_S = (0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3)
SEQUENCES_S = (0.0, 1e-5, 2e-5, 3.5e-5, 5e-5, 7e-5)
REQUESTS_S = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3)
TOKENS_S = (0.0, 2e-6, 4e-6)
ENOUGH_ROWS = 40
"""Of a group of twice as many rows every second one is fitted to, and so on; all are tested."""
START = (1e-3, 3.5e-5, 3e-3, 2e-6)
"""The front end with which overheads are fitted; the overheads where an engine has no rows."""

Group = tuple[str, str, str]
Pair = tuple[float, float]
Constants = tuple[float, float, float, float]
From = Callable[[Iterable[Group], str], list[Group]]
TTFT, TPOT = 0, 1
Errors = tuple[float, float]


def settings(row: Row, constants: Constants) -> dict[str, Any]:
    """Return a row's configuration with given constants."""
    step_s, sequence_s, request_s, token_s = constants
    one = with_engine(row)
    one["latency"] |= {"step_overhead_s": step_s, "sequence_overhead_s": sequence_s}
    section = one["batching_mono" if row.mode == "agg" else "batching_disagg"]
    section["front_end"] = {"request_s": request_s, "token_s": token_s}
    return one


def logarithms(rows: Iterable[Row], constants: Constants) -> np.ndarray:
    """Return ln(simulated / measured) of TTFT and TPOT of each row, shape (rows, 2)."""
    found = []
    for row in rows:
        ttft_s, tpot_s = predict(settings(row, constants))
        found.append((ttft_s / row.ttft_s, tpot_s / row.tpot_s))
    return np.log(found)


class Fit:
    """Least errors on grids; what was simulated for one choice of groups serves the others."""

    def __init__(self, groups: dict[Group, list[Row]]) -> None:
        self.groups = {
            group: rows[:: max(1, len(rows) // ENOUGH_ROWS)] for group, rows in groups.items()
        }
        self.known: dict[tuple[Group, Constants], np.ndarray] = {}

    def size(self, group: Group, constants: Constants) -> np.ndarray:
        """Return the errors of a group, each row at most a factor of two."""
        key = (group, constants)
        if key not in self.known:
            logs = np.abs(logarithms(self.groups[group], constants))
            self.known[key] = np.minimum(logs, np.log(2.0)).mean(axis=0)
        return self.known[key]

    def overheads(self, groups: Sequence[Group]) -> Pair:
        """Return seconds per step and per sequence of the least error of TPOT over groups."""
        pairs = product(STEPS_S, SEQUENCES_S)
        return min(pairs, key=lambda pair: self.mean(groups, (*pair, *START[2:]), TPOT))

    def front_end(self, groups: Sequence[Group], overheads: Pair) -> Pair:
        """Return seconds per request and per token of the least error of TTFT over groups."""
        pairs = product(REQUESTS_S, TOKENS_S)
        return min(pairs, key=lambda pair: self.mean(groups, (*overheads, *pair), TTFT))

    def mean(self, groups: Sequence[Group], constants: Constants, which: int) -> float:
        """Return the mean error of groups."""
        return float(np.mean([self.size(group, constants)[which] for group in groups]))


def of_engine(groups: Iterable[Group], engine: str) -> list[Group]:
    """Return the groups of an engine; all, where it has none."""
    groups = list(groups)
    return [group for group in groups if group[1] == engine] or groups


def of_all(groups: Iterable[Group], _engine: str) -> list[Group]:
    """Return all groups."""
    return list(groups)


FROM: dict[str, From] = {"its engine's groups": of_engine, "all groups": of_all}
"""What the constants of an engine may be fitted to."""


def choose(name: str, errors: dict[str, float]) -> From:
    """Return the choice of the least error on groups left out, and say all."""
    for fitted_to, error in errors.items():
        print(f"{name} fitted to {fitted_to}: {error:.4f} on groups left out", flush=True)
    return FROM[min(errors, key=lambda fitted_to: errors[fitted_to])]


def fitted_constants(fit: Fit) -> tuple[dict[str, Constants], dict[Group, Constants]]:
    """Return the constants of each engine, and those that were fitted without each group."""
    groups = list(fit.groups)
    others = {one: [group for group in groups if group != one] for one in groups}
    tpot, ttft = {}, {}
    for name, which in FROM.items():
        of = {one: fit.overheads(which(others[one], one[1])) for one in groups}
        sizes = [fit.size(one, (*of[one], *START[2:]))[TPOT] for one in groups]
        tpot[name] = float(np.mean(sizes))
    overheads_from = choose("overheads", tpot)
    overheads = {one: fit.overheads(overheads_from(others[one], one[1])) for one in groups}
    for name, which in FROM.items():
        of = {one: fit.front_end(which(others[one], one[1]), overheads[one]) for one in groups}
        sizes = [fit.size(one, (*overheads[one], *of[one]))[TTFT] for one in groups]
        ttft[name] = float(np.mean(sizes))
    front_end_from = choose("front end", ttft)
    without = {
        one: (
            *overheads[one],
            *fit.front_end(front_end_from(others[one], one[1]), overheads[one]),
        )
        for one in groups
    }
    own = {}
    for engine in sorted({engine for _, engine, _ in groups}):
        pair = fit.overheads(overheads_from(groups, engine))
        own[engine] = (*pair, *fit.front_end(front_end_from(groups, engine), pair))
    return own, without


def simulated(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """Return the monolithic rows that simlib can simulate, by group."""
    found: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        try:
            predict(with_engine(row))
        except RefusedError:
            continue
        if row.mode == "agg":
            found[row.group].append(row)
    return dict(found)


def medians(logs: np.ndarray) -> Errors:
    """Return the median absolute relative errors of TTFT and TPOT, percent."""
    ttft, tpot = np.median(np.abs(np.expm1(logs)), axis=0) * 100
    return float(ttft), float(tpot)


def write(fitted: dict[str, dict[str, str]]) -> None:
    """Replace the fitted numbers of the catalog's file."""
    with FILE.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    rows = [row | fitted.get(row["engine"], {}) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with FILE.open("w", newline="", encoding="utf-8") as text:
        out = csv.DictWriter(text, columns, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", nargs="+", type=Path, help="development data only")
    parser.add_argument("--write", action="store_true", help="replace the catalog's numbers")
    options = parser.parse_args()
    groups = simulated(row for path in options.measured for row in read_rows(path))
    own, without = fitted_constants(Fit(groups))
    for name, constants in (*own.items(), *without.items()):
        print(name, constants)
    held_out = {group: logarithms(rows, without[group]) for group, rows in groups.items()}
    in_sample = {group: logarithms(rows, own[group[1]]) for group, rows in groups.items()}
    print("| GPU | engine | model | rows | TTFT left out | TPOT | TTFT in sample | TPOT |")
    print("|---|---|---|---|---|---|---|---|")
    for group, rows in groups.items():
        errors = (*medians(held_out[group]), *medians(in_sample[group]))
        print("|", " | ".join([*group, str(len(rows)), *(f"{e:.1f} %" for e in errors)]), "|")
    for name, logs in (("left out", held_out), ("in sample", in_sample)):
        print(name, *(f"{e:.1f} %" for e in medians(np.concatenate(list(logs.values())))))
    fitted = {}
    for engine in own:
        mine = [group for group in groups if group[1] == engine]
        left_out = medians(np.concatenate([held_out[group] for group in mine]))
        row = {}
        for place, name in enumerate(CONSTANTS):
            seen = [own[engine][place], *(without[group][place] for group in mine)]
            row[name] = f"{own[engine][place]:g}"
            row[f"{name}_low"], row[f"{name}_high"] = f"{min(seen):g}", f"{max(seen):g}"
        row["ttft_error_percent"], row["tpot_error_percent"] = (f"{e:.1f}" for e in left_out)
        row["groups"] = str(len(mine))
        row["rows"] = str(sum(len(groups[group]) for group in mine))
        fitted[engine] = row
    if options.write:
        write(fitted)
        with LEFT_OUT.open("w", newline="", encoding="utf-8") as text:
            out = csv.writer(text, lineterminator="\n")
            out.writerow(("gpu", "engine", "model", *CONSTANTS))
            out.writerows((*group, *map("{:g}".format, without[group])) for group in groups)
    return 0


if __name__ == "__main__":
    sys.exit(main())
