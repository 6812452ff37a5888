"""How to start what was simulated: vLLM commands, and values for Dynamo and llm-d.

Only settings that were simulated stand in them. Flags are those of vLLM's documentation for its V1
engine (NixlConnector usage guide), of Dynamo's ``DynamoGraphDeployment`` (nvidia.com/v1alpha1) and
of the llm-d-modelservice chart.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from simlib.core.batching import BLOCK_TOKENS, ReplicaPool
from simlib.core.config import SimConfig
from simlib.latency import catalog

VERSIONS = "vLLM V1 engine (0.11 or newer), Dynamo v1alpha1 manifests, llm-d-modelservice chart"
_KV_TRANSFER = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
"""The connector does not tell roles apart: the proxy in front says who prefills."""
_ROLES = ("prefill", "decode")


def recipe(config: SimConfig) -> dict[str, Any] | None:
    """Return commands and values that start a deployment; None where nothing real has it.

    Returns
    -------
    dict
        vllm: a command for each pool, with how often to run it; dynamo and llm_d: values as plain
        data; notes: what was simulated and has no flag.
    """
    if config.serving != "batching":
        return None
    model = _served(config)
    pools = config.batching.pools
    return {
        "versions": VERSIONS,
        "vllm": [
            {
                "pool": name,
                "run": pool.replicas,
                "gpus": pool.replica_gpus,
                "command": shlex.join(["vllm", "serve", model, *_flags(name, pool, config)]),
            }
            for name, pool in pools.items()
        ],
        "dynamo": _dynamo(model, config),
        "llm_d": _llm_d(model, config),
        "notes": _notes(config),
    }


def _served(config: SimConfig) -> str:
    """Return what vLLM is to serve: an identifier, or the path or name of a model of one's own."""
    name = config.latency.model
    if name in config.models or catalog.is_model_file(name):
        return name.removesuffix("config.json").rstrip("/") or "."
    return catalog.huggingface_id(name)


def _flags(name: str, pool: ReplicaPool, config: SimConfig) -> list[str]:
    """Return vLLM's flags for a pool's settings."""
    flags = [
        "--tensor-parallel-size", str(pool.tensor_parallel),
        "--max-num-batched-tokens", str(pool.max_batch_tokens),
        "--max-num-seqs", str(pool.max_batch_size),
        "--gpu-memory-utilization", f"{pool.gpu_memory_utilization:g}",
    ]  # fmt: skip
    if pool.data_parallel_size > 1:
        flags += ["--data-parallel-size", str(pool.data_parallel_size)]
    if pool.enable_expert_parallel:
        flags.append("--enable-expert-parallel")
    if pool.policy != "chunked_prefill":
        flags.append("--no-enable-chunked-prefill")
    if config.latency.precision == "fp8":
        flags += ["--quantization", "fp8"]
    if pool.discipline == "priority":
        flags += ["--scheduling-policy", "priority"]
    if config.latency.kv_cache_dtype == "fp8":
        flags += ["--kv-cache-dtype", "fp8"]
    if pool.block_size != BLOCK_TOKENS:
        flags += ["--block-size", str(pool.block_size)]
    blocks = pool.num_gpu_blocks_override
    if pool.kv_capacity_tokens is not None:
        blocks = pool.kv_capacity_tokens // pool.block_size
    if blocks is not None:
        flags += ["--num-gpu-blocks-override", str(blocks)]
    if name in _ROLES:
        flags += ["--kv-transfer-config", json.dumps(_KV_TRANSFER, separators=(",", ":"))]
    return flags


def _dynamo(model: str, config: SimConfig) -> dict[str, Any]:
    names = {
        "gpu": "VllmDecodeWorker",
        "prefill": "VllmPrefillWorker",
        "decode": "VllmDecodeWorker",
    }
    services: dict[str, Any] = {"Frontend": {"componentType": "frontend", "replicas": 1}}
    for name, pool in config.batching.pools.items():
        role = ["--disaggregation-mode", name] if name in _ROLES else []
        worker: dict[str, Any] = {
            "componentType": "worker",
            "replicas": pool.replicas,
            "resources": {"limits": {"gpu": str(pool.replica_gpus)}},
            "extraPodSpec": {
                "mainContainer": {
                    "command": ["python3", "-m", "dynamo.vllm"],
                    "args": ["--model", model, *role, *_flags(name, pool, config)],
                }
            },
        }
        if name in _ROLES:
            worker["subComponentType"] = name
        services[names[name]] = worker
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": f"vllm-{config.mode}"},
        "spec": {"services": services},
    }


def _llm_d(model: str, config: SimConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"modelArtifacts": {"name": model}}
    pools = config.batching.pools
    for section in ("prefill", "decode"):
        name = section if section in pools else "gpu"
        if name not in pools or (name == "gpu" and section == "prefill"):
            values[section] = {"create": False}  # a decode pool alone does both phases
            continue
        pool = pools[name]
        flags = _flags(name, pool, config)[2:]  # the chart sets tensor parallelism itself
        values[section] = {
            "create": True,
            "replicas": pool.replicas,
            "parallelism": {"tensor": pool.tensor_parallel},
            "containers": [{"name": "vllm", "modelCommand": "vllmServe", "args": flags}],
        }
    return values


def _notes(config: SimConfig) -> list[str]:
    """Return what was simulated and no flag says."""
    notes = []
    latency = config.latency
    if latency.precision in ("fp4", "int4") or latency.expert_precision is not None:
        experts = f", experts {latency.expert_precision}" if latency.expert_precision else ""
        notes.append(f"weights {latency.precision}{experts}: serve a checkpoint that has them")
    for name, pool in config.batching.pools.items():
        notes.append(f"{name} pool: requests are spread by {pool.router}")
        if pool.discipline in ("sjf", "edf"):
            notes.append(f"{name} pool: queue order {pool.discipline}, which vLLM does not have")
    if config.mode == "disagg":
        link = config.batching_disagg.link
        notes.append(f"KV transfer at {link.bandwidth_bytes_per_s / 1e9:g} GB/s, {link.scope}")
    return notes
