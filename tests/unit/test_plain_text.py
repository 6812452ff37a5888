"""Text in figures is drawn as it is."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from simlib.study.figures.plain_text import plain, spell_out_powers
from simlib.study.figures.style import STYLE


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with rc_context(STYLE):
        yield


def drawn(figure: Figure) -> str:
    spell_out_powers(figure)
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(file, format="svg")
    return file.getvalue()


def test_a_dollar_is_a_dollar_everywhere() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, 2, 3], label="$\\frac$ a", marker=r"$\uparrow$")
    axes.set_xticks([0, 1, 2], ["$\\frac$", "$x_1$", "5 $"])
    axes.set_title("costs $\\frac$ and $y$")
    axes.annotate("$\\alpha{$", (0, 1))
    axes.legend()
    text = drawn(figure)
    for shown in ("$\\frac$", "$x_1$", "5 $", "costs $\\frac$ and $y$", "$\\alpha{$", "$\\frac$ a"):
        assert f"<!-- {shown} -->" in text, shown


@pytest.mark.parametrize("scale", ["log", "symlog"])
def test_logarithmic_axes_keep_their_labels(scale: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1e-3, 1e4], [1, 2])
    axes.set_xscale(scale)
    text = drawn(figure)
    assert "<!-- 10³ -->" in text
    assert "mathdefault" not in text


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (r"$\mathdefault{10^{-2}}$", "10⁻²"),
        (r"$\mathdefault{2\times10^{3}}$", "2 × 10³"),
        (r"$\mathdefault{-10^{0}}$", "-10⁰"),
        (r"$\mathdefault{0}$", "0"),
        ("a $ b", "a $ b"),
    ],
)
def test_labels_in_characters(label: str, shown: str) -> None:
    assert plain(label) == shown
