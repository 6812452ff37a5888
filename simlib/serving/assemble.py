"""From a configuration to the deployment that an engine serves with."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from simlib.core.batching import BatchingDisagg, BatchingMono, LatencyConfig, ReplicaPool
from simlib.core.config import SimConfig
from simlib.core.own import Own
from simlib.core.records import RequestRecords, cut_at
from simlib.core.sampling import sample_classes
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.models import KV_BYTES, latency_model
from simlib.latency.table import LatencyTable
from simlib.serving.deployment import Classes, Deployment, Pool
from simlib.serving.timeline import Timeline
from simlib.workload.requests import Requests

TABLES = Path("results/latency")
"""Where the workflow keeps tables of measured kernels."""


def serve(
    requests: Requests,
    config: SimConfig,
    replicate: int = 0,
    *,
    timeline: Timeline | None = None,
) -> RequestRecords:
    """Serve `requests` by continuous batching with the deployment that `config` selects.

    Without a drain, what happens at or after ``config.sim_seconds`` is not seen. A `timeline` is
    filled by the fast engine only.
    """
    deployment = deployment_of(config.batching, config.latency, config.own)
    _check_limits(requests, deployment)
    engine: ModuleType
    if config.engine == "simpy":
        if timeline is not None:
            raise InvalidParameterError("engine", config.engine, "fast, which fills a timeline")
        from simlib.serving import twin as engine  # imports SimPy
    else:
        from simlib.serving import engine  # imports Numba
    options: dict[str, Any] = {"random_seed": config.random_seed, "replicate": replicate}
    if config.class_key is not None:
        options["classes"] = _classes(config, config.class_key, replicate, len(requests))
    if timeline is not None:
        options["timeline"] = timeline
    if config.arrival.process.closed:
        options["concurrency"] = config.arrival.concurrency
    records: RequestRecords = engine.simulate(requests, deployment, **options)
    if config.arrival.process.closed:
        records = _sent_in_time(records, config)
    return records if config.drain else cut_at(records, config.sim_seconds)


def _check_limits(requests: Requests, deployment: Deployment) -> None:
    """Refuse requests that are longer than what a latency model was measured for."""
    for pool in deployment.pools:
        limits = pool.latency.limits
        if limits is None or len(requests) == 0:
            continue
        longest = int((requests.prompt_tokens + requests.output_tokens).max())
        prompt = int(requests.prompt_tokens.max())
        for name, tokens, most in (
            ("longest request, tokens", longest, limits.context),
            ("longest prompt, tokens", prompt, limits.before),
        ):
            if tokens > most:
                allowed = f"<= {most:g}, the most context in the table of latency.path"
                raise InvalidParameterError(name, tokens, allowed)


def _classes(config: SimConfig, key: str, replicate: int, n: int) -> Classes:
    """Return the column that the entry pool's discipline sorts by."""
    of_class = np.array([getattr(one, key) for one in config.request_classes.values()])
    return Classes(**{key: of_class[sample_classes(config, replicate, np.arange(n))]})


def _sent_in_time(records: RequestRecords, config: SimConfig) -> RequestRecords:
    """Return the requests that a closed loop sends before sim_seconds.

    Later ones only keep the load up while these are served to their end.
    """
    last_s = float(records.arrival_s[-1])
    if last_s < config.sim_seconds:
        raise InvalidParameterError(
            "arrival.requests",
            config.arrival.requests,
            f"enough to last until sim_seconds ({config.sim_seconds:g}); the last one was sent "
            f"at {last_s:.1f} s",
        )
    return records.select(records.arrival_s < config.sim_seconds)


def deployment_of(
    batching: BatchingMono | BatchingDisagg, latency: LatencyConfig, own: Own | None = None
) -> Deployment:
    """Return the pools, with latency models and KV capacities, that a configuration names.

    Parameters
    ----------
    batching, latency
        Sections of the configuration.
    own
        Models and GPUs beside those of the catalog.

    Raises
    ------
    InvalidParameterError
        If the catalog knows no such GPU or model, or the model does not fit.
    """
    own = own or Own()
    if isinstance(batching, BatchingMono):
        return Deployment(
            _pool_at("batching_mono.pool", batching.pool, latency, own),
            first_token=batching.first_token,
            front_end=batching.front_end,
        )
    return Deployment(
        _pool_at("batching_disagg.prefill", batching.prefill, latency, own),
        _pool_at("batching_disagg.decode", batching.decode, latency, own),
        batching.link,
        front_end=batching.front_end,
    )


def _pool_at(section: str, pool: ReplicaPool, latency: LatencyConfig, own: Own) -> Pool:
    """Return the pool of a section of the configuration; errors name the key in full."""
    try:
        return _pool(pool, latency, own)
    except InvalidParameterError as error:
        if error.name in ReplicaPool.model_fields:
            name = f"{section}.{error.name}"
        elif error.name.partition(":")[0] in LatencyConfig.model_fields:
            name = f"latency.{error.name}"
        elif error.name == latency.kind:  # no coefficients for this model on this GPU
            name = f"latency.model on {section}"
        else:
            name = f"{section}: {error.name}"
        raise InvalidParameterError(name, error.got, error.allowed, error.where) from None


def _pool(pool: ReplicaPool, latency: LatencyConfig, own: Own) -> Pool:
    table = TABLES / latency.table_name(pool) if latency.kind == "aiconfigurator" else None
    model: str | catalog.Model = latency.model
    gpu: str | catalog.Gpu = pool.gpu
    if table is None:  # such a table may be of others than the catalog has
        model, gpu = own.model(latency.model), own.gpu(pool.gpu)
    found = Pool(
        pool,
        latency_model(
            latency.kind,
            model=model,
            gpu=gpu,
            tensor_parallel=pool.tensor_parallel,
            precision=latency.precision,
            kv_cache_dtype=latency.kv_cache_dtype,
            table=table,
            path=latency.path,
            step_overhead_s=latency.step_overhead_s,
            sequence_overhead_s=latency.sequence_overhead_s,
            expert_precision=latency.expert_precision,
            expert_imbalance=latency.expert_imbalance,
            data_parallel_size=pool.data_parallel_size,
            enable_expert_parallel=pool.enable_expert_parallel,
            expert_launch_s=latency.expert_launch_s,
            latent_launch_s=latency.latent_launch_s,
            latent_step_s=latency.latent_step_s,
        ),
        _rank_blocks(pool, latency, table, own) * pool.data_parallel_size,
    )
    limits = found.latency.limits
    if limits is not None:
        for name, most in (("max_batch_tokens", limits.tokens), ("max_batch_size", limits.batch)):
            if getattr(found, name) > most:
                allowed = f"<= {most:g}, the most in the table of latency.path"
                raise InvalidParameterError(name, getattr(pool, name), allowed)
    return found


def _rank_blocks(pool: ReplicaPool, latency: LatencyConfig, table: Path | None, own: Own) -> int:
    """Return the blocks of KV cache of a rank: as given, or what its memory leaves."""
    if pool.num_gpu_blocks_override is not None:
        return pool.num_gpu_blocks_override
    if pool.kv_capacity_tokens is not None:
        tokens = pool.kv_capacity_tokens
    elif table is not None:
        tokens = LatencyTable.read(table).kv_capacity_tokens
    else:
        tokens = catalog.kv_capacity_tokens(
            own.model(latency.model),
            own.gpu(pool.gpu),
            pool.tensor_parallel,
            precision=latency.precision,
            expert_precision=latency.expert_precision,
            data_parallel_size=pool.data_parallel_size,
            kv_bytes=KV_BYTES[latency.kv_cache_dtype],
            memory_fraction=pool.gpu_memory_utilization,
        )
    if tokens < pool.block_size:
        allowed = f"enough GPUs for one block of {pool.block_size} tokens"
        raise InvalidParameterError("tensor_parallel", pool.tensor_parallel, allowed)
    return tokens // pool.block_size
