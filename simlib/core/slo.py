"""Service-level objectives: which requests of a run were served as wished.

A request counts only if it meets every part of its objective at once (the goodput of DistServe,
OSDI 2024, arXiv:2401.09670). One that was rejected, or has not finished, meets none.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from simlib.core.config import SimConfig
from simlib.core.records import (
    RequestRecords,
    Status,
    TtftDefinition,
    e2e_s,
    in_window,
    tpot_s,
    ttft_s,
)
from simlib.core.sampling import sample_classes
from simlib.core.validation import ConfigModel, FiniteFloat, PositiveFloat
from simlib.errors import InvalidParameterError

Mask = NDArray[np.bool_]
PARTS = ("ttft_s", "tpot_s", "e2e_s")
"""What an objective may limit; each is a limit in seconds on the metric of that name."""


class Limits(ConfigModel):
    """The longest times that a request may take; a part that is left out has no limit."""

    ttft_s: PositiveFloat | None = None
    """Time to first token, seconds."""
    tpot_s: PositiveFloat | None = None
    """Mean time per output token after the first, seconds; one-token outputs meet any."""
    e2e_s: PositiveFloat | None = None
    """Time to the last token, seconds."""

    @model_validator(mode="before")
    @classmethod
    def _known_of_every_run(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if str(key).startswith("itl"):
                    raise InvalidParameterError(
                        key,
                        data[key],
                        "left out: single gaps between tokens are kept by runs with a timeline, "
                        "which searches do without; tpot_s limits their mean in each request",
                    )
        return data

    @property
    def parts(self) -> dict[str, float]:
        """The limits that are set, by part."""
        return {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None}


class Slo(Limits):
    """An objective: limits for every request, and the share of requests that must meet them."""

    attainment: FiniteFloat = 0.95
    """Share of the requests that must be within all limits."""
    classes: dict[str, Limits] = Field(default_factory=dict)
    """Limits of a request class by its name, instead of those for all."""

    def times(self, factor: float) -> Slo:
        """Return the same objective with every limit that many times as long."""
        classes = {
            name: Limits(**{part: factor * limit for part, limit in limits.parts.items()})
            for name, limits in self.classes.items()
        }
        limits = {part: factor * limit for part, limit in self.parts.items()}
        return Slo(attainment=self.attainment, classes=classes, **limits)

    @field_validator("attainment")
    @classmethod
    def _is_a_share(cls, attainment: float) -> float:
        if not 0 < attainment < 1:
            raise InvalidParameterError("attainment", attainment, "> 0 and < 1, such as 0.95")
        return attainment

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.parts and not any(one.parts for one in self.classes.values()):
            raise InvalidParameterError(
                "slo", self.to_dict(), "at least one of " + ", ".join(PARTS)
            )
        return self

    def check_classes(self, config: SimConfig) -> None:
        """Refuse limits for classes that the requests do not have.

        Raises
        ------
        InvalidParameterError
            For a class that ``request_classes`` lacks.
        """
        for name in self.classes:
            if name not in config.request_classes:
                known = ", ".join(config.request_classes) or "none; set request_classes"
                raise InvalidParameterError("slo.classes", name, f"one of the classes ({known})")


def within_parts(
    records: RequestRecords,
    config: SimConfig,
    slo: Slo,
    replicate: int = 0,
    ttft_definition: TtftDefinition | None = None,
) -> dict[str, Mask]:
    """Return by part which requests of the window meet that part's limit.

    Only parts that limit some request; rejected and unfinished requests meet none.

    Parameters
    ----------
    records : RequestRecords
        Of one run.
    replicate
        Which one: the classes of its requests depend on it.
    ttft_definition
        Where TTFT ends; default: as the configuration says.

    Returns
    -------
    dict of array, shape (requests of the window,)
    """
    counted = records.select(in_window(records, config.warmup_seconds, config.sim_seconds))
    finished = counted.status == Status.FINISHED
    values = {
        "ttft_s": ttft_s(counted, ttft_definition or config.ttft_definition),
        "tpot_s": np.nan_to_num(tpot_s(counted), nan=0.0),  # one token: no gap to wait for
        "e2e_s": e2e_s(counted),
    }
    limits = _limits(counted, config, slo, replicate)
    return {part: finished & (values[part] <= limit) for part, limit in limits.items()}


def within(records: RequestRecords, config: SimConfig, slo: Slo, replicate: int = 0) -> Mask:
    """Return which requests of the window meet every part of the objective."""
    parts = within_parts(records, config, slo, replicate)
    return np.asarray(np.logical_and.reduce(list(parts.values())))


def attainment(records: RequestRecords, config: SimConfig, slo: Slo, replicate: int = 0) -> float:
    """Return the share of the window's requests within the objective; NaN without requests."""
    good = within(records, config, slo, replicate)
    return float(np.mean(good)) if good.size else float("nan")


def _limits(
    counted: RequestRecords, config: SimConfig, slo: Slo, replicate: int
) -> dict[str, NDArray[np.float64]]:
    """Return by part the limit of each request in seconds, infinite for those without one."""
    limits = {part: np.full(len(counted), slo.parts.get(part, np.inf)) for part in PARTS}
    if slo.classes:
        index = sample_classes(config, replicate, counted.request_id)
        for position, name in enumerate(config.request_classes):
            if name in slo.classes:
                for part in PARTS:
                    limits[part][index == position] = slo.classes[name].parts.get(part, np.inf)
    used = {part for one in (slo, *slo.classes.values()) for part in one.parts}
    return {part: limit for part, limit in limits.items() if part in used}
