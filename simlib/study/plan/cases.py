"""The decisions that a study asks for, and the jobs that answer them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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
    SEARCHED_IN_FULL,
    Round,
    check_objective,
    fewest_id,
    fewest_request,
    round_id,
    round_request,
    screening,
    shared_out,
)

_SIDES = ("mono", "disagg")


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
        """The requests of all jobs, by identity; each after those that it reads."""
        extra = {} if self.fewest is None else {fewest_id(self.fewest): self.fewest}
        rounds = {job: request for jobs in self._rounds.values() for job, request in jobs.items()}
        return {**rounds, **self.slower, **extra}

    @cached_property
    def slower(self) -> dict[str, dict[str, Any]]:
        """The job that asks what errors of latencies the verdict stands; none without a verdict.

        A break point asks for many verdicts, none of which needs this.
        """
        if self.coordinates or len(self._rounds) < len(_SIDES):
            return {}
        coarse = screening(self.accuracy, len(self.deployments))
        return dict([self._job("slower", [], coarse, sorted(set(self.answered_by.values())))])

    @cached_property
    def answered_by(self) -> dict[str, str]:
        """The job of the last round that has each deployment, by its name."""
        return {
            one["name"]: job
            for jobs in self._rounds.values()
            for job, request in jobs.items()
            for one in request["deployments"]
        }

    @cached_property
    def _rounds(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The jobs by identity, by architecture, those of the last round at the end."""
        fields: dict[str, list[Deployment]] = {}
        for one in self.deployments:
            fields.setdefault(one.architecture, []).append(one)
        return {architecture: self._jobs_of(field) for architecture, field in fields.items()}

    def _jobs_of(self, field: list[Deployment]) -> dict[str, dict[str, Any]]:
        coarse = screening(self.accuracy, len(self.deployments))
        scouts, refined = {}, {}
        if len(field) > SEARCHED_IN_FULL:
            scouts = dict(self._job("scout", part, coarse) for part in shared_out(field))
        searches = dict(
            self._job("search", part, coarse, list(scouts)) for part in shared_out(field)
        )
        if coarse != self.accuracy:
            refined = dict([self._job("refine", field, self.accuracy, list(searches))])
        return {**scouts, **searches, **refined}

    def _job(
        self,
        what: Round,
        deployments: Sequence[Deployment],
        accuracy: Accuracy,
        reads: Sequence[str] = (),
    ) -> tuple[str, dict[str, Any]]:
        request = round_request(
            what, deployments, self.slo, accuracy, reads=reads, keep_requests=self.keep_requests
        )
        return round_id(request, deployments), request

    def to_dict(self) -> dict[str, Any]:
        """Return what tables need."""
        return {
            "coordinates": self.coordinates,
            "slo": self.slo.to_dict(),
            "left_out": self.left_out,
            "fewest": None if self.fewest is None else fewest_id(self.fewest),
            "slower": next(iter(self.slower), None),
            "deployments": [
                {
                    "name": one.name,
                    "architecture": one.architecture,
                    "gpus": one.gpus,
                    "hardware": one.hardware,
                    "config": one.config.to_dict(),
                    "job": self.answered_by[one.name],
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
    for one in found.deployments:
        check_objective(one.config, slo)
    return case
