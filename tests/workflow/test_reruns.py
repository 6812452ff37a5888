"""Exactly the changed points run again."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow

STAGES = {"tables": 1, "figures": 1}


@pytest.fixture
def copy_of(finished: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy, times kept, of a finished study."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


def jobs(**rules: int) -> Counter[str]:
    return Counter({**STAGES, **rules})


def test_first_run_simulates_each_point_and_replicate_once(workspace: Workspace) -> None:
    assert workspace.run() == jobs(simulate=8)
    assert workspace.run() == Counter()


def add_a_rate(w: Workspace) -> None:
    w.study["sweep"]["grid"]["arrival.rate_per_s"].append(3)


def change_a_rate(w: Workspace) -> None:
    w.study["sweep"]["grid"]["arrival.rate_per_s"][1] = 2.5


def add_a_replicate(w: Workspace) -> None:
    w.config["replicates"] = 3


def change_what_only_disagg_reads(w: Workspace) -> None:
    w.config["defaults"]["cluster_disagg"] = {"prefill_gpus": 3}


def change_what_only_mono_reads(w: Workspace) -> None:
    w.config["defaults"]["cluster_mono"] = {"num_gpus": 5}


def change_the_warm_up(w: Workspace) -> None:
    w.config["defaults"]["warmup_seconds"] = 10


def change_the_title(w: Workspace) -> None:
    w.study["title"] = "Another title"


def write_the_same_in_other_words(w: Workspace) -> None:
    w.config["defaults"] = {
        "warmup_seconds": 5.0,
        "sim_seconds": "6e1",
        "cluster_mono": {"num_gpus": 4},
    }


def add_a_study_of_known_points(w: Workspace) -> None:
    w.config["studies"]["again"] = {"sweep": {"grid": {"arrival.rate_per_s": [1, 2]}}}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (add_a_rate, jobs(simulate=4)),
        (change_a_rate, jobs(simulate=4)),
        (add_a_replicate, jobs(simulate=4)),
        (change_what_only_disagg_reads, jobs(simulate=4)),
        (change_what_only_mono_reads, jobs(simulate=4)),
        (change_the_warm_up, jobs()),
        (change_the_title, jobs()),
        (write_the_same_in_other_words, Counter()),
        (add_a_study_of_known_points, jobs()),
    ],
)
def test_an_edit_runs_what_it_changes(
    copy_of: Workspace, edit: Callable[[Workspace], None], expected: Counter[str]
) -> None:
    edit(copy_of)
    assert copy_of.run() == expected
    assert copy_of.run() == Counter()


def test_an_undone_edit_simulates_nothing_and_gives_the_same_tables(copy_of: Workspace) -> None:
    before = copy_of.results()
    change_a_rate(copy_of)
    copy_of.write()
    copy_of.config["studies"]["rates"]["sweep"]["grid"]["arrival.rate_per_s"][1] = 2
    assert copy_of.run() == Counter()  # undone before it ran: nothing
    change_a_rate(copy_of)
    copy_of.run()
    copy_of.config["studies"]["rates"]["sweep"]["grid"]["arrival.rate_per_s"][1] = 2
    assert copy_of.run() == jobs()  # undone after it ran: tables and figures, no simulation
    assert copy_of.results() == before


def test_another_model_version_runs_everything(copy_of: Workspace) -> None:
    # a package in front of the installed one, with the version raised
    fake = copy_of.folder / "front"
    fake.mkdir()
    (fake / "sitecustomize.py").write_text(
        "import simlib.core.model_version as m\nm.MODEL_VERSION += 1\n", encoding="utf-8"
    )
    os.environ["PYTHONPATH"] = str(fake)
    try:
        assert copy_of.run() == jobs(simulate=8)
    finally:
        del os.environ["PYTHONPATH"]


def test_touched_files_of_the_point_rerun_nothing(copy_of: Workspace) -> None:
    for point in copy_of.folder.glob("results/points/*/point.json"):
        point.touch()
    assert copy_of.run() == Counter()


def test_a_deleted_result_is_made_again(copy_of: Workspace) -> None:
    before = copy_of.results()
    copy_of.simulated()[3].unlink()
    assert copy_of.run() == jobs(simulate=1)
    assert copy_of.results() == before


def test_results_do_not_depend_on_the_number_of_cores(
    finished: Workspace, workspace: Workspace
) -> None:
    workspace.run("--cores", "1")
    assert workspace.results() == finished.results()
    for one, other in zip(workspace.simulated(), finished.simulated(), strict=True):
        assert one.read_bytes() == other.read_bytes()
