"""Reading configurations that anybody may have written: plain values only, and not too many.

Whatever is in the file, reading it runs nothing, ends soon, and takes little memory. What YAML
offers beyond plain values (dates, binary, sets, objects, aliases that multiply) is refused, as are
keys that stand there twice, of which YAML and JSON silently keep the last.
"""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

from simlib.errors import InvalidParameterError
from simlib.files import read_text

MAX_BYTES = 300_000
"""Largest configuration file, bytes; 300 studies of a page each."""
MAX_VALUES = 100_000
"""Most values of a configuration, aliases counted each time."""
MAX_DEPTH = 20
"""Deepest nesting of a configuration."""
MAX_TEXT = 1000
"""Longest text of a configuration, characters."""
MAX_INTEGER = 2**128
"""Largest whole number of a configuration: seeds of 128 bits."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a file of YAML (or JSON, which is read as such) that holds a mapping.

    An empty file is an empty mapping.

    Raises
    ------
    InvalidParameterError
        If the file cannot be read, is no YAML, or holds a key twice or what `check_plain` refuses.
    """
    text = read_text(Path(path), "config", MAX_BYTES)
    data = parse_yaml(text, "config", str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InvalidParameterError("config", data, "a mapping of keys to values", str(path))
    return data


def parse_yaml(text: str, name: str, where: str) -> Any:
    """Return the plain values that a text of YAML or JSON describes; see `read_yaml`."""
    import yaml  # only readers of YAML pay for it: simulation jobs do not

    kind: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(text, kind, name, where)
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, where)
        data = _as_json(text) if text.lstrip()[:1] in ("{", "[") else None
        data = loader.construct_document(node) if data is None else data
    except InvalidParameterError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date
        detail = " ".join(str(error).split())
        if "nesting depth" in detail:  # newer parsers look far ahead, and have a limit of their own
            allowed = f"nested at most {MAX_DEPTH} deep"
            raise InvalidParameterError(name, "more levels", allowed, where) from None
        raise InvalidParameterError(name, where, f"valid YAML ({detail[:300]})") from None
    check_plain(data, name, where)
    return data


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # flow style of YAML


def _check_events(text: str, kind: Any, name: str, where: str) -> None:
    """Refuse nesting that is too deep before anything recurses into it."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=kind):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark: Any = event.start_mark
                place = f"{where}, line {mark.line + 1}"
                allowed = f"nested at most {MAX_DEPTH} deep"
                raise InvalidParameterError(name, f"{depth} levels", allowed, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(root: Any, where: str) -> None:
    """Refuse a key that stands twice, and aliases that make many values of few."""
    import yaml

    count = 0
    # a node, the keys that lead to it, and the nodes above it
    todo: list[tuple[Any, str, tuple[int, ...]]] = [(root, "", ())]
    while todo:
        node, name, above = todo.pop()
        count += 1
        if count > MAX_VALUES:
            allowed = f"of at most {MAX_VALUES} values, aliases counted each time"
            raise InvalidParameterError("config", "more", allowed, where)
        if id(node) in above:
            place = f"{where}, line {node.start_mark.line + 1}"
            raise InvalidParameterError(name, "itself", "no alias of what it stands in", place)
        inside = (*above, id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += [(item, name, inside) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[Any, int] = {}
            for key, value in node.value:
                called = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
                full = f"{name}.{called}".lstrip(".")[-200:]
                line = key.start_mark.line + 1
                if called in lines:
                    raise _twice(full, lines[called], line, where)
                if isinstance(key, yaml.ScalarNode):
                    lines[called] = line
                todo.append((value, full, inside))


def _twice(name: str, first: int, second: int, where: str) -> InvalidParameterError:
    got = f"lines {first} and {second}"
    return InvalidParameterError(name, got, "given once", where)


def check_plain(data: Any, name: str, where: str = "") -> None:
    """Refuse all but mappings with words as keys, lists, text, finite numbers, booleans and null.

    Raises
    ------
    InvalidParameterError
        Also for more than `MAX_VALUES` values, `MAX_DEPTH` levels, `MAX_TEXT` characters of a
        text, characters that control a terminal or cannot stand in XML, and the keys with which
        a configuration can ask the workflow's YAML reader to run code.
    """
    count = 0
    todo: list[tuple[Any, str, int]] = [(data, "", 0)]
    while todo:
        value, key, depth = todo.pop()
        count += 1
        if count > MAX_VALUES:
            raise InvalidParameterError(name, "more", f"of at most {MAX_VALUES} values", where)
        if depth > MAX_DEPTH:
            raise InvalidParameterError(
                key[:80] or name, f"{depth} levels", f"nested at most {MAX_DEPTH} deep", where
            )
        if isinstance(value, dict):
            for inner, item in value.items():
                if isinstance(inner, str):
                    _check_text(inner, f"a key of {key or name}", where)
                    if inner.startswith("__"):
                        allowed = "no key that begins with __ (templates are not run)"
                        raise InvalidParameterError(inner, "given", allowed, where)
                elif not isinstance(inner, (int, float, type(None))):
                    allowed = "a mapping whose keys are words"
                    raise InvalidParameterError(key or name, inner, allowed, where)
                todo.append((item, f"{key}.{inner}".lstrip("."), depth + 1))
        elif isinstance(value, list):
            todo += [(item, key, depth + 1) for item in value]
        else:
            _check_scalar(value, key or name, where)


def _check_scalar(value: Any, name: str, where: str) -> None:
    if isinstance(value, str):
        _check_text(value, name, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidParameterError(name, value, "a finite number", where)
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise InvalidParameterError(name, value, "a whole number up to 2**128", where)
    elif value is not None:
        allowed = f"a text, a number, true, false or null, not a {type(value).__name__} (quote it)"
        raise InvalidParameterError(name, value, allowed, where)


def _check_text(text: str, name: str, where: str) -> None:
    if len(text) > MAX_TEXT:
        allowed = f"of at most {MAX_TEXT} characters"
        raise InvalidParameterError(name, text, allowed, where)
    for character in text:
        # control characters, lone surrogates and unassigned ones; isprintable() is false for spaces
        if not character.isprintable() and unicodedata.category(character) in ("Cc", "Cs", "Cn"):
            raise InvalidParameterError(name, text, "text without control characters", where)
