"""Configurations and traces from strangers end in one clear message, or are accepted and run."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from simlib.core.config import load_config
from simlib.core.reading import MAX_BYTES, MAX_VALUES, read_yaml
from simlib.errors import InvalidParameterError
from simlib.files import make_way
from simlib.study.jobs import outputs
from simlib.study.jobs.batches import BATCHES, read_batches
from simlib.study.jobs.decision import Decision, read_decisions, write_decisions
from simlib.study.jobs.described import read_point, read_request, read_study
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.store import read_records
from simlib.study.jobs.workflow import Plan
from simlib.study.plan.grid import resolve
from simlib.workload.lengths import read_lengths
from simlib.workload.traces import load_trace
from tests.fuzz.configurations import METACHARACTERS, as_text, changed, places, text_settings
from tests.fuzz.judge import assert_clear, judge_configuration, judge_trace
from tests.fuzz.traces import trace_bytes

CASES = 240
GROUPS = 8


@pytest.mark.parametrize("group", range(GROUPS))
def test_any_configuration_is_refused_in_one_message_or_runs(group: int, tmp_path: Path) -> None:
    for number in range(group, CASES, GROUPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        judge_configuration(as_text(random.Random(f"ci/{number}")), folder)


def test_any_trace_is_refused_in_one_message_or_read(tmp_path: Path) -> None:
    found = set()
    for number in range(150):
        name, content = trace_bytes(random.Random(f"ci/{number}"))
        found.add(judge_trace(content, tmp_path, name))
    assert found == {"refused", "ran"}


SETTINGS = text_settings()


def test_the_text_settings_come_from_the_schema() -> None:
    names = {name for name, _ in SETTINGS}
    assert {"defaults.latency.model", "defaults.arrival.path", "studies.s.title"} <= names
    assert {"studies.s.compare.baseline", "studies.s.sweep.zip.any.any.0"} <= names


@pytest.mark.parametrize(("name", "place"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_no_text_of_the_configuration_names_a_file_of_the_run(
    tmp_path: Path, name: str, place: tuple[object, ...]
) -> None:
    accepted = 0
    for text in METACHARACTERS:
        data: dict[str, object] = {
            "defaults": {
                "sim_seconds": 30,
                "warmup_seconds": 3,
                "serving": "batching",
                "latency": {"kind": "aiconfigurator", "model": "org/name"},
            },
            "studies": {"s": {"sweep": {"grid": {"mode": ["mono", "disagg"]}}}},
        }
        data = _with(data, place, text)
        try:
            plan = Plan.of(data, "results", str(tmp_path))
        except InvalidParameterError as error:
            assert_clear(str(error))
            continue
        accepted += 1
        allowed = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-./")
        for path in map("/".join, plan.own_files()):
            assert set(path) <= allowed, path
            assert ".." not in path
        points = {row.point_id for study in plan.studies.values() for row in study.rows}
        for path in plan.latency_tables(*points):
            assert set(path) <= allowed, path
    if name.endswith((".model", ".gpu", ".title")):
        assert accepted > 5, "the texts reach the plan at all"


def _with(data: dict[str, object], place: tuple[object, ...], text: str) -> dict[str, object]:
    """Set a text where the schema says that one may stand."""
    part: object = data
    for key, following in zip(place, (*place[1:], None), strict=True):
        if following is None:
            if isinstance(part, list):
                part.append(text)
            else:
                part[key] = text  # type: ignore[index]
        elif isinstance(part, dict):
            part = part.setdefault(key, [] if following == 0 else {})
    if place[:3] == ("studies", "s", "compare"):
        data["studies"]["s"]["compare"].setdefault("factor", "mode")  # type: ignore[index]
    return data


@pytest.mark.parametrize("text", METACHARACTERS)
def test_no_key_of_the_configuration_names_a_file_of_the_run(tmp_path: Path, text: str) -> None:
    data = {
        "defaults": {"request_classes": {"a": {}}},
        "studies": {"s": {"sweep": {"zip": {"z": {"labels": ["x"], "sim_seconds": [90]}}}}},
    }
    for place in [p for p in places(data) if p]:
        tree = changed(data, place[:-1], {text: None})
        try:
            plan = Plan.of(tree, "results", str(tmp_path))
        except InvalidParameterError as error:
            assert_clear(str(error))
        else:
            assert all("PWNED" not in "/".join(path) for path in plan.own_files())


DOUBLE = (
    "replicates: 1\nstudies: {s: {}}\ndefaults:\n  mode: mono\n  sim_seconds: 90\n  mode: disagg\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOUBLE, "defaults.mode must be given once, got 'lines 4 and 6'"),
        ('{"a": 1,\n "b": {"c": 1,\n "c": 2}}', "b.c must be given once, got 'lines 2 and 3'"),
        ("a: &a [*a]\n", "a must be no alias of what it stands in"),
        ("a: " + "[" * 5000, "config must be nested at most 20 deep"),
        ("a: " + "9" * 5000, "config must be valid YAML"),
        ("a: " + "9" * 50, "a must be a whole number up to 2**128"),
        ("a: .nan", "a must be a finite number, got nan"),
        ("a: 2026-01-01", "a must be a text, a number, true, false or null, not a date"),
        ("a: !!binary aGk=", "a must be a text, a number, true, false or null, not a bytes"),
        ("a: !!set {b}", "a must be a text, a number, true, false or null, not a set"),
        ('a: "\\x07"', "a must be text without control characters"),
        ("__use_yte__: true", "__use_yte__ must be no key that begins with __"),
        ("a: {__definitions__: [import os]}", "__definitions__ must be no key that begins with __"),
        ("? [a, b]\n: 1", "config must be valid YAML"),
        ("a: " + "x" * 1001, "a must be of at most 1000 characters"),
        ("#" * MAX_BYTES + "\n", f"config must be a file of at most {MAX_BYTES} bytes"),
    ],
)
def test_what_yaml_offers_beyond_plain_values_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidParameterError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(message)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_aliases_that_multiply_are_refused_before_they_do(tmp_path: Path) -> None:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    names = "abcdefghij"
    for before, name in pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InvalidParameterError, match=f"at most {MAX_VALUES} values, aliases"):
        read_yaml(path)


def test_plain_aliases_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_a_file_of_json_is_read_as_json(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text('{"a": 1e-2, "b": [true, null]}', encoding="utf-8")
    assert read_yaml(path) == {"a": 0.01, "b": [True, None]}


@pytest.mark.parametrize("read", [load_config, load_trace, read_lengths])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidParameterError, match="no regular file"):
        read(tmp_path / "pipe")  # type: ignore[operator]


STUDY = "studies: {{s: {{{study}}}}}\n{top}"


@pytest.mark.parametrize(
    ("study", "top", "message"),
    [
        (f"sweep: {{grid: {{random_seed: {list(range(20_001))}}}}}", "",
         "sweep of study s must be of at most 20000 points"),
        ("replicates: 1000000000", "", "studies.s.replicates must be <= 10000"),
        ("", "replicates: 10001", "replicates must be <= 10000"),
        ("precision: {max_replicates: 1000000}", "", "precision.max_replicates must be <= 10000"),
        (f"sweep: {{grid: {{random_seed: {list(range(101))}}}}}",
         "replicates: 10000", "study s must be at most 1000000 simulations"),
        ("", "defaults: {cluster_mono: {num_gpus: 1000000000}}", "num_gpus must be <= 100000"),
        ("", "defaults: {serving: batching, batching_mono: {pool: {replicas: 1000000000}}}",
         "replicas must be <= 100000"),
        ("", "defaults: {arrival: {concurrency: 1000000000000000000}}", "concurrency must be <= "),
        ("", "defaults: {arrival: {requests: 1000000000000000000}}", "requests must be <= "),
        ("", "defaults: {request_classes: {a: {share: 1.0e+308}}}", "share must be <= 1e+09"),
        ("sweep: {zip: {gpus: {cluster_mono.num_gpus: [1]}}}", "",
         "zip.gpus must be another name: tables have a column"),
        ("sweep: {zip: {p99_ttft_s: {mode: [mono]}}}", "", "zip.p99_ttft_s must be another name"),
        ("sweep: {grid: {mode: [mono]}, zip: {mode: {sim_seconds: [90]}}}", "",
         "zip.mode must be no key that the grid sweeps"),
        ("sweep: {zip: {z: {labels: [1, '1'], sim_seconds: [90, 91]}}}", "",
         "zip.z.labels must be a list without repeats"),
        ("sweep: {grid: {sim_seconds: [90, 90.00000000001]}}", "",
         "sim_seconds must be a list without repeats"),
        (f"sweep: {{zip: {{{'z' * 51}: {{mode: [mono]}}}}}}", "", "must be a name of 1 to 50"),
        ("overrides: {output_tokens: {mode: empirical, path: nowhere.txt}}", "",
         "must be a readable trace file"),
    ],
)  # fmt: skip
def test_limits_are_told_before_anything_is_built(
    tmp_path: Path, study: str, top: str, message: str
) -> None:
    text = STUDY.format(study=study, top=top)
    with pytest.raises(InvalidParameterError) as caught:
        resolve(yaml.safe_load(text), source=tmp_path)
    assert message in str(caught.value)


def test_a_long_study_name_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="at most 50 lower-case letters"):
        resolve({"studies": {"s" * 300: {}}})


def test_files_of_lengths_are_checked_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("100\nmany\n", encoding="utf-8")
    data = {
        "defaults": {"output_tokens": {"mode": "empirical", "path": str(path)}},
        "studies": {"s": {}},
    }
    with pytest.raises(InvalidParameterError, match=r"lengths\.txt, line 2"):
        resolve(data)
    path.write_text("9" * 5000 + "\n", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match="length must be a whole number"):
        resolve(data)


def test_descriptions_hold_paths_as_they_were_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.0,100,10\n2023-11-16 18:18:03.0,200,20\n",
        encoding="utf-8",
    )
    data = {
        "defaults": {
            "sim_seconds": 50,
            "warmup_seconds": 0,
            "arrival": {"kind": "trace", "path": "trace.csv"},
        },
        "studies": {"s": {}},
    }
    plan = Plan.of(data, str(tmp_path / "results"), str(source))
    plan.write()
    row = plan.studies["s"].rows[0]
    folder = tmp_path / "results/points" / row.point_id
    study = (tmp_path / "results/studies/s/study.json").read_text(encoding="utf-8")
    assert '"path": "trace.csv"' in study
    assert str(source) not in study
    run_point(folder / "point.json", 0, folder / "r0.npz")
    records, provenance = read_records(folder / "r0.npz")
    assert len(records) == 1
    assert provenance["config"]["arrival"]["path"] == "trace.csv"


def test_a_zip_bomb_among_results_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "r0.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("records.npy", b"\0" * 200_000_000)
    tracemalloc.start()
    with pytest.raises(InvalidParameterError, match="intact result file"):
        read_records(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r0.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("records.npy", magic + header)
    with pytest.raises(InvalidParameterError, match="not as long as it says"):
        read_records(path)


def test_batches_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    for simulations in ([["../../x", 0]], [["a" * 16, -1]], [["a" * 16, 10**9]], "x", [3], [[]]):
        text = json.dumps({"0123456789ab": simulations})
        (tmp_path / BATCHES).write_text(text, encoding="utf-8")
        with pytest.raises(InvalidParameterError, match="as a run wrote it"):
            read_batches(tmp_path)


DECISION = {
    "point_id": "a" * 16,
    "simulated": "b" * 16,
    "times": 2,
    "replicates": 3,
    "reached": True,
    "metric": "mean_ttft_s",
    "wanted_relative": 0.1,
    "relative_half_width": 0.05,
    "reason": "",
}


@pytest.mark.parametrize(
    "edit",
    [{"replicates": 4}, {"replicates": -1}, {"replicates": 10**9}, {"reached": "x"}, {"more": 1}],
)
def test_an_edited_decision_is_refused(tmp_path: Path, edit: dict[str, object]) -> None:
    path = tmp_path / "decision.json"
    write_decisions(path, [Decision.from_dict(DECISION)])
    assert read_decisions(path)[0].replicates == 3
    content = json.loads(path.read_text(encoding="utf-8"))
    content["points"][0] |= edit
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidParameterError, match="checksum"):
        read_decisions(path)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[]", b"{}", b"{", b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"point_id": "../x"}'],
)
@pytest.mark.parametrize("read", [read_point, read_request, read_study, read_decisions])
def test_what_jobs_read_is_refused_in_one_line_if_wrong(
    tmp_path: Path, read: object, content: bytes
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InvalidParameterError) as caught:
        read(path)  # type: ignore[operator]
    assert_clear(str(caught.value))


def test_only_own_and_unchanged_files_are_removed(tmp_path: Path) -> None:
    for name in ("old.csv", "edited.csv", "now.csv", "foreign.csv"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    outputs.record(tmp_path, "tables", ["old.csv", "edited.csv", "now.csv"])
    (tmp_path / "edited.csv").write_text("mine", encoding="utf-8")
    outputs.record(tmp_path, "tables", ["now.csv"])
    left = {path.name for path in tmp_path.glob("*.csv")}
    assert left == {"edited.csv", "now.csv", "foreign.csv"}


def test_a_manifest_leads_to_no_file_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    victim = tmp_path / "victim.csv"
    victim.write_text("keep", encoding="utf-8")
    folder.mkdir()
    manifest = {"../victim.csv": outputs.sha256(victim)}
    outputs.manifest_path(folder, "tables").write_text(json.dumps(manifest), encoding="utf-8")
    outputs.record(folder, "tables", [])
    assert victim.read_text(encoding="utf-8") == "keep"


def test_what_stands_in_the_way_is_moved_aside_and_not_deleted(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "points/a/r0.npz").mkdir(parents=True)
    (results / "points/a/r0.npz/mine").write_text("keep", encoding="utf-8")
    make_way(results / "points/a/r0.npz", tmp_path)
    assert (results / "points/a/r0.npz.aside-1/mine").read_text(encoding="utf-8") == "keep"
    (results / "logs").write_text("keep", encoding="utf-8")
    make_way(results / "logs/tables/s.log", tmp_path)
    assert (results / "logs.aside-1").read_text(encoding="utf-8") == "keep"
