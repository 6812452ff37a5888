"""What figures of bars share: a panel for each level of x, and how an unstable bar looks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from simlib.study.figures.axes import place_title
from simlib.study.figures.data import Place, Point, StudyData, representative
from simlib.study.figures.style import axis_label, factor_words, level_phrase, level_text, shortened

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


def panels(data: StudyData, places: list[Place], across: int) -> Panels:
    """Return a panel for each level of x, at most `across` beside each other.

    Rows are places; a study with one place has its levels in up to two rows.
    """
    single = len(places) == 1
    levels = x_levels(data, 2 * across if single else across)
    notes = []
    if levels != [None] and data.x is not None and len(levels) < len(data.x.levels):
        words = factor_words(data.x.name)[0]
        notes.append(f"Shown: {len(levels)} of {len(data.x.levels)} values of {words}.")
    chunks = [levels]
    if single:
        n_rows = math.ceil(len(levels) / across)
        size = math.ceil(len(levels) / n_rows)
        chunks = [levels[i : i + size] for i in range(0, len(levels), size)]
        cells = [[(places[0], level) for level in chunk] for chunk in chunks]
    else:
        cells = [[(place, level) for level in levels] for place in places]
    titles = []
    if levels != [None] and data.x is not None:
        titles = [[level_phrase(data.x.name, level) for level in chunk] for chunk in chunks]
    return Panels(cells, [place_title(data, place) for place in places], titles, notes)


def x_levels(data: StudyData, most: int) -> list[Any]:
    """Return the levels of x that get panels; one None where the bars are its levels."""
    if data.x is None or data.x is data.colour:
        return [None]
    levels = sorted(data.x.levels) if data.x.numeric else list(data.x.levels)
    return representative(levels, most)


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
