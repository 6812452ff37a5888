"""Scenarios: what each sets, and that applying one changes nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simlib.cli.run import cli
from simlib.core.config import SimConfig
from simlib.utils import scenarios
from simlib.utils.scenarios import QUEUE_IMPACT, SCENARIOS, HeavyLoadMono, LightLoadDisagg, Scenario

UNLIKE_DEFAULTS = SimConfig.from_dict(
    {
        "mode": "mono",
        "sim_seconds": 123.0,
        "warmup_seconds": 7.0,
        "random_seed": 5,
        "arrival": {"kind": "trace", "path": "x.csv"},
        "prompt_tokens": {"mode": "fixed", "value": 3},
        "output_tokens": {"mode": "exponential", "mean": 9},
        "cluster_mono": {"num_gpus": 9, "prefill_tokens_per_s": 1.0},
        "cluster_disagg": {"prefill_gpus": 7, "decode_gpus": 8, "kv_base_latency_s": 0.5},
        "engine": "simpy",
        "drain": False,
    }
)

PROMISED: dict[str, dict[str, Any]] = {
    "light_load_disagg": {
        "mode": "disagg",
        "arrival.rate_per_s": 1.0,
        "prompt_tokens": (6.0, 0.8, 8),
        "output_tokens": (5.0, 1.0, 16),
        "cluster_disagg.prefill_gpus": 2,
        "cluster_disagg.decode_gpus": 2,
    },
    "heavy_load_mono": {
        "mode": "mono",
        "arrival.rate_per_s": 4.0,
        "prompt_tokens": (6.5, 0.9, 8),
        "output_tokens": (6.5, 1.1, 16),
        "cluster_mono.num_gpus": 4,
    },
    "low_load": {"mode": "disagg", "arrival.rate_per_s": 0.5},
    "medium_load": {"mode": "disagg", "arrival.rate_per_s": 2.0},
    "high_load": {"mode": "disagg", "arrival.rate_per_s": 4.0},
    "slow_prefill": {
        "mode": "disagg",
        "prompt_tokens": (6.5, 0.9, 8),
        "cluster_disagg.prefill_gpus": 1,
        "cluster_disagg.prefill_tokens_per_s": 4000.0,
    },
    "slow_decode": {
        "mode": "disagg",
        "output_tokens": (6.0, 1.1, 16),
        "cluster_disagg.decode_gpus": 1,
        "cluster_disagg.decode_tokens_per_s": 1000.0,
    },
    "balanced": {
        "mode": "disagg",
        "cluster_disagg.prefill_tokens_per_s": 4000.0,
        "cluster_disagg.decode_tokens_per_s": 4000.0,
    },
    "monolithic": {"mode": "mono", "arrival.rate_per_s": 2.0, "cluster_mono.num_gpus": 4},
    "saturation": {"mode": "disagg", "arrival.rate_per_s": 6.0},
    "variable_load": {
        "mode": "disagg",
        "arrival.rate_per_s": 3.0,
        "prompt_tokens": (6.0, 1.2, 8),
        "output_tokens": (6.0, 1.2, 16),
    },
}
"""What the specification says of each; lengths as (mu, sigma, min_value)."""


def flat(config: SimConfig) -> dict[str, Any]:
    """Return the settings by dotted key, a lognormal's as one tuple."""
    found: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        if not isinstance(value, dict):
            found[key] = value
        elif key.endswith("_tokens"):
            log = value["mode"] == "log"
            found[key] = (value["mean"], value["sigma"], value["min_value"]) if log else repr(value)
        else:
            found |= {f"{key}.{name}": item for name, item in value.items()}
    return found


@pytest.mark.parametrize("base", [SimConfig(), UNLIKE_DEFAULTS], ids=["defaults", "other"])
@pytest.mark.parametrize("name", PROMISED)
def test_a_scenario_sets_what_is_promised_and_nothing_else(name: str, base: SimConfig) -> None:
    before, after = flat(base), flat(SCENARIOS[name].apply(base))
    promised = PROMISED[name]
    assert {key: after[key] for key in promised} == promised
    changed = {key for key in after if after[key] != before[key]} - set(promised)
    # a load that is set replaces a trace
    assert (
        changed <= {"arrival.kind", "arrival.path"}
        if "arrival.rate_per_s" in promised
        else not changed
    )


def test_apply_returns_a_new_configuration() -> None:
    base = SimConfig()
    before = base.to_dict()
    applied = HeavyLoadMono.apply(base)
    assert applied is not base
    assert base.to_dict() == before


def test_classes_and_instances_serve_alike() -> None:
    assert LightLoadDisagg().apply(SimConfig()) == LightLoadDisagg.apply(SimConfig())


def test_applying_twice_changes_nothing_more() -> None:
    for scenario in SCENARIOS.values():
        once = scenario.apply(UNLIKE_DEFAULTS)
        assert scenario.apply(once) == once


def test_names_and_lists_are_complete() -> None:
    assert set(SCENARIOS) == set(PROMISED)
    assert all(SCENARIOS[scenario.name] is scenario for scenario in SCENARIOS.values())
    defined = {
        value
        for value in vars(scenarios).values()
        if isinstance(value, type) and issubclass(value, Scenario) and value is not Scenario
    }
    assert defined == set(SCENARIOS.values())
    assert set(QUEUE_IMPACT) == defined - {LightLoadDisagg, HeavyLoadMono}
    assert all(scenario.description for scenario in defined)


def test_changes_cannot_be_edited_by_accident() -> None:
    with pytest.raises(TypeError):
        HeavyLoadMono.changes["mode"] = "disagg"  # type: ignore[index]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["scenarios", *arguments])


def test_list_names_all() -> None:
    output = invoke("list").stdout
    assert all(f"\n{name} " in output for name in SCENARIOS)


def test_run_runs_the_named_ones() -> None:
    result = invoke("run", "low-load", "monolithic", "--json", "--sim-seconds", "90")
    rows = json.loads(result.stdout)
    assert [(row["scenario"], row["mode"]) for row in rows] == [
        ("low_load", "disagg"),
        ("monolithic", "mono"),
    ]
    assert rows[0]["arrived"] < rows[1]["arrived"]


def test_run_shows_a_table_of_all_by_default() -> None:
    output = invoke("run", "--sim-seconds", "90").stdout
    assert all(f"\n{name} " in output for name in SCENARIOS)


def test_an_unknown_scenario_is_refused_with_the_nearest() -> None:
    result = invoke("run", "slow_prefil")
    assert result.exit_code == 2
    assert "did you mean slow_prefill?" in result.stderr
    assert result.stderr.count("\n") == 1
