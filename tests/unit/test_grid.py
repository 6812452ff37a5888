"""Points: what changes their identity, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from simlib.core.config import SimConfig
from simlib.errors import InvalidParameterError
from simlib.study.plan.grid import resolve
from simlib.study.plan.identity import point_id


def config(**changes: Any) -> SimConfig:
    return SimConfig.from_dict(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_mono": {"num_gpus": 9}},
        {"warmup_seconds": 3},
        {"ttft_definition": "prefill_end"},
        {"batching_disagg": {"prefill": {"replicas": 2}}},
        {"arrival": {"speed": 3.0}},
    ],
)
def test_a_disaggregated_point_ignores_what_cannot_change_its_result(
    changes: dict[str, Any],
) -> None:
    assert point_id(config(**changes)) == point_id(config())


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "mono"},
        {"sim_seconds": 599.0},
        {"random_seed": 1},
        {"engine": "simpy"},
        {"drain": False},
        {"arrival": {"rate_per_s": 2.5}},
        {"prompt_tokens": {"mean": 6.1}},
        {"output_tokens": {"mode": "fixed", "value": 7}},
        {"cluster_disagg": {"decode_gpus": 3}},
        {"cluster_disagg": {"kv_base_latency_s": 0.1}},
        {"serving": "batching"},
    ],
)
def test_a_point_changes_with_everything_that_can_change_its_result(
    changes: dict[str, Any],
) -> None:
    assert point_id(config(**changes)) != point_id(config())


def test_a_trace_counts_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    row = "2024-01-01 00:00:{:02d}.0000000,100,10\n"
    ids = []
    for name, tokens in (("a", "100"), ("b", "100"), ("c", "101")):
        path = tmp_path / f"{name}.csv"
        path.write_text(header + "".join(row.format(s) for s in range(30)).replace("100", tokens))
        ids.append(point_id(config(arrival={"kind": "trace", "path": str(path)})))
    assert ids[0] == ids[1] != ids[2]


def studies(text: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def test_levels_that_cannot_matter_make_one_line() -> None:
    resolved = resolve(
        studies(
            """
            studies:
              one:
                sweep:
                  grid:
                    mode: [mono, disagg]
                    cluster_disagg.prefill_gpus: [1, 2, 3]
            """
        )
    )[0]
    assert len(resolved.rows) == 4
    mono = [row for row in resolved.rows if row.config.mode == "mono"]
    assert [row.coordinates["cluster_disagg.prefill_gpus"] for row in mono] == [None]


def test_yaml_aliases_are_not_changed_together() -> None:
    resolved = resolve(
        studies(
            """
            defaults: {serving: batching}
            studies:
              one:
                overrides:
                  batching_disagg: {prefill: &pool {replicas: 1}, decode: *pool}
                sweep: {grid: {batching_disagg.decode.replicas: [3]}}
            """
        )
    )[0]
    deployment = resolved.rows[0].config.batching_disagg
    assert (deployment.prefill.replicas, deployment.decode.replicas) == (1, 3)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("sweep: {grid: {arrival.rate_per_s: []}}", "a list of at least one value"),
        ("sweep: {grid: {arrival.rate_per_s: [1, 1.0]}}", "a list without repeats"),
        ("sweep: {grid: {arrival.rate_per_s: 3}}", "must be a list"),
        ("sweep: {grid: {arrival.rat: [3]}}", "did you mean 'rate_per_s'"),
        ("sweep: {zip: {a: {mode: [mono], sim_seconds: [1, 2]}}}", "lists of one length"),
        ("sweep: {zip: {a: {labels: [x]}}}", "keys with a list of values each"),
        ("compare: {factor: mode}", "one of the swept factors: none"),
        (
            "{sweep: {grid: {mode: [mono, disagg]}}, compare: {baseline: both}}",
            "compare.baseline must be one of mono, disagg, got 'both'",
        ),
        ("crossover: {x: a, y: b}", "in a study with compare"),
        ("precision: {metric: p98_ttft_s}", "precision.metric must be one of mean_ttft_s"),
        ("replicates: 0", "replicates must be >= 1, got 0"),
        ("title: [x]", "title must be a text"),
        ("sweeep: {}", "did you mean 'sweep'"),
        ("overrides: {mode: mono, mode.x: 3}", "a key of a section"),
        ("overrides: {sim_seconds: 10}", "warmup_seconds must be < sim_seconds (10), got 60.0"),
        (
            "overrides: {arrival: {kind: trace, path: none.csv}}",
            "none.csv",
        ),
    ],
)
def test_a_wrong_study_is_refused_with_its_name(study: str, message: str) -> None:
    body = study if study.startswith("{") else "{" + study + "}"
    with pytest.raises(InvalidParameterError) as caught:
        resolve(studies(f"studies: {{wrong_one: {body}}}"))
    assert message in str(caught.value)
    assert "config.yaml" in str(caught.value)
    assert "wrong_one" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "studies must be given"),
        ("studies: {}", "at least one study"),
        ("studies: {Big Name: {}}", "lower-case letters, digits and underscores"),
        ("{studies: {a: {}}, default: {}}", "did you mean 'defaults'"),
        ("{studies: {a: {}}, defaults: {modee: mono}}", "did you mean 'mode'"),
        ("{studies: {a: {}}, replicates: many}", "replicates must be a whole number"),
    ],
)
def test_a_wrong_study_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"config\.yaml") as caught:
        resolve(studies(text))
    assert message in str(caught.value)
