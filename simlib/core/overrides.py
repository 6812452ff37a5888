"""The one rule by which settings override others: study file, sweep, command line, scenario."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simlib.errors import InvalidParameterError
from simlib.workload.arrivals import ARRIVALS
from simlib.workload.length_kinds import LENGTHS

_LENGTHS = {
    name: tuple(key for key in kind.keys if key != "mean") for name, kind in LENGTHS.items()
} | {"real_mean_std": ("min_value",), "p50_p90": ("min_value",)}
_KEPT: dict[str, tuple[str, str, dict[str, tuple[str, ...]]]] = {
    "arrival": (
        "kind",
        "poisson",
        {name: kind.keys for name, kind in ARRIVALS.items()},
    ),
    "prompt_tokens": ("mode", "log", _LENGTHS),
    "output_tokens": ("mode", "log", _LENGTHS),
}
"""Sections that come in several kinds: the key that chooses, its default, and what stays when
another kind is chosen. A mean does not: it is of logarithms in one mode, of tokens in another."""


def overridden(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` changed by a tree or by dotted keys, or both; neither is touched.

    A section (a mapping) changes the keys that it names. One that says its ``mode`` or ``kind`` is
    whole: it replaces the section it overrides. A dotted key changes itself; where it chooses
    another mode or kind, what that does not read is dropped first.

    Raises
    ------
    InvalidParameterError
        For a dotted key below something that is no section.
    """
    merged: dict[str, Any] = plain_copy(settings)
    for key, value in overrides.items():
        _choose(merged, str(key), value)
    for key, value in overrides.items():
        whole = isinstance(value, Mapping) and ("mode" in value or "kind" in value)
        if isinstance(value, Mapping) and not whole and isinstance(merged.get(key), dict):
            merged[key] = overridden(merged[key], value)
        else:
            _set(merged, str(key), plain_copy(value))
    return merged


def plain_copy(value: Any) -> Any:
    """Return a deep copy without shared parts: YAML aliases must not be changed together."""
    if isinstance(value, Mapping):
        return {key: plain_copy(item) for key, item in value.items()}
    return [plain_copy(item) for item in value] if isinstance(value, list) else value


def _choose(settings: dict[str, Any], dotted: str, chosen: Any) -> None:
    section, _, name = dotted.partition(".")
    choice, default, kept = _KEPT.get(section, ("", "", {}))
    present = settings.get(section)
    if name != choice or not name or not isinstance(present, dict) or not isinstance(chosen, str):
        return
    if present.get(choice, default) != chosen:
        settings[section] = {k: v for k, v in present.items() if k in kept.get(chosen, ())}


def _set(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        section = settings.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InvalidParameterError(dotted, value, f"a key of a section, and {parent} is none")
        settings = section
    settings[last] = value
