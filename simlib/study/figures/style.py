"""How figures look: colours that colour-blind readers tell apart, markers, words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib import colormaps
from matplotlib.colors import to_hex

STYLE: Any = {  # its keys are matplotlib's own literal type
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titley": 1.0,  # else each drawing measures every tick label to place titles above them
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a ``$`` in a title, name or label starts no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 1.5,
    "lines.markersize": 5.0,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "svg.hashsalt": "simlib",
    "svg.fonttype": "path",
    "path.simplify": True,
}
"""Matplotlib settings of all figures, applied within a context only."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, without the yellow that white paper swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
LineStyle = Literal["-", "--", "-.", ":"]
LINES: tuple[LineStyle, ...] = ("-", "--", "-.", ":")
GREY = "#8a8a8a"
SHADE = "#efefef"
WARNING = "#c00000"

PARTS = {
    "front_end_s": ("front end", "#a9c4b5"),
    "prefill_wait_s": ("prefill wait", "#4b3f72"),
    "prefill_s": ("prefill", "#b9b0d6"),
    "transfer_wait_s": ("transfer wait", "#4d4d4d"),
    "transfer_s": ("KV transfer", "#c2c2c2"),
    "decode_wait_s": ("decode wait", "#6b4423"),
    "first_decode_step_s": ("first decode step", "#dcc3a1"),
}
"""Name and colour of each part of TTFT: waits are dark, service is light, none is a series'."""
DEFINITIONS = {
    "first_decode_step": "TTFT: arrival to the end of the first decode step",
    "prefill_end": "TTFT: arrival to the end of prefill",
    "transfer_end": "TTFT: arrival to the end of the KV transfer",
}
MONOLITHIC_ENDS_AT_PREFILL = (
    "TTFT: arrival to the end of the first decode step; monolithic: to the end of prefill"
)
"""Of batching, where a monolithic deployment's prefill emits the first token."""
_NAMES = {
    "mode": ("architecture", ""),
    "arrival.rate_per_s": ("arrival rate", "requests/s"),
    "arrival.speed": ("replay speed", "×"),
    "num_gpus": ("GPUs", ""),
    "prefill_gpus": ("prefill GPUs", ""),
    "decode_gpus": ("decode GPUs", ""),
    "prefill_tokens_per_s": ("prefill rate", "tokens/s per GPU"),
    "decode_tokens_per_s": ("decode rate", "tokens/s per GPU"),
    "kv_base_latency_s": ("KV base latency", "s"),
    "kv_bytes_per_token": ("KV size", "bytes/token"),
    "kv_bandwidth_bytes_per_s": ("KV bandwidth", "bytes/s"),
    "sim_seconds": ("simulated time", "s"),
    "warmup_seconds": ("warm-up", "s"),
    "random_seed": ("seed", ""),
}
_UNITS = (
    ("_tokens_per_s", "tokens/s"),
    ("_bytes_per_s", "bytes/s"),
    ("_per_s", "1/s"),
    ("_tokens", "tokens"),
    ("_bytes", "bytes"),
    ("_seconds", "s"),
    ("_s", "s"),
)
_LEVELS = {"mono": "monolithic", "disagg": "disaggregated"}


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one line, or one side of a comparison, is drawn everywhere in a study."""

    color: str
    linestyle: LineStyle
    marker: str


def series_styles(levels: Sequence[Any], ordered: bool) -> list[SeriesStyle]:
    """Return a style for each level; `ordered` levels go from dark to light."""
    n = len(levels)
    if ordered and n > 2:
        scale = colormaps["viridis"]
        shades = [to_hex(scale(0.88 * i / (n - 1))) for i in range(n)]
        return [SeriesStyle(shades[i], "-", MARKERS[i % len(MARKERS)]) for i in range(n)]
    return [
        SeriesStyle(
            PALETTE[i % len(PALETTE)],
            LINES[i // len(PALETTE) % len(LINES)],
            MARKERS[i % len(MARKERS)],
        )
        for i in range(n)
    ]


def factor_words(name: str) -> tuple[str, str]:
    """Return what a swept key or zip is called, and its unit; the unit may be empty."""
    section, _, last = name.rpartition(".")
    if section.startswith("request_classes."):
        of = section.partition(".")[2]
        return (f"TTFT SLO of {of}", "s") if last == "ttft_slo_s" else (f"{last} of {of}", "")
    for known in (name, last):
        if known in _NAMES:
            return _NAMES[known]
    unit = ""
    for suffix, its_unit in _UNITS:
        if last.endswith(suffix) and last != suffix:
            last, unit = last.removesuffix(suffix), its_unit
            break
    words = last.replace("_", " ")
    if section in ("prompt_tokens", "output_tokens"):
        words = f"{section.removesuffix('_tokens')} length, {words}"
    return words, unit


def axis_label(name: str) -> str:
    """Return a factor's axis label with its unit."""
    words, unit = factor_words(name)
    return f"{words} ({unit})" if unit else words


def level_text(factor: str, level: Any) -> str:
    """Return how a level is written in ticks and legends."""
    if isinstance(level, bool) or not isinstance(level, int | float):
        return _LEVELS.get(str(level), str(level)) if factor == "mode" else str(level)
    if level != 0 and abs(level) >= 1e5 and math.isfinite(level) and factor != "random_seed":
        for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(level) >= size:
                return f"{level / size:.4g}{letter}"
    return f"{level:.6g}"


def shortened(text: str, most: int = 22) -> str:
    """Return a text of at most `most` characters, its middle left out if need be."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[head + 1 - most :]}"


def level_phrase(factor: str, level: Any) -> str:
    """Return a level with its factor's name and unit, for headings."""
    words, unit = factor_words(factor)
    return f"{words} {level_text(factor, level)} {unit}".strip()


def side_text(factor: str, level: Any) -> str:
    """Return what a side of a comparison is called in a sentence: a bare number says nothing."""
    is_name = isinstance(level, str)
    return level_text(factor, level) if is_name else level_phrase(factor, level)


def seconds_text(value_s: float) -> str:
    """Return a time for a label, three digits."""
    if value_s != 0 and abs(value_s) < 0.1:
        return f"{1e3 * value_s:.3g} ms"
    return f"{value_s:.3g} s" if abs(value_s) < 1000 else f"{value_s:.0f} s"
