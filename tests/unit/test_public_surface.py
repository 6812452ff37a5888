"""The promised import paths, names and signatures."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import click
import numpy as np
import pytest

REQUIRED = inspect.Parameter.empty

NAMES = {
    "simlib.core.simulator": (
        "Request",
        "Metrics",
        "MonolithicSimulator",
        "DisaggregatedSimulator",
        "poisson_interarrival_time",
        "lognormal_tokens",
        "run_simulation",
        "DEFAULT_RANDOM_SEED",
        "DEFAULT_SIM_SECONDS",
        "DEFAULT_WARMUP_SECONDS",
        "LogNormalParams",
        "MonoParams",
        "DisaggParams",
    ),
    "simlib.core.config": (
        "SimConfig",
        "ArrivalConfig",
        "PromptConfig",
        "OutputConfig",
        "ClusterMonolithic",
        "ClusterDisagg",
        "load_config",
        "_parse_token_dist",
        "_real_mean_std_to_log_params",
        "_p50_p90_to_log_params",
    ),
    "simlib.cli.run": ("cli", "simulate", "_log_to_real"),
    "simlib.cli.compare": ("run_sim", "main"),
    "simlib.analysis.sweep": ("run_point", "main"),
    "simlib.analysis.sweep_prefill": ("run_point", "main"),
    "simlib.analysis.visualize": ("run_sim_with_details", "plot_ttft_comparison"),
    "simlib.utils.scenarios": ("Scenario", "LightLoadDisagg", "HeavyLoadMono"),
    "simlib.errors": ("InvalidParameterError",),
}

SIGNATURES: dict[tuple[str, str], dict[str, Any]] = {
    ("simlib.core.simulator", "Request"): {
        "request_id": REQUIRED,
        "arrival_time": REQUIRED,
        "prompt_tokens": REQUIRED,
        "output_tokens": REQUIRED,
    },
    ("simlib.core.simulator", "poisson_interarrival_time"): {
        "rate_per_s": REQUIRED,
        "rng": REQUIRED,
    },
    ("simlib.core.simulator", "lognormal_tokens"): {
        "mean": REQUIRED,
        "sigma": REQUIRED,
        "min_value": REQUIRED,
        "rng": REQUIRED,
    },
    ("simlib.core.simulator", "run_simulation"): {
        "mode": REQUIRED,
        "sim_seconds": REQUIRED,
        "warmup_seconds": REQUIRED,
        "random_seed": REQUIRED,
        "arrival_rate_per_s": REQUIRED,
        "prompt_lognormal": REQUIRED,
        "output_lognormal": REQUIRED,
        "mono_params": None,
        "disagg_params": None,
    },
    ("simlib.cli.run", "simulate"): {
        "mode": "disagg",
        "sim_seconds": 600.0,
        "warmup_seconds": 60.0,
        "seed": 42,
        "config": None,
        "dump_ttft": None,
    },
}
"""Positional parameters with their defaults; keyword-only ones may follow."""


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names]
)
def test_every_promised_name_exists(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("module", "name"), SIGNATURES)
def test_signatures_are_as_promised(module: str, name: str) -> None:
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    positional = {
        parameter.name: parameter.default
        for parameter in signature.parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    assert positional == SIGNATURES[module, name]
    others = [p for p in signature.parameters.values() if p.name not in positional]
    assert all(p.default is not REQUIRED for p in others)


def test_configuration_fields_and_defaults() -> None:
    from simlib.core.config import (
        ArrivalConfig,
        ClusterDisagg,
        ClusterMonolithic,
        OutputConfig,
        PromptConfig,
        SimConfig,
    )

    assert {
        "mode",
        "sim_seconds",
        "warmup_seconds",
        "random_seed",
        "arrival",
        "prompt_tokens",
        "output_tokens",
        "cluster_mono",
        "cluster_disagg",
    } <= set(SimConfig.model_fields)
    config = SimConfig()
    assert (config.mode, config.sim_seconds, config.warmup_seconds, config.random_seed) == (
        "disagg",
        600.0,
        60.0,
        42,
    )
    assert config.arrival == ArrivalConfig(rate_per_s=2.0)
    assert config.prompt_tokens == PromptConfig(mean=6.0, sigma=0.9, min_value=8)
    assert config.output_tokens == OutputConfig(mean=6.0, sigma=1.1, min_value=16)
    assert config.cluster_mono == ClusterMonolithic(
        num_gpus=4, prefill_tokens_per_s=8000, decode_tokens_per_s=2000
    )
    assert config.cluster_disagg == ClusterDisagg(
        prefill_gpus=2, decode_gpus=2, prefill_tokens_per_s=8000, decode_tokens_per_s=2000
    )
    assert SimConfig.from_dict(config.to_dict()) == config


def test_constants() -> None:
    from simlib.core import simulator

    assert simulator.DEFAULT_RANDOM_SEED == 42
    assert simulator.DEFAULT_SIM_SECONDS == 600.0
    assert simulator.DEFAULT_WARMUP_SECONDS == 60.0


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        ("mono", {"utilization_gpu", "num_gpus"}),
        (
            "disagg",
            {"utilization_prefill", "utilization_decode", "prefill_gpus", "decode_gpus"},
        ),
    ],
)
@pytest.mark.parametrize("engine", ["fast", "simpy"])
def test_run_simulation_returns_metrics_and_the_promised_keys(
    mode: Any, keys: set[str], engine: Any
) -> None:
    from simlib.core.simulator import Metrics, run_simulation

    metrics, statistics = run_simulation(
        mode, 60.0, 5.0, 42, 2.0, (6.0, 0.9, 8), (6.0, 1.1, 16), engine=engine
    )
    assert isinstance(metrics, Metrics)
    assert keys | {
        "num_samples",
        "mean_ttft_s",
        "p50_ttft_s",
        "p90_ttft_s",
        "p99_ttft_s",
        "elapsed_s",
        "mode",
        "throughput_rps",
    } <= set(statistics)
    summary = metrics.summary(5.0)
    assert summary["num_samples"] == statistics["num_samples"]
    assert summary["p99_ttft_s"] == pytest.approx(statistics["p99_ttft_s"], abs=1e-9)


def test_metrics_collects_what_it_is_told() -> None:
    from simlib.core.simulator import Metrics

    metrics = Metrics()
    metrics.add_ttft(0.5, 1.0)
    metrics.add_ttft(1.5, 12.0)
    metrics.mark_completed()
    metrics.finalize(20.0, arrived=3)
    assert (metrics.completed, metrics.dropped, metrics.end_time) == (1, 2, 20.0)
    assert metrics.summary()["mean_ttft_s"] == 1.0
    # the first request arrived at 0.5 s, the second at 10.5 s
    assert metrics.summary(warmup=5.0)["mean_ttft_s"] == 1.5


def test_simulators_live_a_request_as_a_generator() -> None:
    import simpy

    from simlib.core.simulator import (
        DisaggregatedSimulator,
        Metrics,
        MonolithicSimulator,
        Request,
    )

    for build in (
        lambda env: MonolithicSimulator(env, 1, 100.0, 10.0),
        lambda env: DisaggregatedSimulator(env, 1, 1, 100.0, 10.0),
    ):
        env, metrics = simpy.Environment(), Metrics()
        life = build(env).process(Request(0, 0.0, 50, 5), metrics)
        assert inspect.isgenerator(life)
        env.process(life)
        env.run()
        assert metrics.ttft_values == pytest.approx([0.5 + 0.1])
        assert env.now == pytest.approx(0.5 + 0.5)
        assert metrics.completed == 1


def test_draws_come_from_the_given_generator_alone() -> None:
    from simlib.core.simulator import lognormal_tokens, poisson_interarrival_time

    np.random.seed(0)  # noqa: NPY002 - the claim is that global state does not matter
    first = [
        (poisson_interarrival_time(2.0, rng), lognormal_tokens(6.0, 0.9, 8, rng))
        for rng in [np.random.default_rng(1)]
    ]
    np.random.seed(1)  # noqa: NPY002
    rng = np.random.default_rng(1)
    assert first == [(poisson_interarrival_time(2.0, rng), lognormal_tokens(6.0, 0.9, 8, rng))]


def test_programs_are_click_commands() -> None:
    from simlib.analysis import sweep, sweep_prefill, visualize
    from simlib.cli import compare, run

    for module in (compare, sweep, sweep_prefill, visualize):
        assert isinstance(module.main, click.Command)
    assert isinstance(run.cli, click.Group)
    assert "simulate" in run.cli.commands
    assert not isinstance(run.simulate, click.Command)


def test_one_console_script_reaches_them_all() -> None:
    from importlib.metadata import entry_points

    [script] = entry_points(group="console_scripts", name="simlib")
    assert script.value == "simlib.cli.run:cli"
    cli = script.load()
    assert {"simulate", "compare", "sweep", "sweep-prefill", "plot", "scenarios"} <= set(
        cli.list_commands(click.Context(cli))
    )
