"""The identity of a simulation: what can change its result, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from simlib.core.batching import ADDED_KEYS
from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.files import canonical_json
from simlib.latency import catalog
from simlib.policies.routers import ROUTERS
from simlib.workload.traces import trace_sha256

ANALYSIS_ONLY = ("warmup_seconds", "ttft_definition")
"""Settings that tables apply to finished runs; changing them simulates nothing again.

Request classes are such, too, as far as `essential` leaves them out.
"""


def is_random(config: SimConfig) -> bool:
    """Return whether replicates differ: a replayed trace has no randomness, but routers may."""
    return not config.arrival.process.replayed or "random_seed" in essential(config)


def essential(config: SimConfig) -> dict[str, Any]:
    """Return what can change the simulation's result, and nothing else.

    Paths are left out: the bytes of a file decide.
    """
    batching = config.serving == "batching"
    deployment = f"{'batching' if batching else 'cluster'}_{config.mode}"
    settings: dict[str, Any] = {
        "serving": config.serving,
        "mode": config.mode,
        "sim_seconds": config.sim_seconds,
        "engine": config.engine,
        "drain": config.drain,
        deployment: config.deployment.to_dict(),
    }
    if config.timeline:
        settings["timeline"] = True
    if batching:
        settings["latency"] = _essential_latency(config)
        pools = config.batching.pools.values()
        settings |= config.own.used(config.latency.model, [pool.gpu for pool in pools])
        if any(ROUTERS[pool.router].draws for pool in config.batching.pools.values()):
            settings["random_seed"] = config.random_seed
        if config.class_key is not None:
            settings["random_seed"] = config.random_seed
            settings["request_classes"] = _essential_classes(config, config.class_key)
    arrival = config.arrival
    own = {"kind": arrival.kind, **{key: getattr(arrival, key) for key in arrival.process.keys}}
    if arrival.process.replayed:
        own["sha256"] = trace_sha256(Path(own.pop("path")))
        return settings | {"arrival": own}
    return settings | {
        "random_seed": config.random_seed,
        "arrival": own,
        "prompt_tokens": _essential_lengths(config.prompt_tokens),
        "output_tokens": _essential_lengths(config.output_tokens),
    }


def _essential_lengths(tokens: Any) -> dict[str, Any]:
    settings: dict[str, Any] = tokens.essential()
    if "path" in settings:
        settings["sha256"] = trace_sha256(Path(settings.pop("path")))
    return settings


def _essential_latency(config: SimConfig) -> dict[str, Any]:
    """Return the latency's settings; files count by their bytes, an engine by what it fills in."""
    settings: dict[str, Any] = config.latency.to_dict() | {"engine": None}
    if config.latency.model not in config.models and catalog.is_model_file(config.latency.model):
        settings["model"] = {"sha256": trace_sha256(catalog.model_path(config.latency.model))}
    settings["path"] = None
    if config.latency.kind == "table":
        settings["path"] = {"sha256": trace_sha256(Path(str(config.latency.path)))}
    return settings


def _essential_classes(config: SimConfig, key: str) -> dict[str, dict[str, Any]]:
    """Return shares, and what the discipline sorts by; names order the draws."""
    return {
        name: {field: getattr(one, field) for field in ("share", key)}
        for name, one in config.request_classes.items()
    }


def point_id(config: SimConfig) -> str:
    """Return the identity of a simulation: 16 hexadecimal digits."""
    identity = {"model_version": MODEL_VERSION, "config": essential(config)}
    return digest(_without_added_keys(identity))


def _without_added_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys that the first results did not know where they change nothing."""
    return {
        key: _without_added_keys(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in ADDED_KEYS or value != ADDED_KEYS[key]
    }


def digest(identity: dict[str, Any]) -> str:
    """Return the identity of plain data: 16 hexadecimal digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def run_settings(config: SimConfig) -> dict[str, Any]:
    """Return the settings that a simulation job reads: all but those that only tables use.

    Equal points give equal settings, so that studies can share a point's file.
    """
    relevant = essential(config)
    settings = {key: value for key, value in config.to_dict().items() if key in relevant}
    if "latency" in settings:
        settings["latency"] |= {"engine": None}  # what it filled in stands there
    for section in ("request_classes", "models", "gpus"):
        if section in relevant:
            settings[section] = relevant[section]
    return settings | {"warmup_seconds": 0.0}


def matters(key: str, relevant: dict[str, Any]) -> bool:
    """Return whether a key can change a simulation, from its `essential` settings."""
    section, _, name = key.partition(".")
    if section in (*ANALYSIS_ONLY, "request_classes"):
        return True
    if section not in relevant:
        return False
    if section in ("prompt_tokens", "output_tokens") or not name:
        return True
    return name.partition(".")[0] in relevant[section] or name == "path"
