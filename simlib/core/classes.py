"""Request classes: which share of the requests wants its first token how soon, and who goes first.

Which class a request belongs to is drawn from a stream of its own, so classes change neither
arrivals nor lengths: `simlib.core.sampling.sample_classes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field

from simlib.core.validation import ConfigModel, NonNegativeInt, PositiveFloat
from simlib.errors import InvalidParameterError
from simlib.policies.disciplines import DISCIPLINES

ALL_CLASSES = "all"
"""What tables call the requests of all classes together; no class has this name."""
SORTED_BY = {name: one.class_key for name, one in DISCIPLINES.items() if one.class_key is not None}
"""What each queue discipline that looks at classes sorts by."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}")
_TAKEN = (ALL_CLASSES, "kind", "mode")
"""Names with a meaning of their own: a section that says its mode or kind is whole."""


class RequestClass(ConfigModel):
    """Requests that share a TTFT SLO and a priority."""

    share: PositiveFloat = Field(default=1.0, le=1e9)
    """Share of the requests, relative to the other classes."""
    ttft_slo_s: PositiveFloat | None = None
    """Longest TTFT that the class is content with, seconds; none where it has no such wish."""
    priority: NonNegativeInt = 0
    """Who goes first with ``discipline: priority``: the smallest."""


def in_order(classes: Mapping[str, RequestClass]) -> dict[str, RequestClass]:
    """Return classes by name in the order of their names, in which they are drawn and shown.

    Raises
    ------
    InvalidParameterError
        For a name that cannot stand in a dotted key, or that has a meaning of its own.
    """
    for name in classes:
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise InvalidParameterError(
                "request_classes",
                name,
                "by names of letters, digits, - and _ (at most 50), other than "
                + ", ".join(_TAKEN),
            )
    return dict(sorted(classes.items()))


def check_sorted_by(classes: Mapping[str, RequestClass], discipline: str) -> None:
    """Refuse a queue discipline whose deadlines or priorities no class gives.

    Raises
    ------
    InvalidParameterError
        If ``edf`` or ``priority`` have no classes, or ``edf`` a class without an SLO.
    """
    key = SORTED_BY.get(discipline)
    if key is None:
        return
    if not classes:
        raise InvalidParameterError(
            "request_classes", {}, f"at least one class (discipline: {discipline})"
        )
    for name, one in classes.items():
        if getattr(one, key) is None:
            raise InvalidParameterError(
                f"request_classes.{name}.{key}", None, f"given (discipline: {discipline})"
            )
