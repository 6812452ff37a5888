"""The deployments that fit a number of GPUs: replicas, splits, tensor parallelism of pools."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simlib.core.batching import BatchingDisagg, BatchingMono
from simlib.core.config import Mode, SimConfig
from simlib.core.overrides import overridden
from simlib.errors import InvalidParameterError
from simlib.serving.assemble import deployment_of
from simlib.study.plan.decision import ANY_GPU, DeploymentSpace

NODE_GPUS = 8
"""Tensor parallelism beyond a node of 8 GPUs is not tried unless it is asked for."""
MOST_DEPLOYMENTS = 500


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
                deployment_of(config.batching, config.latency)
        except InvalidParameterError as error:
            raise error.at(f"deployment {name!r}") from None
        yield Deployment(name, config)


def _token_rate(
    base: Mapping[str, Any], wanted: DeploymentSpace
) -> tuple[list[Deployment], dict[str, str]]:
    """Return deployments whose GPUs serve one request each: only their numbers vary."""
    _, gpus = wanted.hardware()
    if wanted.tensor_parallel or wanted.axes:
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
    """Return every number of replicas and tensor parallelism of each pool that uses all GPUs."""
    gpu, gpus = wanted.hardware()
    left_out: dict[str, str] = {}
    fitting = list(_fitting(base, wanted, gpu, gpus, left_out))
    shapes: list[tuple[tuple[int, int], ...]] = []
    if "mono" in wanted.architectures:
        shapes += [((gpus // tp, tp),) for tp in fitting if gpus % tp == 0]
    if "disagg" in wanted.architectures:
        shapes += [
            ((prefill, p), ((gpus - prefill * p) // d, d))
            for p, d in itertools.product(fitting, fitting)
            for prefill in range(1, (gpus - d) // p + 1)
            if (gpus - prefill * p) % d == 0
        ]
    for architecture in wanted.architectures:
        if fitting and not any(len(s) == (1 if architecture == "mono" else 2) for s in shapes):
            left_out[architecture] = f"no pools of TP {fitting} use {gpus} GPUs"
    found = []
    for shape in shapes:
        for values in itertools.product(*wanted.axes.values()):
            settings = dict(zip(wanted.axes, values, strict=True))
            found.append(_deployment(base, shape, gpu, settings))
    return found, left_out


def _fitting(
    base: Mapping[str, Any],
    wanted: DeploymentSpace,
    gpu: str | None,
    gpus: int,
    left_out: dict[str, str],
) -> Iterator[int]:
    """Yield the tensor parallelisms that the model fits; note why others do not."""
    asked = wanted.tensor_parallel
    for tp in asked or [2**i for i in range((min(gpus, NODE_GPUS)).bit_length())]:
        if tp > gpus:
            left_out[f"TP{tp}"] = f"more than {gpus} GPUs"
            continue
        config = _deployment(base, ((1, tp),), gpu, {}).config
        if config.latency.kind == "aiconfigurator":  # its table is made later, and says
            yield tp
            continue
        try:
            deployment_of(config.batching, config.latency)
        except InvalidParameterError as error:
            if error.name.endswith(".gpu") or error.name == "latency.model":
                raise  # unknown, whatever the parallelism
            where = f" ({error.where})" if error.where else ""
            left_out[f"TP{tp}"] = f"must be {error.allowed}{where}"
            continue
        yield tp


def _deployment(
    base: Mapping[str, Any],
    shape: tuple[tuple[int, int], ...],
    gpu: str | None,
    settings: Mapping[str, Any],
) -> Deployment:
    """Return the deployment of (replicas, tensor parallelism) by pool; one pool is monolithic."""
    sections = ("pool",) if len(shape) == 1 else ("prefill", "decode")
    mode = "mono" if len(shape) == 1 else "disagg"
    overrides: dict[str, Any] = {"mode": mode, "serving": "batching"}
    for section, (replicas, tp) in zip(sections, shape, strict=True):
        pool = {"replicas": replicas, "tensor_parallel": tp, **settings}
        if gpu is not None:
            pool["gpu"] = gpu
        overrides |= {f"batching_{mode}.{section}.{key}": value for key, value in pool.items()}
    config = SimConfig.from_dict(overridden(base, overrides))
    suffix = "".join(f" {key}={value}" for key, value in settings.items())
    return Deployment(name_of(config) + suffix, config)


def name_of(config: SimConfig) -> str:
    """Return what people call a batching deployment: ``4 x TP2``, ``2P TP2 + 1D TP4``."""
    batching: BatchingMono | BatchingDisagg = config.batching
    if isinstance(batching, BatchingMono):
        return f"{batching.pool.replicas} x TP{batching.pool.tensor_parallel}"
    prefill, decode = batching.prefill, batching.decode
    return (
        f"{prefill.replicas}P TP{prefill.tensor_parallel} + "
        f"{decode.replicas}D TP{decode.tensor_parallel}"
    )
