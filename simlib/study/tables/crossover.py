"""Where along a factor the faster side changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simlib.core.metrics import statistic_named
from simlib.stats.compare import crossovers
from simlib.stats.intervals import Interval
from simlib.study.tables.comparison import compare
from simlib.study.tables.pairs import Pair

STATISTICS = ("mean_ttft_s", "p99_ttft_s")


def crossover_lines(pairs: Sequence[Pair], x: str) -> list[dict[str, Any]]:
    """Return where along factor `x` the faster side changes, for each level of the others.

    A line has the crossing with its interval, or a reason why there is none.
    """
    lines: list[dict[str, Any]] = []
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        others = tuple(v for k, v in pair.coordinates.items() if k != x)
        groups.setdefault((pair.candidate.level, *others), []).append(pair)
    for group in groups.values():
        ordered = sorted(group, key=lambda pair: pair.coordinates[x])
        positions = [float(pair.coordinates[x]) for pair in ordered]
        head = {key: value for key, value in group[0].where().items() if key != x}
        unfair = "; ".join(dict.fromkeys(pair.unfair for pair in group if pair.unfair))
        for name in STATISTICS:
            statistic = statistic_named(name)
            differences = [compare(pair, statistic).outcome.difference for pair in ordered]
            lines.extend(
                {**head, "statistic": name, "along": x, **line, "unfair": unfair}
                for line in _crossings(positions, differences, group[0])
            )
    return lines


def _crossings(
    positions: list[float], differences: list[Interval], pair: Pair
) -> list[dict[str, Any]]:
    nothing = {"crossover": np.nan, "crossover_low": np.nan, "crossover_high": np.nan}
    winner = {-1: str(pair.candidate.level), 0: "none", 1: str(pair.baseline.level)}
    if len(positions) < 2:
        return [{**nothing, "faster_below": "", "faster_above": "", "note": "one value only"}]
    found = crossovers(positions, differences)
    if not found:
        signs = {int(d.low > 0) - int(d.high < 0) for d in differences}
        signs.discard(0)
        always = winner[signs.pop()] if len(signs) == 1 else "none"
        note = "no crossover in the swept range"
        return [{**nothing, "faster_below": always, "faster_above": always, "note": note}]
    return [
        {
            "crossover": crossing.x.estimate,
            "crossover_low": crossing.x.low,
            "crossover_high": crossing.x.high,
            "faster_below": winner[crossing.sign_below],
            "faster_above": winner[crossing.sign_above],
            "note": crossing.x.reason,
        }
        for crossing in found
    ]
