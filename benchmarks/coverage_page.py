"""From measured coverage and verdicts to pages of the documentation: every cell, bad ones too.

python benchmarks/coverage_page.py docs/coverage.csv docs/_generated_coverage.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from interval_coverage import Cell, cases, read_cells
from scipy import stats
from verdicts import POWER, STABILITY, rows_of

WANTED = (0.92, 0.98)
NEVER_BELOW = 0.88
NOMINAL = 0.95
MOSTLY_OPEN = 0.5
"""A cell with more open intervals than this has one that is not two-sided."""
ALPHA = 0.05
_METRICS = ("mean", "p50", "p90", "p99")


def coverage(cell: Cell) -> float:
    """Return the share of printed intervals that hold the truth."""
    return cell.held / cell.printed if cell.printed else math.nan


def two_sided(cell: Cell) -> bool:
    """Return whether most intervals of a cell have both ends."""
    return cell.printed > 0 and cell.open <= MOSTLY_OPEN * cell.studies


def surely_below(cell: Cell, least: float) -> bool:
    """Return whether a cell's coverage is below `least` beyond chance (binomial test, 5%)."""
    return bool(stats.binom.cdf(cell.held, cell.printed, least) < ALPHA)


def by_chance(cells: Sequence[Cell]) -> float:
    """Return the share of cells that would miss what is wanted if each covered exactly 95%."""
    missed = []
    for one in cells:
        low = math.ceil(WANTED[0] * one.printed - 1e-9) - 1
        high = math.floor(WANTED[1] * one.printed + 1e-9)
        inside = stats.binom.cdf(high, one.printed, NOMINAL) - stats.binom.cdf(
            low, one.printed, NOMINAL
        )
        missed.append(1.0 - float(inside))
    return float(np.mean(missed)) if missed else math.nan


@dataclass(frozen=True)
class Summary:
    """What a set of cells came to."""

    cells: int
    two_sided: int
    as_wanted: int
    """Two-sided cells that cover 92-98%."""
    over: int
    """Two-sided cells that cover more than 98%."""
    below: int
    """Two-sided cells below 92%."""
    surely_below: int
    lowest: float
    by_chance: float
    pooled: float
    """Coverage of all intervals of two-sided cells."""
    mostly_open: int
    lowest_open: float
    empty: int

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Summary:
        """Count."""
        both = [one for one in cells if two_sided(one)]
        opened = [one for one in cells if one.printed and not two_sided(one)]
        held = [coverage(one) for one in both]
        return cls(
            len(cells),
            len(both),
            sum(WANTED[0] <= c <= WANTED[1] for c in held),
            sum(c > WANTED[1] for c in held),
            sum(c < WANTED[0] for c in held),
            sum(surely_below(one, WANTED[0]) for one in both),
            min(held, default=math.nan),
            by_chance(both),
            sum(c.held for c in both) / sum(c.printed for c in both) if both else math.nan,
            len(opened),
            min((coverage(one) for one in opened), default=math.nan),
            sum(one.printed == 0 for one in cells),
        )


def summary_table(groups: dict[str, list[Cell]]) -> list[str]:
    """Return a line for each group of cells, in Markdown."""
    lines = [
        "| cells | all | two-sided | 92–98% | above | below | surely below 92% | lowest | pooled "
        "| mostly open | lowest of these | empty |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, cells in groups.items():
        s = Summary.of(cells)
        share = f" ({100 * s.as_wanted / s.two_sided:.0f}%)" if s.two_sided else ""
        lines.append(
            f"| {name} | {s.cells} | {s.two_sided} | {s.as_wanted}{share} | {s.over} | {s.below} "
            f"| {s.surely_below} | {_percent(s.lowest)} | {_percent(s.pooled)} | {s.mostly_open} "
            f"| {_percent(s.lowest_open)} | {s.empty} |"
        )
    return lines


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f}"


def groups_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return the cells by what they are of."""
    values = [one for one in cells if one.what == "value"]
    batching = [one for one in values if "Llama" in one.queue]
    queues = [one for one in values if "Llama" not in one.queue]
    groups = {f"queues, {metric}": [c for c in queues if c.metric == metric] for metric in _METRICS}
    groups |= {"queues, all": queues, "batching": batching}
    for what in ("difference", "ratio", "crossover"):
        groups[f"{what}s"] = [one for one in cells if one.what == what]
    groups["everything"] = list(cells)
    return {name: some for name, some in groups.items() if some}


def worst_table(cells: Sequence[Cell], count: int = 20) -> list[str]:
    """Return the printed cells of lowest coverage, in Markdown."""
    lines = [
        "| of | rho | requests | replicates | interval | studies | covered % | above the truth % "
        "| open % | half-width |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in sorted((c for c in cells if c.printed), key=coverage)[:count]:
        rho = "" if math.isnan(c.rho) else f"{c.rho:g}"
        width = "" if math.isnan(c.half_width_percent) else f"±{c.half_width_percent:.1f}%"
        lines.append(
            f"| {c.queue} | {rho} | {c.requests} | {c.replicates} | {_interval(c)} | {c.studies} "
            f"| {_percent(coverage(c))} | {_percent(c.above / c.printed)} "
            f"| {100 * c.open / c.studies:.0f} | {width} |"
        )
    return lines


def _interval(cell: Cell) -> str:
    return cell.metric if cell.what == "value" else f"{cell.metric} {cell.what}"


def whole_table(cells: Sequence[Cell]) -> list[str]:
    """Return every cell: one line per case and number of replicates, in Markdown."""
    rows: dict[tuple[str, float, int, int, str], dict[str, Cell]] = {}
    for c in cells:
        rho = -1.0 if math.isnan(c.rho) else c.rho
        rows.setdefault((c.queue, rho, c.requests, c.replicates, c.what), {})[c.metric] = c
    lines = [
        "| of | rho | requests | replicates | interval | studies | mean | p50 | p90 | p99 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (queue, rho, requests, replicates, what), by_metric in sorted(rows.items()):
        shown = " | ".join(_shown(by_metric.get(metric)) for metric in _METRICS)
        studies = next(iter(by_metric.values())).studies
        lines.append(
            f"| {queue} | {'' if rho < 0 else f'{rho:g}'} | {requests} | {replicates} | {what} "
            f"| {studies} | {shown} |"
        )
    return lines


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if not cell.printed:
        return "empty"
    text = _percent(coverage(cell))
    if two_sided(cell) and coverage(cell) < WANTED[0]:
        text = f"**{text}**"
    is_open, missing = cell.open / cell.studies, 1.0 - cell.printed / cell.studies
    if is_open >= 0.005:
        text += f", {100 * is_open:.0f}% open"
    return text + (f", {100 * missing:.0f}% empty" if missing >= 0.005 else "")


def page(cells: Sequence[Cell]) -> str:
    """Return the page in Markdown."""
    total = len(cases(1))
    done = len(
        {(c.queue, -1.0 if math.isnan(c.rho) else c.rho) for c in cells if c.what != "crossover"}
    )
    done += len({(c.requests, c.replicates) for c in cells if c.what == "crossover"})
    errors = [c.truth_error for c in cells if two_sided(c) and not math.isnan(c.truth_error)]
    s = Summary.of(cells)
    said = f"{done} of {total} cases have been run, in random order: {len(cells)} cells."
    if s.two_sided:
        said += (
            f" If every two-sided interval covered exactly 95%, {100 * s.by_chance:.0f}% of the "
            "cells would still miss 92–98%, by chance."
        )
    if errors:
        said += (
            f" The standard error of a truth is at most {100 * max(errors):.0f}% of an interval's "
            f"half-width (median {100 * float(np.median(errors)):.0f}%)."
        )
    lines = [
        "<!-- Written by benchmarks/coverage_page.py from docs/coverage.csv -->",
        "",
        said,
        "",
        *summary_table(groups_of(cells)),
        "",
        "**The twenty lowest.**",
        "",
        *worst_table(cells),
        "",
        "**All of them**: covered, in percent; in bold what is two-sided and below 92%.",
        "",
        *whole_table(cells),
        "",
    ]
    return "\n".join(lines)


def verdict_page(folder: Path) -> str:
    """Return the page of power and stability in Markdown."""
    lines = [
        "<!-- Written by benchmarks/coverage_page.py from docs/verdicts.csv and stability.csv -->",
        "",
        "**Families** of eight primary tests: mean and p99 of M/M/1 at loads of 0.3, 0.5, 0.7 and "
        "0.8, 10 replicates of 4,000 requests, against the same made slower by the change.",
        "",
        "| change | same requests | families | wrong % | wrongly equal % | found % | equal % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows_of(folder / POWER):
        shares = (
            f"{float(row[name]):.1f}"
            for name in ("wrong_percent", "wrong_equal_percent", "found_percent", "equal_percent")
        )
        same = "yes" if row["same_requests"] == "True" else "no"
        change = f"{float(row['change_percent']):.0f}%"
        lines.append(f"| {change} | {same} | {row['families']} | {' | '.join(shares)} |")
    stability = rows_of(folder / STABILITY)
    if stability:
        lines += [
            "",
            "**Stability** of M/M/1: how often each verdict is given, with the load measured on "
            "the requests, and from the drift of waits alone.",
            "",
            "| rho | requests | replicates | load known | points | stable % | undetermined % "
            "| unstable % |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for row in stability:
        shares = (
            f"{float(row[f'{kind}_percent']):.0f}"
            for kind in ("stable", "undetermined", "unstable")
        )
        known = "yes" if row["rho_known"] == "True" else "no"
        lines.append(
            f"| {float(row['rho']):g} | {row['requests']} | {row['replicates']} | {known} "
            f"| {row['points']} | {' | '.join(shares)} |"
        )
    return "\n".join([*lines, ""])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Write the pages of what FOLDER holds: coverage.csv, verdicts.csv and stability.csv."""
    cells = read_cells(folder / "coverage.csv")
    (folder / "_generated_coverage.md").write_text(page(cells), encoding="utf-8")
    (folder / "_generated_verdicts.md").write_text(verdict_page(folder), encoding="utf-8")
    click.echo("\n".join(summary_table(groups_of(cells))))


if __name__ == "__main__":
    main()
