"""Names of factors and levels: columns and cells of tables, which must not collide."""

from __future__ import annotations

import re
from typing import Any

from simlib.core.records import COLUMN_NAMES
from simlib.errors import InvalidParameterError

MAX_NAME = 50
"""Longest name of a zip, characters: it becomes part of the names of figures."""
MAX_LABEL = 100
"""Longest level that is a text, characters."""

_COLUMNS = {
    "point_id", "gpus", "replicates", "replicate", "labels", "along", "pool", "part",
    "statistic", "metric", "method", "reason", "stability", "stability_reason",
    "throughput_rps", "throughput_rps_per_gpu", "goodput_rps", "arrived", "finished",
    "unfinished", "rejected", "preemptions", "slo_attainment", "ttft_definition",
    "lower_bounds", "precision", "window_s", "note", "notes", "suggested_warmup_s", "warmup_flag",
    "in_window", "factor", "baseline", "candidate", "difference", "ratio", "verdict", "fair",
    "unfair", "pairs", "pairing_gain", "faster_above", "faster_below", "request_class",
    "ttft_slo_s", "priority", "start_s", "end_s", "running", "waiting", "decode_batch",
    "kv_occupancy", "utilization", "crossover", "requests", "share", "ttft_s",
    "p_value", "p_adjusted", "p_equal", "family", "other_definitions",
    *COLUMN_NAMES,
}  # fmt: skip
_LIKE_A_COLUMN = re.compile(
    r"(mean|p\d+(\.\d+)?|rho|utilization|decode_batch|kv_occupancy|max_kv_occupancy|baseline|candidate"
    r"|difference|ratio|slo_attainment|crossover|goodput)_.*"
)
"""What measured columns begin with, those that may come included."""


def not_a_column(name: str) -> None:
    """Refuse a factor's name that a table needs for a column of its own.

    Raises
    ------
    InvalidParameterError
        Also for one that is empty or longer than `MAX_NAME`.
    """
    if not name.strip() or len(name) > MAX_NAME:
        allowed = f"a name of 1 to {MAX_NAME} characters"
        raise InvalidParameterError(f"zip.{name[:80]}", name, allowed)
    if name in _COLUMNS or _LIKE_A_COLUMN.fullmatch(name):
        allowed = "another name: tables have a column of this one"
        raise InvalidParameterError(f"zip.{name}", name, allowed)


def distinct(name: str, levels: list[Any]) -> None:
    """Refuse levels that tables and figures could not tell apart.

    Numbers are told apart by nine digits, as tables write them; a text that reads as a number is
    that number.

    Raises
    ------
    InvalidParameterError
        Naming the second of two that are alike, or a text longer than `MAX_LABEL`.
    """
    seen: set[str] = set()
    for level in levels:
        if isinstance(level, str) and len(level) > MAX_LABEL:
            raise InvalidParameterError(name, level, f"texts of at most {MAX_LABEL} characters")
        spelt = _spelt(level)
        if spelt in seen:
            raise InvalidParameterError(name, level, "a list without repeats (to nine digits)")
        seen.add(spelt)


def _spelt(level: Any) -> str:
    if level is None or isinstance(level, bool):
        return str(level)
    try:
        return f"{float(level):.9g}"
    except (ValueError, OverflowError):
        return str(level)
