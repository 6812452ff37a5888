"""The ``simlib`` program, and `simulate`: one simulation, its statistics as JSON."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from simlib import __version__
from simlib.cli.distributions import describe, sampled
from simlib.cli.group import Group, Lazy
from simlib.cli.options import configures, overrides_of
from simlib.workload.lognormal import log_to_real as _log_to_real

if TYPE_CHECKING:  # what simulates is imported by the commands that simulate
    from simlib.core.config import Engine, Mode, SimConfig
    from simlib.core.records import RequestRecords, TtftDefinition

__all__ = ["_log_to_real", "cli", "simulate"]

_LAZY = {
    "compare": Lazy("simlib.cli.compare:main", "Both deployments side by side, same requests."),
    "decide": Lazy("simlib.cli.decide:main", "Disaggregate or not, on how many GPUs, how sure."),
    "doctor": Lazy("simlib.cli.doctor:doctor", "Check a results folder; remove what is stale."),
    "plot": Lazy("simlib.analysis.visualize:main", "Figure of both deployments' TTFT."),
    "scenarios": Lazy("simlib.cli.scenarios:scenarios", "Ready-made scenarios: list, run."),
    "study": Lazy("simlib.cli.study:study", "Check a study file, run one stage of a study."),
    "sweep": Lazy("simlib.analysis.sweep:main", "TTFT percentiles over arrival rates."),
    "sweep-prefill": Lazy(
        "simlib.analysis.sweep_prefill:main", "TTFT percentiles over arrival and prefill rates."
    ),
    "timeline": Lazy("simlib.cli.timeline:main", "Batches, KV cache and ITL over time."),
    "trace": Lazy("simlib.cli.trace:trace", "Make and inspect request traces."),
}

P = ParamSpec("P")
R = TypeVar("R")


@click.group(cls=Group, lazy=_LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="simlib", message="%(prog)s %(version)s")
def cli() -> None:
    """Simulate LLM serving, monolithic or disaggregated, and measure time to first token."""


@cli.command("simulate", short_help="One simulation; statistics as JSON.")
@configures()
@click.option("--replicate", type=int, default=0, show_default=True, help="Other random streams.")
@click.option("--dump-ttft", type=click.Path(), help="Also write the TTFT of each request as CSV.")
def _simulate_command(
    config: str | None, replicate: int, dump_ttft: str | None, **given: Any
) -> None:
    """Run one simulation and print its statistics as JSON.

    Options override the --config file, which overrides the defaults. Requests that arrive in
    [warmup-seconds, sim-seconds) count. With latency.engine, engine_defaults lists the settings
    that are that engine's.
    """
    _report(config, overrides_of(given), replicate, dump_ttft)


def _with_arguments_given(function: Callable[P, R]) -> Callable[P, R]:
    """Call `_simulate` with the arguments that the caller gave, and those only.

    A default must not override a configuration file, and its value does not tell whether it was
    given. `function` declares names, defaults and documentation.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return _simulate(**signature.bind(*args, **kwargs).arguments)  # type: ignore[return-value]

    return wrapper


@_with_arguments_given
def simulate(
    mode: Mode = "disagg",
    sim_seconds: float = 600.0,
    warmup_seconds: float = 60.0,
    seed: int = 42,
    config: str | Path | SimConfig | None = None,
    dump_ttft: str | Path | None = None,
    *,
    rate: float = 2.0,
    engine: Engine = "fast",
    drain: bool = True,
    ttft_definition: TtftDefinition = "first_decode_step",
    replicate: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run one simulation, print its statistics as JSON, and return them.

    Arguments that are given override `config`, which overrides the defaults.

    Parameters
    ----------
    mode : {"mono", "disagg"}
        Which deployment serves.
    sim_seconds, warmup_seconds : float
        Requests arrive in [0, sim_seconds); those that arrive before the warm-up do not count.
    seed : int
        Random seed.
    config : path or SimConfig, optional
        A configuration, or the YAML file of one.
    dump_ttft : path, optional
        CSV file to write the TTFT of each counted request to, with its parts.
    rate : float
        Mean arrival rate, requests per second.
    engine : {"fast", "simpy"}
        Both give the same result.
    drain : bool
        Serve every request to its end after sim_seconds.
    ttft_definition : str
        Which event ends TTFT; see `simlib.core.records.ttft_s`.
    replicate : int
        Replicates of one seed see other random streams.
    overrides : mapping, optional
        Any further settings by dotted key, such as ``{"cluster_mono.num_gpus": 8}``.

    Returns
    -------
    dict
        What `simlib.study.tables.one_run.statistics_of` returns, the resolved token distributions,
        and the configuration; with ``latency.engine``, what of it is the engine's. Values that do
        not exist are NaN here and null in the JSON.

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    raise NotImplementedError  # the decorator calls _simulate


def _simulate(
    *,
    config: Any = None,
    dump_ttft: Any = None,
    replicate: int = 0,
    overrides: Mapping[str, Any] | None = None,
    **given: Any,
) -> dict[str, Any]:
    return _report(config, overrides_of(given) | dict(overrides or {}), replicate, dump_ttft)


def _report(
    source: str | Path | SimConfig | None,
    overrides: Mapping[str, Any],
    replicate: int,
    dump_ttft: str | Path | None,
) -> dict[str, Any]:
    """Simulate, write what is asked for, print the statistics and return them."""
    from simlib.core.settings import resolve_config
    from simlib.study.tables.one_run import run

    config = resolve_config(source, overrides)
    records, statistics = run(config, replicate)
    if config.serving == "batching" and config.latency.engine is not None:
        from simlib.core.engine_defaults import assumed

        statistics["engine_defaults"] = assumed(config.to_dict())
    statistics |= {
        "token_distributions": _distributions(records, config),
        "replicate": replicate,
        "simlib_version": __version__,
        "config": config.to_dict(),
    }
    if dump_ttft is not None:
        from simlib.cli.ttft_dump import write_ttft

        write_ttft(Path(dump_ttft), records, config)
    click.echo(json.dumps(json_ready(statistics), indent=2, allow_nan=False))
    return statistics


def _distributions(records: RequestRecords, config: SimConfig) -> dict[str, Any]:
    """Return what the lengths were drawn from, and what was drawn in the whole run."""
    described = {}
    for name in ("prompt_tokens", "output_tokens"):
        replayed = config.arrival.process.replayed
        source = {"mode": "trace"} if replayed else describe(getattr(config, name))
        described[name] = {**source, "sampled": sampled(getattr(records, name))}
    return described


def json_ready(value: Any) -> Any:
    """Return `value` with what JSON cannot hold, NaN and infinity, as None."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    cli(prog_name="simlib")
