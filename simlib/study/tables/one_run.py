"""A point simulated on the spot, and measured as a study measures it: for commands and analyses."""

from __future__ import annotations

from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.records import Floats, RequestRecords, ttft_s
from simlib.core.summary import counted_requests
from simlib.errors import InvalidParameterError
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.measure import measure_point


def run(config: SimConfig, replicate: int = 0) -> tuple[RequestRecords, dict[str, Any]]:
    """Simulate one replicate; return its records and `statistics_of` them."""
    if replicate < 0:
        raise InvalidParameterError("replicate", replicate, ">= 0")
    records = simulate(config, replicate)
    return records, statistics_of(records, config)


def statistics_of(records: RequestRecords, config: SimConfig) -> dict[str, Any]:
    """Return what one run measured.

    Returns
    -------
    dict
        What `simlib.core.summary.summarise` returns; ``rho_<pool>``, the offered load of each pool;
        ``stability``, which is stable, unstable or undetermined, with its reason (percentiles of an
        unstable point say only how long the run was); and ``unsupported``, the statistics for which
        there are too few requests: tables leave them empty.
    """
    point = measure_point([records], config)
    return {
        **point.replicates[0].statistics,
        **{f"rho_{pool}": value for pool, value in point.rho().items()},
        "stability": point.stability.verdict,
        "stability_reason": point.stability.reason,
        "unsupported": point.unsupported,
    }


def row_of(config: SimConfig, replicate: int) -> dict[str, Any]:
    """Simulate one point and return a row of a sweep's table."""
    _, statistics = run(config, replicate)
    return {
        "arrival_rate_per_s": config.arrival.rate_per_s,
        "prefill_tokens_per_s": config.cluster.prefill_tokens_per_s,
        "total_gpus": config.deployment.total_gpus,
        "replicate": replicate,
        "rho": max(value for key, value in statistics.items() if key.startswith("rho_")),
        **statistics,
    }


def ttft_samples(records: RequestRecords, config: SimConfig) -> Floats:
    """Return TTFT in seconds of the requests that count and have one, in order of arrival."""
    values = ttft_s(counted_requests(records, config), config.ttft_definition)
    present: Floats = values[~np.isnan(values)]
    return present
