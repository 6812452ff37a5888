"""Whatever happened to results/: at most one more run, and all is as if nothing had."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from simlib.errors import InvalidParameterError
from simlib.study.plan.names import not_a_column
from tests.fuzz.configurations import METACHARACTERS, as_text
from tests.fuzz.judge import assert_clear
from tests.workflow.conftest import RESULTS, Workspace

pytestmark = pytest.mark.workflow

KINDS = {
    "result": "points/*/r1.npz",
    "point": "points/*/point.json",
    "study": "studies/rates/study.json",
    "summary": "studies/rates/tables/summary.csv",
    "another table": "studies/rates/tables/comparison.csv",
    "requests": "studies/rates/tables/requests.parquet",
    "provenance": "studies/rates/tables/provenance.json",
    "manifest of tables": "studies/rates/tables/.tables.manifest.json",
    "figure": "studies/rates/figures/ttft_ecdf.png",
    "manifest of figures": "studies/rates/figures/.figures.manifest.json",
    "mark of tables": "studies/rates/.tables-of",
    "mark of figures": "studies/rates/.figures-of",
    "decision": "precision/????????????????.json",
    "request of precision": "precision/*.request.json",
    "batches": ".batches.json",
    "snapshot": ".config.json",
    "ledger": ".verified.json",
    "log": "logs/tables/rates.log",
    "measurement": "points/*/measured-*.json",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two studies that have run; one asks for a precision, and they share a point."""
    workspace = Workspace(tmp_path_factory.mktemp("whole"))
    workspace.study["sweep"]["grid"]["arrival.rate_per_s"] = [2]
    workspace.study["requests_table"] = True
    workspace.config["studies"]["precise"] = {
        "overrides": {"mode": "mono"},
        "precision": {"metric": "mean_ttft_s", "relative": 0.9, "max_replicates": 3},
    }
    workspace.run()
    workspace.run()
    return workspace


def copy_of(whole: Workspace, folder: Path) -> Workspace:
    shutil.copytree(whole.folder, folder, symlinks=True)
    workspace = Workspace(folder)
    workspace.config = whole.config
    return workspace


def outputs(workspace: Workspace) -> dict[str, bytes]:
    """Return the bytes of all that a study is run for; what is kept to save time is not."""
    results = workspace.folder / "results"
    names = ("points", "studies", "precision")
    found = [path for name in names for path in (results / name).rglob("*")]
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(found)
        if path.is_file() and ".aside" not in str(path) and not path.match("measured-*")
    }


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes() or b"x")
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" * 100)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


def another_mapping(path: Path) -> None:
    path.write_text('{"replicates": 1000000000, "files": 3}', encoding="utf-8")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "of the user").write_text("keep", encoding="utf-8")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = (removed, emptied, cut, flipped, no_text, nested, another_mapping, a_folder, a_pipe)


ROUNDS = int(os.environ.get("SIMLIB_DAMAGE_ROUNDS", "3"))
"""9 does all damages to all kinds of files; each round does another one to each kind."""


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_every_kind_of_file_is_found_damaged_and_made_again(
    whole: Workspace, tmp_path: Path, turn: int
) -> None:
    """All kinds at once: each in a run of its own would take minutes, and find the same."""
    expected = outputs(whole)
    workspace = copy_of(whole, tmp_path / "copy")
    valid = workspace.stamps()
    folders = 0
    for number, (name, pattern) in enumerate(KINDS.items()):
        victim = sorted((workspace.folder / "results").glob(pattern))[0]
        assert victim.is_file(), name
        valid.pop(victim, None)
        damage = DAMAGES[(3 * turn + turn // 3 + number) % len(DAMAGES)]
        damage(victim)
        folders += damage is a_folder
    done = workspace.snakemake()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "Traceback" not in said
    assert outputs(workspace) == expected
    assert workspace.stamps().items() >= valid.items(), "nothing valid was simulated again"
    assert workspace.run() == {}
    kept = [path for path in workspace.folder.rglob("of the user") if path.read_text() == "keep"]
    assert len(kept) == folders, "a folder of others is moved aside, and not deleted"


@pytest.mark.parametrize("kind", ["result", "decision", "another table", "figure"])
def test_one_damaged_file_makes_again_what_depends_on_it_only(
    whole: Workspace, tmp_path: Path, kind: str
) -> None:
    expected = outputs(whole)
    workspace = copy_of(whole, tmp_path / "copy")
    flipped(sorted((workspace.folder / "results").glob(KINDS[kind]))[0])
    ran = workspace.run()
    assert ran["simulate"] == (1 if kind == "result" else 0)
    if kind == "figure":
        assert ran == {"figures": 1}
    assert outputs(workspace) == expected


def test_the_doctor_covers_tables_and_figures(whole: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(whole, tmp_path / "copy")
    command = [sys.executable, "-m", "simlib.cli.run", "doctor", "--json"]
    for kind, condition in (("figure", "corrupt"), ("another table", "missing")):
        victim = next((workspace.folder / "results").glob(KINDS[kind]))
        (flipped if condition == "corrupt" else removed)(victim)
        done = subprocess.run(
            command, cwd=workspace.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        relative = str(victim.relative_to(workspace.folder))
        assert relative in json.loads(done.stdout)[condition]


def test_a_point_that_two_studies_share_is_simulated_once(whole: Workspace) -> None:
    log = next((whole.folder / "results/logs/precision").glob("*.log"))
    decision = json.loads(
        next(p for p in whole.folder.glob("results/precision/*.json") if "req" not in p.name)
        .read_text()
    )  # fmt: skip
    assert log.is_file()
    batches = list((whole.folder / "results/logs/batches").glob("*.log"))
    assert len(batches) == 1
    point = whole.folder / "results/points" / decision["points"][0]["point_id"]
    made_by_batch = (point / "r0.npz").stat().st_mtime_ns
    assert made_by_batch < log.stat().st_mtime_ns, "its job only read them"


def test_what_killed_writers_left_is_swept_and_what_is_written_is_not(
    whole: Workspace, tmp_path: Path
) -> None:
    workspace = copy_of(whole, tmp_path / "copy")
    point = workspace.simulated()[0].parent
    for folder in (point, workspace.folder / "results/studies/rates/tables"):
        (folder / ".123.r0.npz").write_bytes(b"half")
    with (point / ".124.r1.npz").open("wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert workspace.run() == {}
        assert [p.name for p in point.glob(".*")] == [".124.r1.npz"]
    assert workspace.run() == {}
    assert not list(workspace.folder.glob("results/**/.12?.*"))


def test_a_linked_folder_keeps_the_users_files(whole: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(whole, tmp_path / "copy")
    for name in ("tables", "figures"):
        mine = tmp_path / f"my {name}"
        folder = workspace.folder / "results/studies/rates" / name
        folder.rename(mine)
        folder.symlink_to(mine)
        for file in ("diary.csv", "photo.png", "own.parquet"):
            (mine / file).write_text("keep", encoding="utf-8")
    workspace.study["title"] = "Another"
    assert workspace.run()["figures"] == 1
    for name in ("tables", "figures"):
        for file in ("diary.csv", "photo.png", "own.parquet"):
            assert (tmp_path / f"my {name}" / file).read_text() == "keep"


@pytest.fixture
def mined(tmp_path: Path) -> Iterator[Workspace]:
    """A folder in which a module of any name raises, and no command of a configuration ran."""
    workspace = Workspace(tmp_path)
    for name in ("numpy", "json", "simlib", "click", "pandas", "zipfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    yield workspace
    assert not list(tmp_path.rglob("PWNED*"))


def test_jobs_import_nothing_from_the_folder_they_work_in(mined: Workspace) -> None:
    mined.write()
    command = [str(Path(sys.executable).with_name("snakemake")), *mined.command()[3:]]
    done = subprocess.run(command, cwd=mined.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(mined.folder.glob(RESULTS))) == 8


def test_no_text_reaches_a_shell(workspace: Workspace) -> None:
    """The texts that a shell would run, in every setting that takes any text, with real jobs."""
    hostile = [text for text in METACHARACTERS if "PWNED" in text and text.isprintable()]
    workspace.config["defaults"] |= {
        "serving": "batching",
        "latency": {"kind": "aiconfigurator", "model": hostile[0]},
        "batching_mono": {"pool": {"gpu": hostile[1]}},
        "batching_disagg": {"prefill": {"gpu": hostile[2]}, "decode": {"gpu": hostile[3]}},
    }
    workspace.study["title"] = " ".join(hostile)
    workspace.study["sweep"] = {
        "grid": {"mode": ["mono", "disagg"], "latency.model": hostile},
        "zip": {hostile[1]: {"labels": hostile[:2], "random_seed": [1, 2]}},
    }
    done = workspace.snakemake()
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "latency_table" in said, "the jobs have run, and refused"
    assert "Traceback" not in said
    assert not list(workspace.folder.rglob("PWNED*"))


def test_text_in_figures_is_drawn_as_text(workspace: Workspace) -> None:
    workspace.config["replicates"] = 1
    workspace.study["title"] = 'costs $\\frac$, $x_1$ & <b> "it\'s"'
    workspace.study["sweep"] = {
        "grid": {"mode": ["mono", "disagg"]},
        "zip": {"$\\alpha{ of x": {"labels": ["$\\frac$", "<&>"], "sim_seconds": [60, 61]}},
    }
    assert workspace.run()["figures"] == 1


def test_yte_and_double_keys_are_refused_before_snakemake_reads_them(workspace: Workspace) -> None:
    workspace.write()
    path = workspace.folder / "config.yaml"
    sound = path.read_text(encoding="utf-8")
    for text, message in (
        ("__use_yte__: true\n__definitions__:\n- open('PWNED', 'w')\n" + sound, "__use_yte__ must"),
        (sound + "\nreplicates: 3\n", "replicates must be given once, got 'lines "),
    ):
        path.write_text(text, encoding="utf-8")
        done = subprocess.run(
            workspace.command("-n"), cwd=workspace.folder, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert message in done.stderr
        assert not (workspace.folder / "PWNED").exists()
        assert not (workspace.folder / "results").exists()


@pytest.mark.parametrize("number", range(4))
def test_snakemake_ends_hostile_configurations_in_one_message(tmp_path: Path, number: int) -> None:
    workspace = Workspace(tmp_path)
    content = as_text(random.Random(f"snakemake/{number}"))
    (tmp_path / "config.yaml").write_bytes(content)
    done = subprocess.run(
        workspace.command("-n"), cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "error: " in done.stderr
        assert_clear(done.stderr)


def test_every_column_of_a_table_is_known_as_one(tmp_path: Path) -> None:
    """A zip of that name would overwrite it, or be overwritten."""
    workspace = Workspace(tmp_path)
    workspace.config["defaults"] |= {
        "serving": "batching",
        "timeline": True,
        "request_classes": {"fast": {"ttft_slo_s": 1.0}, "slow": {}},
    }
    workspace.study["sweep"]["grid"] = {
        "mode": ["mono", "disagg"],
        "arrival.rate_per_s": [1, 2],
        "batching_disagg.prefill.replicas": [1, 2],
    }
    workspace.study["crossover"] = {
        "x": "arrival.rate_per_s",
        "y": "batching_disagg.prefill.replicas",
    }
    workspace.run("results/studies/rates/tables/summary.csv")
    factors = set(workspace.study["sweep"]["grid"])
    tables = sorted((tmp_path / "results/studies/rates/tables").glob("*.*"))
    assert len(tables) >= 7
    for table in tables:
        columns: list[str] = []
        if table.suffix == ".csv":
            columns = list(pd.read_csv(table, nrows=1).columns)
        elif table.suffix == ".parquet":
            columns = list(pd.read_parquet(table).columns)
        for column in set(columns) - factors:
            with pytest.raises(InvalidParameterError, match="tables have a column of this one"):
                not_a_column(column)
