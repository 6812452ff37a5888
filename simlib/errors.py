"""The one exception that bad input raises."""

from __future__ import annotations

_MOST_SHOWN = 500
"""Characters of a value that a message quotes."""


class InvalidParameterError(ValueError, AssertionError):
    """A value that a caller, a configuration or a data file gave is not allowed.

    Parameters
    ----------
    name : str
        What was set, as the user writes it (``arrival.rate_per_s``).
    got : object
        The value received.
    allowed : str
        What is allowed, as the end of a sentence that starts with "must be" (``"> 0"``).
    where : str, optional
        Where it was read: file, study, line, column.

    Notes
    -----
    It is a ``ValueError`` for callers, and an ``AssertionError`` for those that validate with one.
    """

    def __init__(self, name: str, got: object, allowed: str, where: str = "") -> None:
        self.name = name
        self.got = got
        self.allowed = allowed
        self.where = where
        super().__init__(name, got, allowed, where)

    def __str__(self) -> str:
        message = f"{self.name} must be {self.allowed}, got {_shown(self.got)}"
        return f"{message} ({self.where})" if self.where else message

    def at(self, where: str) -> InvalidParameterError:
        """Return the same error with its place (or a wider place) named."""
        place = f"{where}, {self.where}" if self.where else where
        return InvalidParameterError(self.name, self.got, self.allowed, place)


def _shown(value: object) -> str:
    """Return a value as messages quote it: not longer than a few lines."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
