"""Imports go down only, and a simulation job imports nothing slow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "simlib"
FILES = sorted(PACKAGE.rglob("*.py"))

# packages import packages of lower rank, and no others; so do the folders of study
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
    "utils": 4,
    "study.plan": 5,
    "study.measurement": 6,
    "study.jobs": 7,
    "study.decide": 8,
    "study.tables": 9,
    "study.figures": 10,
    "cli": 11,
    "analysis": 12,
}
ENGINES = ("core", "latency", "policies", "serving", "workload")
SLOW = ("pandas", "matplotlib", "scipy", "pyarrow")
NOT_IN_A_JOB = ("simpy", "yaml", *SLOW)


def layer_of(path: Path) -> str:
    """Return the layer of a file: the first name below simlib, or the folder of study."""
    return layer(path.relative_to(PACKAGE).with_suffix("").parts)


def layer(names: Sequence[str]) -> str:
    """Return the layer of a module by the names below simlib."""
    in_study = names[0] == "study" and len(names) > 1 and names[1] != "__init__"
    return ".".join(names[:2]) if in_study else names[0]


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
    return importer == target or RANKS[target] < RANKS[importer]


def test_there_are_files_to_check():
    assert len(FILES) > 20


def test_every_file_belongs_to_a_layer():
    layers = {layer_of(path) for path in FILES} - {"__init__", "study"}
    assert layers == set(RANKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    importer = layer_of(path)
    if importer in ("__init__", "study"):
        assert imported(path) == []  # the package itself costs nothing to import
        return
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] != "simlib" or parts[1:2] in ([], ["__version__"]):
            continue
        assert allowed(importer, layer(parts[1:])), (
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
        ("core", "study.plan"),
        ("core", "cli"),
        ("study.plan", "study.measurement"),
        ("study.measurement", "study.jobs"),
        ("study.jobs", "study.tables"),
        ("study.tables", "study.figures"),
        ("study.figures", "cli"),
        ("cli", "analysis"),
    ],
)
def test_the_rule_itself_refuses_going_up(importer, target):
    assert not allowed(importer, target)


def loaded_by(module: str) -> set[str]:
    """Return the packages that importing a module imports."""
    code = f"import {module}, sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["simlib.study.jobs.simulate", "simlib.study.jobs.run_point"])
def test_a_simulation_job_imports_nothing_slow(module):
    loaded = loaded_by(module)
    assert {"simlib", "numpy"} <= loaded
    assert loaded.isdisjoint(NOT_IN_A_JOB), sorted(loaded & set(NOT_IN_A_JOB))


@pytest.mark.parametrize("module", ["simlib.study.tables.write", "simlib.study.decide.job"])
def test_a_job_that_measures_imports_nothing_slow(module):
    loaded = loaded_by(module)
    assert {"simlib", "numpy"} <= loaded
    assert loaded.isdisjoint(SLOW), sorted(loaded & set(SLOW))
