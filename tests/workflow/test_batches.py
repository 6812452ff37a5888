"""Cheap simulations share a job, and lose nothing by it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.workflow

TABLES = "results/studies/rates/tables/summary.csv"
MADE = Counter({"tables": 1})
STAGED = "results/points/*/r*.staged"
WHEN_WRITTEN = (
    "import os, signal, sys, time\n"
    "written = []\n"
    "def fsync(fd, real=os.fsync):\n"
    "    real(fd)\n"
    "    name = os.readlink(f'/proc/self/fd/{{fd}}')\n"
    "    if name.endswith('.staged'):\n"
    "        written.append(name)\n"
    "        if len(written) == {count}:\n"
    "            {then}\n"
    "os.fsync = fsync\n"
)
"""Does something when a job has written so many results, and not yet given the last its name."""


@pytest.fixture
def copy_of(finished: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy, times kept, of a finished study."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


def batch_logs(workspace: Workspace) -> list[Path]:
    return sorted((workspace.folder / "results/logs/batches").glob("*.log"))


def test_cheap_simulations_share_a_job_and_give_the_same_results(
    finished: Workspace, workspace: Workspace
) -> None:
    assert len(batch_logs(finished)) == 1
    workspace.config["batch_seconds"] = 0
    assert workspace.run(TABLES) == MADE + Counter(simulate=8)
    assert not batch_logs(workspace)
    for alone, shared in zip(workspace.simulated(), finished.simulated(), strict=True):
        assert alone.name == shared.name
        assert alone.read_bytes() == shared.read_bytes()
    assert workspace.results() == finished.results()


def test_only_what_is_missing_is_in_a_batch(copy_of: Workspace) -> None:
    kept = copy_of.stamps()
    copy_of.study["sweep"]["grid"]["arrival.rate_per_s"].append(3)
    assert copy_of.run(TABLES) == MADE + Counter(simulate=4)
    assert len(batch_logs(copy_of)) == 2
    assert copy_of.stamps().items() >= kept.items()
    copy_of.config["batch_seconds"] = 0
    assert copy_of.run(TABLES) == Counter(), "how jobs were cut changes no result"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_batch_killed_with_its_run_keeps_what_it_finished(
    workspace: Workspace, finished: Workspace, kill: int
) -> None:
    env = workspace.front(WHEN_WRITTEN.format(count=4, then="time.sleep(300)"))
    process = workspace.start(TABLES, env=env)
    workspace.wait_for(STAGED, 3)
    os.killpg(process.pid, kill)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not workspace.simulated()
    staged = {path.stat().st_ino for path in workspace.folder.glob(STAGED)}
    assert len(staged) == 3
    assert workspace.run(TABLES) == MADE + Counter(simulate=5)
    assert set(workspace.stamps().values()) >= staged, "nothing valid was made again"
    assert not list(workspace.folder.glob(STAGED))
    assert workspace.results() == finished.results()


def test_a_batch_killed_while_it_writes_goes_on_when_tried_again(
    workspace: Workspace, finished: Workspace
) -> None:
    token = workspace.folder / "once"
    token.touch()
    then = (
        f"os.path.exists({str(token)!r}) and"
        f" (os.remove({str(token)!r}), os.kill(os.getpid(), signal.SIGKILL))"
    )
    env = workspace.front(WHEN_WRITTEN.format(count=4, then=then))
    process = workspace.start(TABLES, "--retries", "1", env=env)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "FAILED batch: 8 simulations in one job" in output
    assert not token.exists()
    assert workspace.results() == finished.results()


def test_one_simulation_that_fails_does_not_take_the_others_along(
    workspace: Workspace, finished: Workspace
) -> None:
    workspace.write()
    env = workspace.front(WHEN_WRITTEN.format(count=4, then="raise OSError('injected')"))
    process = workspace.start(TABLES, env=env)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "OSError('injected')" in output
    assert len(list(workspace.folder.glob(STAGED))) == 7
    assert workspace.run(TABLES) == MADE + Counter(simulate=1)
    assert workspace.results() == finished.results()


def test_a_damaged_staged_result_is_made_again(workspace: Workspace, finished: Workspace) -> None:
    env = workspace.front(WHEN_WRITTEN.format(count=4, then="raise OSError('injected')"))
    workspace.start(TABLES, env=env).communicate(timeout=120)
    victim = sorted(workspace.folder.glob(STAGED))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert workspace.run(TABLES) == MADE + Counter(simulate=2)
    assert workspace.results() == finished.results()
