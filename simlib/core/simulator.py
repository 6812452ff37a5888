"""The token-rate model as SimPy processes, and `run_simulation`, which runs either engine.

This is the readable statement of the model. Studies run `simlib.core.recursion`, which agrees
with it request by request; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import simpy

from simlib.core import recursion
from simlib.core.config import (
    DEFAULT_RANDOM_SEED,
    DEFAULT_SIM_SECONDS,
    DEFAULT_WARMUP_SECONDS,
    ArrivalConfig,
    ClusterDisagg,
    ClusterMonolithic,
    Engine,
    Mode,
    OutputConfig,
    PromptConfig,
    SimConfig,
)
from simlib.core.metrics import METRICS
from simlib.core.records import (
    RequestRecords,
    Status,
    TtftDefinition,
    records_of,
)
from simlib.core.sampling import sample_requests
from simlib.core.summary import elapsed_s, pool_busy_s, summarise
from simlib.core.validation import ConfigModel
from simlib.errors import InvalidParameterError
from simlib.workload import lengths
from simlib.workload.requests import Requests

__all__ = [
    "DEFAULT_RANDOM_SEED",
    "DEFAULT_SIM_SECONDS",
    "DEFAULT_WARMUP_SECONDS",
    "DisaggParams",
    "DisaggregatedSimulator",
    "LogNormalParams",
    "Metrics",
    "MonoParams",
    "MonolithicSimulator",
    "Request",
    "lognormal_tokens",
    "poisson_interarrival_time",
    "run_simulation",
    "serve",
]

LogNormalParams = tuple[float, float, int]
"""(mu, sigma, min_value): log-space mean and deviation, and the shortest length in tokens."""
MonoParams = tuple[int, float, float]
"""(num_gpus, prefill_tokens_per_s, decode_tokens_per_s)."""
DisaggParams = tuple[int, int, float, float]
"""(prefill_gpus, decode_gpus, prefill_tokens_per_s, decode_tokens_per_s)."""

Process = Generator[simpy.Event, Any, None]


def poisson_interarrival_time(rate_per_s: float, rng: np.random.Generator) -> float:
    """Draw one gap between Poisson arrivals, in seconds, from `rng` and nothing else."""
    if not rate_per_s > 0:
        raise InvalidParameterError("rate_per_s", rate_per_s, "> 0")
    return float(rng.standard_exponential() / rate_per_s)


def lognormal_tokens(mean: float, sigma: float, min_value: int, rng: np.random.Generator) -> int:
    """Draw one length in tokens from `rng`; `mean` and `sigma` are in log space."""
    if not sigma >= 0:
        raise InvalidParameterError("sigma", sigma, ">= 0")
    return int(lengths.lognormal(1, mean, sigma, min_value, rng)[0])


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it arrives (seconds) and its lengths (tokens)."""

    request_id: int
    arrival_time: float
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Stamps:
    """What happened to one request so far, in seconds; NaN for what has not happened."""

    prefill_start_s: float = np.nan
    prefill_end_s: float = np.nan
    transfer_start_s: float = np.nan
    transfer_end_s: float = np.nan
    decode_start_s: float = np.nan
    first_token_s: float = np.nan
    finish_s: float = np.nan
    prefill_replica: int = -1
    decode_replica: int = -1
    status: int = Status.UNFINISHED


@dataclass(slots=True)
class Metrics:
    """What a run measured: TTFT values with their times, counts, and busy GPU time."""

    start_time: float = 0.0
    end_time: float = 0.0
    """Time of the last event, seconds; set by `finalize`."""
    ttft_values: list[float] = field(default_factory=list)
    """TTFT of each request that got its first token, seconds, in order of event."""
    ttft_times: list[float] = field(default_factory=list)
    """When each of these first tokens came, seconds."""
    completed: int = 0
    dropped: int = 0
    """Requests that had not finished when the run ended."""
    gpu_seconds: dict[str, float] = field(default_factory=dict)
    """Busy GPU-seconds of each pool, over the whole run; a GPU still busy counts to its end."""
    stamps: dict[int, Stamps] = field(default_factory=dict)
    """Time stamps by request_id, written by the SimPy simulators."""

    def add_ttft(self, ttft: float, time: float) -> None:
        """Record one TTFT (seconds) and when its first token came."""
        self.ttft_values.append(ttft)
        self.ttft_times.append(time)

    def mark_completed(self) -> None:
        """Count one finished request."""
        self.completed += 1

    def add_gpu_seconds(self, pool: str, seconds: float) -> None:
        """Add busy time of one GPU of a pool."""
        self.gpu_seconds[pool] = self.gpu_seconds.get(pool, 0.0) + seconds

    def finalize(self, end_time: float, arrived: int | None = None) -> None:
        """Close the run at `end_time`; of `arrived` requests, the unfinished count as dropped."""
        self.end_time = end_time
        total = max(len(self.stamps), self.completed) if arrived is None else arrived
        self.dropped = total - self.completed

    def summary(self, warmup: float = 0.0) -> dict[str, float | int]:
        """Return statistics of TTFT over requests that arrived at or after `warmup` seconds."""
        values = np.asarray(self.ttft_values, dtype=np.float64)
        arrival_s = np.asarray(self.ttft_times, dtype=np.float64) - values
        kept = values[arrival_s >= warmup]
        return {
            "num_samples": len(kept),
            **METRICS["ttft"].of(kept),
            "completed": self.completed,
            "dropped": self.dropped,
            "elapsed_s": self.end_time - self.start_time,
        }


class _Pool:
    """Identical replicas that serve one request each, first come, first served."""

    def __init__(self, env: simpy.Environment, replicas: int) -> None:
        self._idle = simpy.Store(env)
        self._idle.items.extend(range(replicas))  # the replica idle longest comes first

    def acquire(self) -> simpy.Event:
        """Return an event whose value is the replica obtained."""
        return self._idle.get()

    def release(self, replica: int) -> None:
        self._idle.put(replica)


class MonolithicSimulator:
    """One pool; a request holds one GPU from prefill through its last token."""

    def __init__(
        self,
        env: simpy.Environment,
        num_gpus: int,
        prefill_tokens_per_s: float,
        decode_tokens_per_s: float,
    ) -> None:
        cluster = ClusterMonolithic(
            num_gpus=num_gpus,
            prefill_tokens_per_s=prefill_tokens_per_s,
            decode_tokens_per_s=decode_tokens_per_s,
        )
        self.env = env
        self.cluster = cluster
        self._gpus = _Pool(env, cluster.num_gpus)

    def process(self, req: Request, metrics: Metrics) -> Process:
        """Live one request's life from its arrival, now."""
        env, cluster = self.env, self.cluster
        stamps = metrics.stamps[req.request_id] = Stamps()

        gpu = yield self._gpus.acquire()
        stamps.prefill_replica = gpu
        stamps.prefill_start_s = env.now
        yield env.timeout(req.prompt_tokens / cluster.prefill_tokens_per_s)
        stamps.prefill_end_s = stamps.transfer_start_s = stamps.transfer_end_s = env.now

        stamps.decode_replica = gpu
        stamps.decode_start_s = env.now
        yield env.timeout(1.0 / cluster.decode_tokens_per_s)
        stamps.first_token_s = env.now
        metrics.add_ttft(env.now - req.arrival_time, env.now)
        yield env.timeout((req.output_tokens - 1) / cluster.decode_tokens_per_s)
        self._gpus.release(gpu)
        metrics.add_gpu_seconds("gpu", env.now - stamps.prefill_start_s)
        stamps.finish_s = env.now
        stamps.status = Status.FINISHED
        metrics.mark_completed()


class DisaggregatedSimulator:
    """Prefill on one pool, an optional KV transfer, decode on another pool."""

    def __init__(
        self,
        env: simpy.Environment,
        prefill_gpus: int,
        decode_gpus: int,
        prefill_tokens_per_s: float,
        decode_tokens_per_s: float,
        *,
        kv_base_latency_s: float = 0.0,
        transfer_s_per_token: float = 0.0,
    ) -> None:
        self.cluster = ClusterDisagg(
            prefill_gpus=prefill_gpus,
            decode_gpus=decode_gpus,
            prefill_tokens_per_s=prefill_tokens_per_s,
            decode_tokens_per_s=decode_tokens_per_s,
        )
        for name, value in (
            ("kv_base_latency_s", kv_base_latency_s),
            ("transfer_s_per_token", transfer_s_per_token),
        ):
            if not (value >= 0 and np.isfinite(value)):
                raise InvalidParameterError(name, value, ">= 0 and finite")
        self.env = env
        self.kv_base_latency_s = kv_base_latency_s
        self.transfer_s_per_token = transfer_s_per_token
        self._prefill = _Pool(env, prefill_gpus)
        self._decode = _Pool(env, decode_gpus)

    def process(self, req: Request, metrics: Metrics) -> Process:
        """Live one request's life from its arrival, now."""
        env, cluster = self.env, self.cluster
        stamps = metrics.stamps[req.request_id] = Stamps()

        gpu = yield self._prefill.acquire()
        stamps.prefill_replica = gpu
        stamps.prefill_start_s = env.now
        yield env.timeout(req.prompt_tokens / cluster.prefill_tokens_per_s)
        stamps.prefill_end_s = stamps.transfer_start_s = env.now
        self._prefill.release(gpu)
        metrics.add_gpu_seconds("prefill", env.now - stamps.prefill_start_s)

        transfer_s = self.kv_base_latency_s + req.prompt_tokens * self.transfer_s_per_token
        if transfer_s > 0:
            yield env.timeout(transfer_s)
        stamps.transfer_end_s = env.now

        gpu = yield self._decode.acquire()
        stamps.decode_replica = gpu
        stamps.decode_start_s = env.now
        yield env.timeout(1.0 / cluster.decode_tokens_per_s)
        stamps.first_token_s = env.now
        metrics.add_ttft(env.now - req.arrival_time, env.now)
        yield env.timeout((req.output_tokens - 1) / cluster.decode_tokens_per_s)
        self._decode.release(gpu)
        metrics.add_gpu_seconds("decode", env.now - stamps.decode_start_s)
        stamps.finish_s = env.now
        stamps.status = Status.FINISHED
        metrics.mark_completed()


def serve(requests: Requests, config: SimConfig) -> tuple[RequestRecords, Metrics]:
    """Serve `requests` event by event with the deployment that `config` selects."""
    env = simpy.Environment()
    cluster = config.cluster
    simulator: MonolithicSimulator | DisaggregatedSimulator
    if isinstance(cluster, ClusterMonolithic):
        simulator = MonolithicSimulator(
            env,
            cluster.num_gpus,
            cluster.prefill_tokens_per_s,
            cluster.decode_tokens_per_s,
        )
    else:
        simulator = DisaggregatedSimulator(
            env,
            cluster.prefill_gpus,
            cluster.decode_gpus,
            cluster.prefill_tokens_per_s,
            cluster.decode_tokens_per_s,
            kv_base_latency_s=cluster.kv_base_latency_s,
            transfer_s_per_token=cluster.transfer_s_per_token,
        )
    metrics = Metrics()
    env.process(_source(env, simulator, requests, metrics))
    env.run(until=None if config.drain else config.sim_seconds)
    metrics.finalize(max(float(env.now), config.sim_seconds), arrived=len(requests))
    stamps = [metrics.stamps.get(request_id, Stamps()) for request_id in range(len(requests))]
    columns: dict[str, Any] = {
        column.name: np.array([getattr(row, column.name) for row in stamps])
        for column in fields(Stamps)
    }
    for name, kind in (("prefill_replica", np.int32), ("decode_replica", np.int32)):
        columns[name] = columns[name].astype(kind)
    columns["status"] = columns["status"].astype(np.int8)
    records = records_of(requests, columns)
    metrics.gpu_seconds = pool_busy_s(records, config, (0.0, metrics.end_time))
    return records, metrics


def _source(
    env: simpy.Environment,
    simulator: MonolithicSimulator | DisaggregatedSimulator,
    requests: Requests,
    metrics: Metrics,
) -> Process:
    columns = (requests.arrival_s, requests.prompt_tokens, requests.output_tokens)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for request_id, (arrival_s, prompt_tokens, output_tokens) in enumerate(rows):
        yield env.timeout(arrival_s - env.now)
        env.process(
            simulator.process(Request(request_id, arrival_s, prompt_tokens, output_tokens), metrics)
        )


def run_simulation(
    mode: Mode,
    sim_seconds: float,
    warmup_seconds: float,
    random_seed: int,
    arrival_rate_per_s: float,
    prompt_lognormal: LogNormalParams,
    output_lognormal: LogNormalParams,
    mono_params: MonoParams | None = None,
    disagg_params: DisaggParams | None = None,
    *,
    engine: Engine = "fast",
    replicate: int = 0,
    drain: bool = True,
    ttft_definition: TtftDefinition = "first_decode_step",
) -> tuple[Metrics, dict[str, Any]]:
    """Simulate Poisson load with lognormal lengths on one deployment.

    Parameters
    ----------
    mode : {"mono", "disagg"}
        Which deployment serves; its parameters default to those of `SimConfig`.
    sim_seconds, warmup_seconds : float
        Requests arrive in [0, sim_seconds); those that arrive before the warm-up do not count.
    random_seed, replicate : int
        Select the random streams. Both modes see the same requests.
    arrival_rate_per_s : float
        Mean arrival rate, requests per second.
    prompt_lognormal, output_lognormal : (mu, sigma, min_value)
        Log-space parameters and the shortest length in tokens.
    mono_params : (num_gpus, prefill_tokens_per_s, decode_tokens_per_s), optional
    disagg_params : (prefill_gpus, decode_gpus, prefill_tokens_per_s, decode_tokens_per_s), optional
    engine : {"fast", "simpy"}
        Both give the same records.
    drain : bool
        Serve every request to its end after sim_seconds.
    ttft_definition : str
        What TTFT means in the statistics; see `simlib.core.records.ttft_s`.

    Returns
    -------
    metrics : Metrics
        TTFT samples of the whole run, warm-up included, and counts.
    statistics : dict
        As `simlib.core.summary.summarise` gives: num_samples, mean_ttft_s, p50_ttft_s,
        p90_ttft_s, p99_ttft_s, throughput_rps, elapsed_s, utilisation and GPUs by pool, …

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    config = SimConfig(
        mode=mode,
        sim_seconds=sim_seconds,
        warmup_seconds=warmup_seconds,
        random_seed=random_seed,
        arrival=ArrivalConfig(rate_per_s=arrival_rate_per_s),
        prompt_tokens=_distribution(PromptConfig, "prompt_lognormal", prompt_lognormal),
        output_tokens=_distribution(OutputConfig, "output_lognormal", output_lognormal),
        engine=engine,
        drain=drain,
        ttft_definition=ttft_definition,
        **_cluster("cluster_mono", "mono_params", ClusterMonolithic, mono_params),
        **_cluster("cluster_disagg", "disagg_params", ClusterDisagg, disagg_params),
    )
    requests = sample_requests(config, replicate)
    if engine == "simpy":
        records, metrics = serve(requests, config)
    else:
        records = recursion.serve(requests, config)
        metrics = _metrics_of(records, config)
    return metrics, summarise(records, config)


def _distribution(kind: type[Any], name: str, parameters: LogNormalParams) -> Any:
    names = ("mean", "sigma", "min_value")
    return _part(kind, name, names, parameters, "(mu, sigma, min_value)")


def _cluster(
    key: str,
    name: str,
    kind: type[ClusterMonolithic | ClusterDisagg],
    parameters: MonoParams | DisaggParams | None,
) -> dict[str, Any]:
    if parameters is None:
        return {}
    names = {
        ClusterMonolithic: ("num_gpus", "prefill_tokens_per_s", "decode_tokens_per_s"),
        ClusterDisagg: (
            "prefill_gpus",
            "decode_gpus",
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
        ),
    }[kind]
    return {key: _part(kind, name, names, parameters, f"({', '.join(names)})")}


def _part(
    kind: type[ConfigModel], name: str, names: tuple[str, ...], parameters: Any, allowed: str
) -> Any:
    """Build one part of the configuration from a tuple; its errors say which tuple."""
    if not isinstance(parameters, tuple | list) or len(parameters) != len(names):
        raise InvalidParameterError(name, parameters, allowed)
    try:
        return kind.from_dict(dict(zip(names, parameters, strict=True)))
    except InvalidParameterError as error:
        raise error.at(name) from None


def _metrics_of(records: RequestRecords, config: SimConfig) -> Metrics:
    """Return what a SimPy run would have measured, from the fast engine's records."""
    order = np.argsort(records.first_token_s, kind="stable")
    order = order[~np.isnan(records.first_token_s[order])]
    finished = records.status == Status.FINISHED
    metrics = Metrics(
        ttft_values=(records.first_token_s - records.arrival_s)[order].tolist(),
        ttft_times=records.first_token_s[order].tolist(),
        completed=int(np.count_nonzero(finished)),
    )
    metrics.finalize(elapsed_s(records, config), arrived=len(records))
    metrics.gpu_seconds = pool_busy_s(records, config, (0.0, metrics.end_time))
    return metrics
