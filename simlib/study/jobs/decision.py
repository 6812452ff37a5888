"""The decision on how many replicates a point with a precision has: written with a checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field

from simlib.core.validation import ConfigModel, NonNegativeFloat, PositiveFloat, PositiveInt
from simlib.errors import InvalidParameterError
from simlib.files import canonical_json, read_json, write_json
from simlib.study.plan.spec import MAX_REPLICATES


class Decision(ConfigModel):
    """How many replicates made a point precise enough, or were allowed."""

    point_id: str = Field(pattern="^[0-9a-f]{16}$")
    replicates: PositiveInt = Field(le=MAX_REPLICATES)
    reached: bool
    metric: str
    wanted_relative: PositiveFloat
    relative_half_width: NonNegativeFloat | None
    """None where there is no interval."""
    reason: str


def write_decision(path: Path, decision: Decision) -> None:
    """Write a decision and its checksum."""
    content = decision.to_dict()
    write_json(path, {**content, "checksum": _checksum(content)})


def read_decision(path: Path) -> Decision:
    """Return the decision that a file holds.

    Raises
    ------
    InvalidParameterError
        If it is missing, or not what `write_decision` wrote.
    """
    content = read_json(path, "decision")
    checksum = content.pop("checksum", None)
    if checksum != _checksum(content):
        raise InvalidParameterError("checksum", checksum, "that of the content", str(path))
    try:
        return Decision.from_dict(content)
    except InvalidParameterError as error:
        raise error.at(str(path)) from None


def _checksum(content: dict[str, object]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
