"""Fit the constants of each serving engine to measured servers, and test them on others.

    python benchmarks/fit_engines.py MEASURED.csv [MEASURED.csv …] [--write]

Give development data only. A group is a GPU, an engine and a model. The overheads of a step and of
a sequence are those of the least error of TPOT on a grid, then the front end's two constants those
of the least error of TTFT. Errors are absolute logarithms of simulated over measured, of which
what exceeds a factor of two counts as that; each group counts alike, whatever its number of rows.

The constants of layers of experts, and then of latent attention, are those of the least error of
mixtures of experts, the same for all engines: most engines have one group of each kind, so what is
an engine's own could not be tested. Rows of contradicted sizes, and groups with tensor parallelism
across nodes, are not fitted to.

Each group is then simulated with constants that were fitted without it. Whether an engine's first
four constants are fitted to its own groups, or to all of them alike, is decided by the error of
these left-out groups; a group whose engine has no other takes those of all. `--write` replaces the
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
from typing import Any, NamedTuple

import numpy as np
from measured import RefusedError, Row, contradicted, is_dense, predict, read_rows, with_engine

from simlib.latency import catalog

FILE = Path(__file__).resolve().parent.parent / "simlib" / "latency" / "catalog" / "engines.csv"
FRONT_END = ("request_s", "token_s")
LEFT_OUT = Path(__file__).with_name("engines_left_out.csv")
TTFT, TPOT = 0, 1


class Constants(NamedTuple):
    """What is fitted: of every model, and of layers of experts and of latent attention."""

    step_overhead_s: float = 1e-3
    sequence_overhead_s: float = 3.5e-5
    front_end_request_s: float = 3e-3
    front_end_token_s: float = 2e-6
    expert_launch_s: float = 0.0
    latent_launch_s: float = 0.0
    latent_step_s: float = 0.0


START = Constants()
"""The front end with which overheads are fitted; the overheads where an engine has no rows."""
STEPS_S = (0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3)
SEQUENCES_S = (0.0, 1e-5, 2e-5, 3.5e-5, 5e-5, 7e-5)
REQUESTS_S = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3)
TOKENS_S = (0.0, 2e-6, 4e-6)
ENOUGH_ROWS = 40
"""Of a group of twice as many rows every second one is fitted to, and so on; all are tested."""


class Term(NamedTuple):
    """A constant of layers that only mixtures of experts have."""

    name: str
    latent: bool
    """Whether it is fitted to models with latent attention, or to those without."""
    which: int
    """Whose error it is fitted to."""
    grid: tuple[float, ...]


TERMS = (
    Term("expert_launch_s", False, TTFT, tuple(1e-4 * k for k in range(16))),
    Term("latent_launch_s", True, TTFT, tuple(5e-4 * k for k in range(13))),
    Term("latent_step_s", True, TPOT, tuple(1e-5 * k for k in range(11))),
)

ENOUGH_ROWS = 40
"""Of a group of twice as many rows every second one is fitted to, and so on; all are tested."""
EXPERT_LAUNCHES_S = (0.0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1.2e-3, 1.5e-3)
LATENT_LAUNCHES_S = (0.0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3)
LATENT_STEPS_S = (0.0, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 6e-5, 8e-5, 1e-4)

Group = tuple[str, str, str]
From = Callable[[Iterable[Group], str], list[Group]]
Errors = tuple[float, float]


def settings(row: Row, constants: Constants) -> dict[str, Any]:
    """Return a row's configuration with given constants."""
    named = constants._asdict()
    one = with_engine(row)
    section = one["batching_mono" if row.mode == "agg" else "batching_disagg"]
    section["front_end"] = {name: named.pop(f"front_end_{name}") for name in FRONT_END}
    one["latency"] |= named
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

    def least(
        self, starts: dict[Group, Constants], which: int, **grid: Sequence[float]
    ) -> dict[str, float]:
        """Return the numbers of the least mean error over groups, of all on a grid."""
        points = [dict(zip(grid, numbers, strict=True)) for numbers in product(*grid.values())]
        return min(
            points,
            key=lambda point: np.mean(
                [self.size(one, start._replace(**point))[which] for one, start in starts.items()]
            ),
        )

    def overheads(self, groups: Iterable[Group]) -> Constants:
        """Return seconds per step and per sequence of the least error of TPOT over groups."""
        grid = {"step_overhead_s": STEPS_S, "sequence_overhead_s": SEQUENCES_S}
        return START._replace(**self.least(dict.fromkeys(groups, START), TPOT, **grid))

    def front_end(self, groups: Iterable[Group], overheads: Constants) -> Constants:
        """Return these with seconds per request and token of the least error of TTFT."""
        grid = {"front_end_request_s": REQUESTS_S, "front_end_token_s": TOKENS_S}
        return overheads._replace(**self.least(dict.fromkeys(groups, overheads), TTFT, **grid))

    def is_latent(self, group: Group) -> bool:
        """Return whether a group's model has latent attention."""
        return catalog.model(self.groups[group][0].model).kv_lora_rank > 0


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
        tpot[name] = float(np.mean([fit.size(one, of[one])[TPOT] for one in groups]))
    overheads_from = choose("overheads", tpot)
    overheads = {one: fit.overheads(overheads_from(others[one], one[1])) for one in groups}
    for name, which in FROM.items():
        of = {one: fit.front_end(which(others[one], one[1]), overheads[one]) for one in groups}
        ttft[name] = float(np.mean([fit.size(one, of[one])[TTFT] for one in groups]))
    front_end_from = choose("front end", ttft)
    without = {
        one: fit.front_end(front_end_from(others[one], one[1]), overheads[one]) for one in groups
    }
    own = {}
    for engine in sorted({engine for _, engine, _ in groups}):
        pair = fit.overheads(overheads_from(groups, engine))
        own[engine] = fit.front_end(front_end_from(groups, engine), pair)
    return own, without


def with_layers(
    fit: Fit, own: dict[str, Constants]
) -> tuple[dict[str, Constants], dict[Group, Constants]]:
    """Return engines' constants with those of layers, and these fitted without each group."""
    starts = {one: own[one[1]] for one in fit.groups}
    found = layers(fit, starts)
    without = {}
    for one, start in starts.items():
        others = {group: constants for group, constants in starts.items() if group != one}
        without[one] = start._replace(**layers(fit, others))
    return {engine: constants._replace(**found) for engine, constants in own.items()}, without


def layers(fit: Fit, starts: dict[Group, Constants]) -> dict[str, float]:
    """Return the constants of layers, common to all engines, fitted one after the other."""
    found: dict[str, float] = {}
    for term in TERMS:
        members = {
            one: start._replace(**found)
            for one, start in starts.items()
            if fit.is_latent(one) == term.latent
        }
        found |= fit.least(members, term.which, **{term.name: term.grid})
    return found


def crosses(row: Row) -> bool:
    """Return whether all-reduces of a row cross the network, which the roofline does not know."""
    return any(pool.tp > catalog.gpu(row.gpu).link_gpus for pool in row.pools)


def simulated(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """Return the rows that simlib can simulate, by group."""
    found: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        try:
            predict(with_engine(row))
        except RefusedError:
            continue
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
    rows = [row for path in options.measured for row in read_rows(path)]
    doubtful = contradicted(rows)
    used = [row for number, row in enumerate(rows) if number not in doubtful]
    dense = simulated(row for row in used if is_dense(row) and row.mode == "agg")
    mixtures = simulated(row for row in used if not is_dense(row))
    own, without = fitted_constants(Fit(dense))
    inside = {group: rows for group, rows in mixtures.items() if not any(map(crosses, rows))}
    with_found, without_mixtures = with_layers(Fit(inside), own)
    for group in mixtures.keys() - inside.keys():  # nothing was fitted to it
        without_mixtures[group] = with_found[group[1]]
    own = with_found
    without |= without_mixtures
    for name, constants in (*own.items(), *without.items()):
        print(name, *map("{:g}".format, constants))
    groups = dense | mixtures
    held_out = {group: logarithms(rows, without[group]) for group, rows in groups.items()}
    in_sample = {group: logarithms(rows, own[group[1]]) for group, rows in groups.items()}
    print("| GPU | engine | model | rows | TTFT left out | TPOT | TTFT in sample | TPOT |")
    print("|---|---|---|---|---|---|---|---|")
    for group, rows in groups.items():
        errors = (*medians(held_out[group]), *medians(in_sample[group]))
        print("|", " | ".join([*group, str(len(rows)), *(f"{e:.1f} %" for e in errors)]), "|")
    for kind, members in (("dense", dense), ("experts", mixtures)):
        for name, logs in (("left out", held_out), ("in sample", in_sample)):
            every = np.concatenate([logs[group] for group in members])
            print(kind, name, *(f"{e:.1f} %" for e in medians(every)))
    if options.write:
        write({engine: _line(engine, own, without, groups, held_out) for engine in own})
        with LEFT_OUT.open("w", newline="", encoding="utf-8") as text:
            out = csv.writer(text, lineterminator="\n")
            out.writerow(("gpu", "engine", "model", *Constants._fields))
            out.writerows((*group, *map("{:g}".format, without[group])) for group in groups)
    return 0


def _line(
    engine: str,
    own: dict[str, Constants],
    without: dict[Group, Constants],
    groups: dict[Group, list[Row]],
    held_out: dict[Group, np.ndarray],
) -> dict[str, str]:
    """Return an engine's numbers for the catalog, with their spread and errors."""
    mine = [group for group in groups if group[1] == engine]
    line = {}
    for name, value in own[engine]._asdict().items():
        # layers are fitted to all engines' groups, the rest to dense models
        seen = without if name.startswith(("expert", "latent")) else mine
        numbers = [value, *(getattr(without[group], name) for group in seen)]
        line |= {
            name: f"{value:g}",
            f"{name}_low": f"{min(numbers):g}",
            f"{name}_high": f"{max(numbers):g}",
        }
    left_out = medians(np.concatenate([held_out[group] for group in mine]))
    line["ttft_error_percent"], line["tpot_error_percent"] = (f"{e:.1f}" for e in left_out)
    line["groups"], line["rows"] = str(len(mine)), str(sum(len(groups[group]) for group in mine))
    return line


if __name__ == "__main__":
    sys.exit(main())
