"""What a run writes down for its jobs, read back: of the right form, or refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simlib.errors import InvalidParameterError
from simlib.files import read_json
from simlib.study.plan.spec import MAX_REPLICATES

POINT_ID = re.compile(r"[0-9a-f]{16}")
"""The name of a point, and of a precision request."""

_FORMS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "point": {"point_id": str, "config": dict, "files": dict},
    "request": {"points": list, "replicates": int, "precision": dict},
    "study": {
        "name": str, "title": str, "factors": list, "rows": list, "requests_table": bool,
        "compare": (dict, type(None)), "crossover": (dict, type(None)),
    },
    "row": {
        "coordinates": dict, "point_id": str, "replicates": int, "config": dict,
        "precision_id": (str, type(None)), "precision_place": int,
    },
    "factor": {"name": str, "keys": list, "levels": list},
}  # fmt: skip


def read_point(path: Path) -> dict[str, Any]:
    """Return the content of a point.json; its paths are as the study file has them."""
    return _of_form("point", read_json(path, "point"), str(path))


def read_request(path: Path) -> dict[str, Any]:
    """Return the content of a precision request."""
    request = _of_form("request", read_json(path, "request"), str(path))
    for point in request["points"]:
        _of_form("point", point, str(path))
    return request


def read_study(path: Path) -> dict[str, Any]:
    """Return the content of a study.json.

    Raises
    ------
    InvalidParameterError
        If the file is none that a run wrote.
    """
    study = _of_form("study", read_json(path, "study"), str(path))
    for row in study["rows"]:
        _of_form("row", row, str(path))
    for factor in study["factors"]:
        _of_form("factor", factor, str(path))
    return study


def located(described: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a point or request with the places of its files in this run."""
    config = dict(described["config"])
    for key, path in described["files"].items():
        section, _, name = key.partition(".")
        if isinstance(config.get(section), dict):
            config[section] = {**config[section], name: path}
    return config


def is_simulation(point_id: Any, replicate: Any) -> bool:
    """Return whether these can be a point and a replicate: then they name a file of ours."""
    return (
        isinstance(point_id, str)
        and POINT_ID.fullmatch(point_id) is not None
        and type(replicate) is int
        and 0 <= replicate < MAX_REPLICATES
    )


def _of_form(form: str, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidParameterError(form, data, "a mapping", where)
    for key, kind in _FORMS[form].items():
        value: Any = data.get(key)
        fits = key in data and isinstance(value, kind) and not (kind is int and value is True)
        if not fits:
            allowed = "there, and as a run of the workflow writes it (start one: it is made again)"
            raise InvalidParameterError(f"{form}.{key}", value, allowed, where)
        if key in ("point_id", "precision_id") and value and not POINT_ID.fullmatch(value):
            raise InvalidParameterError(f"{form}.{key}", value, "16 hexadecimal digits", where)
        if key == "replicates" and not 1 <= value <= MAX_REPLICATES:
            allowed = f"from 1 to {MAX_REPLICATES}"
            raise InvalidParameterError(f"{form}.{key}", value, allowed, where)
    return data
