"""The one exception that bad input raises."""

from __future__ import annotations


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
        message = f"{self.name} must be {self.allowed}, got {self.got!r}"
        return f"{message} ({self.where})" if self.where else message

    def at(self, where: str) -> InvalidParameterError:
        """Return the same error with its place (or a wider place) named."""
        place = f"{where}, {self.where}" if self.where else where
        return InvalidParameterError(self.name, self.got, self.allowed, place)
