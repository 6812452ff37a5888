"""Locks, times and progress of a run."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simlib.study.jobs.lock import FolderInUseError, hold, keep_finished
from simlib.study.jobs.progress import Progress, duration, show
from simlib.study.jobs.up_to_date import settle

HOLD = (
    "import sys; from pathlib import Path; "
    "from simlib.study.jobs.lock import hold; hold(Path('.')); "
)


def holder(folder: Path, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD + then], cwd=folder, text=True,
        stdout=subprocess.PIPE, stdin=subprocess.PIPE,
    )  # fmt: skip


def test_a_folder_is_held_by_one_process_which_is_named(tmp_path: Path) -> None:
    with holder(tmp_path, "print('held', flush=True); sys.stdin.read()") as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(FolderInUseError, match=f"process {other.pid} on "):
            hold(tmp_path)
        other.communicate()
    hold(tmp_path)


@pytest.mark.parametrize(("end", "left"), [("os.kill(os.getpid(), 9)", False), ("pass", True)])
def test_only_a_kill_on_this_machine_unlocks_what_snakemake_locked(
    tmp_path: Path, end: str, *, left: bool
) -> None:
    lock = tmp_path / ".snakemake/locks/0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    holder(tmp_path, f"import os; {end}").communicate()
    hold(tmp_path)
    assert lock.exists() == left


def test_a_kill_on_another_machine_unlocks_nothing(tmp_path: Path) -> None:
    lock = tmp_path / ".snakemake/locks/0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    note = json.dumps(f"process 1 on not-{platform.node()}x")
    (tmp_path / ".snakemake/simlib.lock").write_text(note, encoding="utf-8")
    hold(tmp_path)
    assert lock.exists()


def test_only_intact_results_are_unmarked(tmp_path: Path) -> None:
    import base64

    marks = tmp_path / ".snakemake/incomplete"
    marks.mkdir(parents=True)
    names = ["results/points/a/r0.npz", "results/points/a/r1.npz"]
    files = [marks / base64.urlsafe_b64encode(name.encode()).decode() for name in names]
    for file in files:
        file.touch()
    keep_finished(tmp_path, [Path(names[0])])
    assert [file.exists() for file in files] == [False, True]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "tables").mkdir()
    (tmp_path / "study.json").write_text("study", encoding="utf-8")
    for name in ("summary.csv", "provenance.json"):
        (tmp_path / "tables" / name).write_text(name, encoding="utf-8")
    (tmp_path / ".tables-of").write_text("study", encoding="utf-8")
    return tmp_path


def order(study: Path) -> int:
    """Return the sign of: time of the study minus time of its tables."""
    difference = (
        (study / "study.json").stat().st_mtime_ns
        - (study / "tables/summary.csv").stat().st_mtime_ns
    )  # fmt: skip
    return (difference > 0) - (difference < 0)


@pytest.mark.parametrize("shift_s", [-1000, -1, 0, 1, 1000])
def test_tables_of_this_study_are_never_older_than_it(study: Path, shift_s: int) -> None:
    now = time.time()
    os.utime(study / "study.json", (now + shift_s, now + shift_s))
    settle(study)
    assert order(study) <= 0


@pytest.mark.parametrize("shift_s", [-1000, -1, 0, 1, 1000])
def test_tables_of_another_study_are_made_again(study: Path, shift_s: int) -> None:
    (study / "study.json").write_text("edited", encoding="utf-8")
    now = time.time() - 2000
    for name in ("summary.csv", "provenance.json"):
        os.utime(study / "tables" / name, (now, now))
    os.utime(study / "study.json", (now + shift_s, now + shift_s))
    settle(study, dryrun=True)
    assert order(study) > 0
    assert (study / "tables/summary.csv").exists()
    settle(study)
    assert not (study / "tables/summary.csv").exists(), "Snakemake misses an output"


@pytest.mark.parametrize("altered", ["tables", "figures"])
def test_what_was_altered_is_made_again_alone(study: Path, altered: str) -> None:
    drawn = study / ".figures-of"
    drawn.write_text("studysummary.csv", encoding="utf-8")
    settle(study)
    assert drawn.exists()
    settle(study, altered={altered})
    assert drawn.exists() == (altered == "tables")
    assert (study / "tables/summary.csv").exists() == (altered == "figures")


def test_no_time_stays_ahead_of_the_clock(study: Path) -> None:
    future = time.time() + 5000
    os.utime(study / "tables/summary.csv", (future, future))
    settle(study)
    assert (study / "tables/summary.csv").stat().st_mtime <= time.time()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def follow(stream: io.StringIO, jobs: int, clock: Iterator[float]) -> Progress:
    progress = Progress(stream=stream, clock=lambda: next(clock))
    tell(progress, {"event": "run_info", "stats": {"simulate": 10, "all": 1, "total": 11}})
    for job in range(jobs):
        tell(
            progress,
            {"event": "job_info", "jobid": job, "rule_name": "simulate"},
            {"event": "job_finished", "job_id": job},
        )
    return progress


def tell(progress: Progress, *events: dict[str, object]) -> None:
    for event in events:
        progress.emit(logging.makeLogRecord(event))


def seconds(step: float) -> Iterator[float]:
    now = 0.0
    while True:
        now += step
        yield now


def test_a_terminal_sees_one_line_rewritten_with_rate_and_time_left() -> None:
    stream = Terminal()
    progress = follow(stream, 5, seconds(1.0))
    assert stream.getvalue().startswith("to do: 10 simulate\n")
    assert stream.getvalue().count("\r") == 5
    assert stream.getvalue().count("\n") == 1
    assert "5/10 done" in progress.line()
    assert "/s, " in progress.line()
    progress.summarise()
    assert stream.getvalue().rstrip().split("ran ")[-1].startswith("5 simulate;")


def test_the_time_left_is_told_once_enough_is_done_to_tell() -> None:
    progress = follow(io.StringIO(), 0, seconds(1.0))
    progress.total = 200
    shown = []
    for done in (1, 3, 4, 200):
        progress.done = done
        shown.append(progress.line().rsplit(", ", 1)[1])
    assert shown[:2] == ["too early to tell"] * 2
    assert shown[2].endswith(" left")
    assert shown[3] == "0 s left"


def test_without_a_terminal_it_is_quiet_but_for_a_line_a_minute() -> None:
    stream = io.StringIO()
    follow(stream, 10, seconds(0.01)).summarise()
    assert stream.getvalue().splitlines()[0] == "to do: 10 simulate"
    assert stream.getvalue().splitlines()[1].startswith("ran 10 simulate;")
    assert stream.getvalue().count("\n") == 2
    slow = io.StringIO()
    follow(slow, 10, seconds(61.0)).summarise()
    assert slow.getvalue().count(" done, ") == 10


def test_a_failure_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "r0.log"
    log.write_text("error: no space\n", encoding="utf-8")
    stream = io.StringIO()
    progress = Progress(stream=stream)
    tell(
        progress,
        {"event": "job_error", "rule_name": "simulate", "output": ["r0.npz"], "log": [str(log)]},
    )
    progress.summarise()
    assert "FAILED simulate: r0.npz" in stream.getvalue()
    assert "error: no space" in stream.getvalue()
    assert "failed: 1 simulate" in stream.getvalue()


def test_the_simulations_of_a_batch_count_one_by_one() -> None:
    stream = io.StringIO()
    progress = Progress({"simulate_ab": 40, "simulate_cd": 7}, stream)
    tell(
        progress,
        {"event": "run_info", "stats": {"simulate": 3, "simulate_ab": 1, "simulate_cd": 1}},
        {"event": "job_info", "jobid": 1, "rule_name": "simulate_ab"},
        {"event": "job_finished", "job_id": 1},
        {"event": "job_error", "rule_name": "simulate_cd", "output": ["r0.npz"] * 7, "log": []},
    )
    assert "40/50 done" in progress.line()
    progress.summarise()
    said = stream.getvalue().splitlines()
    assert said[0] == "to do: 50 simulate; 5 jobs simulate"
    assert said[1] == "FAILED batch: 7 simulations in one job; log: none"
    assert said[2].startswith("ran 40 simulate; failed: 1 batch;")


def test_snakemakes_lines_on_every_job_are_hidden_and_its_warnings_are_not() -> None:
    logger = logging.Logger("test")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.name = "DefaultStreamHandler"
    logger.addHandler(handler)
    show(logger, {})
    logger.info("Execute 3 jobs...")
    logger.info("Finished jobid: 3", extra={"event": "job_finished", "job_id": 3})
    logger.warning("a warning")
    assert stream.getvalue() == "a warning\n"


@pytest.mark.parametrize(
    ("given_s", "words"), [(45.2, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_words(given_s: float, words: str) -> None:
    assert duration(given_s) == words
