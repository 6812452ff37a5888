"""Injected failures: the next run finishes, gives the same tables, and recomputes nothing valid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simlib.study.jobs.store import read_records, write_records
from tests.workflow.conftest import RESULTS, Workspace

pytestmark = pytest.mark.workflow

DAY_NS = 86_400 * 10**9
TABLES = "results/studies/rates/tables/summary.csv"
"""What most tests ask for: figures only take time."""
MADE = Counter({"tables": 1})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a study of which each simulation is a job."""
    workspace = Workspace(tmp_path)
    workspace.config["batch_seconds"] = 0
    return workspace


@pytest.fixture
def copy_of(finished: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy, times kept, of a finished study."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_snakemake(workspace: Workspace, finished: Workspace, kill: int) -> None:
    process = workspace.start(TABLES)
    workspace.wait_for(RESULTS, 2)
    workspace.kill(process, kill)
    time.sleep(1.0)  # jobs that run are not killed with it: let them end
    kept = workspace.stamps()
    assert 2 <= len(kept) < 8
    ran = workspace.run(TABLES)  # without --unlock
    assert ran == MADE + Counter(simulate=8 - len(kept))
    assert workspace.stamps().items() >= kept.items(), "nothing valid was made again"
    assert workspace.results() == finished.results()


def test_a_job_killed_while_it_writes(workspace: Workspace, finished: Workspace) -> None:
    workspace.write()
    token = workspace.folder / "kill-one"
    token.touch()
    # os.fsync comes when the file is written, and not yet renamed; the half of it is cut off.
    # Of two jobs that write at one time, one removes the token
    env = workspace.front(
        "import os, signal, sys\n"
        f"token = {str(token)!r}\n"
        "def fsync(fd, real=os.fsync):\n"
        "    name = os.readlink(f'/proc/self/fd/{fd}')\n"
        "    if name.endswith('.npz'):\n"
        "        try:\n"
        "            os.remove(token)\n"
        "        except FileNotFoundError:\n"
        "            return real(fd)\n"
        "        os.truncate(name, 1000)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(fd)\n"
        "os.fsync = fsync\n",
    )
    done = subprocess.run(
        workspace.command(TABLES), cwd=workspace.folder, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "FAILED simulate" in done.stderr
    kept = workspace.stamps()
    assert len(kept) == 7, "the others went on"
    assert workspace.run(TABLES) == MADE + Counter(simulate=1)
    assert workspace.stamps().items() >= kept.items()
    assert workspace.results() == finished.results()


@pytest.fixture
def small_disk(workspace: Workspace) -> Iterator[Path]:
    """Mount a file system with room for a few results."""
    folder = workspace.folder / "results" / "points"
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk(workspace: Workspace, finished: Workspace, small_disk: Path) -> None:
    done = workspace.snakemake(TABLES)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    kept = workspace.stamps()
    assert 0 < len(kept) < 8
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert workspace.run(TABLES) == MADE + Counter(simulate=8 - len(kept))
    assert workspace.stamps().items() >= kept.items()
    assert workspace.results() == finished.results()


def truncated(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def emptied(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def bit_flipped(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_model_version(path: Path, _: Path) -> None:
    from simlib.study.jobs import store

    records, meta = read_records(path)
    version = store.MODEL_VERSION
    store.MODEL_VERSION += 1
    try:
        write_records(
            path, records, point_id=meta["point_id"], replicate=meta["replicate"],
            config=meta["config"],
        )  # fmt: skip
    finally:
        store.MODEL_VERSION = version


def of_another_point(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGES = (truncated, emptied, bit_flipped, of_another_model_version, of_another_point)


def test_damaged_results_are_found_and_made_again(copy_of: Workspace, finished: Workspace) -> None:
    assert copy_of.run(TABLES) == Counter()  # all are noted as intact now
    files = copy_of.simulated()
    for damage, path in zip(DAMAGES, files, strict=False):
        damage(path, files[-1])
    done = copy_of.snakemake()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("removed a damaged result") == len(DAMAGES)
    assert f"ran {len(DAMAGES)} simulate, " in done.stderr
    assert copy_of.results() == finished.results()
    for path, intact in zip(files, finished.simulated(), strict=True):
        assert path.read_bytes() == intact.read_bytes()


def test_damage_that_keeps_size_and_time_never_reaches_a_table(
    copy_of: Workspace, finished: Workspace
) -> None:
    copy_of.run(TABLES)
    victim = copy_of.simulated()[2]
    before = victim.stat()
    bit_flipped(victim, victim)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    (copy_of.folder / "results/studies/rates/tables/summary.csv").unlink()
    refused = copy_of.snakemake(TABLES)
    assert refused.returncode != 0
    assert "intact result file" in refused.stderr
    assert not (copy_of.folder / "results/studies/rates/tables/summary.csv").exists()
    assert copy_of.run(TABLES) == MADE + Counter(simulate=1)
    assert copy_of.results() == finished.results()


def test_a_second_run_and_an_edit_do_not_disturb_a_run(
    workspace: Workspace, finished: Workspace
) -> None:
    first = workspace.start(TABLES)
    workspace.wait_for(RESULTS, 1)
    workspace.study["sweep"]["grid"]["arrival.rate_per_s"].append(3)
    second = workspace.snakemake(TABLES)  # by the edited configuration
    assert second.returncode != 0
    assert "is running the studies of this folder; wait until it ends" in second.stderr
    assert f"process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    assert "ran 8 simulate" in output
    assert workspace.results() == finished.results()
    assert workspace.run(TABLES) == MADE + Counter(simulate=4)  # and now what the edit adds


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study of rates 1, 2 and 3 that ran at once and in peace."""
    workspace = Workspace(tmp_path_factory.mktemp("undisturbed"))
    workspace.study["sweep"]["grid"]["arrival.rate_per_s"].append(3)
    workspace.run(TABLES)
    return workspace


@pytest.mark.parametrize("with_snakemakes_notes", [True, False])
def test_a_folder_copied_elsewhere_goes_on_there(
    finished: Workspace, undisturbed: Workspace, tmp_path: Path, *, with_snakemakes_notes: bool
) -> None:
    # times are not kept, and come in whatever order files are copied in
    for name in ["results", ".snakemake"] if with_snakemakes_notes else ["results"]:
        shutil.copytree(
            finished.folder / name, tmp_path / "there" / name, copy_function=shutil.copyfile
        )
    there = Workspace(tmp_path / "there")
    os.utime(there.folder / "results/studies/rates/study.json")  # copied last
    assert there.run() == Counter()
    there.study["sweep"]["grid"]["arrival.rate_per_s"].append(3)
    assert there.run() == MADE + Counter(figures=1) + Counter(simulate=4)
    assert there.results() == undisturbed.results()


def tomorrow(position: int) -> int:
    return time.time_ns() + DAY_NS + position * 10**9


def long_ago(position: int) -> int:
    return time.time_ns() - 1000 * DAY_NS + position * 10**9


def shuffled(position: int) -> int:
    return time.time_ns() + (-1) ** position * (position % 7) * DAY_NS


@pytest.mark.parametrize("clock", [tomorrow, long_ago, shuffled])
def test_clock_jumps(
    copy_of: Workspace, undisturbed: Workspace, clock: Callable[[int], int]
) -> None:
    for position, path in enumerate(sorted(copy_of.folder.glob("results/**/*"))):
        os.utime(path, ns=(clock(position), clock(position)))
    assert copy_of.run() == Counter()
    copy_of.study["sweep"]["grid"]["arrival.rate_per_s"].append(3)
    assert copy_of.run() == MADE + Counter(figures=1) + Counter(simulate=4), (
        "an edit is seen all the same"
    )
    assert copy_of.results() == undisturbed.results()
    assert copy_of.run() == Counter()
