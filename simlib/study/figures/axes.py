"""The horizontal axis of a study, marks of stability, and the legend that explains them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from simlib.study.figures.data import Point, StudyData
from simlib.study.figures.layout import Heading, LegendEntry, text_width
from simlib.study.figures.place import Place, level_key
from simlib.study.figures.style import (
    DEFINITIONS,
    MONOLITHIC_ENDS_AT_PREFILL,
    SHADE,
    SeriesStyle,
    axis_label,
    level_phrase,
    level_text,
    series_styles,
    shortened,
)

_FIXED_SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""
LOG_FROM_RATIO = 16
"""An axis of numbers is logarithmic where the largest is this many times the smallest."""


class XAxis:
    """Where the levels of the horizontal factor stand, and how they are labelled."""

    def __init__(self, data: StudyData) -> None:
        self.levels = data.x_levels()
        self.factor = data.x
        self.numeric = data.x is not None and data.x.numeric and len(self.levels) > 1
        self.log = self.numeric and (
            min(self.levels) > 0 and max(self.levels) >= LOG_FROM_RATIO * min(self.levels)
        )
        self.label = axis_label(data.x.name) if data.x else ""
        self._rates = data.arrivals_per_s if self.numeric else {}
        if self._rates:  # a load is read in requests a second
            speeds = f"{level_text('', min(self.levels))}–{level_text('', max(self.levels))}"
            self.label = f"arrivals (requests/s), at replay speeds {speeds} ×"
        # lines that share a place would hide each other; on a numeric axis they do not
        self._shared = not self.numeric and data.colour is not None and data.colour is not data.x
        self._n_series = len(data.series())

    def position(self, level: Any, series_index: int = 0) -> float:
        """Return where a level stands; series stand side by side on an axis of names."""
        if self.numeric:
            return float(level)
        aside = 0.0
        if self._shared:
            step = min(0.8 / self._n_series, 0.16)
            aside = (series_index - (self._n_series - 1) / 2) * step
        return self.levels.index(level) + aside

    def order(self) -> list[Any]:
        """Return the levels from left to right."""
        return sorted(self.levels) if self.numeric else list(self.levels)

    def _edges(self) -> list[tuple[float, float]]:
        """Return the stretch of the axis that belongs to each level, in order."""
        places = [self.position(level) if self.numeric else float(i)
                  for i, level in enumerate(self.order())]  # fmt: skip
        if not self.numeric:
            return [(place - 0.5, place + 0.5) for place in places]
        scaled = np.log(places) if self.log else np.array(places)
        middles = (scaled[1:] + scaled[:-1]) / 2
        margin = 0.06 * (scaled[-1] - scaled[0])
        bounds = np.concatenate(([scaled[0] - margin], middles, [scaled[-1] + margin]))
        bounds = np.exp(bounds) if self.log else bounds
        return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def dress(self, ax: Axes, width: float, *, labelled: bool) -> None:
        """Set scale, limits, ticks and (if `labelled`) the label of an axis `width` inches wide."""
        if self.log:
            ax.set_xscale("log")
        ax.set_xlim(*self._limits())
        ticks, labels, turned = self._ticks(width)
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xticks(ticks, labels)
        if turned:
            for label in ax.get_xticklabels():
                label.set(rotation=40, ha="right", rotation_mode="anchor")
        if not self.numeric:
            ax.xaxis.grid(visible=False)
        if labelled:
            ax.set_xlabel(self.label)

    def _text(self, level: Any) -> str:
        if self._rates:
            return f"{self._rates[level_key(level)]:.3g}"
        return shortened(level_text(self.factor.name, level)) if self.factor else ""

    def room(self, width: float) -> tuple[float, float]:
        """Return how far turned tick labels reach below one line, and left of the panel, inches."""
        ticks, labels, turned = self._ticks(width)
        if not turned:
            return 0.0, 0.0
        low, high = self._limits()
        left = max(
            0.77 * text_width(label, 8.0) - (tick - low) / (high - low) * width
            for tick, label in zip(ticks, labels, strict=True)
        )
        return 0.65 * max(text_width(label, 8.0) for label in labels), max(left, 0.0)

    def _limits(self) -> tuple[float, float]:
        edges = self._edges()
        return edges[0][0], edges[-1][1]

    def _ticks(self, width: float) -> tuple[list[float], list[str], bool]:
        order = self.order()
        texts = [self._text(level) for level in order]
        places = [self.position(v) if self.numeric else float(i) for i, v in enumerate(order)]
        return _thinned(places, texts, self._limits(), width, self)

    def shade(self, ax: Axes, levels: Sequence[Any]) -> None:
        """Shade the levels where something is unstable."""
        for level, (left, right) in zip(self.order(), self._edges(), strict=True):
            if level in levels:
                ax.axvspan(left, right, color=SHADE, linewidth=0, zorder=0)


def _thinned(
    places: list[float], texts: list[str], limits: tuple[float, float], width: float, axis: XAxis
) -> tuple[list[float], list[str], bool]:
    """Return the ticks that fit beside each other; names are turned before any is left out."""
    scale = np.log if axis.log else np.asarray
    low, high = scale(np.array(limits))
    inches = (scale(np.array(places)) - low) / (high - low) * width
    widths = [text_width(text, 8.0) + 0.06 for text in texts]
    fits = all(
        inches[i + 1] - inches[i] >= (widths[i] + widths[i + 1]) / 2 for i in range(len(texts) - 1)
    )
    if fits or not axis.numeric:
        return places, texts, not fits
    kept = [0]
    last = len(texts) - 1
    for i in range(1, len(texts)):
        gap_to_last = i == last or inches[last] - inches[i] >= (widths[last] + widths[i]) / 2
        gap = inches[i] - inches[kept[-1]] >= (widths[i] + widths[kept[-1]]) / 2
        if gap and gap_to_last:
            kept.append(i)
    return [places[i] for i in kept], [texts[i] for i in kept], False


def styles_of(data: StudyData) -> list[SeriesStyle]:
    """Return the style of each series of the study."""
    ordered = data.compare is None and data.colour is not None and data.colour.numeric
    return series_styles(data.series(), ordered)


def series_legend(data: StudyData, *, markers: bool = True) -> list[LegendEntry]:
    """Return legend entries of the series; with `markers`, none where the x axis names them."""
    if data.colour is None or (data.colour is data.x and markers):
        return []
    entries = []
    if data.colour.name != "mode":
        entries.append(LegendEntry(None, axis_label(data.colour.name)))
    for level, style in zip(data.series(), styles_of(data), strict=True):
        handle = Line2D([], [], color=style.color, linestyle=style.linestyle,
                        marker=style.marker if markers else "")  # fmt: skip
        entries.append(LegendEntry(handle, level_text(data.colour.name, level)))
    return entries


def shade_legend(data: StudyData) -> list[LegendEntry]:
    """Return the legend entry of the ground under unstable points, if there are any."""
    some = any(point.unstable for point in data.points)
    return [LegendEntry(Patch(facecolor=SHADE), "has unstable points")] if some else []


def x_phrase(data: StudyData, level: Any) -> str:
    """Return a level of x with its name and unit, and what load a replay's speed makes."""
    if data.x is None:
        return ""
    phrase = level_phrase(data.x.name, level)
    rate = data.arrivals_per_s.get(level_key(level))
    return phrase if rate is None else f"{rate:.3g} requests/s ({phrase})"


def unstable_levels(data: StudyData, place: Place) -> list[Any]:
    """Return the levels of x where some series of a panel is unstable."""
    found = []
    for level in data.x_levels():
        points = (data.point(place, series, level) for series in data.series())
        if any(point is not None and point.unstable for point in points):
            found.append(level)
    return found


def place_title(place: Place) -> str:
    """Return the heading of a row of panels."""
    return ", ".join(level_phrase(name, level) for name, level in place.items())


def heading(
    data: StudyData,
    what: str,
    *,
    notes: Sequence[str] = (),
    extra: str = "",
    ttft: bool = True,
    intervals: bool = True,
) -> Heading:
    """Return a figure's heading: the study, what is shown, how it was measured, and warnings.

    `ttft` and `intervals` say whether the figure shows such.
    """
    parts = [what]
    if ttft:
        parts += dict.fromkeys(_definition(point) for point in data.points)
        if MONOLITHIC_ENDS_AT_PREFILL in parts and DEFINITIONS["first_decode_step"] in parts:
            parts.remove(DEFINITIONS["first_decode_step"])
    windows = {point.window_ends_s for point in data.points}
    if len(windows) == 1:
        start, end = windows.pop()
        parts.append(f"window {start:g}–{end:g} s".replace(" ", _FIXED_SPACE))
    else:
        lengths = sorted(end - start for start, end in windows)
        parts.append(f"windows of {lengths[0]:g}–{lengths[-1]:g} s".replace(" ", _FIXED_SPACE))
    replicates = sorted({int(p.value("replicates")) for p in data.points})
    count = "–".join(str(n) for n in dict.fromkeys((replicates[0], replicates[-1])))
    of_runs = f"{count} replicate{'' if replicates == [1] else 's'}".replace(" ", _FIXED_SPACE)
    if intervals:
        within = " from batches within the run" if replicates == [1] else ""
        of_runs += f", 95% confidence intervals{within}"
    parts.append(of_runs)
    if extra:
        parts.append(extra)
    warnings = data.warnings()
    factor = data.compare["factor"] if data.compare else ""
    shown = [
        f"UNEQUAL HARDWARE: {text} ({', '.join(level_text(factor, level) for level in levels)})"
        for text, levels in warnings[:3]
    ]
    if len(warnings) > 3:
        shown.append(f"UNEQUAL HARDWARE: and {len(warnings) - 3} more, see comparison.csv")
    return Heading(data.title, f"{_FIXED_SPACE}· ".join(parts), tuple(shown), tuple(notes))


def _definition(point: Point) -> str:
    definition, config = point.line["ttft_definition"], point.config
    at_prefill = (
        definition == "first_decode_step"
        and config["mode"] == "mono"
        and config["serving"] == "batching"
        and config["batching_mono"]["first_token"] == "prefill"
    )
    return MONOLITHIC_ENDS_AT_PREFILL if at_prefill else DEFINITIONS.get(definition, definition)


def finite(values: Sequence[float]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if math.isfinite(value)]
