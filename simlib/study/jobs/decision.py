"""The decisions on length and replicates of points with a precision: written with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from simlib.core.validation import ConfigModel, NonNegativeFloat, PositiveFloat, PositiveInt
from simlib.errors import InvalidParameterError
from simlib.files import canonical_json, read_json, write_json
from simlib.study.plan.spec import MAX_LENGTHENING, MAX_REPLICATES


class Decision(ConfigModel):
    """What made a point precise enough, or was allowed."""

    point_id: str = Field(pattern="^[0-9a-f]{16}$")
    """The point that a study asks for."""
    simulated: str = Field(pattern="^[0-9a-f]{16}$")
    """The point that it reads instead, whose runs are longer; or the same."""
    times: PositiveInt = Field(le=MAX_LENGTHENING)
    """So many times as long."""
    replicates: PositiveInt = Field(le=MAX_REPLICATES)
    reached: bool
    metric: str
    wanted_relative: PositiveFloat
    relative_half_width: NonNegativeFloat | None
    """None where there is no interval."""
    reason: str


def write_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    """Write the decisions of a job, in the order of its points, and their checksum."""
    content = {"points": [one.to_dict() for one in decisions]}
    write_json(path, {**content, "checksum": _checksum(content)})


def read_decisions(path: Path) -> list[Decision]:
    """Return the decisions that a file holds.

    Raises
    ------
    InvalidParameterError
        If it is missing, or not what `write_decisions` wrote.
    """
    content = read_json(path, "decisions")
    checksum = content.pop("checksum", None)
    if checksum != _checksum(content):
        raise InvalidParameterError("checksum", checksum, "that of the content", str(path))
    try:
        return [Decision.from_dict(one) for one in content["points"]]
    except InvalidParameterError as error:
        raise error.at(str(path)) from None


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
