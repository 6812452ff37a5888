"""Measurements kept beside results: used when nothing changed, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import read_records, write_records
from simlib.study.jobs.workflow import Plan
from simlib.study.measurement.classes import measure_classes
from simlib.study.measurement.measure import measure_point
from simlib.study.tables import kept, rows
from simlib.study.tables.kept import Kept, MeasuredPoint
from simlib.study.tables.write import write_tables

DEFAULTS: dict[str, Any] = {"sim_seconds": 80, "warmup_seconds": 5}
TIMED: dict[str, Any] = {
    "serving": "batching",
    "timeline": True,
    "latency": {"model": "llama-3.1-8b"},
    "request_classes": {"chat": {"ttft_slo_s": 0.2}, "free": {}},
}


class Folder:
    """A results folder of a study of modes and rates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = {
            "defaults": dict(DEFAULTS),
            "replicates": 2,
            "studies": {
                "one": {
                    "requests_table": False,
                    "sweep": {"grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2]}},
                    "compare": {"factor": "mode", "baseline": "mono", "metrics": ["mean_ttft_s"]},
                }
            },
        }

    def tables(self) -> dict[str, bytes]:
        """Simulate what is missing, write the tables, and return them."""
        plan = Plan.of(self.config, results=str(self.path / "results"), source=str(self.path))
        plan.write()
        for result in map(Path, plan.results_of("one")):
            if not result.exists():
                run_point(result.parent / "point.json", int(result.stem[1:]), result)
        study = self.path / "results/studies/one"
        write_tables(study / "study.json", self.path / "results", study / "tables")
        return {path.name: path.read_bytes() for path in (study / "tables").iterdir()}

    def kept(self) -> list[Path]:
        return sorted((self.path / "results").glob("points/*/measured-*.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[SimConfig]:
    """Return a list that grows by the configuration of each point that is measured."""
    seen: list[SimConfig] = []

    def counting(records: Any, config: SimConfig) -> Any:
        seen.append(config)
        return measure_point(records, config)

    monkeypatch.setattr(rows, "measure_point", counting)
    return seen


def fail(*_: Any) -> None:
    raise AssertionError("a result is read")


def test_a_second_time_nothing_is_measured_and_all_tables_are_the_same(
    folder: Folder, measured: list[SimConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder.tables()
    assert len(measured) == len(folder.kept()) == 4
    monkeypatch.setattr(rows, "read_replicate", fail)
    assert folder.tables() == first
    assert len(measured) == 4


@pytest.mark.parametrize("replicates", [1, 3])
@pytest.mark.parametrize("settings", [{}, TIMED, {"drain": False, "arrival": {"rate_per_s": 9}}])
def test_what_is_read_is_what_was_kept(
    tmp_path: Path, settings: dict[str, Any], replicates: int
) -> None:
    config = SimConfig.from_dict({**DEFAULTS, **settings})
    records = [simulate(config, replicate) for replicate in range(replicates)]
    point = measure_point(records, config)
    classes = measure_classes(records, config, point) if config.request_classes else ()
    whole = MeasuredPoint(point, classes)
    place = Kept(tmp_path / "measured.json", "key")
    place.write(whole)
    found = place.read(MeasuredPoint)
    assert found is not None
    # repr tells every bit, and types apart; equality would stumble over NaN
    assert repr(found) == repr(whole)


def test_an_edit_measures_only_what_is_new(folder: Folder, measured: list[SimConfig]) -> None:
    folder.tables()
    del measured[:]
    folder.config["studies"]["one"]["sweep"]["grid"]["arrival.rate_per_s"] = [1, 2.5]
    folder.tables()
    assert sorted((c.mode, c.arrival.rate_per_s) for c in measured) == [
        ("disagg", 2.5),
        ("mono", 2.5),
    ]


@pytest.mark.parametrize(
    "change",
    [{"warmup_seconds": 9}, {"ttft_definition": "prefill_end"}, {"request_classes": {"a": {}}}],
)
def test_another_window_or_definition_is_measured_anew_and_an_undone_one_is_not(
    folder: Folder, measured: list[SimConfig], change: dict[str, Any]
) -> None:
    first = folder.tables()
    folder.config["defaults"] = {**DEFAULTS, **change}
    assert folder.tables() != first
    assert len(measured) == 8
    folder.config["defaults"] = dict(DEFAULTS)
    assert folder.tables()["summary.csv"] == first["summary.csv"]
    assert len(measured) == 8


def test_another_registry_or_other_code_measures_anew(
    folder: Folder, measured: list[SimConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.tables()
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "ttft", replace(METRICS["ttft"], percentiles=(50, 75)))
        assert b"p75_ttft_s" in folder.tables()["summary.csv"]
    assert len(measured) == 8
    monkeypatch.setattr(kept, "_code", lambda: "another version")
    folder.tables()
    assert len(measured) == 12


def test_other_results_are_measured_anew(folder: Folder, measured: list[SimConfig]) -> None:
    first = folder.tables()
    result = folder.kept()[0].parent / "r1.npz"
    before = result.read_bytes()
    _, described = read_records(result)
    config = SimConfig.from_dict(described["config"])
    write_records(
        result,
        simulate(config, 7),
        point_id=described["point_id"],
        replicate=1,
        config=described["config"],
    )
    assert folder.tables()["summary.csv"] != first["summary.csv"]
    assert len(measured) == 5
    result.write_bytes(before)
    assert folder.tables() == first
    assert len(measured) == 6


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "key"])
def test_a_damaged_measurement_is_made_again(
    folder: Folder, measured: list[SimConfig], damage: str
) -> None:
    first = folder.tables()
    path = folder.kept()[0]
    whole = path.read_bytes()
    place = whole.index(b"mean_ttft_s") + 16
    path.write_bytes(
        {
            "flip": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"\xff\xfe no JSON",
            "key": b"0" + whole[1:] if whole[:1] != b"0" else b"1" + whole[1:],
        }[damage]
    )
    assert folder.tables() == first
    assert len(measured) == 5
    assert path.read_bytes() == whole
