"""Paired comparisons within a study: differences with their intervals, and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simlib.core.metrics import METRICS, TTFT_BY, Statistic, statistic_named
from simlib.stats.family import Comparison, Decision, decide
from simlib.study.measurement.measured import interval_ends
from simlib.study.plan.spec import Compare
from simlib.study.tables.joints import Compared, Comparisons
from simlib.study.tables.pairs import Pair

CLAIMS = ("faster", "slower", "equal")
"""Outcomes that say something of the two sides."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be said of one statistic of a pair."""

    pair: Pair
    statistic: Statistic
    compared: Compared
    decision: Decision
    margin: float

    @property
    def words(self) -> str:
        """The verdict as tables say it."""
        outcome = self.decision.outcome
        if outcome == "equal":
            return f"equal within {100 * self.margin:g}%"
        if outcome in ("faster", "slower"):
            return self.statistic.metric.outcome(self.compared.joint.difference.estimate)
        return outcome

    def columns(self) -> dict[str, Any]:
        """Return p values and the verdict, by column."""
        joint, decision = self.compared.joint, self.decision
        tested = not decision.reason and decision.outcome != "identical"
        return {
            "p_value": joint.p_value if tested else float("nan"),
            "p_adjusted": decision.p_adjusted,
            "p_equal": joint.p_equal if tested else float("nan"),
            "verdict": self.words,
        }


def verdicts_of(
    pairs: Sequence[Pair], settings: Compare, comparisons: Comparisons
) -> list[Verdict]:
    """Return the verdicts of a study: each statistic that both sides of a pair have.

    Those that `settings.metrics` names are its primary family, held to 5% together.
    """
    found = [
        (pair, statistic_named(name), one)
        for pair in pairs
        for name, one in comparisons.of(pair).statistics.items()
    ]
    decisions = decide(
        [
            Comparison(one.joint, statistic.name in settings.metrics, one.untestable)
            for _, statistic, one in found
        ]
    )
    return [
        Verdict(*one, decision, settings.margin)
        for one, decision in zip(found, decisions, strict=True)
    ]


def comparison_lines(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the lines of comparison.csv: one per pair and statistic."""
    by_pair: dict[tuple[int, str], Verdict] = {
        (id(one.pair), one.statistic.name): one for one in verdicts
    }
    return [
        {**_line(one), "other_definitions": _turned(one, by_pair), **_last(one)} for one in verdicts
    ]


def class_lines(
    pairs: Sequence[Pair], settings: Compare, comparisons: Comparisons
) -> list[dict[str, Any]]:
    """Return the lines of class_comparison.csv: one per pair, share and class with an SLO.

    Also for all classes together. Shares such as SLO attainment are a question of their own: their
    family takes no power from the tests of times.
    """
    found = [
        (pair, of_class, statistic_named(name), one)
        for pair in pairs
        for of_class, shares in comparisons.of(pair).classes.items()
        for name, one in shares.items()
    ]
    decisions = decide([Comparison(one.joint, True, one.untestable) for *_, one in found])
    return [
        _class_line(of_class, Verdict(pair, statistic, one, decision, settings.margin))
        for (pair, of_class, statistic, one), decision in zip(found, decisions, strict=True)
    ]


def compare_pairs(pairs: Sequence[Pair], settings: Compare | None = None) -> list[dict[str, Any]]:
    """Return the lines of comparison.csv of pairs that are a study of their own."""
    settings = settings or Compare()
    return comparison_lines(verdicts_of(pairs, settings, Comparisons(settings.margin)))


def _turned(one: Verdict, every: dict[tuple[int, str], Verdict]) -> str:
    """Return what other definitions of TTFT say, where that is another verdict."""
    statistic = one.statistic
    if statistic.metric is not METRICS["ttft"]:
        return ""
    found = []
    for definition, metric in TTFT_BY.items():
        same = next((s for s in metric.statistics if s.short == statistic.short), None)
        other = every.get((id(one.pair), same.name)) if same else None
        if other is None or other.decision.outcome not in CLAIMS:
            continue
        if other.decision.outcome != one.decision.outcome:
            found.append(f"{definition}: {other.words}")
    return "; ".join(found)


def _line(one: Verdict) -> dict[str, Any]:
    compared = one.compared
    return {
        **one.pair.where(),
        "statistic": one.statistic.name,
        "baseline_s": compared.baseline,
        "candidate_s": compared.candidate,
        **interval_ends("difference_s", compared.joint.difference),
        **interval_ends("ratio", compared.joint.ratio),
        **one.columns(),
        "family": "primary" if one.decision.primary else "secondary",
    }


def _last(one: Verdict) -> dict[str, Any]:
    compared, pair = one.compared, one.pair
    alike = one.decision.outcome == "identical"
    return {
        "pairing_gain": float("nan") if alike else compared.joint.pairing_gain,
        "pairs": compared.pairs,
        "method": compared.joint.difference.method,
        "note": compared.note,
        **pair.context,
        "unfair": pair.unfair,
    }


def _class_line(of_class: str, one: Verdict) -> dict[str, Any]:
    compared, pair = one.compared, one.pair
    return {
        **pair.where(),
        "request_class": of_class,
        "statistic": one.statistic.name,
        "baseline_attainment": compared.baseline,
        "candidate_attainment": compared.candidate,
        **interval_ends("difference", compared.joint.difference),
        **one.columns(),
        "pairs": compared.pairs,
        "method": compared.joint.difference.method,
        "note": compared.note,
        "baseline_stability": pair.baseline.point.stability.verdict,
        "candidate_stability": pair.candidate.point.stability.verdict,
        "unfair": pair.unfair,
    }
