"""The decisions that a study asks for, and the jobs that answer them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from simlib.core.overrides import overridden
from simlib.core.slo import Slo
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.study.plan.decision import ANY_GPU, Accuracy, Decision, DeploymentSpace
from simlib.study.plan.deployments import Deployment, deployments_of
from simlib.study.plan.searches import (
    check_request,
    fewest_id,
    fewest_request,
    refined_id,
    refined_request,
    screening,
    search_id,
    search_request,
)


@dataclass(frozen=True)
class Case:
    """One decision: a workload and an objective, and the deployments to choose from."""

    coordinates: dict[str, Any]
    """Level by key of the break point; empty without one."""
    settings: dict[str, Any]
    """Settings of the simulation, as a tree."""
    slo: Slo
    deployments: tuple[Deployment, ...]
    left_out: dict[str, str]
    accuracy: Accuracy
    fewest: dict[str, Any] | None
    """Request of the job that finds the fewest GPUs for a rate."""
    keep_requests: bool = False

    @cached_property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """The requests of all jobs, by identity."""
        extra = {} if self.fewest is None else {fewest_id(self.fewest): self.fewest}
        return {**self.searches, **dict(self.refined.values()), **extra}

    @cached_property
    def searches(self) -> dict[str, dict[str, Any]]:
        """The request of each deployment's search, the first round's, by its identity."""
        return {
            self._first[one.name]: search_request(
                one.config, self.slo, self._screening, one.name, keep_requests=self.keep_requests
            )
            for one in self.deployments
        }

    @cached_property
    def refined(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The second round's job of each deployment, by its name; none if one round is enough."""
        if self._screening == self.accuracy:
            return {}
        rivals: dict[str, list[str]] = {}
        for one in self.deployments:
            rivals.setdefault(one.architecture, []).append(self._first[one.name])
        found = {}
        for one in self.deployments:
            first = self._first[one.name]
            request = refined_request(
                self.searches[first], self.accuracy, first, rivals[one.architecture]
            )
            found[one.name] = (refined_id(request), request)
        return found

    @property
    def _screening(self) -> Accuracy:
        return screening(self.accuracy, len(self.deployments))

    @cached_property
    def _first(self) -> dict[str, str]:
        """The first round's job of each deployment, by its name."""
        keep = self.keep_requests
        return {
            one.name: search_id(one.config, self.slo, self._screening, keep_requests=keep)
            for one in self.deployments
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what tables need."""
        return {
            "coordinates": self.coordinates,
            "slo": self.slo.to_dict(),
            "left_out": self.left_out,
            "fewest": None if self.fewest is None else fewest_id(self.fewest),
            "deployments": [
                {
                    "name": one.name,
                    "architecture": one.architecture,
                    "gpus": one.gpus,
                    "hardware": one.hardware,
                    "config": one.config.to_dict(),
                    "search": self.refined[one.name][0] if self.refined else self._first[one.name],
                }
                for one in self.deployments
            ],
        }


def cases_of(settings: Mapping[str, Any], decision: Decision) -> list[Case]:
    """Return the decisions to make: one, or one for every combination of a break point's levels.

    Raises
    ------
    InvalidParameterError
        If no deployment fits, or a value is wrong; the break point's levels are named.
    """
    _check_prices(settings, decision.prices)
    keys = list(decision.break_point)
    cases = []
    for levels in itertools.product(*decision.break_point.values()):
        coordinates = dict(zip(keys, levels, strict=True))
        try:
            cases.append(_case(settings, decision, coordinates))
        except InvalidParameterError as error:
            place = ", ".join(f"{key} {level}" for key, level in coordinates.items())
            raise (error.at(place) if place else error) from None
    return cases


def _check_prices(settings: Mapping[str, Any], prices: Mapping[str, float]) -> None:
    """Refuse prices of GPUs that neither the catalog nor the configuration has."""
    known = [*catalog.gpu_names(), *settings.get("gpus", {}), ANY_GPU]
    for name in prices:
        if name not in known:
            raise InvalidParameterError("prices", name, "for one of " + ", ".join(known))


def _case(settings: Mapping[str, Any], decision: Decision, coordinates: dict[str, Any]) -> Case:
    of_slo = {k[4:]: v for k, v in coordinates.items() if k.startswith("slo.")}
    of_run = {k: v for k, v in coordinates.items() if not k.startswith("slo.")}
    slo = Slo.from_dict(overridden(decision.slo.to_dict(), of_slo))
    tree = overridden(settings, of_run)
    found = deployments_of(tree, decision.deployments)
    fewest, space = None, decision.deployments
    if decision.rate_per_s is not None and isinstance(space, DeploymentSpace):
        fewest = fewest_request(tree, space, slo, decision.rate_per_s)
    case = Case(
        coordinates,
        tree,
        slo,
        found.deployments,
        found.left_out,
        decision.accuracy,
        fewest,
        decision.keep_requests,
    )
    for request in case.searches.values():
        check_request(request)
    return case
