"""Compiling the engine: functions to machine code, kept on disk, and policies chosen by number.

With ``NUMBA_DISABLE_JIT=1`` nothing is compiled, and the same functions run as plain Python: slow,
but open to a debugger. No fastmath and no threads: the same input gives the same bits everywhere.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

import numba
from numba.core import caching

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: each process compiles
    fcntl = None  # type: ignore[assignment]

F = TypeVar("F", bound=Callable[..., Any])
_PACKAGE = Path(__file__).resolve().parent
_SOURCES = ("compiling.py", "serving", "policies", "latency", "core/recursion.py")
"""What compiled code is made of: a change of any file here makes kept code void."""
_PATIENCE_S = 600.0
"""Seconds to wait for another process that compiles, before compiling all the same."""


def compiled(function: F) -> F:
    """Compile a function that compiled functions call.

    A call copies each array's shape and strides: what runs at every event takes few arrays, or is
    `inlined`.
    """
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
    """Return a function of (number, arguments) that calls the function of that number.

    One kernel thus serves all policies of a dict, in its order. The switch is written out, since
    Numba compiles no list of different functions; it is part of each caller, the functions not.
    """
    chosen = {f"function_{number}": compiled(one) for number, one in enumerate(functions)}
    count = next(iter(chosen.values())).__code__.co_argcount
    given = ", ".join(f"given_{place}" for place in range(count))
    lines = [f"def choose(number, {given}):"]
    lines += [f"    if number == {n}: return {name}({given})" for n, name in enumerate(chosen)]
    lines[-1] = f"    return {list(chosen)[-1]}({given})"
    space: dict[str, Any] = dict(chosen)
    exec("\n".join(lines), space)
    choose: Callable[..., Any] = inlined(space["choose"])
    return choose


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


@contextmanager
def _no_blas() -> Iterator[None]:
    """Keep Numba from importing SciPy, which it does to see whether it has a BLAS.

    No function here multiplies matrices, and the import is a third of what loading code takes.
    """
    blas = "scipy.linalg.cython_blas"
    if blas in sys.modules:
        yield
        return
    sys.modules[blas] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[blas]


class _Turn:
    """The turn to compile: one process has it, others wait for what it leaves on disk.

    The system gives the turn back when a process ends, however it does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Wait until it is free; go on without it where files cannot be locked."""
        if fcntl is None:  # pragma: no cover
            return
        deadline = time.monotonic() + _PATIENCE_S
        try:
            self._file = self._path.open("w")
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    _say("another process is compiling; waiting for what it makes …")
                    time.sleep(0.1)
        except OSError:  # a file system without locks
            pass

    def give_back(self) -> None:
        """Let the next process look, and compile if there is still nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Place,)


class _Kept(caching.FunctionCache):  # type: ignore[misc]
    """Code on disk; says when there is none yet."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._turn = _Turn(Path(self.cache_path) / f"{function.__qualname__}.lock")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = self._kept(sig, target_context)
        if found is None:
            self._turn.take()
            found = self._kept(sig, target_context)  # what another process made meanwhile
            if found is None:
                _say("compiling, once per installation; the batching engine takes half a minute …")
            else:
                self._turn.give_back()
        return found

    def _kept(self, sig: Any, target_context: Any) -> Any:
        try:
            with _no_blas():
                return super().load_overload(sig, target_context)
        except Exception:  # a damaged file is as good as none
            self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _say(f"compiled code cannot be kept ({error.strerror}): the next process compiles anew")
        self._turn.give_back()


class _NotKept(caching.NullCache):  # type: ignore[misc]
    """No folder can be written: every process compiles."""

    def load_overload(self, _sig: Any, _target_context: Any) -> None:
        _say("compiling; no folder can be written to keep the result, set NUMBA_CACHE_DIR …")
