"""What the scoreboard aims at, and what it finds: the short table at its head."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

AIMS = {
    "monolithic, dense": (20.0, 8.0),
    "monolithic, experts": (30.0, 15.0),
    "disaggregated, experts": (40.0, 20.0),
}
"""Median absolute relative errors of mean TTFT and TPOT, percent, by kind of rows."""
FAR = 5.0
"""No row should be off by more than this factor."""
COLUMNS = {
    "others": "systems nobody fitted",
    "development": "development, group left out",
}


def summary(kinds: Mapping[str, NDArray[np.bool_]], ratios: NDArray[np.float64]) -> list[str]:
    """Return the aims and what is met.

    Parameters
    ----------
    kinds
        Which rows are of each kind, as `scoreboard.kinds` names them.
    ratios : array, shape (rows, 2)
        Predicted over measured TTFT and TPOT; NaN where there is no prediction.
    """
    out = [f"| | aim | {' | '.join(COLUMNS.values())} |", "|---|---|---|---|"]
    for kind, aims in AIMS.items():
        found = {who: _simulated(kinds.get(f"{who}, {kind}"), ratios) for who in COLUMNS}
        for what, (name, aim) in enumerate(zip(("TTFT", "TPOT"), aims, strict=True)):
            cells = [_error(found[who][:, what], aim) for who in COLUMNS]
            out.append(f"| {kind}: {name} | {aim:g} % | {' | '.join(cells)} |")
        cells = [_far(found[who]) for who in COLUMNS]
        out.append(f"| rows off by over {FAR:g} times | none | {' | '.join(cells)} |")
    return out


def far_off(ratios: NDArray[np.float64]) -> int:
    """Return how many rows are off by more than `FAR` in TTFT or TPOT."""
    return int((np.abs(np.log(ratios)) > np.log(FAR)).any(axis=1).sum())


def _simulated(
    chosen: NDArray[np.bool_] | None, ratios: NDArray[np.float64]
) -> NDArray[np.float64]:
    if chosen is None:
        return np.empty((0, 2))
    return ratios[chosen & ~np.isnan(ratios).any(axis=1)]


def _error(ratios: NDArray[np.float64], aim: float) -> str:
    if len(ratios) == 0:
        return "–"
    error = 100 * float(np.median(np.abs(ratios - 1)))
    return f"{error:.1f} %, {'met' if error <= aim else 'missed'}"


def _far(ratios: NDArray[np.float64]) -> str:
    return f"{far_off(ratios)} of {len(ratios)}" if len(ratios) else "–"
