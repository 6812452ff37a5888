"""One deployment under one rate: its replicates, simulated or found, and what they say.

Every simulation is an ordinary point under its ordinary id. What it says about an objective is kept
beside the point's results, some kilobytes a rate: a killed search goes on where it was, and a
repeated or refined one simulates only what is new. Requests are kept only where that is asked for,
because a decision has thousands of simulations; those that a study has kept are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.metrics import METRICS
from simlib.core.records import (
    TTFT_DEFINITIONS,
    Floats,
    RequestRecords,
    TtftDefinition,
    in_window,
    ttft_parts,
)
from simlib.core.slo import Slo, within_parts
from simlib.core.summary import counted_requests, pool_busy_s, pool_gpus, sample
from simlib.errors import InvalidParameterError
from simlib.files import canonical_json
from simlib.serving.saturation import Need, needs_of
from simlib.stats.intervals import mean_interval
from simlib.stats.root_finding import Attainment
from simlib.stats.stability import Drift, Stability, drift
from simlib.study.decide.first_guess import first_guess
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import read_records, result_path, write_records
from simlib.study.measurement.kept import KeptFile, code_that_measures, digest_of
from simlib.study.measurement.length import Work, work_of
from simlib.study.measurement.measure import queue_waits_s, stability_of
from simlib.study.plan.identity import point_id, run_settings
from simlib.study.plan.searches import check_has_rate
from simlib.workload.traces import load_trace

TRACE_PARTS = 10
"""Of a replayed trace's run; they stand for replicates."""
_PERCENTILES = ("p50_ttft_s", "p99_ttft_s", "p50_tpot_s")
DIGITS = 3
"""Rates have so many digits, so that searches meet at the same points."""


def snapped(rate: float) -> float:
    """Return the nearest rate of three digits."""
    return float(f"{rate:.{DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Run:
    """What one replicate says about an objective."""

    shares: dict[TtftDefinition, Floats]
    """Share within the SLO, by where TTFT ends: of the whole window, or of each of its batches for
    a trace. One definition only, the configured one, where the SLO has no limit of TTFT."""
    requests: int
    """Requests of each share."""
    missed: dict[str, float]
    """Share of the window's requests that miss each part of the SLO."""
    late_parts_s: dict[str, float]
    """Parts of TTFT, mean over the requests that miss the SLO; 0 if none does."""
    output_tokens_per_s: float
    """Of requests that finish in the window."""
    statistics: dict[str, float]
    """Percentiles of TTFT and TPOT, and how busy each pool is."""
    work: Work
    drift: Drift


@dataclass(frozen=True, slots=True)
class KeptRuns:
    """The replicates of a point, from the first on."""

    runs: tuple[Run, ...] = ()


@dataclass
class Load:
    """A deployment whose rate varies.

    Parameters
    ----------
    config
        The deployment and its requests; the rate in it does not matter.
    slo
        What requests must meet.
    results
        Results folder.
    simulated
        Called after each simulation that was not found in the folder.
    keep_requests
        Whether to keep the records of each simulation, as sweeps do.
    """

    config: SimConfig
    slo: Slo
    results: Path
    simulated: Callable[[], None] = lambda: None
    keep_requests: bool = False
    runs: dict[float, list[Run]] = field(default_factory=dict)
    """By rate, replicate by replicate: those that were asked for, whatever else is kept."""
    _known: dict[float, list[Run]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse arrivals that have no rate."""
        check_has_rate(self.config)

    @property
    def replays(self) -> bool:
        """Whether a trace is replayed: then the parts of one run stand for replicates."""
        return self.config.arrival.process.replayed

    def at(self, rate: float) -> SimConfig:
        """Return the simulation at a rate; a trace is replayed as much faster, all of it."""
        settings = self.config.to_dict()
        if not self.replays:
            settings["arrival"]["rate_per_s"] = rate
            return SimConfig.from_dict(settings)
        speed = snapped(rate / self._trace[0])
        share = self.config.warmup_seconds / self.config.sim_seconds
        seconds = int(self._trace[1] / speed * 1000.0) / 1000.0
        settings["arrival"]["speed"] = speed
        settings |= {"sim_seconds": seconds, "warmup_seconds": share * seconds}
        return SimConfig.from_dict(settings)

    def rate_of(self, config: SimConfig) -> float:
        """Return the requests per second of a simulation."""
        arrival = config.arrival
        return self._trace[0] * arrival.speed if self.replays else arrival.rate_per_s

    @cached_property
    def _trace(self) -> tuple[float, float]:
        """Requests per second at speed 1, and seconds, of the window that is replayed."""
        arrival = self.config.arrival
        times = load_trace(Path(str(arrival.path))).arrival_s - arrival.start_s
        end = float(times[-1]) if arrival.length_s is None else arrival.length_s
        return float(np.count_nonzero((times >= 0) & (times < end))) / end, end

    @cached_property
    def first_guess(self) -> float:
        """About which rate it could carry."""
        return first_guess(self.config, self.slo)

    @cached_property
    def _needs(self) -> dict[str, Need]:
        """What requests need of the pools, which the rate does not change."""
        return needs_of(self.config)

    @property
    def definitions(self) -> tuple[TtftDefinition, ...]:
        """Where TTFT may end, as configured first; only that if no limit depends on it."""
        own = self.config.ttft_definition
        limited = any(one.ttft_s is not None for one in (self.slo, *self.slo.classes.values()))
        return (own, *(d for d in TTFT_DEFINITIONS if d != own and limited))

    def measure(
        self,
        rate: float,
        replicates: int,
        definitions: Sequence[TtftDefinition] = (),
        of_them: np.ufunc = np.minimum,
    ) -> Attainment:
        """Return the attainment of each replicate at a rate; see `find_capacity`.

        Where TTFT ends as configured, or the least (or most: ``np.maximum``) of some definitions.
        """
        wanted = 1 if self.replays else replicates
        config = self.at(rate)
        place = self._kept(config)
        if rate not in self._known:
            self._known[rate] = list((place.read(KeptRuns) or KeptRuns()).runs)
        known = self._known[rate]
        if len(known) < wanted:
            known += [self._run(config, replicate) for replicate in range(len(known), wanted)]
            place.write(KeptRuns(tuple(known)))
        self.runs[rate] = known[: max(wanted, len(self.runs.get(rate, ())))]
        used = known[:wanted]
        asked = definitions or (config.ttft_definition,)
        shares = of_them.reduce(
            [np.concatenate([run.shares[one] for run in used]) for one in asked]
        )
        stable = self.stability(rate).verdict != "unstable"
        return Attainment(shares, min(run.requests for run in used), stable)

    def _run(self, config: SimConfig, replicate: int) -> Run:
        sections = TRACE_PARTS if self.replays else 1
        records = self.records(config, replicate)
        return run_of(records, config, self.slo, replicate, sections, self.definitions, self._needs)

    def _kept(self, config: SimConfig) -> KeptFile:
        """Return where the replicates of a simulation are kept for this objective."""
        identity = point_id(config)
        asked = {"config": config.to_dict(), "slo": self.slo.to_dict()}
        asked["slo"].pop("attainment")
        of = digest_of(canonical_json(asked).encode())
        path = self.results / "points" / identity / f"attained-{of[:16]}.json"
        key = "\n".join([identity, of, code_that_measures(Path(__file__))])
        return KeptFile(path, digest_of(key.encode()))

    def stability(self, rate: float) -> Stability:
        """Return whether the queue is in a steady state at a rate that was measured."""
        runs = self.runs[rate]
        return stability_of([run.work for run in runs], [run.drift for run in runs])

    def records(self, config: SimConfig, replicate: int) -> RequestRecords:
        """Return a replicate of a simulation, from the results folder if it is there."""
        identity = point_id(config)
        path = result_path(self.results, identity, replicate)
        if path.exists():
            try:
                return read_records(path, point_id=identity, replicate=replicate)[0]
            except InvalidParameterError:
                pass  # damaged, or of another model version
        records = simulate(config, replicate)
        if self.keep_requests:
            settings = run_settings(config)
            write_records(path, records, point_id=identity, replicate=replicate, config=settings)
        self.simulated()
        return records

    def points(self) -> dict[str, int]:
        """Return the points that were measured, and how many replicates of each."""
        return {point_id(self.at(rate)): len(runs) for rate, runs in self.runs.items()}

    def row(self, rate: float) -> dict[str, Any]:
        """Return what was measured at a rate, as plain numbers."""
        runs, config = self.runs[rate], self.at(rate)
        shares = np.concatenate([run.shares[config.ttft_definition] for run in runs])
        interval = mean_interval(shares)
        stability = self.stability(rate)
        statistics = [run.statistics for run in runs]
        gpus = config.deployment.total_gpus
        tpot = mean_interval([one["p50_tpot_s"] for one in statistics])
        return {
            "rate_per_s": self.rate_of(config),
            "point_id": point_id(config),
            "replicates": len(runs),
            "attainment": interval.estimate,
            "attainment_low": interval.low,
            "attainment_high": interval.high,
            "missed": _means([run.missed for run in runs]),
            "late_parts_s": _means([run.late_parts_s for run in runs]),
            "stability": stability.verdict,
            "p50_ttft_s": _mean([one["p50_ttft_s"] for one in statistics]),
            "p99_ttft_s": _mean([one["p99_ttft_s"] for one in statistics]),
            "p50_tpot_s": tpot.estimate,
            "p50_tpot_s_low": tpot.low,
            "p50_tpot_s_high": tpot.high,
            "output_tokens_per_s": _mean([run.output_tokens_per_s for run in runs]),
            "output_tokens_per_s_per_gpu": _mean([run.output_tokens_per_s for run in runs]) / gpus,
            "utilization": {
                pool: _mean([one[f"utilization_{pool}"] for one in statistics])
                for pool in config.deployment.gpus_by_pool
            },
        }


def run_of(
    records: RequestRecords,
    config: SimConfig,
    slo: Slo,
    replicate: int,
    sections: int = 1,
    definitions: Sequence[TtftDefinition] = (),
    needs: Mapping[str, Need] | None = None,
) -> Run:
    """Return what a replicate's records say, its window cut into `sections` of equal size.

    Of TTFT as the configuration defines it; shares also by other `definitions`.

    Raises
    ------
    InvalidParameterError
        If no request arrived in the window.
    """
    window = (config.warmup_seconds, config.sim_seconds)
    counted = records.select(in_window(records, *window))
    if len(counted) < sections:
        raise InvalidParameterError(
            "sim_seconds", config.sim_seconds, f"long enough for {sections} requests after warm-up"
        )
    parts = within_parts(records, config, slo, replicate)
    own = config.ttft_definition
    all_of = {own: parts} | {
        d: within_parts(records, config, slo, replicate, d) for d in definitions if d != own
    }
    met = {d: np.logical_and.reduce(list(of.values())) for d, of in all_of.items()}
    good = met[own]
    late = counted.select(~good)
    ended = (records.finish_s >= window[0]) & (records.finish_s < window[1])
    accepted = counted_requests(records, config)
    busy_s = pool_busy_s(records, config, window)
    seconds = window[1] - window[0]
    percentiles: dict[str, float] = {}
    for metric in ("ttft", "tpot"):
        percentiles |= sample(METRICS[metric], accepted, config, replicate).statistics()
    return Run(
        shares={
            d: np.array([np.mean(section) for section in np.array_split(mask, sections)])
            for d, mask in met.items()
        },
        requests=len(counted) // sections,
        missed={part: 1.0 - float(np.mean(mask)) for part, mask in parts.items()},
        late_parts_s={
            name: float(np.nan_to_num(np.nanmean(values))) if np.isfinite(values).any() else 0.0
            for name, values in ttft_parts(late).items()
        },
        output_tokens_per_s=float(records.output_tokens[ended].sum()) / seconds,
        statistics={name: percentiles[name] for name in _PERCENTILES}
        | {
            f"utilization_{pool}": min(1.0, busy_s[pool] / (gpus * seconds))
            for pool, gpus in pool_gpus(config).items()
        },
        work=work_of(records, config, needs_of(config) if needs is None else needs),
        drift=drift(queue_waits_s(accepted, config), accepted.arrival_s),
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}
