"""Text of a study is drawn as text: a ``$`` in a title, name or label starts no formula.

Matplotlib reads what stands between two ``$`` as TeX, and fails on what is none. It does so with
its own labels of logarithmic axes as well, which are therefore spelt in plain characters.
"""

from __future__ import annotations

import re
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter

_OWN = re.compile(r"\$\\mathdefault\{(.*)\}\$")
_POWER = re.compile(r"10\^\{(-?\d+)\}")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw_text_as_it_is(figure: Figure) -> None:
    """Have no text of a figure read as TeX, those of ticks that are still to come included."""
    ticks: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_Plain(axis.get_major_formatter()))
            axis.set_minor_formatter(_Plain(axis.get_minor_formatter()))
            for tick in (*axis.majorTicks, *axis.minorTicks):
                ticks |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks:
            text.set_parse_math(False)


def plain(label: str) -> str:
    """Return a tick's label so that Matplotlib draws it as text.

    Its own formulas become characters; in any other text, each ``$`` is escaped.
    """
    own = _OWN.fullmatch(label)
    if own is None:
        return label.replace("$", r"\$")
    text = own.group(1).replace(r"\times", " × ")
    return _POWER.sub(lambda power: "10" + power.group(1).translate(_RAISED), text)


class _Plain(Formatter):
    """Another formatter, whose labels are text."""

    def __init__(self, inner: Formatter) -> None:
        self._inner = inner

    def __call__(self, x: float, pos: int | None = None) -> str:
        return plain(self._inner(x, pos))

    def format_ticks(self, values: list[float]) -> list[str]:
        return [plain(label) for label in self._inner.format_ticks(values)]

    def get_offset(self) -> str:
        return plain(self._inner.get_offset())

    def set_axis(self, axis: Any) -> None:
        self._inner.set_axis(axis)

    def set_locs(self, locs: Any) -> None:
        self._inner.set_locs(locs)
