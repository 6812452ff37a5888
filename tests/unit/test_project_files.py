"""Files that must say the same thing do."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import yaml
from snakemake.utils import validate

from simlib import __version__
from simlib.study.plan.schema import study_file_schema

REPO = Path(__file__).resolve().parents[2]


def normal(requirement: str) -> str:
    return re.sub(r"\s", "", requirement).lower()


def test_conda_environment_has_the_requirements_of_the_package() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    conda = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    wanted = {normal(r) for r in project["dependencies"]} | {f"python{project['requires-python']}"}
    found = {normal(r) for r in conda if isinstance(r, str) and r != "pip"}
    assert found == wanted
    jobs = yaml.safe_load((REPO / "workflow/envs/simlib.yaml").read_text(encoding="utf-8"))
    assert {normal(requirement) for requirement in jobs["dependencies"]} == wanted


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert __version__ == project["version"] == citation["version"]


def test_the_schema_file_is_what_simlib_generates() -> None:
    path = REPO / "workflow/schemas/config.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == study_file_schema(), "run: make schema"


def test_the_shipped_studies_fit_the_schema() -> None:
    config = yaml.safe_load((REPO / "config.yaml").read_text(encoding="utf-8"))
    validate(config, str(REPO / "workflow/schemas/config.schema.json"), set_default=False)


def test_shipped_studies_compare_equal_numbers_of_gpus() -> None:
    from simlib.study.plan.grid import resolve
    from simlib.study.tables.pairs import unfairness

    config = yaml.safe_load((REPO / "config.yaml").read_text(encoding="utf-8"))
    for study in resolve(config, source=REPO):
        if study.cases:
            for case in study.cases:
                assert len({str(one.hardware) for one in case.deployments}) == 1, study.name
            continue
        gpus = {row.config.cluster.total_gpus for row in study.rows}
        assert len(gpus) == 1, study.name
        first = study.rows[0].config
        assert unfairness(first, first) == []
