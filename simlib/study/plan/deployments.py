"""The deployments that fit a number of GPUs: replicas, splits, parallelism of pools."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from simlib.core.batching import BatchingDisagg, BatchingMono, ReplicaPool
from simlib.core.config import Mode, SimConfig
from simlib.core.overrides import overridden
from simlib.errors import InvalidParameterError
from simlib.serving.assemble import deployment_of
from simlib.study.plan.decision import ANY_GPU, DeploymentSpace

NODE_GPUS = 8
"""Tensor parallelism beyond a node of 8 GPUs is not tried unless it is asked for."""
MOST_DEPLOYMENTS = 500


class Parallel(NamedTuple):
    """How the GPUs of a replica share its model."""

    tensor: int
    ranks: int

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.tensor * self.ranks

    @property
    def name(self) -> str:
        """Such as ``TP2``, or ``TP1 DP8``."""
        return f"TP{self.tensor}" + (f" DP{self.ranks}" if self.ranks > 1 else "")


class Shape(NamedTuple):
    """A pool of a deployment: its replicas, and how each is made."""

    replicas: int
    tensor: int
    ranks: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """One candidate: what it is called, and the simulation that serves with it."""

    name: str
    """Such as ``4 x TP2``, or ``2P TP2 + 1D TP4``."""
    config: SimConfig

    @property
    def architecture(self) -> Mode:
        """Whether it is monolithic or disaggregated."""
        return self.config.mode

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return self.config.deployment.total_gpus

    @property
    def hardware(self) -> dict[str, int]:
        """GPUs by name; ``gpu`` where the model of serving has no names for them."""
        if self.config.serving == "token_rate":
            return {ANY_GPU: self.gpus}
        found: dict[str, int] = {}
        for pool in self.config.batching.pools.values():
            found[pool.gpu] = found.get(pool.gpu, 0) + pool.total_gpus
        return found


@dataclass(frozen=True, slots=True)
class Deployments:
    """The deployments to compare, and what was left out."""

    deployments: tuple[Deployment, ...]
    left_out: dict[str, str]
    """Why, by what."""


def deployments_of(
    base: Mapping[str, Any], wanted: DeploymentSpace | list[dict[str, Any]]
) -> Deployments:
    """Return every deployment that is wanted and can serve.

    Parameters
    ----------
    base
        Settings of the simulation, as a tree; each deployment is these with its pools changed.
    wanted
        A space to enumerate, or a list of deployments, each a name and overrides.

    Raises
    ------
    InvalidParameterError
        If none fits the GPUs and the model, or an explicit one is wrong.
    """
    if isinstance(wanted, list):
        return Deployments(tuple(_explicit(base, wanted)), {})
    serving = SimConfig.from_dict(dict(base)).serving
    found, left_out = (_token_rate if serving == "token_rate" else _batching)(base, wanted)
    if not found:
        why = "; ".join(f"{what}: {reason}" for what, reason in left_out.items())
        raise InvalidParameterError(
            "deployments.gpus", wanted.gpus, f"enough for at least one deployment ({why})"
        )
    if len(found) > MOST_DEPLOYMENTS:
        raise InvalidParameterError(
            "deployments",
            f"{len(found)} deployments",
            f"at most {MOST_DEPLOYMENTS}; name fewer values of tensor_parallel or axes",
        )
    return Deployments(tuple(found), left_out)


def _explicit(base: Mapping[str, Any], wanted: list[dict[str, Any]]) -> Iterator[Deployment]:
    if not wanted:
        raise InvalidParameterError("deployments", wanted, "a list of at least one deployment")
    names = set()
    for position, entry in enumerate(wanted):
        overrides = dict(entry)
        name = str(overrides.pop("name", f"deployment {position + 1}"))
        if name in names:
            raise InvalidParameterError(f"deployments.{position}.name", name, "a name of its own")
        names.add(name)
        try:
            config = SimConfig.from_dict(overridden(base, overrides))
            if config.serving == "batching" and config.latency.kind != "aiconfigurator":
                deployment_of(config.batching, config.latency, config.own)
        except InvalidParameterError as error:
            raise error.at(f"deployment {name!r}") from None
        yield Deployment(name, config)


def _token_rate(
    base: Mapping[str, Any], wanted: DeploymentSpace
) -> tuple[list[Deployment], dict[str, str]]:
    """Return deployments whose GPUs serve one request each: only their numbers vary."""
    name, gpus = wanted.hardware()
    if name is not None:
        allowed = "a number: token rates know no GPUs by name (serving: batching does, for a model)"
        raise InvalidParameterError("deployments.gpus", wanted.gpus, allowed)
    if wanted.tensor_parallel or wanted.axes or wanted.data_parallel_size != [1]:
        raise InvalidParameterError(
            "deployments", wanted.to_dict(), "gpus and architectures only (serving: token_rate)"
        )
    found = []
    if "mono" in wanted.architectures:
        config = overridden(base, {"mode": "mono", "cluster_mono.num_gpus": gpus})
        found.append(Deployment(f"{gpus} GPUs", SimConfig.from_dict(config)))
    for prefill in range(1, gpus) if "disagg" in wanted.architectures else ():
        overrides = {
            "mode": "disagg",
            "cluster_disagg.prefill_gpus": prefill,
            "cluster_disagg.decode_gpus": gpus - prefill,
        }
        name = f"{prefill}P + {gpus - prefill}D"
        found.append(Deployment(name, SimConfig.from_dict(overridden(base, overrides))))
    return found, {} if found else {"disagg": "needs 2 GPUs"}


def _batching(
    base: Mapping[str, Any], wanted: DeploymentSpace
) -> tuple[list[Deployment], dict[str, str]]:
    """Return every number of replicas and parallelism of each pool that uses all GPUs."""
    gpu, gpus = wanted.hardware()
    _check_ranks_are_asked_for(base, wanted)
    left_out: dict[str, str] = {}
    fitting = list(_fitting(base, wanted, gpu, gpus, left_out))
    shapes: list[tuple[Shape, ...]] = []
    if "mono" in wanted.architectures:
        shapes += [(Shape(gpus // one.gpus, *one),) for one in fitting if gpus % one.gpus == 0]
    if "disagg" in wanted.architectures:
        shapes += [
            (Shape(prefill, *p), Shape((gpus - prefill * p.gpus) // d.gpus, *d))
            for p, d in itertools.product(fitting, fitting)
            for prefill in range(1, (gpus - d.gpus) // p.gpus + 1)
            if (gpus - prefill * p.gpus) % d.gpus == 0
        ]
    for architecture in wanted.architectures:
        if fitting and not any(len(s) == (1 if architecture == "mono" else 2) for s in shapes):
            kinds = ", ".join(one.name for one in fitting)
            left_out[architecture] = f"no pools of {kinds} use {gpus} GPUs"
    found = []
    for shape in shapes:
        for values in itertools.product(*wanted.axes.values()):
            settings = dict(zip(wanted.axes, values, strict=True))
            found.append(_deployment(base, shape, gpu, settings))
    return found, left_out


def _check_ranks_are_asked_for(base: Mapping[str, Any], wanted: DeploymentSpace) -> None:
    """Refuse to replace ranks that the pools of the settings have by none."""
    config = SimConfig.from_dict(dict(base))
    pools = [config.batching_mono.pool, config.batching_disagg.prefill]
    for pool in (*pools, config.batching_disagg.decode):
        if pool.data_parallel_size > 1 and "data_parallel_size" not in wanted.model_fields_set:
            allowed = f"given: a pool of the settings has {pool.data_parallel_size} ranks"
            raise InvalidParameterError("deployments.data_parallel_size", None, allowed)


def _fitting(
    base: Mapping[str, Any],
    wanted: DeploymentSpace,
    gpu: str | None,
    gpus: int,
    left_out: dict[str, str],
) -> Iterator[Parallel]:
    """Yield the parallelisms that the model fits; note why others do not."""
    tensors = wanted.tensor_parallel or [2**i for i in range(min(gpus, NODE_GPUS).bit_length())]
    for ranks, tensor in itertools.product(wanted.data_parallel_size, tensors):
        one = Parallel(tensor, ranks)
        if one.gpus > gpus:
            left_out[one.name] = f"more than {gpus} GPUs"
            continue
        config = _deployment(base, (Shape(1, *one),), gpu, {}).config
        if config.latency.kind == "aiconfigurator":  # its table is made later, and says
            yield one
            continue
        try:
            deployment_of(config.batching, config.latency, config.own)
        except InvalidParameterError as error:
            if error.name.endswith(".gpu"):  # unknown, whatever the parallelism
                allowed = f"of {error.allowed}"
                raise InvalidParameterError("deployments.gpus", error.got, allowed) from None
            if error.name == "latency.model":
                raise
            where = f" ({error.where})" if error.where else ""
            left_out[one.name] = f"must be {error.allowed}{where}"
            continue
        yield one


def _deployment(
    base: Mapping[str, Any],
    shape: tuple[Shape, ...],
    gpu: str | None,
    settings: Mapping[str, Any],
) -> Deployment:
    """Return the deployment of these pools; one pool is monolithic."""
    sections = ("pool",) if len(shape) == 1 else ("prefill", "decode")
    mode = "mono" if len(shape) == 1 else "disagg"
    overrides: dict[str, Any] = {"mode": mode, "serving": "batching"}
    for section, (replicas, tensor, ranks) in zip(sections, shape, strict=True):
        parallel = {"tensor_parallel": tensor, "data_parallel_size": ranks}
        pool = {"replicas": replicas, **parallel, **settings}
        if gpu is not None:
            pool["gpu"] = gpu
        overrides |= {f"batching_{mode}.{section}.{key}": value for key, value in pool.items()}
    config = SimConfig.from_dict(overridden(base, overrides))
    suffix = "".join(f" {key}={value}" for key, value in settings.items())
    return Deployment(name_of(config) + suffix, config)


def name_of(config: SimConfig) -> str:
    """Return what people call a batching deployment: ``4 x TP2``, ``2P TP2 + 1D TP1 DP8 EP``."""
    batching: BatchingMono | BatchingDisagg = config.batching
    if isinstance(batching, BatchingMono):
        return f"{batching.pool.replicas} x {_parallel(batching.pool)}"
    prefill, decode = batching.prefill, batching.decode
    return f"{prefill.replicas}P {_parallel(prefill)} + {decode.replicas}D {_parallel(decode)}"


def _parallel(pool: ReplicaPool) -> str:
    name = Parallel(pool.tensor_parallel, pool.data_parallel_size).name
    return f"{name} EP" if pool.enable_expert_parallel else name
