"""A run plans jobs for what is missing; whoever asks about everything sees everything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow


@pytest.fixture
def copy_of(finished: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy, times kept, of a finished study."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


def planned(workspace: Workspace, *arguments: str) -> int:
    """Return how many simulations a dry run shows."""
    done = workspace.snakemake("-n", *arguments)
    assert done.returncode == 0, done.stderr
    jobs = re.findall(r"^simulate +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return int(jobs[0]) if jobs else 0


def named(workspace: Workspace, *arguments: str) -> int:
    """Return how many results the text that Snakemake writes about its graph names."""
    done = workspace.snakemake(*arguments)
    assert done.returncode == 0, done.stderr
    return len(set(re.findall(r"results/points/\w+/r\d+\.npz", done.stdout + done.stderr)))


def test_what_is_there_is_not_planned(copy_of):
    assert planned(copy_of) == 0
    copy_of.simulated()[0].unlink()
    assert planned(copy_of) == 1
    assert planned(copy_of, "simulations") == 1


def test_forcing_all_simulates_all_again(copy_of):
    assert planned(copy_of, "--forceall") == 8
    assert planned(copy_of, "--forcerun", "simulate") == 8


def test_a_summary_and_a_list_of_outputs_name_every_result(copy_of):
    assert named(copy_of, "--summary") == 8
    assert named(copy_of, "--delete-all-output", "-n") == 8


def test_a_rerun_trigger_that_compares_inputs_finds_them_as_they_were(copy_of):
    triggers = ("--rerun-triggers", "mtime", "input")
    copy_of.simulated()[0].unlink()
    assert copy_of.run(*triggers)["simulate"] == 1
    assert copy_of.run(*triggers) == {}


def test_a_result_by_its_name_is_a_target(copy_of):
    result = copy_of.simulated()[2]
    target = str(result.relative_to(copy_of.folder))
    assert copy_of.run(target) == {}
    result.unlink()
    assert copy_of.run(target) == {"simulate": 1}


def test_touching_reaches_every_result(copy_of):
    before = [path.stat().st_mtime_ns for path in copy_of.simulated()]
    done = copy_of.snakemake("--touch", "--forceall")
    assert done.returncode == 0, done.stderr
    assert all(
        path.stat().st_mtime_ns > then
        for path, then in zip(copy_of.simulated(), before, strict=True)
    )
