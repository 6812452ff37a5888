"""Imports go down only, and a simulation job imports nothing slow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "simlib"
FILES = sorted(PACKAGE.rglob("*.py"))

# lower ranks may be imported by higher ones; packages of one rank know nothing of each other, save
# those of the top, of which study serves the others and knows none of them
RANKS = {
    "errors": 0,
    "files": 1,
    "compiling": 1,
    "workload": 2,
    "stats": 2,
    "latency": 2,
    "policies": 2,
    "core": 3,
    "serving": 4,
    "study": 5,
    "analysis": 5,
    "utils": 5,
    "cli": 5,
}
TOP = 5
ENGINES = ("core", "latency", "policies", "serving", "workload")
SLOW = ("pandas", "matplotlib", "scipy", "pyarrow")
NOT_IN_A_JOB = ("simpy", "yaml", *SLOW)


def layer_of(path: Path) -> str:
    """Return the layer of a file: the first name below simlib."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """Return (line, absolute module) of every import, deferred ones included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = [alias.name for alias in node.names] if module == "simlib" else [""]
            found += [(node.lineno, f"{module}.{name}".rstrip(".")) for name in names]
    return found


def allowed(importer: str, target: str) -> bool:
    if importer == target:
        return True
    if RANKS[importer] == RANKS[target] == TOP:
        return importer != "study"
    return RANKS[target] < RANKS[importer]


def test_there_are_files_to_check():
    assert len(FILES) > 20


def test_every_file_belongs_to_a_layer():
    layers = {layer_of(path) for path in FILES} - {"__init__"}
    assert layers <= set(RANKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    importer = layer_of(path)
    if importer == "__init__":
        assert imported(path) == []  # the package itself costs nothing to import
        return
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] != "simlib" or parts[1:2] in ([], ["__version__"]):
            continue
        assert allowed(importer, parts[1]), (
            f"{path.relative_to(REPO)}:{line}: {importer} must not import {module}"
        )


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if layer_of(path) in ENGINES],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_engines_import_nothing_slow(path):
    for line, module in imported(path):
        assert module.split(".")[0] not in SLOW, f"{path.relative_to(REPO)}:{line}: {module}"


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("errors", "core"),
        ("workload", "core"),
        ("workload", "stats"),
        ("core", "serving"),
        ("core", "study"),
        ("core", "cli"),
        ("study", "cli"),
        ("study", "analysis"),
    ],
)
def test_the_rule_itself_refuses_going_up(importer, target):
    assert not allowed(importer, target)


@pytest.mark.parametrize("module", ["simlib.study.jobs.simulate", "simlib.study.jobs.run_point"])
def test_a_simulation_job_imports_nothing_slow(module):
    code = f"import {module}, sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert {"simlib", "numpy"} <= loaded
    assert loaded.isdisjoint(NOT_IN_A_JOB), sorted(loaded & set(NOT_IN_A_JOB))
