"""Figures of a decision: capacities, attainment over the rate, the frontier, and where it turns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from simlib.stats.root_finding import FEWEST_REPLICATES
from simlib.study.decide.words import objective
from simlib.study.figures.layout import Heading, LegendEntry, Margins, make_sheet
from simlib.study.figures.style import (
    GREY,
    MARKERS,
    PALETTE,
    SHADE,
    axis_label,
    level_text,
    shortened,
)

COLORS = {"mono": PALETTE[0], "disagg": PALETTE[1]}
SIDES = {"mono": "monolithic", "disagg": "disaggregated"}
MOST_BARS = 24
MOST_CURVES = 2
"""Of each architecture, the best ones."""
_CLAIM_COLORS = {
    "disaggregate": PALETTE[1],
    "do not disaggregate": PALETTE[0],
    "too close to call": "#bdbdbd",
}
_OTHER_CLAIM = "#ffffff"
_ONLY = {"disaggregate": "disagg.", "do not disaggregate": "mono."}
"""Who meets the SLO where the other architecture never does."""
_NO_CAPACITY = {
    "never": "cannot meet the SLO at any load",
    "far behind": "far behind, as three replicates see it",
}
_NEAR = 1.1
"""Rates within this of those that were measured well add nothing but their noise."""


@dataclass(frozen=True)
class DecisionData:
    """The tables of a study that asks for a decision."""

    title: str
    cases: list[dict[str, Any]]
    """As decision.json has them."""
    capacity: pd.DataFrame
    frontier: pd.DataFrame
    attainment: pd.DataFrame
    factors: list[str]
    """Keys of the break point."""

    @classmethod
    def read(cls, tables: Path) -> DecisionData:
        """Read the tables from their folder."""
        decision = json.loads((tables / "decision.json").read_text(encoding="utf-8"))
        frames = {
            name: pd.read_csv(tables / f"{name}.csv", keep_default_na=True)
            for name in ("capacity", "frontier", "attainment")
        }
        return cls(decision["title"], decision["cases"], **frames, factors=decision["factors"])

    @property
    def target(self) -> float:
        """The share of requests that must be within the SLO."""
        return float(self.cases[0]["slo"]["attainment"])

    def heading(self, what: str, *notes: str) -> Heading:
        """Return a heading that says the verdict below what is shown."""
        if self.factors:
            return Heading(f"{self.title}: {what}", notes=notes)
        verdict = next(line for line in self.cases[0]["lines"] if line.startswith("Verdict"))
        return Heading(
            f"{self.title}: {what}",
            f"SLO: {objective(self.cases[0]['slo'])}. {verdict}",
            notes=notes,
        )

    def legend(self) -> list[LegendEntry]:
        """Return an entry for each architecture."""
        shown = dict.fromkeys(self.capacity["architecture"])
        return [LegendEntry(Patch(color=COLORS[one]), SIDES[one]) for one in shown]


def capacity_figure(data: DecisionData) -> Figure | None:
    """Draw a bar with its interval for each deployment, the best at the top."""
    lines = data.capacity.to_dict("records")[:MOST_BARS]
    left_out = len(data.capacity) - len(lines)
    notes = ["Whiskers: 95% intervals. Bold: the best, and what cannot be told from it."]
    if left_out:
        notes.append(f"Left out: {left_out} deployments with less; capacity.csv has them.")
    names = [shortened(str(line["deployment"]), 34) for line in lines]
    sheet = make_sheet(
        [1],
        (4.6, 0.24 * len(lines) + 0.3),
        data.heading("capacity of each deployment", *notes),
        legend=data.legend(),
        margins=Margins(left=0.35 + 0.075 * max(map(len, names))),
    )
    ax = sheet.axes[0][0]
    for position, line in enumerate(lines):
        color = COLORS[line["architecture"]]
        estimate = line["capacity_per_s"]
        if math.isnan(estimate):
            said = _NO_CAPACITY[str(line["outcome"])]
            ax.text(0.0, position, f" {said}", va="center", fontsize=8, color=GREY)
            continue
        ax.barh(position, estimate, height=0.62, color=color, alpha=1.0 if line["tied"] else 0.55)
        ends = [[estimate - line["capacity_per_s_low"]], [line["capacity_per_s_high"] - estimate]]
        ax.errorbar(estimate, position, xerr=ends, color="#222222", capsize=2.5, linewidth=1.0)
        text = f" {estimate:.3g}"
        ax.text(line["capacity_per_s_high"], position, text, va="center", fontsize=8)
    ax.set_yticks(range(len(lines)), names)
    for label, line in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line["tied"] else "normal")
    ax.invert_yaxis()
    ax.set_xlabel("highest rate that keeps the SLO (requests/s)")
    ax.set_xlim(0.0, 1.14 * max(1e-9, float(data.capacity["capacity_per_s_high"].max())))
    ax.grid(visible=False, axis="y")
    return sheet.figure


def attainment_figure(data: DecisionData) -> Figure | None:
    """Draw attainment over the rate for the best deployments, with the rates that were measured."""
    best = _best_of_each(data)
    if not best:
        return None
    legend = []
    sheet_lines = []
    for name, architecture, rank in best:
        rows = _smooth(data.attainment[data.attainment["deployment"] == name])
        style: dict[str, Any] = {"color": COLORS[architecture], "linestyle": ("-", "--")[rank % 2]}
        marker = MARKERS[rank]
        sheet_lines.append((rows, style, marker))
        handle = Line2D([], [], marker=marker, markersize=4, **style)
        legend.append(LegendEntry(handle, shortened(f"{SIDES[architecture]} {name}", 40)))
    note = "Points: measured rates; 95% intervals where there are 12 replicates or more."
    heading = data.heading("requests within the SLO over the rate", note)
    sheet = make_sheet([1], (5.4, 3.2), heading, legend=legend, margins=Margins(left=0.8))
    ax = sheet.axes[0][0]
    for rows, style, marker in sheet_lines:
        x, y = rows["rate_per_s"], rows["attainment"]
        near = rows["replicates"] >= FEWEST_REPLICATES  # fewer only say on which side it lies
        low = (y - rows["attainment_low"]).clip(lower=0.0).where(near, 0.0).fillna(0.0)
        high = (rows["attainment_high"].clip(upper=1.0) - y).clip(lower=0.0)
        high = high.where(near, 0.0).fillna(0.0)
        ax.errorbar(x, y, yerr=[low, high], marker=marker, markersize=3.5, linewidth=1.1,
                    elinewidth=0.8, **style)  # fmt: skip
    ax.axhline(data.target, color="#222222", linewidth=0.9, linestyle=":")
    ax.annotate(f"{data.target:.0%} asked for", (1.0, data.target), xytext=(-2, 3), ha="right",
                xycoords=("axes fraction", "data"), textcoords="offset points",
                fontsize=8)  # fmt: skip
    bottom = max(0.0, 1.0 - 5.0 * (1.0 - data.target))
    ax.set_xlim(0.0, 1.04 * max(_last_seen(rows, bottom) for rows, _, _ in sheet_lines))
    ax.set_ylim(bottom, 1.0 + 0.2 * (1.0 - data.target))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("arrival rate (requests/s)")
    ax.set_ylabel("requests within the SLO")
    return sheet.figure


def _last_seen(rows: pd.DataFrame, bottom: float) -> float:
    """Return the first rate at which a curve leaves the axes below, or its last one."""
    below = rows.loc[rows["attainment"] < bottom, "rate_per_s"]
    return float(rows["rate_per_s"].max() if below.empty else below.min())


def _smooth(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a deployment without those that fewer replicates measured near others.

    A search looks at many rates with few replicates: they would make the curve jump.
    """
    near = rows[rows["replicates"] >= max(FEWEST_REPLICATES, 0.5 * rows["replicates"].max())]
    if not near.empty:
        first, last = near["rate_per_s"].min(), near["rate_per_s"].max()
        between = rows["rate_per_s"].between(first / _NEAR, last * _NEAR)
        rows = rows[~between | rows.index.isin(near.index)]
    shown: list[int] = list(near.index)
    for index, row in rows.sort_values("replicates", ascending=False, kind="stable").iterrows():
        ratios = rows.loc[shown, "rate_per_s"] / row["rate_per_s"]
        if not ratios.between(1.0 / _NEAR, _NEAR).any():
            shown.append(int(str(index)))
    return rows.loc[shown].sort_values("rate_per_s")


def frontier_figure(data: DecisionData) -> Figure | None:
    """Draw throughput per GPU over the speed for each user, the frontier of both architectures."""
    if data.frontier.empty:
        return None
    user, gpu = "output_tokens_per_s_per_user", "output_tokens_per_s_per_gpu"
    limit = data.cases[0]["slo"].get("ttft_s")
    where = f"TTFT within {limit:g} s" if limit else "all rates that are stable"
    notes = [
        f"Shown: rates at which {data.target:.0%} of the requests have {where}."
        if limit
        else f"Shown: {where}.",
        "Lines: the frontier, statistical ties included; bars: 95% intervals of the median user.",
    ]
    sheet = make_sheet(
        [1], (5.4, 3.4), data.heading("throughput against speed for users", *notes),
        legend=data.legend(),
    )  # fmt: skip
    ax = sheet.axes[0][0]
    for architecture, rows in data.frontier.groupby("architecture"):
        color = COLORS[str(architecture)]
        ax.scatter(rows[user], rows[gpu], s=9, color=color, alpha=0.3, linewidths=0)
        front = rows[rows["on_frontier"]].sort_values(user)
        width = [
            (front[user] - front[f"{user}_low"]).clip(lower=0.0).fillna(0.0),
            (front[f"{user}_high"] - front[user]).clip(lower=0.0).fillna(0.0),
        ]
        ax.errorbar(front[user], front[gpu], xerr=width, color=color, marker="o", markersize=3.5,
                    linewidth=1.3, elinewidth=0.8)  # fmt: skip
    tpot = data.cases[0]["slo"].get("tpot_s")
    if tpot:
        ax.axvline(1.0 / tpot, color="#222222", linewidth=0.9, linestyle=":")
        ax.annotate(f"TPOT {tpot:g} s", (1.0 / tpot, 0.0), xytext=(3, 4),
                    textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set_xlabel("output tokens/s for each user (1 / TPOT)")
    ax.set_ylabel("output tokens/s per GPU")
    ax.set_ylim(bottom=0.0)
    ax.set_xlim(left=0.0)
    return sheet.figure


def break_point_figure(data: DecisionData) -> Figure | None:
    """Draw how the margin moves along one factor, or a map of verdicts over two."""
    if not data.factors:
        return None
    legend = [LegendEntry(Patch(color=c), claim) for claim, c in _CLAIM_COLORS.items()]
    one = len(data.factors) == 1
    heading = data.heading("where the verdict turns", "Margin: how much more the best "
                           "disaggregated deployment carries, with its 95% interval.")  # fmt: skip
    levels = [list(dict.fromkeys(case["coordinates"][f] for case in data.cases))
              for f in data.factors]  # fmt: skip
    size = (5.0, 3.0) if one else (1.15 * len(levels[0]), 0.72 * len(levels[1]))
    sheet = make_sheet([1], size, heading, legend=legend, margins=Margins(left=0.9))
    ax = sheet.axes[0][0]
    if one:
        _margins(ax, data, levels[0])
    else:
        _verdict_map(ax, data, levels)
    return sheet.figure


def _margins(ax: Axes, data: DecisionData, levels: Sequence[Any]) -> None:
    for position, case in enumerate(data.cases):
        verdict = case["verdict"]
        color = _CLAIM_COLORS.get(verdict["claim"], GREY)
        margin = verdict["margin"]
        if margin is None:
            ax.annotate(_cell_text(verdict).replace("\n", " "), (position, 0.03), ha="center",
                        xycoords=("data", "axes fraction"), rotation=90, va="bottom", fontsize=8,
                        color=color)  # fmt: skip
            continue
        estimate = margin["estimate"]
        low = estimate - (margin["low"] if margin["low"] is not None else estimate)
        high = (margin["high"] if margin["high"] is not None else estimate) - estimate
        ax.errorbar(position, estimate, yerr=[[low], [high]], color=color, marker="o", capsize=3)
    ax.axhline(0.0, color="#222222", linewidth=0.9)
    ax.set_xticks(range(len(levels)), [level_text(data.factors[0], level) for level in levels])
    ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.set_xlabel(_label(data.factors[0]))
    ax.set_ylabel("margin of disaggregation")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def _verdict_map(ax: Axes, data: DecisionData, levels: Sequence[Sequence[Any]]) -> None:
    x, y = data.factors
    ax.set_facecolor(SHADE)
    for case in data.cases:
        column = levels[0].index(case["coordinates"][x])
        row = levels[1].index(case["coordinates"][y])
        verdict = case["verdict"]
        color = _CLAIM_COLORS.get(verdict["claim"], _OTHER_CLAIM)
        ax.add_patch(_cell(column, row, color))
        ax.text(column, row, _cell_text(verdict), ha="center", va="center", fontsize=7.5)
    for axis, name, its in ((ax.xaxis, x, levels[0]), (ax.yaxis, y, levels[1])):
        axis.set_ticks(range(len(its)), [level_text(name, level) for level in its])
        axis.set_label_text(_label(name))
    ax.set_xlim(-0.5, len(levels[0]) - 0.5)
    ax.set_ylim(-0.5, len(levels[1]) - 0.5)
    ax.grid(visible=False)


def _cell(column: int, row: int, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1.0, 1.0, facecolor=color, alpha=0.55,
                     edgecolor="white", linewidth=1.5)  # fmt: skip


def _cell_text(verdict: Mapping[str, Any]) -> str:
    margin = verdict["margin"]
    if margin is None:
        if verdict["claim"] in _ONLY:
            return f"only {_ONLY[verdict['claim']]}\nmeets the SLO"
        return "SLO\nnot met" if verdict["claim"].startswith("no ") else ""
    ends = [f"{end:+.0%}" if end is not None else "" for end in (margin["low"], margin["high"])]
    return f"{margin['estimate']:+.0%}\n{ends[0]} … {ends[1]}"


def _best_of_each(data: DecisionData) -> list[tuple[str, str, int]]:
    """Return name, architecture and place of the best deployments of each architecture."""
    found = []
    able = data.capacity[data.capacity["capacity_per_s"].notna()]
    for architecture, rows in able.groupby("architecture", sort=False):
        ranked = rows.sort_values("capacity_per_s", ascending=False)["deployment"]
        for place, name in enumerate(ranked.head(MOST_CURVES)):
            found.append((str(name), str(architecture), place))
    return found


DECISION_KINDS: dict[str, Callable[[DecisionData], Figure | None]] = {
    "capacity": lambda data: None if data.factors else capacity_figure(data),
    "slo_attainment_vs_rate": lambda data: None if data.factors else attainment_figure(data),
    "frontier": lambda data: None if data.factors else frontier_figure(data),
    "break_point": break_point_figure,
}
"""By the name of their files; a study with a break point shows that."""


def decision_figures(tables: Path) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each kind that the tables of a decision have."""
    data = DecisionData.read(tables)
    for name, draw in DECISION_KINDS.items():
        figure = draw(data)
        if figure is not None:
            yield name, figure


def _label(factor: str) -> str:
    """Return the axis label of a key of the break point."""
    if factor.startswith("slo."):
        part = factor.removeprefix("slo.")
        return part if part == "attainment" else f"{part.removesuffix('_s').upper()} SLO (s)"
    return axis_label(factor)
