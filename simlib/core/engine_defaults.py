"""What `latency.engine` stands for: settings that a configuration leaves to the serving engine.

The engine is no setting of its own. It fills in others, which all can be given: what is given
stays, and a configuration that says the same numbers without it is the same point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from simlib.core.batching import DEFAULT_GPU
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.catalog.engines import BatchLimits, batch_limits, serving_engines
from simlib.policies.batching import BATCH_POLICIES

_POOLS = {"batching_mono": ("pool",), "batching_disagg": ("prefill", "decode")}


def with_engine_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with what the engine they name would do unless told otherwise.

    Sections may be mappings, or parts of a configuration that were built before.
    """
    latency = _given(settings.get("latency", {}))
    if not isinstance(latency, dict) or latency.get("engine") not in [*serving_engines()]:
        return dict(settings)  # no engine, or none that there is, which validation refuses
    filled = {**settings, "latency": latency}
    for section, roles in _POOLS.items():
        filled[section] = batching = _given(settings.get(section, {}))
        if isinstance(batching, dict):
            batching |= {role: _given(batching.get(role, {})) for role in roles}
            batching |= {"front_end": _given(batching.get("front_end", {}))}
    for dotted, value in engine_defaults(filled).items():
        *parents, last = dotted.split(".")
        place: Any = filled
        for parent in parents:
            place = place[parent] if isinstance(place, dict) else None
        if isinstance(place, dict):  # a front end that is null stays out
            place.setdefault(last, value)
    return filled


def engine_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine of `settings` stands for, by dotted key.

    Limits of a batch are those of the pool's GPU. Where a batch mixes prompts and decodes, its
    tokens bound its sequences, so a given ``max_batch_tokens`` bounds the engine's number of them.
    """
    latency = settings["latency"]
    engine = serving_engines()[latency["engine"]]
    found: dict[str, Any] = {
        "latency.step_overhead_s": engine.step_overhead_s,
        "latency.sequence_overhead_s": engine.sequence_overhead_s,
    }
    if latency.get("kind", "roofline") == "roofline":
        for name in ("expert_launch_s", "latent_launch_s", "latent_step_s"):
            found[f"latency.{name}"] = getattr(engine, name)
    if latency.get("kind") == "aiconfigurator":
        found["latency.backend"] = latency["engine"]
    elif latency.get("precision") == "fp8":
        found["latency.kv_cache_dtype"] = engine.fp8_kv_cache_dtype
    for section, roles in _POOLS.items():
        if not isinstance(settings.get(section), dict):
            continue
        for role in roles:
            pool, place = settings[section][role], f"{section}.{role}"
            if not isinstance(pool, dict):
                continue
            limits = _limits(latency["engine"], pool.get("gpu", DEFAULT_GPU))
            policy = pool.get("policy", engine.policy)
            size = limits.max_batch_size
            tokens = pool.get("max_batch_tokens", limits.max_batch_tokens)
            if isinstance(tokens, int) and _mixes(policy):
                size = max(min(size, tokens), 1)
            found[f"{place}.policy"] = engine.policy
            found[f"{place}.max_batch_tokens"] = limits.max_batch_tokens
            found[f"{place}.max_batch_size"] = size
            found[f"{place}.gpu_memory_utilization"] = engine.gpu_memory_utilization
        found[f"{section}.front_end.request_s"] = engine.front_end_request_s
        found[f"{section}.front_end.token_s"] = engine.front_end_token_s
    return found


def assumed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a whole configuration that are its engine's, by dotted key.

    Only those of the deployment that its mode selects.
    """
    found = {}
    unused = "batching_disagg" if settings["mode"] == "mono" else "batching_mono"
    for dotted, value in engine_defaults(settings).items():
        place: Any = settings
        for name in dotted.split("."):
            place = place.get(name) if isinstance(place, dict) else None
        if place == value and not dotted.startswith(unused):
            found[dotted] = value
    return found


def _limits(engine: str, gpu: Any) -> BatchLimits:
    """Return the limits on a GPU; on one that the catalog lacks, those of a large one."""
    try:
        known = catalog.gpu(gpu)
    except (InvalidParameterError, AttributeError):
        return batch_limits(engine, "", 80 * 2.0**30)
    return batch_limits(engine, known.name, known.hbm_bytes)


def _mixes(policy: Any) -> bool:
    known = isinstance(policy, str) and policy in BATCH_POLICIES
    return known and BATCH_POLICIES[policy].mixes


def _given(part: Any) -> Any:
    """Return what was given of a section, as a new mapping; what is no section stays."""
    if isinstance(part, BaseModel):
        return part.model_dump(exclude_unset=True)
    return dict(part) if isinstance(part, Mapping) else part
