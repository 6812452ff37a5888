"""The study file (config.yaml): what may stand in it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from simlib.core.metrics import statistics_of
from simlib.core.slo import Slo
from simlib.core.validation import ConfigModel, NonNegativeFloat, PositiveFloat, PositiveInt
from simlib.errors import InvalidParameterError
from simlib.study.plan.decision import Accuracy, Decision, DeploymentSpace, space_or_list
from simlib.study.plan.names import distinct, not_a_column

ZIP_LABELS = "labels"
"""The list in a zip that names its levels instead of setting a key."""
MAX_REPLICATES = 10_000
"""Most replicates of a point."""
MAX_LENGTHENING = 1024
"""Most times as long as configured that a precision may make a run."""
MAX_NAME = 50
"""Longest name of a study, characters: it names a folder."""


class Sweep(ConfigModel):
    """The grid of a study: every combination of the levels of its factors."""

    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Levels by dotted key of the simulation, such as ``arrival.rate_per_s: [1, 2]``."""
    zip: dict[str, dict[str, list[Any]]] = Field(default_factory=dict)
    """Factors whose keys move together: a name, and lists of one length by dotted key.

    A list called ``labels`` names the levels.
    """

    @model_validator(mode="after")
    def _levels_are_lists(self) -> Self:
        for key, levels in self.grid.items():
            _check_levels(key, levels)
        for name, keys in self.zip.items():
            not_a_column(name)
            if name in self.grid:
                raise InvalidParameterError(f"zip.{name}", name, "no key that the grid sweeps")
            if not set(keys) - {ZIP_LABELS}:
                raise InvalidParameterError(f"zip.{name}", keys, "keys with a list of values each")
            for key, levels in keys.items():
                if not levels:
                    raise InvalidParameterError(f"zip.{name}.{key}", levels, "a list of values")
                _check_plain_levels(f"zip.{name}.{key}", levels)
            counts = {key: len(levels) for key, levels in keys.items()}
            if len(set(counts.values())) > 1:
                raise InvalidParameterError(f"zip.{name}", counts, "lists of one length")
            distinct(f"zip.{name}.{ZIP_LABELS}", keys.get(ZIP_LABELS, [""]))
        swept = Counter([*self.grid, *(key for keys in self.zip.values() for key in keys)])
        for key, count in swept.items():
            if count > 1 and key != ZIP_LABELS:
                raise InvalidParameterError(key, "swept twice", "swept once")
        return self


class Compare(ConfigModel):
    """Which two sides a study compares: the baseline, and every other level of the factor."""

    factor: str = "mode"
    """A swept key, or the name of a zip."""
    baseline: Any = "mono"
    """The level that the others are compared with."""
    metrics: list[str] = Field(default_factory=lambda: ["mean_ttft_s", "p99_ttft_s"])
    """What the study was made for: verdicts on these are held to 5% together.

    All else is secondary: compared, too, but one by one.
    """
    margin: PositiveFloat = 0.05
    """Sides are equal within it if their ratio surely lies within 1/(1 + margin) and 1 + margin."""

    @field_validator("metrics")
    @classmethod
    def _metrics_exist(cls, metrics: list[str]) -> list[str]:
        known = [one.name for one in (*statistics_of("requests"), *statistics_of("timeline"))]
        for metric in metrics:
            if metric not in known:
                raise InvalidParameterError("metrics", metric, "one of " + ", ".join(known))
        if not metrics:
            raise InvalidParameterError("metrics", metrics, "at least one")
        return metrics


class Precision(ConfigModel):
    """Lengthen runs, then add replicates, until an interval is narrow enough."""

    metric: str = "p99_ttft_s"
    relative: PositiveFloat = 0.05
    """Half width of the 95% interval over the estimate."""
    max_replicates: PositiveInt = Field(default=64, le=MAX_REPLICATES)
    """Where to stop in any case."""
    max_lengthening: PositiveInt = Field(default=8, le=MAX_LENGTHENING)
    """A run may become so many times as long, where no number of replicates helps; 1: as it is."""

    @field_validator("metric")
    @classmethod
    def _metric_exists(cls, metric: str) -> str:
        known = [statistic.name for statistic in statistics_of("requests")]
        if metric not in known:
            raise InvalidParameterError("metric", metric, "one of " + ", ".join(known))
        return metric


class Crossover(ConfigModel):
    """Which two factors span the crossover map of a study."""

    x: str
    """The factor along which the crossing is interpolated; its levels are numbers."""
    y: str
    """The other factor."""


class Study(ConfigModel):
    """A named grid of simulations, and what is compared in it."""

    title: str = ""
    """Heading of the study's figures; default: its name."""
    replicates: PositiveInt | None = Field(default=None, le=MAX_REPLICATES)
    """Replicates of each point; default: that of the file."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Changes to the file's defaults, as a tree or by dotted key."""
    sweep: Sweep = Field(default_factory=Sweep)
    compare: Compare | None = None
    crossover: Crossover | None = None
    precision: Precision | None = None
    requests_table: bool = False
    """Also write every request of the study as Parquet; two thirds of the results' size again."""
    svg: bool = True
    """Draw figures as SVG beside PNG; without, a large study is drawn in two thirds of the time."""
    slo: Slo | None = None
    """What requests must meet: with `deployments`, the study asks which of them to choose."""
    deployments: DeploymentSpace | list[dict[str, Any]] | None = None
    """The deployments to choose from: a space, or a list, each a name and overrides."""
    rate_per_s: PositiveFloat | None = None
    """Of a decision: also find the fewest GPUs that carry this rate, requests per second."""
    accuracy: Accuracy = Field(default_factory=Accuracy)
    """Of a decision: how exactly capacities are found, and which differences do not matter."""
    prices: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Of a decision: dollars per GPU and hour, by the catalog's names."""
    break_point: dict[str, list[Any]] = Field(default_factory=dict)
    """Of a decision: one or two keys with a list of values each, to show where it changes."""
    keep_requests: bool = False
    """Of a decision: also keep the requests of each simulation, as sweeps do, to share them."""

    @field_validator("deployments", mode="before")
    @classmethod
    def _space_or_list(cls, deployments: Any) -> Any:
        return space_or_list(deployments)

    @model_validator(mode="after")
    def _decides_or_compares(self) -> Self:
        if (self.slo is None) != (self.deployments is None):
            missing = "slo" if self.slo is None else "deployments"
            raise InvalidParameterError(missing, None, "given: a decision needs both")
        given = self.model_fields_set
        for key in _OF_A_DECISION if self.slo is None else _OF_A_SWEEP:
            if key in given:
                kind = "a decision (slo, deployments)" if self.slo is None else "a sweep"
                raise InvalidParameterError(key, getattr(self, key), f"left out: it is of {kind}")
        self.decision  # noqa: B018 - checks its keys
        return self

    @property
    def decision(self) -> Decision | None:
        """What the study asks to decide; None if it sweeps."""
        if self.slo is None or self.deployments is None:
            return None
        return Decision(
            slo=self.slo,
            deployments=self.deployments,
            **{key: getattr(self, key) for key in _OF_A_DECISION},
        )


_OF_A_DECISION = ("rate_per_s", "accuracy", "prices", "break_point", "keep_requests")
_OF_A_SWEEP = ("sweep", "compare", "crossover", "precision", "replicates")


class StudyFile(ConfigModel):
    """The whole of config.yaml."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    """Settings of one simulation that all studies start from; see `SimConfig`."""
    replicates: PositiveInt = Field(default=5, le=MAX_REPLICATES)
    """Replicates of each point: the same configuration under other random streams."""
    batch_seconds: NonNegativeFloat = 2.0
    """Simulations that take less share a job of about this length, seconds; 0: each has its own."""
    studies: dict[str, Study]

    @field_validator("studies")
    @classmethod
    def _names_are_words(cls, studies: dict[str, Study]) -> dict[str, Study]:
        if not studies:
            raise InvalidParameterError("studies", studies, "at least one study")
        for name in studies:
            word = name.isidentifier() and name.islower() and name.isascii()
            if not word or len(name) > MAX_NAME:
                allowed = f"at most {MAX_NAME} lower-case letters, digits and underscores"
                raise InvalidParameterError(f"study name {name[:80]!r}", name, allowed)
        return studies


def _check_levels(key: str, levels: list[Any]) -> None:
    if not levels:
        raise InvalidParameterError(key, levels, "a list of at least one value")
    _check_plain_levels(key, levels)
    distinct(key, levels)


def _check_plain_levels(key: str, levels: list[Any]) -> None:
    for level in levels:
        if isinstance(level, (dict, list)):
            raise InvalidParameterError(key, level, "a list of plain values")
