"""One configuration from loose settings: what the command line and the analyses share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from simlib.core.config import Engine, Mode, SimConfig
from simlib.core.overrides import overridden
from simlib.core.reading import read_yaml
from simlib.core.records import TtftDefinition
from simlib.errors import InvalidParameterError

if TYPE_CHECKING:  # importing it for real would import SimPy
    from simlib.core.simulator import DisaggParams, LogNormalParams, MonoParams

ConfigSource = SimConfig | str | Path | None
"""A configuration, the YAML file of one, or None for the defaults."""


class Settings(TypedDict, total=False):
    """Settings that mirror `run_simulation`'s; what is left out comes from `config`."""

    config: ConfigSource
    sim_seconds: float | None
    warmup_seconds: float | None
    random_seed: int | None
    prompt_lognormal: LogNormalParams | None
    output_lognormal: LogNormalParams | None
    mono_params: MonoParams | None
    disagg_params: DisaggParams | None
    engine: Engine | None
    drain: bool | None
    ttft_definition: TtftDefinition | None


def resolve_config(
    config: ConfigSource = None, overrides: Mapping[str, Any] | None = None
) -> SimConfig:
    """Return a configuration: the defaults, changed by `config`, changed by `overrides`.

    Parameters
    ----------
    config : SimConfig, path or None
        A configuration or the YAML file of one; of a study file, its defaults count.
    overrides : mapping, optional
        Values by dotted key, such as ``{"arrival.rate_per_s": 3.0}``; see
        `simlib.core.overrides.overridden`.

    Raises
    ------
    InvalidParameterError
        For the first wrong value, naming the file if the file set it.
    """
    overrides = dict(overrides or {})
    file, where = _settings_of(config)
    settings = overridden(file, overrides)
    try:
        resolved = SimConfig.from_dict(settings)
    except InvalidParameterError as error:
        raise (error.at(where) if where and _fails_alone(config, error) else error) from None
    if resolved.arrival.process.replayed and "arrival.rate_per_s" in overrides:
        raise InvalidParameterError(
            "arrival.rate_per_s",
            overrides["arrival.rate_per_s"],
            "left out when a trace is replayed (set arrival.speed instead)",
        )
    return resolved


def point_config(
    mode: Mode | None = None,
    sim_seconds: float | None = None,
    warmup_seconds: float | None = None,
    random_seed: int | None = None,
    arrival_rate_per_s: float | None = None,
    prompt_lognormal: LogNormalParams | None = None,
    output_lognormal: LogNormalParams | None = None,
    mono_params: MonoParams | None = None,
    disagg_params: DisaggParams | None = None,
    *,
    config: ConfigSource = None,
    engine: Engine | None = None,
    drain: bool | None = None,
    ttft_definition: TtftDefinition | None = None,
    prefill_tokens_per_s: float | None = None,
) -> SimConfig:
    """Return the configuration that `run_simulation`'s parameters describe.

    A parameter that is None is taken from `config`, by default that of `SimConfig()`.
    `prefill_tokens_per_s` sets the prefill rate of one GPU of both deployments.
    """
    overrides = {
        "mode": mode,
        "sim_seconds": sim_seconds,
        "warmup_seconds": warmup_seconds,
        "random_seed": random_seed,
        "arrival.rate_per_s": arrival_rate_per_s,
        **_lengths("prompt_tokens", "prompt_lognormal", prompt_lognormal),
        **_lengths("output_tokens", "output_lognormal", output_lognormal),
        **_cluster("cluster_mono", "mono_params", mono_params),
        **_cluster("cluster_disagg", "disagg_params", disagg_params),
        "engine": engine,
        "drain": drain,
        "ttft_definition": ttft_definition,
    }
    if prefill_tokens_per_s is not None:
        for cluster in ("cluster_mono", "cluster_disagg"):
            overrides[f"{cluster}.prefill_tokens_per_s"] = prefill_tokens_per_s
    given = {key: value for key, value in overrides.items() if value is not None}
    return resolve_config(config, given)


def _settings_of(config: ConfigSource) -> tuple[dict[str, Any], str]:
    """Return the settings as a tree of plain dicts, and the file that they come from."""
    if config is None:
        return {}, ""
    if isinstance(config, SimConfig):  # defaults are left out: an engine may have others
        return config.model_dump(mode="json", exclude_unset=True), ""
    data = read_yaml(config)
    if "studies" in data or "defaults" in data:
        data = data.get("defaults") or {}
        if not isinstance(data, dict):
            raise InvalidParameterError("defaults", data, "a mapping of keys", str(config))
    return data, str(config)


def _fails_alone(config: ConfigSource, error: InvalidParameterError) -> bool:
    """Return whether a file has this error without any overrides."""
    try:
        SimConfig.from_dict(_settings_of(config)[0])
    except InvalidParameterError as alone:
        return str(alone) == str(error)
    return False


def _lengths(section: str, name: str, parameters: LogNormalParams | None) -> dict[str, Any]:
    if parameters is None:
        return {}
    if len(parameters) != 3:
        raise InvalidParameterError(name, parameters, "(mu, sigma, min_value)")
    mu, sigma, min_value = parameters
    return {section: {"mode": "log", "mean": mu, "sigma": sigma, "min_value": min_value}}


def _cluster(
    section: str,
    name: str,
    parameters: MonoParams | DisaggParams | None,
) -> dict[str, Any]:
    if parameters is None:
        return {}
    pools = ("num_gpus",) if section == "cluster_mono" else ("prefill_gpus", "decode_gpus")
    names = (*pools, "prefill_tokens_per_s", "decode_tokens_per_s")
    if len(parameters) != len(names):
        raise InvalidParameterError(name, parameters, f"({', '.join(names)})")
    return {f"{section}.{key}": value for key, value in zip(names, parameters, strict=True)}
