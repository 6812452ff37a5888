"""What a study says that asks for a decision: an SLO, the deployments, and how exactly."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from simlib.core.batching import ReplicaPool
from simlib.core.slo import Slo
from simlib.core.validation import MAX_GPUS, ConfigModel, PositiveFloat, PositiveInt
from simlib.errors import InvalidParameterError

ANY_GPU = "gpu"
"""What a GPU is called where serving has no names for them."""
_ENUMERATED = ("replicas", "gpu", "tensor_parallel", "data_parallel_size")
_MOST_FACTORS = 2


class DeploymentSpace(ConfigModel):
    """Which deployments to look at: all that these settings allow."""

    gpus: PositiveInt | dict[str, PositiveInt]
    """GPUs of each deployment: a number, or a number by the catalog's name, ``{h100_sxm: 8}``."""
    tensor_parallel: list[PositiveInt] | None = None
    """GPUs of a replica, or of each of its ranks; default: 1, 2, 4, 8, as far as the model fits."""
    data_parallel_size: list[PositiveInt] = Field(default=[1])
    """Ranks of a replica of a mixture of experts."""
    architectures: list[Literal["mono", "disagg"]] = Field(default=["mono", "disagg"])
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    """Other settings of every pool, a list of values each: ``max_batch_tokens: [2048, 8192]``."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _some(cls, gpus: Any) -> Any:
        """Refuse what is no number of GPUs here: a union's own message names its insides."""
        counts = gpus if isinstance(gpus, dict) else {"": gpus}
        if not counts:
            raise InvalidParameterError("gpus", gpus, "a number, or a number by a GPU's name")
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_GPUS:
                where = name or "gpus"
                raise InvalidParameterError(where, count, f"a whole number, >= 1 and <= {MAX_GPUS}")
        return gpus

    @field_validator("architectures")
    @classmethod
    def _at_least_one(cls, architectures: list[str]) -> list[str]:
        if not architectures:
            raise InvalidParameterError("architectures", [], "mono, disagg, or both")
        return list(dict.fromkeys(architectures))

    @field_validator("axes")
    @classmethod
    def _of_pools(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        known = [n for n in ReplicaPool.model_fields if n not in _ENUMERATED]
        for name, values in axes.items():
            if name not in known:
                raise InvalidParameterError(f"axes.{name}", name, "one of " + ", ".join(known))
            if not values:
                raise InvalidParameterError(f"axes.{name}", values, "a list of at least one value")
        return axes

    def hardware(self) -> tuple[str | None, int]:
        """Return the GPU's name, None where none was given, and how many.

        Raises
        ------
        InvalidParameterError
            For several kinds of GPUs: which pool gets which is not ours to guess.
        """
        if isinstance(self.gpus, int):
            return None, self.gpus
        if len(self.gpus) != 1:
            raise InvalidParameterError(
                "deployments.gpus",
                self.gpus,
                "one kind of GPU; list deployments of several kinds one by one",
            )
        (item,) = self.gpus.items()
        return item


def space_or_list(deployments: Any) -> Any:
    """Return a mapping as a space, so that what is wrong in it is named as it is written."""
    if isinstance(deployments, dict):
        return DeploymentSpace.from_dict(deployments)
    return deployments


class Accuracy(ConfigModel):
    """How exactly capacities are found, and which differences do not matter."""

    relative: PositiveFloat = 0.02
    """Half width of a capacity's 95% interval over the estimate."""
    max_replicates: int = Field(default=200, ge=3)
    """Where to stop in any case."""
    indifference: float = Field(default=0.02, ge=0, lt=1)
    """Deployments whose capacities differ by less are as good as each other."""


class Decision(ConfigModel):
    """The part of a study that asks which deployment to choose."""

    slo: Slo
    """What requests must meet."""
    deployments: DeploymentSpace | list[dict[str, Any]]
    """A space of deployments, or a list of them, each a name and overrides."""
    rate_per_s: PositiveFloat | None = None
    """Also find the fewest GPUs that carry this rate, requests per second (for a space)."""
    accuracy: Accuracy = Field(default_factory=Accuracy)
    prices: dict[str, PositiveFloat] = Field(default_factory=dict)
    """US dollars per GPU and hour, by the names of the catalog or of ``gpus``; they win over
    the catalog's."""
    break_point: dict[str, list[Any]] = Field(default_factory=dict)
    """One or two keys (``prompt_tokens.p50``, ``slo.ttft_s``) with a list of values each: the
    decision is made for every combination, to show where the verdict changes."""
    keep_requests: bool = False
    """Also keep the requests of each simulation, as sweeps do; a fine decision has gigabytes."""

    @field_validator("deployments", mode="before")
    @classmethod
    def _space_or_list(cls, deployments: Any) -> Any:
        return space_or_list(deployments)

    @field_validator("break_point")
    @classmethod
    def _one_or_two(cls, factors: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if len(factors) > _MOST_FACTORS:
            raise InvalidParameterError("break_point", list(factors), "one or two keys")
        for key, levels in factors.items():
            if not levels:
                raise InvalidParameterError(f"break_point.{key}", levels, "a list of values")
        return {key: [_as_number(level) for level in levels] for key, levels in factors.items()}


def _as_number(level: Any) -> Any:
    """Return the number that a text reads as: YAML takes ``50e9`` for a text."""
    if not isinstance(level, str):
        return level
    try:
        number = float(level)
    except ValueError:
        return level
    return int(number) if number.is_integer() else number
