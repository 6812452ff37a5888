"""What figures of bars share: a panel for each level of x, and how an unstable bar looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simlib.study.figures.axes import place_title, x_phrase
from simlib.study.figures.data import Point, StudyData, representative
from simlib.study.figures.place import Place, level_key
from simlib.study.figures.style import axis_label, factor_words, level_text, shortened

UNSTABLE_BAR: dict[str, Any] = {"facecolor": "white", "linestyle": (0, (2, 1.5)), "linewidth": 0.9}


@dataclass(frozen=True, slots=True)
class Panels:
    """Which place and level of x each panel shows, by row, with its titles."""

    cells: list[list[tuple[Place, Any]]]
    row_titles: list[str]
    panel_titles: list[list[str]]
    notes: list[str]

    @property
    def shape(self) -> list[int]:
        """Panels in each row."""
        return [len(row) for row in self.cells]


ACROSS = 3
"""Panels beside each other along a factor of numbers: a low load, a middle, and a high one."""
ACROSS_NAMES = 4


def panels(data: StudyData, places: list[Place]) -> Panels:
    """Return a row of panels for each place, at levels of x where sides can be compared.

    The last one is the highest such level, near saturation, if x is a load.
    """
    rows = [shown_levels(data, place) for place in places]
    notes = []
    several = data.x is not None and data.x is not data.colour
    if several and data.x is not None and any(len(row) < len(data.x.levels) for row in rows):
        words = factor_words(data.x.name)[0]
        where = " where sides are stable" if any(p.unstable for p in data.points) else ""
        notes.append(f"Shown: some values of {words}{where}, the highest last; tables have all.")
    titles = [[x_phrase(data, level) if several else "" for level in row] for row in rows]
    return Panels(
        cells=[[(place, level) for level in row] for place, row in zip(places, rows, strict=True)],
        row_titles=[place_title(place) for place in places],
        panel_titles=titles if several else [],
        notes=notes,
    )


def shown_levels(data: StudyData, place: Place) -> list[Any]:
    """Return the levels of x that get panels at a place; one None where the bars are its levels."""
    if data.x is None or data.x is data.colour:
        return [None]
    levels = sorted(data.x.levels) if data.x.numeric else list(data.x.levels)
    stable = [level for level in levels if _comparable(data, place, level)]
    if data.x.numeric:
        return representative(stable or levels[:1], ACROSS)
    return representative(stable or levels, ACROSS_NAMES)


def _comparable(data: StudyData, place: Place, level: Any) -> bool:
    """Return whether two sides or more (or the only one) are stable; the baseline is among them."""
    points = [(s, point) for s in data.series() if (point := data.point(place, s, level))]
    stable = [series for series, point in points if not point.unstable]
    if data.compare is not None and data.colour is data.factor(data.compare["factor"]):
        baseline = level_key(data.compare["baseline"])
        return baseline in map(level_key, stable) and len(stable) > 1
    return len(stable) >= min(2, len(points)) > 0


def points_at(data: StudyData, place: Place, level: Any) -> list[Point | None]:
    """Return the point of each series in a panel."""
    own = data.x is data.colour
    return [data.point(place, s, s if own else level) for s in data.series()]


def bar_names(data: StudyData) -> list[str]:
    """Return what the bars are called."""
    if data.colour is None:
        return [level_text("mode", data.points[0].config["mode"])]
    return [shortened(level_text(data.colour.name, level)) for level in data.series()]


def bar_notes(data: StudyData) -> list[str]:
    """Return a note on what the bars' names are levels of, where the names do not say it."""
    if data.colour is None or not data.colour.numeric:
        return []
    return [f"Bars: {axis_label(data.colour.name)}."]
