"""The registry of metrics: what each is of a request, in which unit, and what is shown of it.

Tables, comparisons, figures, precision and the command line read `METRICS`: another percentile, or
another metric, is one entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import (
    TTFT_DEFINITIONS,
    Floats,
    RequestRecords,
    TtftDefinition,
    e2e_s,
    tpot_s,
    ttft_s,
)
from simlib.core.sampling import sample_classes
from simlib.errors import InvalidParameterError

PERCENTILES: tuple[float, ...] = (50, 90, 95, 99)
"""Percents that are shown of a latency unless its metric says otherwise."""

Source = Literal["requests", "timeline", "classes"]
"""What a metric is measured from: the requests of every run, the timelines of runs that kept one,
or the requests of studies that have request classes."""
PerRequest = Callable[[RequestRecords, SimConfig, int], Floats]
"""(requests, configuration, replicate) to a value of each request, NaN where it has none."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity that each request (or each gap between tokens) has a value of."""

    name: str
    """Part of the names of its statistics, and so of columns."""
    label: str
    """Its usual short name."""
    title: str
    values: PerRequest | None
    """Value of each request; None where the values come from timelines."""
    source: Source = "requests"
    unit: str = "s"
    """Unit of the values; empty for a share, whose values are 0 and 1 and whose only statistic is
    the mean."""
    less_is_better: bool = True
    since_arrival: bool = False
    """Whether it is a time since arrival. A request without a value has then lasted until the run
    ended, at least, and enters with that. Of other metrics, what has no value does not count."""
    percentiles: tuple[float, ...] = PERCENTILES
    not_drawn: tuple[float, ...] = (95,)
    """Percentiles of these that figures leave to tables."""
    drawn_in_ms: bool = False
    """Whether figures show it in milliseconds."""

    @property
    def is_share(self) -> bool:
        """Whether values are 0 and 1, and the mean is the share of ones."""
        return not self.unit

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that are shown: the mean, and percentiles in rising order."""
        return _statistics(self)

    def of(self, values: Floats) -> dict[str, float]:
        """Return the statistics of values without NaN by name; NaN if there are none."""
        shown = self.statistics
        if len(values) == 0:
            return {one.name: math.nan for one in shown}
        percents = [one.percent for one in shown if one.percent is not None]
        found = [float(np.mean(values)), *map(float, np.percentile(values, percents))]
        return {one.name: value for one, value in zip(shown, found, strict=True)}

    def outcome(self, difference: float) -> str:
        """Say what a candidate is whose value differs by `difference` from the baseline's."""
        below, above = ("faster", "slower") if self.unit == "s" else ("lower", "higher")
        return below if difference < 0 else above


@dataclass(frozen=True, slots=True)
class Statistic:
    """The mean or a percentile of a metric."""

    metric: Metric
    percent: float | None
    """None for the mean."""

    @property
    def short(self) -> str:
        """What it is of its metric, such as p99."""
        return "mean" if self.percent is None else f"p{self.percent:g}"

    @property
    def name(self) -> str:
        """Its column, such as p99_ttft_s; a share's mean has the metric's own name."""
        metric = self.metric
        return metric.name if metric.is_share else f"{self.short}_{metric.name}_{metric.unit}"

    @property
    def label(self) -> str:
        """What people read, such as TTFT p99 (s)."""
        metric = self.metric
        return metric.label if metric.is_share else f"{metric.label} {self.short} ({metric.unit})"

    def of(self, values: Floats) -> float:
        """Return it of values without NaN; NaN if there are none."""
        if len(values) == 0:
            return math.nan
        if self.percent is None:
            return float(np.mean(values))
        return float(np.percentile(values, self.percent))


@cache
def _statistics(metric: Metric) -> tuple[Statistic, ...]:
    percents = () if metric.is_share else sorted(metric.percentiles)
    return (Statistic(metric, None), *(Statistic(metric, percent) for percent in percents))


def within_slo(records: RequestRecords, config: SimConfig, replicate: int) -> Floats:
    """Return 1 where TTFT is within the SLO of the request's class, 0 where not.

    NaN where the class has no SLO. A request without a first token has missed it.
    """
    place = sample_classes(config, replicate, records.request_id)
    slos = [one.ttft_slo_s for one in config.request_classes.values()]
    slo_s = np.array([np.nan if slo is None else slo for slo in slos], dtype=np.float64)[place]
    within = ttft_s(records, config.ttft_definition) <= slo_s  # false without a first token
    return np.where(np.isnan(slo_s), np.nan, within)


def _ttft_by(definition: TtftDefinition) -> Metric:
    return Metric(
        f"ttft_{definition}",
        f"TTFT ({definition})",
        f"Time to first token by the definition {definition}, whatever the configuration's",
        lambda records, _config, _: ttft_s(records, definition),
        since_arrival=True,
        percentiles=(99,),
    )


TTFT_BY: dict[TtftDefinition, Metric] = {one: _ttft_by(one) for one in TTFT_DEFINITIONS}
"""TTFT by each definition: systems differ in who hands the first token to the client."""


def before_decode(metric: Metric, config: SimConfig) -> bool:
    """Return whether a metric ends before decode begins: TTFT by some definitions."""
    early = [TTFT_BY["prefill_end"], TTFT_BY["transfer_end"]]
    own = metric.name == "ttft" and TTFT_BY[config.ttft_definition] in early
    return own or metric in early


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "ttft",
            "TTFT",
            "Time to first token",
            lambda records, config, _: ttft_s(records, config.ttft_definition),
            since_arrival=True,
        ),
        # one-token outputs have no TPOT, which hides nothing
        Metric(
            "tpot",
            "TPOT",
            "Time per output token after the first",
            lambda records, _config, _: tpot_s(records),
            drawn_in_ms=True,
        ),
        Metric(
            "e2e",
            "E2E",
            "End-to-end latency: arrival to last token",
            lambda records, _config, _: e2e_s(records),
            since_arrival=True,
        ),
        Metric(
            "itl",
            "ITL",
            "Inter-token latency: every gap between two tokens of a request",
            None,
            source="timeline",
            drawn_in_ms=True,
        ),
        # of DistServe (OSDI 2024, arXiv:2401.09670), for TTFT
        Metric(
            "slo_attainment",
            "SLO attainment",
            "Share of requests within the TTFT SLO of their class",
            within_slo,
            source="classes",
            unit="",
            less_is_better=False,
        ),
        *TTFT_BY.values(),
    )
}
"""All metrics by name."""


def metrics_of(source: Source) -> list[Metric]:
    """Return the metrics that are measured from a source, in order."""
    return [metric for metric in METRICS.values() if metric.source == source]


def statistics_of(source: Source) -> list[Statistic]:
    """Return the statistics that are shown of a source's metrics, in order."""
    return [statistic for metric in metrics_of(source) for statistic in metric.statistics]


def statistic_named(name: str) -> Statistic:
    """Return the statistic of a column's name.

    Raises
    ------
    InvalidParameterError
        If no metric shows it.
    """
    known = _by_name(tuple(METRICS.values()))
    if name not in known:
        raise InvalidParameterError("statistic", name, "one of " + ", ".join(known))
    return known[name]


@lru_cache(maxsize=1)
def _by_name(metrics: tuple[Metric, ...]) -> dict[str, Statistic]:
    return {one.name: one for metric in metrics for one in metric.statistics}
