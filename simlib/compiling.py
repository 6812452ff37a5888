"""Compiling the engine: functions to machine code, kept on disk, and policies chosen by number.

With ``NUMBA_DISABLE_JIT=1`` nothing is compiled, and the same functions run as plain Python: slow,
but open to a debugger. No fastmath and no threads: the same input gives the same bits everywhere.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import caching

F = TypeVar("F", bound=Callable[..., Any])
_PACKAGE = Path(__file__).resolve().parent
_SOURCES = ("serving", "policies", "latency", "core/recursion.py")
"""What compiled code is made of: a change of any file here makes kept code void."""


def compiled(function: F) -> F:
    """Compile a function that compiled functions call."""
    return numba.njit(function, error_model="numpy", _nrt=False)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile a function into each of its callers: for the few that run at every event."""
    return numba.njit(function, error_model="numpy", _nrt=False, inline="always")  # type: ignore[no-any-return]


def entry_point(function: F) -> F:
    """Compile a function that Python calls, and keep the code on disk for the next process."""
    dispatcher = numba.njit(function, error_model="numpy", _nrt=False)
    if not numba.config.DISABLE_JIT:
        folder = _kept_in()
        if folder is None:
            dispatcher._cache = _NotKept()
        else:
            dispatcher._cache = _Kept(function)
    return dispatcher  # type: ignore[no-any-return]


def choice(functions: Iterable[Callable[..., Any]]) -> Callable[..., Any]:
    """Return a compiled function of (number, arguments) that calls the function of that number.

    One kernel thus serves all policies of a dict, in its order.
    """
    first, *others = functions
    chosen = compiled(first)
    if not others:
        return compiled(lambda _number, *given: chosen(*given))
    rest = choice(others)

    def call(number: int, *given: Any) -> Any:
        if number == 0:
            return chosen(*given)
        return rest(number - 1, *given)

    return compiled(call)


def callable_from_compiled(functions: Iterable[Callable[..., Any]]) -> None:
    """Let compiled functions call plain ones by their names."""
    for function in functions:
        numba.extending.register_jitable(function)


# ---------------------------------------------------------------- kept on disk


@cache
def _stamp() -> str:
    """Return a hash of all sources that compiled code is made of."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        path = _PACKAGE / source
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _kept_in() -> Path | None:
    """Return the first folder that can be written: asked for, beside the source, the user's."""
    asked = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    candidates = [asked] if asked else [_PACKAGE / "serving" / "__pycache__", Path(home) / "simlib"]
    for folder in map(Path, candidates):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


@cache
def _say(text: str) -> None:
    """Write a line to stderr, once in a process."""
    print(f"simlib: {text}", file=sys.stderr, flush=True)


class _Place(caching._CacheLocator):  # type: ignore[misc]
    """Where code is kept, and what it was made of."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(_kept_in())

    def get_source_stamp(self) -> str:
        return _stamp()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], _py_file: str) -> _Place:
        return cls(py_func)


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Place,)


class _Kept(caching.FunctionCache):  # type: ignore[misc]
    """Code on disk; says when there is none yet."""

    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # a damaged file is as good as none
            found = None
            self.flush()
        if found is None:
            _say("compiling, once per installation; the batching engine takes half a minute …")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _say(f"compiled code cannot be kept ({error.strerror}): the next process compiles anew")


class _NotKept(caching.NullCache):  # type: ignore[misc]
    """No folder can be written: every process compiles."""

    def load_overload(self, _sig: Any, _target_context: Any) -> None:
        _say("compiling; no folder can be written to keep the result, set NUMBA_CACHE_DIR …")
