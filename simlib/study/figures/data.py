"""What figures read: a study's points with their table lines, and the role of each factor."""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from simlib.core.records import TTFT_PARTS_OF
from simlib.errors import InvalidParameterError
from simlib.study.figures.place import ByPlace, Place, level_key
from simlib.study.jobs.described import read_study

Line = dict[str, str]
"""A line of a table: text by column."""
UNSTABLE = "unstable"


def number(line: Mapping[str, str], column: str) -> float:
    """Return a table's number, NaN where it is empty or there is no such column.

    An end of an interval that is empty where the other end is not is open: infinite.
    """
    text = line.get(column, "")
    if text:
        return float(text)
    for end, other, beyond in (("_low", "_high", -math.inf), ("_high", "_low", math.inf)):
        if column.endswith(end) and line.get(column.removesuffix(end) + other):
            return beyond
    return math.nan


@dataclass(frozen=True, slots=True)
class Factor:
    """A swept factor and its levels, in the order of the study file."""

    name: str
    levels: tuple[Any, ...]

    @property
    def numeric(self) -> bool:
        """Whether the levels are numbers, and so have an axis."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.levels)

    @property
    def slug(self) -> str:
        """The name, fit for a file's name."""
        return "".join(c if c.isalnum() else "_" for c in self.name)


@dataclass(frozen=True, slots=True)
class Point:
    """A row of the study: where it stands, its simulation, and its line of summary.csv."""

    coordinates: dict[str, str | None]
    config: dict[str, Any]
    point_id: str
    line: Line

    @property
    def unstable(self) -> bool:
        """Whether its waits grow without end, so that its numbers only say how long it ran."""
        return self.line["stability"] == UNSTABLE

    @property
    def undetermined(self) -> bool:
        """Whether the run was too short to tell."""
        return self.line["stability"] not in ("stable", UNSTABLE)

    @property
    def window_ends_s(self) -> tuple[float, float]:
        """Where the window begins and ends; a precision may have lengthened the run."""
        start, end = self.config["warmup_seconds"], self.config["sim_seconds"]
        times = self.value("window_s") / (end - start)
        return start * times, end * times

    @property
    def arrivals_per_s(self) -> float:
        """Mean requests a second that arrived in the window."""
        return self.value("arrived") / (self.value("replicates") * self.value("window_s"))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that this point's TTFT is made of."""
        return TTFT_PARTS_OF[self.line["ttft_definition"]]

    def value(self, column: str) -> float:
        """Return a number of its line, NaN where there is none."""
        return number(self.line, column)


Table = ByPlace[Line]
"""The lines of a table, found by the levels they are of."""


@dataclass(frozen=True)
class StudyData:
    """All that the figures of a study show, or those of one page."""

    name: str
    title: str
    factors: tuple[Factor, ...]
    points: ByPlace[Point]
    compare: dict[str, Any] | None
    crossover: dict[str, str] | None
    comparison: Table
    attribution: Table
    crossings: Table
    classes: Table
    """A line per point and request class; empty without classes."""
    timeline: Table
    """A line per point, pool and bin of time; empty without timelines."""
    distribution: Path | None
    """The table of the points' distributions of TTFT, if it is there."""
    svg: bool
    """Whether figures are wanted as SVG too."""
    x: Factor | None
    """The factor along the horizontal axis; None if nothing is swept."""
    colour: Factor | None
    """The factor that lines and bars differ in; it may be `x`."""
    facets: tuple[Factor, ...]
    """The others: a row of panels for each combination."""

    @classmethod
    def read(cls, study_path: Path, tables: Path) -> StudyData:
        """Read study.json and the tables that are there."""
        study = read_study(study_path)
        summary = _read_csv(tables / "summary.csv")
        found = [line["point_id"] for line in summary]
        wanted = [row["point_id"] for row in study["rows"]]
        if found != wanted:
            raise InvalidParameterError(
                "summary.csv", f"{len(found)} lines", "a line for each row of the study, in order",
                str(tables),
            )  # fmt: skip
        factors = tuple(Factor(f["name"], tuple(f["levels"])) for f in study["factors"])
        distribution = tables / "distribution.csv"
        # tables of a comparison that the study no longer makes may still lie there
        compare, crossover = study["compare"], study["crossover"]
        x, colour, facets = _roles(factors, compare, crossover)

        def read(name: str, wanted: Any) -> Table:
            return ByPlace(_read_csv(tables / name) if wanted else [], lambda line: line)

        return cls(
            name=study["name"],
            title=study["title"],
            factors=factors,
            points=ByPlace(
                [
                    Point(
                        {name: level_key(level) for name, level in row["coordinates"].items()},
                        row["config"],
                        row["point_id"],
                        line,
                    )
                    for row, line in zip(study["rows"], summary, strict=True)
                ],
                lambda point: point.coordinates,
            ),
            compare=compare,
            crossover=crossover,
            comparison=read("comparison.csv", compare),
            attribution=read("attribution.csv", compare),
            crossings=read("crossover.csv", crossover),
            classes=read("classes.csv", _any_has(study, "request_classes")),
            timeline=read("timeline.csv", _any_has(study, "timeline")),
            distribution=distribution if distribution.is_file() else None,
            svg=study.get("svg", True),
            x=x,
            colour=colour,
            facets=facets,
        )

    def factor(self, name: str) -> Factor:
        """Return a factor by its name."""
        return next(factor for factor in self.factors if factor.name == name)

    def series(self) -> tuple[Any, ...]:
        """Return the levels that lines differ in; one nameless level if none is swept."""
        return self.colour.levels if self.colour else (None,)

    def x_levels(self) -> tuple[Any, ...]:
        """Return the levels along the horizontal axis; one nameless level if none is swept."""
        return self.x.levels if self.x else (None,)

    def places(self) -> list[Place]:
        """Return the combinations of the facets' levels that have a point; at least one."""
        combinations = itertools.product(*(factor.levels for factor in self.facets))
        names = [factor.name for factor in self.facets]
        places = [dict(zip(names, levels, strict=True)) for levels in combinations]
        return [place for place in places if self.points.at(place)]

    def point(self, place: Place, series: Any, x: Any) -> Point | None:
        """Return the point of a series at a level of x; None if the grid has none there."""
        return next(iter(self.points.at(self.where(place, series, x))), None)

    def page(self, places: Sequence[Place]) -> StudyData:
        """Return what stands at `places` only: the figures of a page are drawn from no more."""
        key = repr(places)
        if key not in self._pages:
            self._pages[key] = replace(
                self,
                points=self.points.only(places),
                comparison=self.comparison.only(places),
                attribution=self.attribution.only(places),
                crossings=self.crossings.only(places),
                classes=self.classes.only(places),
                timeline=self.timeline.only(places),
            )
        return self._pages[key]

    @cached_property
    def _pages(self) -> dict[str, StudyData]:
        return {}  # kinds of figures share them

    @cached_property
    def digest(self) -> str:
        """The hash of all that stands here: equal ones give equal figures.

        Distributions stand for themselves by their points, which hash what made them.
        """
        whole = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, ByPlace):
                for line in value:
                    whole.update(_text(line).encode())
            elif not isinstance(value, Path):
                whole.update(repr(value).encode())
        return whole.hexdigest()

    @cached_property
    def arrivals_per_s(self) -> dict[str | None, float]:
        """Mean arrivals a second at each level of x, where x is the speed of a replay.

        Empty for other factors, and where arrivals differ within a level.
        """
        if self.x is None or self.x.name != "arrival.speed":
            return {}
        rates: dict[str | None, float] = {}
        for level in self.x.levels:
            found = [p.arrivals_per_s for p in self.points.at({self.x.name: level})]
            if not found or not max(found) <= 1.02 * min(found):
                return {}
            rates[level_key(level)] = sum(found) / len(found)
        return rates

    def where(self, place: Place, series: Any, x: Any) -> Place:
        """Return the full place of a panel, a series and a level of x."""
        where = dict(place)
        if self.x is not None:
            where[self.x.name] = x
        if self.colour is not None:
            if self.colour is self.x and series != x:
                return {**where, self.colour.name: ""}  # each level stands at its own place only
            where[self.colour.name] = series
        return where

    def candidates(self) -> tuple[Any, ...]:
        """Return the levels that are compared with the baseline."""
        if self.compare is None:
            return ()
        baseline = level_key(self.compare["baseline"])
        levels = self.factor(self.compare["factor"]).levels
        return tuple(level for level in levels if level_key(level) != baseline)

    def warnings(self) -> list[tuple[str, list[Any]]]:
        """Return how the compared sides' hardware differs, and for which candidates."""
        seen: dict[str, set[str]] = {}
        for line in self.comparison:
            if line["unfair"]:
                seen.setdefault(line["unfair"], set()).add(line["candidate"])
        names = self.candidates()
        order = [level_key(level) for level in names]
        return [
            (what, [names[i] for i in sorted(order.index(level_key(c)) for c in who)])
            for what, who in seen.items()
        ]


def representative(levels: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the levels, evenly spread and with both ends."""
    n = len(levels)
    if n <= most:
        return list(levels)
    if most == 1:
        return [levels[n // 2]]
    return [levels[round(i * (n - 1) / (most - 1))] for i in range(most)]


def _roles(
    factors: tuple[Factor, ...], compare: Mapping[str, Any] | None, crossover: Any
) -> tuple[Factor | None, Factor | None, tuple[Factor, ...]]:
    """Return the factor along x, the one that colours tell apart, and the rest."""
    by_name = {factor.name: factor for factor in factors}
    colour = by_name[compare["factor"]] if compare else by_name.get("mode")
    if colour is not None and not compare and len(colour.levels) == 1:
        colour = None
    rest = [factor for factor in factors if factor is not colour]

    def suits_x(factor: Factor) -> tuple[bool, int, bool]:
        return factor.numeric, len(factor.levels), factor.name.startswith("arrival.")

    x = by_name[crossover["x"]] if crossover else max(rest, key=suits_x, default=None)
    rest = [factor for factor in rest if factor is not x and len(factor.levels) > 1]
    if colour is None and rest:
        colour = max(rest, key=lambda factor: len(factor.levels))
        rest.remove(colour)
    if x is None or (len(x.levels) == 1 and colour is not None and not x.numeric):
        x = colour
    return x, colour, tuple(rest)


def _any_has(study: Mapping[str, Any], setting: str) -> bool:
    return any(row["config"][setting] for row in study["rows"])


def _text(line: Point | Line) -> str:
    if isinstance(line, Point):
        return f"{line.point_id}{line.coordinates}{line.config}{line.line}"
    return "\x1f".join((*line, *line.values()))


def _read_csv(path: Path) -> list[Line]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
