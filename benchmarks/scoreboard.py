"""Simulate every measured row, and report errors, refusals, verdicts and peers.

    python benchmarks/scoreboard.py MEASURED.csv [MEASURED.csv …] [--all SAMPLE.csv]
        [--rows scoreboard.csv] [--output scoreboard.md] [--peer-every 20]

The files given first are development data: engines were fitted to them, so each of their rows is
simulated with constants that were fitted without its group (``benchmarks/fit_engines.py``), and,
called so, with those of the catalog. `--all` names a larger set of the same kind; by default the
one that aiconfigurator-core carries, where it is installed. Its other rows were used for nothing.

Each row counts as it comes into `--rows`, so a run that was stopped goes on where it was. Intervals
are bootstraps over deployments: rows of one server are not independent. Where aiconfigurator and
AISimulate are installed they are asked for the same rows, or with ``--peer-every N`` for each Nth
of them, and errors are compared in pairs.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from aims import far_off, summary
from fit_engines import LEFT_OUT, Constants, settings
from measured import (
    RefusedError,
    Row,
    contradicted,
    is_dense,
    plain,
    predict,
    read_rows,
    with_engine,
)
from numpy.typing import NDArray
from peers import Estimate, installed
from verdict_skill import skill

from simlib.latency import catalog

OURS = ("plain", "engine", "left_out")
"""Who predicts: without an engine; with it; with constants fitted without the row's group."""
COLUMNS = (*OURS, "aiconfigurator", "aisimulate")
FIELDS = ["row", *(f"{who}_{what}" for who in COLUMNS for what in ("ttft_s", "tpot_s", "refused"))]
DRAWS = 2000
Times = NDArray[np.float64]


def larger_set() -> Path | None:
    """Return the set that aiconfigurator-core carries, where it is installed."""
    spec = find_spec("aiconfigurator_core")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "systems" / "silicon_sample.csv"


def all_rows(development: Iterable[Path], larger: Path | None) -> list[Row]:
    """Return the development rows, then those of the larger set that are none of them."""
    rows = [row for path in development for row in read_rows(path)]
    if larger is None:
        return rows
    known = Counter(map(_fingerprint, rows))
    for row in read_rows(larger, development=False):
        if known[_fingerprint(row)] > 0:
            known[_fingerprint(row)] -= 1
        else:
            rows.append(row)
    return rows


def _fingerprint(row: Row) -> tuple[object, ...]:
    return (
        row.engine,
        row.model,
        row.gpu,
        row.mode,
        row.prompt,
        row.output,
        row.ttft_s,
        row.tpot_s,
    )


def left_out_constants() -> dict[tuple[str, ...], Constants]:
    """Return the constants that were fitted without each group."""
    with LEFT_OUT.open(newline="", encoding="utf-8") as text:
        lines = list(csv.reader(text))[1:]
    found = {}
    for gpu, engine, model, *numbers in lines:
        found[gpu, engine, model] = Constants(*map(float, numbers))
    return found


def predicted(
    row: Row, without: dict[tuple[str, ...], Constants], peers: Mapping[str, Estimate]
) -> dict[str, str]:
    """Return the row's line: times of all who predict, or why they do not."""
    line: dict[str, str] = {}
    for who in (*OURS, *peers):
        try:
            if who in peers:
                if "engine_ttft_s" not in line:
                    raise RefusedError("not asked")
                times = peers[who](row)
            elif who == "plain":
                times = predict(plain(row))
            elif who == "engine" or not row.development:
                times = predict(with_engine(row))
            elif row.group in without:
                times = predict(settings(row, without[row.group]))
            else:
                raise RefusedError("group not fitted")
        except RefusedError as error:
            line[f"{who}_refused"] = str(error)
        else:
            line |= {f"{who}_ttft_s": repr(float(times[0])), f"{who}_tpot_s": repr(float(times[1]))}
    return line


def run(
    rows: Sequence[Row], path: Path, peers: Mapping[str, Estimate], peer_every: int = 1
) -> list[dict[str, str]]:
    """Return the lines of all rows; those that the file has are not made again."""
    lines: dict[int, dict[str, str]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as text:
            lines = {int(line["row"]): line for line in csv.DictReader(text)}
    without = left_out_constants()
    with path.open("a", newline="", encoding="utf-8") as text:
        out = csv.DictWriter(text, FIELDS, lineterminator="\n")
        if not lines:
            out.writeheader()
        for number, row in enumerate(rows):
            if number not in lines:
                asked = peers if number % peer_every == 0 else {}
                lines[number] = {"row": str(number), **predicted(row, without, asked)}
                out.writerow(lines[number])
                text.flush()
                if number % 100 == 0:
                    print(f"{number} of {len(rows)}", file=sys.stderr, flush=True)
    return [lines[number] for number in range(len(rows))]


def times(lines: Sequence[dict[str, str]], who: str) -> Times:
    """Return predicted TTFT and TPOT of each row, NaN where there is none; shape (rows, 2)."""
    return np.array(
        [
            [float(line.get(f"{who}_{what}") or "nan") for what in ("ttft_s", "tpot_s")]
            for line in lines
        ]
    )


def interval(values: Times, clusters: Sequence[object]) -> str:
    """Return the median, percent, with its 95% interval, a bootstrap over clusters."""
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([names[name] for name in clusters])
    parts = [values[member == number] for number in range(len(names))]
    rng = np.random.default_rng(0)
    draws = [
        np.median(np.concatenate([parts[k] for k in rng.integers(0, len(parts), len(parts))]))
        for _ in range(DRAWS if len(parts) > 1 else 0)
    ]
    if not draws:
        return f"{np.median(values):.1f}"
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{np.median(values):.1f} ({low:.1f} to {high:.1f})"


HEAD = "| rows of | who | rows | deployments | TTFT, median error % | TPOT | off by over 5 times |"


def table(
    rows: Sequence[Row], lines: Sequence[dict[str, str]], peers: Mapping[str, str]
) -> list[str]:
    """Return errors by kind of row and by who predicts, each over the rows that it predicts."""
    measured = np.array([[row.ttft_s, row.tpot_s] for row in rows])
    names = {
        "plain": "without an engine",
        "engine": "with `latency.engine`",
        "left_out": "constants fitted without the group",
        **peers,
    }
    out = [HEAD, "|---|---|---|---|---|---|---|"]
    for kind, chosen in kinds(rows).items():
        for who, name in names.items():
            if who == "left_out" and not kind.startswith("development"):
                continue
            predicted_s = times(lines, who)
            use = chosen & ~np.isnan(predicted_s).any(axis=1)
            if not use.any():
                continue
            ratio = predicted_s[use] / measured[use]
            error = 100 * np.abs(ratio - 1)
            clusters = [row.deployment for row, used in zip(rows, use, strict=True) if used]
            far = far_off(ratio)
            label = f"{name} (in sample)" if kind.startswith("dev") and who == "engine" else name
            out.append(
                f"| {kind} | {label} | {use.sum()} of {chosen.sum()} | {len(set(clusters))} "
                f"| {interval(error[:, 0], clusters)} | {interval(error[:, 1], clusters)} | {far} |"
            )
    return out


def kinds(rows: Sequence[Row]) -> dict[str, NDArray[np.bool_]]:
    """Return which rows are of each kind; those that nobody fitted come first.

    Where sizes of some rows cannot be those that were measured, a kind without these follows.
    """
    credible = np.ones(len(rows), dtype=np.bool_)
    credible[list(contradicted(rows))] = False
    found: dict[str, NDArray[np.bool_]] = {}
    for development in (False, True):
        for mode, mode_name in (("agg", "monolithic"), ("disagg", "disaggregated")):
            for dense in (True, False):
                chosen = np.array(
                    [
                        (row.development, row.mode, is_dense(row)) == (development, mode, dense)
                        for row in rows
                    ]
                )
                who = "development" if development else "others"
                name = f"{who}, {mode_name}, {'dense' if dense else 'experts'}"
                found[name] = chosen
                if (chosen & ~credible).any():
                    found[f"{name}, sizes credible"] = chosen & credible
    return {kind: chosen for kind, chosen in found.items() if chosen.any()}


def paired(
    rows: Sequence[Row], lines: Sequence[dict[str, str]], peers: Mapping[str, str]
) -> list[str]:
    """Return how much smaller our errors are than those of peers on the same rows."""
    measured = np.array([[row.ttft_s, row.tpot_s] for row in rows])
    out = [
        "| rows of | peer | rows | TTFT error %: simlib | peer | median difference "
        "| TPOT error %: simlib | peer | median difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (kind, chosen), (name, label) in product(kinds(rows).items(), peers.items()):
        who = "left_out" if kind.startswith("development") else "engine"
        ours, theirs = (100 * np.abs(times(lines, one) / measured - 1) for one in (who, name))
        use = chosen & ~np.isnan(ours).any(axis=1) & ~np.isnan(theirs).any(axis=1)
        if not use.any():
            continue
        clusters = [row.deployment for row, used in zip(rows, use, strict=True) if used]
        cells = []
        for what in (0, 1):
            cells += [f"{np.median(side[use, what]):.1f}" for side in (ours, theirs)]
            cells.append(interval(ours[use, what] - theirs[use, what], clusters))
        out.append(f"| {kind} | {label} | {use.sum()} | " + " | ".join(cells) + " |")
    return out


def by_group(rows: Sequence[Row], lines: Sequence[dict[str, str]]) -> list[str]:
    """Return errors and biases by GPU, engine and model, where any row is simulated."""
    measured = np.array([[row.ttft_s, row.tpot_s] for row in rows])
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        fitted = "yes" if row.development else "no"
        found[(*row.group, row.mode, fitted)].append(number)
    out = [
        "| GPU | engine | model | mode | development | simulated "
        "| TTFT bias % | error % | TPOT bias % | error % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group, numbers in sorted(found.items()):
        who = "left_out" if group[-1] == "yes" else "engine"
        ratio = (times(lines, who) / measured)[numbers] - 1
        ratio = 100 * ratio[~np.isnan(ratio).any(axis=1)]
        if len(ratio) == 0:
            continue
        bias, size = np.median(ratio, axis=0), np.median(np.abs(ratio), axis=0)
        cells = [f"{bias[0]:+.1f}", f"{size[0]:.1f}", f"{bias[1]:+.1f}", f"{size[1]:.1f}"]
        out.append(
            f"| {' | '.join(group)} | {len(ratio)} of {len(numbers)} | {' | '.join(cells)} |"
        )
    return out


def refusals(rows: Sequence[Row], lines: Sequence[dict[str, str]]) -> list[str]:
    """Return how many rows are refused for which reason."""
    known = ", ".join(catalog.model_names())
    counts = Counter(
        (row.mode, line["engine_refused"].replace(known, "the catalog's"))
        for row, line in zip(rows, lines, strict=True)
        if line.get("engine_refused")
    )
    out = ["| mode | rows | not simulated because |", "|---|---|---|"]
    return out + [f"| {mode} | {n} | {why} |" for (mode, why), n in counts.most_common()]


def page(rows: Sequence[Row], lines: Sequence[dict[str, str]], peers: Mapping[str, str]) -> str:
    """Return the scoreboard; peers are labels by the names of their columns."""
    measured = np.array([[row.ttft_s, row.tpot_s] for row in rows])
    ours = np.where(
        np.array([[row.development] for row in rows]),
        times(lines, "left_out"),
        times(lines, "engine"),
    )
    ours = np.where(np.isnan(ours), times(lines, "engine"), ours)
    parts = [["<!-- made by benchmarks/scoreboard.py -->"], summary(kinds(rows), ours / measured)]
    parts.append(table(rows, lines, peers))
    if peers:
        parts.append(paired(rows, lines, peers))
    parts += [skill(rows, measured, ours), refusals(rows, lines), by_group(rows, lines)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", nargs="+", type=Path, help="development data")
    parser.add_argument("--all", type=Path, help="larger set; default: aiconfigurator-core's")
    parser.add_argument("--rows", type=Path, default=Path("scoreboard.csv"), help="one line a row")
    parser.add_argument("--output", type=Path, help="page; default: print it")
    parser.add_argument("--peer-every", type=int, default=1, help="ask peers for each Nth row")
    options = parser.parse_args()
    rows = all_rows(options.measured, options.all or larger_set())
    peers = installed()
    estimates = {name: estimate for name, (_, estimate) in peers.items()}
    lines = run(rows, options.rows, estimates, options.peer_every)
    text = page(rows, lines, {name: label for name, (label, _) in peers.items()})
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
