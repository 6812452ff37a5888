"""Where along a factor the faster side changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simlib.stats.crossing import ratio_crossovers
from simlib.stats.intervals import Interval
from simlib.study.tables.comparison import Verdict
from simlib.study.tables.joints import LEVEL, Comparisons
from simlib.study.tables.pairs import Pair

STATISTICS = ("mean_ttft_s", "p99_ttft_s")


def crossover_lines(
    verdicts: Sequence[Verdict], x: str, comparisons: Comparisons
) -> list[dict[str, Any]]:
    """Return where along factor `x` the faster side changes, for each level of the others.

    A line has the crossing with its interval, or a reason why there is none. Bands are at the level
    at which the verdict of each pair was held in its family, so both say the same.
    """
    lines: list[dict[str, Any]] = []
    groups: dict[tuple[Any, ...], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.statistic.name in STATISTICS:
            pair = verdict.pair
            others = tuple(v for k, v in pair.coordinates.items() if k != x)
            key = (pair.candidate.level, *others, verdict.statistic.name)
            groups.setdefault(key, []).append(verdict)
    for group in groups.values():
        ordered = sorted(group, key=lambda one: float(one.pair.coordinates[x]))
        positions = [float(one.pair.coordinates[x]) for one in ordered]
        head = {key: value for key, value in group[0].pair.where().items() if key != x}
        unfair = "; ".join(dict.fromkeys(one.pair.unfair for one in group if one.pair.unfair))
        ratios = [_band(one, comparisons) for one in ordered]
        lines.extend(
            {**head, "statistic": group[0].statistic.name, "along": x, **line, "unfair": unfair}
            for line in _crossings(positions, ratios, group[0].pair)
        )
    return lines


def _band(verdict: Verdict, comparisons: Comparisons) -> Interval:
    """Return the ratio with its interval at the level of its verdict."""
    compared, level = verdict.compared, verdict.decision.level
    if compared.untestable or level == LEVEL:
        return compared.joint.ratio
    return comparisons.at_level(verdict.pair, verdict.statistic, level).ratio


def _crossings(positions: list[float], ratios: list[Interval], pair: Pair) -> list[dict[str, Any]]:
    nothing = {"crossover": np.nan, "crossover_low": np.nan, "crossover_high": np.nan}
    winner = {-1: str(pair.candidate.level), 0: "none", 1: str(pair.baseline.level)}
    if len(positions) < 2:
        return [{**nothing, "faster_below": "", "faster_above": "", "note": "one value only"}]
    found = ratio_crossovers(positions, ratios)
    if not found:
        signs = {int(one.low > 1) - int(one.high < 1) for one in ratios}
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
