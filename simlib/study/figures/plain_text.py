"""Labels of logarithmic axes in plain characters: text of figures is drawn as it is.

Matplotlib reads what stands between two ``$`` as TeX, and fails on what is none; figures have that
switched off. But it writes its own labels of logarithmic axes so.
"""

from __future__ import annotations

import re
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import Formatter

_OWN = re.compile(r"\$\\mathdefault\{(.*)\}\$")
_POWER = re.compile(r"10\^\{(-?\d+)\}")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def spell_out_powers(figure: Figure) -> None:
    """Have the labels of all axes without TeX, those of ticks that are still to come included."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_Plain(axis.get_major_formatter()))
            axis.set_minor_formatter(_Plain(axis.get_minor_formatter()))


def plain(label: str) -> str:
    """Return a tick's label, a formula of Matplotlib's own in characters."""
    own = _OWN.fullmatch(label)
    if own is None:
        return label
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
