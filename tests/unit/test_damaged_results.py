"""A damaged result is refused, whatever bit of it is wrong; the doctor says what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simlib.cli.run import cli
from simlib.core.config import SimConfig
from simlib.errors import InvalidParameterError
from simlib.study.jobs import outputs
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.session import Plan
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import read_records, write_records
from simlib.study.jobs.verify import LEDGER, Verifier, take_inventory
from simlib.study.tables.write import write_tables

STUDY = {
    "defaults": {"sim_seconds": 20, "warmup_seconds": 2},
    "replicates": 2,
    "studies": {"rates": {"sweep": {"grid": {"mode": ["mono", "disagg"]}}}},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("result") / "r0.npz"
    config = SimConfig.from_dict({"sim_seconds": 20, "warmup_seconds": 2})
    write_records(path, simulate(config), point_id="a" * 16, replicate=0, config=config.to_dict())
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_refused_or_harmless(
    result: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(result.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    whole, meta = read_records(result)
    try:
        records, read_meta = read_records(damaged, point_id="a" * 16, replicate=0)
    except InvalidParameterError:
        return
    assert read_meta == meta
    for name, column in whole.columns().items():
        assert (records.columns()[name].tobytes()) == column.tobytes()


@given(kept=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(result: Path, kept: float) -> None:
    content = result.read_bytes()
    damaged = result.with_name("truncated.npz")
    damaged.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InvalidParameterError, match="intact result file"):
        read_records(damaged)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which every simulation has run, with tables; it has no figures to draw."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    plan = Plan.of(STUDY, str(tmp_path / "results"), str(tmp_path))
    plan.write()
    for path in map(Path, plan.results_of("rates")):
        run_point(path.parent / "point.json", int(path.stem[1:]), path)
    study = tmp_path / "results/studies/rates"
    write_tables(study / "study.json", plan.results, study / "tables")
    outputs.record(study / "figures", "figures", [])
    described = (study / "study.json").read_bytes()
    (study / ".tables-of").write_bytes(described)
    (study / ".figures-of").write_bytes(described + (study / "tables/summary.csv").read_bytes())
    return tmp_path


def doctor(folder: Path, *options: str, answer: str | None = None) -> tuple[int, str]:
    arguments = [str(folder / "config.yaml"), "--results", str(folder / "results"), *options]
    done = CliRunner().invoke(cli, ["doctor", *arguments], input=answer)
    return done.exit_code, done.stdout


def results(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/points/*/r*.npz"))


def test_doctor_finds_a_complete_folder_healthy(folder: Path) -> None:
    code, output = doctor(folder)
    assert code == 0
    assert output.split("\n")[:4] == ["complete: 7", "missing: 0", "corrupt: 0", "stale: 0"]


def test_doctor_tells_missing_from_corrupt(folder: Path) -> None:
    files = results(folder)
    files[0].unlink()
    files[1].write_bytes(b"")
    code, output = doctor(folder, "--json")
    found = json.loads(output)
    assert code == 1
    assert found["missing"] == [str(files[0])]
    assert list(found["corrupt"]) == [str(files[1])]
    assert found["stale"] == []
    assert not found["healthy"]


def test_doctor_prunes_only_what_no_study_wants(folder: Path) -> None:
    kept = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    zeros = "0" * 16
    stale = (
        f"points/{zeros}/r0.npz",
        f"logs/points/{zeros}/r0.log",
        "studies/gone/study.json",
        "points/.123.r0.npz",
        f"precision/{zeros}.json",
    )
    foreign = ("notes.txt", "studies/gone/figures/mine.png", f"points/{zeros}/mine.npz")
    for name in foreign:
        path = folder / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("keep", encoding="utf-8")
    kept |= {Path("results") / name for name in foreign}
    for name in (*stale, f"points/{results(folder)[0].parent.name}/r7.npz"):
        path = folder / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert len(json.loads(doctor(folder, "--json")[1])["stale"]) == 6
    code, _ = doctor(folder, "--prune", answer="n\n")
    assert code != 0
    assert (folder / "results" / stale[0]).exists()
    code, _ = doctor(folder, "--prune", "--yes")
    assert code == 0
    left = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert left - {Path(".snakemake/simlib.lock")} == kept
    assert [path.name for path in (folder / "results/points" / zeros).iterdir()] == ["mine.npz"]


def test_an_intact_file_is_read_once_and_again_when_it_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counting(path: Path, **of: object) -> object:
        read.append(path)
        return read_records(path, **of)  # type: ignore[arg-type]

    monkeypatch.setattr("simlib.study.jobs.verify.read_records", counting)
    plan = Plan.of(STUDY, str(folder / "results"), str(folder))
    for expected in (4, 0, 1):
        if expected == 1:
            results(folder)[2].touch()
        read.clear()
        verifier = Verifier(plan.results)
        take_inventory(plan.studies.values(), verifier)
        verifier.save()
        assert len(read) == expected
    (folder / "results" / LEDGER).write_text("{", encoding="utf-8")  # a damaged ledger is none
    read.clear()
    take_inventory(plan.studies.values(), Verifier(plan.results))
    assert len(read) == 4
