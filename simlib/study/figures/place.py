"""Finding what stands at a place of a study's grid, in time that does not grow with the study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar, overload

Place = dict[str, Any]
"""A level by factor."""
T = TypeVar("T")
Group = dict[tuple[str | None, ...], list[int]]
"""Positions of the items at each combination of levels."""


@lru_cache(maxsize=1 << 16, typed=True)  # typed: True is no 1
def level_key(value: Any) -> str | None:
    """Return one spelling for a level, be it from study.json or from a table; None if absent."""
    if value is None or (isinstance(value, str) and value == ""):
        return None
    try:
        # tables keep nine digits
        return str(value) if isinstance(value, bool) else f"{float(value):.9g}"
    except ValueError:
        return str(value)


class ByPlace(Sequence[T], Generic[T]):
    """Items in order, found by their levels; an item without a level of a factor fits any."""

    def __init__(self, items: Sequence[T], levels: Callable[[T], Mapping[str, Any]]) -> None:
        self._items = items
        self._levels = levels
        self._groups: dict[tuple[str, ...], dict[tuple[str, ...], Group]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._items[index]

    def at(self, place: Place, **equal: str) -> list[T]:
        """Return the items at `place` that also have the given levels, in order."""
        return [self._items[position] for position in self._positions({**place, **equal})]

    def only(self, places: Sequence[Place]) -> ByPlace[T]:
        """Return the items that stand at any of the places."""
        kept = sorted({position for place in places for position in self._positions(place)})
        return ByPlace([self._items[position] for position in kept], self._levels)

    def _positions(self, place: Place) -> list[int]:
        if "" in place.values():  # nowhere
            return []
        names = tuple(sorted(place))
        wanted = {name: level_key(place[name]) for name in names}
        if names not in self._groups:
            self._groups[names] = self._grouped(names)
        found: list[int] = []
        for known, group in self._groups[names].items():
            found += group.get(tuple(wanted[name] for name in known), ())
        return sorted(found)

    def _grouped(self, names: tuple[str, ...]) -> dict[tuple[str, ...], Group]:
        """Return the items' positions by levels, apart for items that have other factors."""
        groups: dict[tuple[str, ...], Group] = {}
        for position, item in enumerate(self._items):
            levels = self._levels(item)
            own = {name: level_key(levels.get(name)) for name in names}
            known = tuple(name for name in names if own[name] is not None)
            key = tuple(own[name] for name in known)
            groups.setdefault(known, {}).setdefault(key, []).append(position)
        return groups
