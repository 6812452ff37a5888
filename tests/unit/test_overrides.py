"""One rule for overriding: study files, sweeps, the command line and scenarios share it."""

from __future__ import annotations

from typing import Any

import pytest

from simlib.core.config import SimConfig
from simlib.core.overrides import overridden
from simlib.core.settings import resolve_config
from simlib.errors import InvalidParameterError
from simlib.study.plan.grid import resolve
from simlib.utils.scenarios import SCENARIOS

BASE: dict[str, Any] = {
    "mode": "mono",
    "arrival": {"kind": "poisson", "rate_per_s": 5, "path": "trace.csv"},
    "prompt_tokens": {"mode": "p50_p90", "p50": 100, "p90": 400, "min_value": 9},
    "cluster_mono": {"num_gpus": 2, "decode_tokens_per_s": 900.0},
}


@pytest.mark.parametrize(
    ("overrides", "section", "expected"),
    [
        # a section changes what it names
        (
            {"cluster_mono": {"num_gpus": 8}},
            "cluster_mono",
            {"num_gpus": 8, "decode_tokens_per_s": 900.0},
        ),
        ({"cluster_mono.num_gpus": 8}, "cluster_mono", {"num_gpus": 8, "decode_tokens_per_s": 900}),
        # one that says its kind or mode is whole
        (
            {"prompt_tokens": {"mode": "fixed", "value": 7}},
            "prompt_tokens",
            {"mode": "fixed", "value": 7},
        ),
        # a dotted choice drops what the other kind does not read, in whatever order keys come
        (
            {"prompt_tokens.value": 7, "prompt_tokens.mode": "fixed"},
            "prompt_tokens",
            {"mode": "fixed", "value": 7},
        ),
        (
            {"prompt_tokens.mode": "exponential"},
            "prompt_tokens",
            {"mode": "exponential", "min_value": 9},
        ),
        ({"prompt_tokens.mode": "p50_p90"}, "prompt_tokens", BASE["prompt_tokens"]),
        ({"arrival.kind": "trace"}, "arrival", {"kind": "trace", "path": "trace.csv"}),
    ],
)
def test_what_stays_and_what_goes(
    overrides: dict[str, Any], section: str, expected: dict[str, Any]
) -> None:
    before = repr(BASE)
    assert overridden(BASE, overrides)[section] == expected
    assert repr(BASE) == before


def test_the_command_line_a_sweep_and_a_scenario_override_alike(tmp_path: Any) -> None:
    import yaml

    change = {"prompt_tokens.mode": "exponential", "prompt_tokens.mean": 300.0}
    path = tmp_path / "one.yaml"
    base = {key: value for key, value in BASE.items() if key != "arrival"}
    path.write_text(yaml.safe_dump(base), encoding="utf-8")
    line = resolve_config(path, change)
    sweep = {"zip": {"lengths": {key: [value] for key, value in change.items()}}}
    [study] = resolve({"defaults": base, "studies": {"one": {"sweep": sweep}}})
    assert study.rows[0].config == line
    assert line.prompt_tokens.essential() == {"mode": "exponential", "mean": 300.0, "min_value": 9}
    scenario = SCENARIOS["slow_prefill"]
    assert scenario.apply(line) == SimConfig.from_dict(overridden(line.to_dict(), scenario.changes))
    assert scenario.apply(line).cluster_disagg.prefill_tokens_per_s == 4000.0


def test_a_key_below_a_number_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match=r"mode\.x must be a key of a section"):
        overridden(BASE, {"mode.x": 1})
