"""Base of all configuration models: strict keys, and errors that name what is wrong and where."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from simlib.errors import InvalidParameterError


def _plain_number(value: Any) -> Any:
    """Turn a NumPy scalar into a Python one, and refuse a bool where a number is wanted."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _not_huge(value: int) -> int:
    """Refuse a count that sums of 64 bits could not hold."""
    if value > MAX_COUNT:
        raise ValueError(f"<= {MAX_COUNT}")
    return value


MAX_COUNT = 10**12
"""Largest whole number of a setting, seeds aside."""
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_plain_number)]
NonNegativeFloat = Annotated[
    float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_plain_number)
]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_plain_number)]
_Count = Annotated[int, BeforeValidator(_plain_number), AfterValidator(_not_huge)]
PositiveInt = Annotated[_Count, Field(ge=1)]
NonNegativeInt = Annotated[_Count, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**128), BeforeValidator(_plain_number)]
MAX_GPUS = 100_000
GpuCount = Annotated[int, Field(ge=1, le=MAX_GPUS), BeforeValidator(_plain_number)]
"""GPUs, or replicas, of a pool: each costs memory in a simulation."""


class ConfigModel(BaseModel):
    """A frozen part of a configuration.

    Raises
    ------
    InvalidParameterError
        On construction, for an unknown key (with the nearest valid one) or a value not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    def __init__(self, **data: Any) -> None:
        for name, value in data.items():
            _check_keys(name, value)
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise first_error(error, type(self)) from None

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Build from a mapping, as read from YAML or written by `to_dict`."""
        if not isinstance(data, dict):
            raise InvalidParameterError(cls.__name__, data, "a mapping of keys to values")
        for key in data:
            if not isinstance(key, str):
                raise InvalidParameterError(cls.__name__, key, "a mapping whose keys are words")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict that `from_dict` turns into an equal object."""
        return self.model_dump(mode="json")


def _check_keys(name: str, value: Any) -> None:
    """Refuse a mapping with keys that are no words (YAML reads `on:` as true, `5:` as a number)."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if not isinstance(key, str):
            raise InvalidParameterError(name, key, "a mapping whose keys are words")
        _check_keys(f"{name}.{key}", inner)


def first_error(error: ValidationError, model: type[BaseModel]) -> InvalidParameterError:
    """Return the first of pydantic's findings as one clear message."""
    details = error.errors(include_url=False)[0]
    location = [str(part) for part in details["loc"]]
    name = ".".join(location) or model.__name__
    kind, context = details["type"], details.get("ctx", {})
    inner = context.get("error")
    if isinstance(inner, InvalidParameterError):
        if location[-1:] == [inner.name]:  # a validator of that very field
            location.pop()
        full = ".".join([*location, inner.name])
        return InvalidParameterError(full, inner.got, inner.allowed, inner.where)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown_key(name, list(model.model_fields))
    return InvalidParameterError(name, details["input"], _allowed(kind, context, inner, details))


def unknown_key(name: str, known: list[str]) -> InvalidParameterError:
    """Return the error for a key that does not exist, with the nearest one that does."""
    key = name.rpartition(".")[2]
    begins = [other for other in known if key and other.startswith(key)]
    near = begins or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InvalidParameterError(name, key, f"a known key ({hint}known: {', '.join(known)})")


def _allowed(kind: str, context: dict[str, Any], inner: Any, details: Any) -> str:
    comparisons = {
        "greater_than": ("gt", ">"),
        "greater_than_equal": ("ge", ">="),
        "less_than": ("lt", "<"),
        "less_than_equal": ("le", "<="),
    }
    if kind in comparisons:
        key, sign = comparisons[kind]
        limit = context[key]
        return f"{sign} {limit}" if isinstance(limit, int) else f"{sign} {limit:g}"
    if kind in ("literal_error", "enum"):
        return "one of " + str(context["expected"]).replace(" or ", ", ").replace("'", "")
    if kind == "value_error":
        return str(inner)
    starts = {
        "int": "a whole number",
        "float": "a finite number",
        "finite": "a finite number",
        "bool": "true or false",
        "string": "a text",
        "missing": "given",
        "model": "a mapping of keys to values",
        "dict": "a mapping of keys to values",
        "list": "a list",
        "tuple": "a list",
    }
    return next((text for start, text in starts.items() if kind.startswith(start)), details["msg"])
