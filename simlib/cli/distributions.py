"""Resolved token distributions, in log and in real space, as `simulate` prints them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from simlib.workload.lognormal import percentiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simlib.core.config import TokenDistribution


def describe(tokens: TokenDistribution) -> dict[str, Any]:
    """Return a distribution's parameters, and its mean and deviation in both spaces.

    These are of the distribution before lengths are rounded and clipped at min_value.
    """
    log, real = tokens.kind.spreads(tokens)
    described: dict[str, Any] = {
        **tokens.essential(),
        "log_space": {"mean": log[0], "sigma": log[1]},
        "real_space": {"mean": real[0], "std": real[1]},
    }
    if tokens.mode == "log":
        p50, p90 = percentiles(tokens.mean, tokens.sigma)
        described["real_space"] |= {"p50": p50, "p90": p90}
    return described


def sampled(tokens: NDArray[Any]) -> dict[str, Any]:
    """Return mean and deviation of the lengths drawn in a run, NaN if there are none."""
    if len(tokens) == 0:
        return {"n": 0, "mean": math.nan, "std": math.nan}
    return {"n": len(tokens), "mean": float(tokens.mean()), "std": float(tokens.std())}
