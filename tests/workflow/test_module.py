"""Another workflow uses this one as a module, under a prefix and with a part of its own config."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import REPO, STUDY

pytestmark = pytest.mark.workflow

SNAKEFILE = """
configfile: "own.yaml"


module ttft:
    snakefile:
        "{repo}/workflow/Snakefile"
    config:
        config["ttft"]
    prefix:
        "serving"


use rule * from ttft as ttft_*


rule report:
    default_target: True
    input:
        "serving/results/studies/rates/tables/summary.csv",
        rules.ttft_all.input,
    output:
        "lines.txt",
    shell:
        "wc -l < {{input[0]}} > {{output}}"
"""


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments,
         "--cores", "2", "--nocolor", "--rerun-triggers", "mtime"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / ".cache")},
    )  # fmt: skip


def test_a_module_with_prefix_makes_its_studies_there_and_is_up_to_date_after(tmp_path):
    config = {"ttft": copy.deepcopy(STUDY), "others": {"may": "stand here"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(repo=REPO), encoding="utf-8")
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "lines.txt").read_text().strip() == "5"
    assert not (tmp_path / "results").exists()
    study = tmp_path / "serving/results/studies/rates"
    assert list((study / "figures").glob("ttft_vs_*.png"))
    again = snakemake(tmp_path)
    assert "Nothing to be done" in again.stdout + again.stderr
    (study / "tables/comparison.csv").unlink()  # its files are checked there, too
    mended = snakemake(tmp_path, "ttft_all")
    assert mended.returncode == 0, mended.stderr[-4000:]
    assert (study / "tables/comparison.csv").is_file()


@pytest.mark.parametrize("folder", ["figures", "tables"])
def test_a_studys_folder_is_a_target(finished, folder):
    target = f"results/studies/rates/{folder}"
    assert finished.run(target) == {}
    for path in (finished.folder / target).glob("*.*"):
        path.unlink()
    assert finished.run(target)[folder] == 1
    assert list((finished.folder / target).glob("*.*"))


def test_the_workflow_file_runs_by_itself(workspace):
    workspace.write()
    command = [str(REPO / "workflow" / "Snakefile") if part.endswith("Snakefile") else part
               for part in workspace.command("-n")]  # fmt: skip
    done = subprocess.run(
        command, cwd=workspace.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tables" in done.stdout + done.stderr
