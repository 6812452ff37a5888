"""Is the simulated winner the measured one? Settings that were measured both ways.

A pair is a disaggregated and a monolithic row of one GPU, engine, architecture, lengths and weight
format with equal requests in flight per GPU. What was measured once counts once, whatever it is
called, and rows whose stated sizes cannot be those that were measured do not count. A guess that
knows nothing names one side for all; skill is to be right more often than the better of these two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from measured import Row, contradicted
from numpy.typing import NDArray

WITHIN = 0.01
"""Requests in flight per GPU that differ by no more are equal."""
METRICS = ("TTFT", "TPOT", "throughput per GPU")


def pairs(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return the places of each disaggregated row and of the monolithic rows that match it."""
    found = {}
    doubtful = contradicted(rows)
    usable = [
        number
        for number, row in enumerate(rows)
        if row.pools and row.concurrency and number not in doubtful
    ]
    for one in usable:
        for other in usable:
            if (
                rows[one].mode == "disagg"
                and rows[other].mode == "agg"
                and _match(rows, one, other)
            ):
                found.setdefault(_measured(rows[one]) + _measured(rows[other]), (one, other))
    return list(found.values())


def _measured(row: Row) -> tuple[object, ...]:
    return row.ttft_s, row.tpot_s, row.concurrency, row.pools


def _match(rows: Sequence[Row], one: int, other: int) -> bool:
    a, b = rows[one], rows[other]
    if _setting(a) != _setting(b):
        return False
    first, second = ((row.concurrency or 0) / row.gpus for row in (a, b))
    return abs(first / second - 1) <= WITHIN


def _setting(row: Row) -> tuple[object, ...]:
    return *row.group, row.prompt, row.output, row.precision


def metrics(row: Row, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return TTFT, TPOT and seconds × GPUs per output token (Little's law), less is better."""
    ttft_s, tpot_s = times
    request_s = ttft_s + tpot_s * (row.output - 1)
    return np.array([ttft_s, tpot_s, request_s * row.gpus / (row.output * (row.concurrency or 1))])


def skill(
    rows: Sequence[Row], measured: NDArray[np.float64], simulated: NDArray[np.float64]
) -> list[str]:
    """Return how often the simulated winner is right, and what a constant guess would be.

    Parameters
    ----------
    measured, simulated : array, shape (rows, 2)
        TTFT and TPOT, seconds; NaN where a row was not simulated.
    """
    every = pairs(rows)
    found = [pair for pair in every if not np.isnan(simulated[list(pair)]).any()]
    out = [f"Settings measured both ways: {len(every)}, of which {len(found)} are simulated."]
    if not found:
        return out
    ratios = [
        np.array([np.log(metrics(rows[a], t[a]) / metrics(rows[b], t[b])) for a, b in found])
        for t in (measured, simulated)
    ]
    out += ["", "| metric | pairs | simulated winner right | constant guess | rank correlation |"]
    out += ["|---|---|---|---|---|"]
    for what, name in enumerate(METRICS):
        true, ours = (ratio[:, what] for ratio in ratios)
        right = int((np.sign(true) == np.sign(ours)).sum())
        wins = int((true < 0).sum())
        guess = max(wins, len(found) - wins)
        out.append(
            f"| {name} | {len(found)} | {right} | {guess} | {rank_correlation(true, ours):.2f} |"
        )
    return out


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation; NaN of fewer than three pairs."""
    if len(a) < 3:
        return float("nan")
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
