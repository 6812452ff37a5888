"""Every kind of lengths draws what it says, and everything else knows it from its entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simlib.core.config import PromptConfig, SimConfig
from simlib.core.overrides import overridden
from simlib.study.plan.identity import point_id
from simlib.study.plan.schema import study_file_schema
from simlib.workload.length_kinds import LENGTHS
from simlib.workload.lengths import Tokens

EXAMPLES: dict[str, dict[str, Any]] = {
    "log": {"mean": 6.0, "sigma": 0.5, "min_value": 1},
    "fixed": {"value": 300},
    "uniform": {"low": 100, "high": 500},
    "exponential": {"mean": 400.0, "min_value": 1},
    "empirical": {"path": "lengths.txt"},
}
every_kind = pytest.mark.parametrize("mode", LENGTHS)


@pytest.fixture(autouse=True)
def lengths_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths.txt").write_text("100\n200\n200\n900\n", encoding="utf-8")


def example(mode: str, **others: Any) -> PromptConfig:
    return PromptConfig.from_dict({"mode": mode, **EXAMPLES[mode], **others})


def drawn(mode: str, n: int) -> Tokens:
    tokens = example(mode)
    return tokens.kind.draw(tokens, n, np.random.default_rng(3))


@every_kind
def test_what_is_drawn_has_the_moments_it_says(mode):
    tokens = example(mode)
    (log_mean, log_std), (mean, std) = tokens.kind.spreads(tokens)
    lengths = drawn(mode, 100_000)
    assert lengths.min() >= 1
    assert lengths.mean() == pytest.approx(mean, abs=4 * std / 300 + 1e-9)
    assert lengths.std() == pytest.approx(std, rel=0.03, abs=1e-9)
    # of few tokens, rounding is seen in the logarithm
    assert np.log(lengths).mean() == pytest.approx(log_mean, abs=4 * log_std / 300 + 0.01)
    assert np.log(lengths).std() == pytest.approx(log_std, rel=0.05, abs=1e-9)


@every_kind
def test_the_first_lengths_are_the_same_for_every_number(mode):
    np.testing.assert_array_equal(drawn(mode, 1_000)[:100], drawn(mode, 100))


@every_kind
def test_a_point_is_what_its_kind_reads(mode):
    ids = set()
    for unread in ({"sigma": 0.7}, {"low": 7, "high": 70}, {"value": 77}, {"path": "lengths.txt"}):
        if not set(unread) & set(LENGTHS[mode].keys):
            settings = {"mode": "mono", "prompt_tokens": example(mode, **unread).to_dict()}
            ids.add(point_id(SimConfig.from_dict(settings)))
    assert len(ids) == 1


@every_kind
def test_an_override_keeps_what_the_kind_reads_and_a_mean_never(mode):
    before = {"mode": "another", "mean": 1.0, "sigma": 2.0, "min_value": 3, "value": 4, "path": "a"}
    kept = overridden({"prompt_tokens": before}, {"prompt_tokens.mode": mode})["prompt_tokens"]
    assert set(kept) == ({*LENGTHS[mode].keys} - {"mean", "low", "high"}) | {"mode"}


def test_the_schema_knows_every_kind_and_kinds_read_keys_that_there_are():
    properties = study_file_schema()["$defs"]["PromptConfig"]["properties"]
    assert {*LENGTHS} <= {*properties["mode"]["enum"]}
    assert {key for kind in LENGTHS.values() for key in kind.keys} <= set(PromptConfig.model_fields)
