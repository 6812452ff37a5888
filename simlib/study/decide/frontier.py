"""The frontier that practitioners plot: throughput per GPU against speed for each user."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simlib.core.slo import Slo

Line = dict[str, Any]


def frontier_lines(
    searches: Iterable[tuple[str, Mapping[str, Any]]], slo: Slo, indifference: float
) -> list[Line]:
    """Return a line for each rate at which TTFT is within its limit; the frontier is marked.

    Output tokens per second and GPU, and per user (1 / TPOT, the median request's). A line is on
    the frontier unless another one of its architecture is as fast in both and better in one: faster
    for users by more than their intervals, or in throughput by more than `indifference`. So
    statistical ties stay on it.

    Parameters
    ----------
    searches
        Architecture and outcome of each search.
    slo
        Its TTFT limit and attainment decide which rates are shown; without a TTFT limit all are.
    indifference
        Relative difference in throughput that does not matter.
    """
    lines = [
        _line(architecture, found, row)
        for architecture, found in searches
        for row in found["rates"]
        if row["missed"].get("ttft_s", 0.0) <= 1.0 - slo.attainment
        and row["stability"] != "unstable"
        and row["p50_tpot_s"] is not None
        and row["p50_tpot_s"] > 0
    ]
    for line in lines:
        others = [o for o in lines if o["architecture"] == line["architecture"] and o is not line]
        line["on_frontier"] = not any(_beats(other, line, indifference) for other in others)
    return lines


def _line(architecture: str, found: Mapping[str, Any], row: Mapping[str, Any]) -> Line:
    low, high = row["p50_tpot_s_low"], row["p50_tpot_s_high"]
    known = low is not None and high is not None and low > 0
    return {
        "architecture": architecture,
        "deployment": found["name"],
        "gpus": found["gpus"],
        "rate_per_s": row["rate_per_s"],
        "replicates": row["replicates"],
        "output_tokens_per_s_per_gpu": row["output_tokens_per_s_per_gpu"],
        "output_tokens_per_s_per_user": 1.0 / row["p50_tpot_s"],
        "output_tokens_per_s_per_user_low": 1.0 / high if known else math.nan,
        "output_tokens_per_s_per_user_high": 1.0 / low if known else math.nan,
        "attainment": row["attainment"],
        "point_id": row["point_id"],
    }


def _beats(one: Line, other: Line, indifference: float) -> bool:
    user, gpu = "output_tokens_per_s_per_user", "output_tokens_per_s_per_gpu"
    faster = bool(one[f"{user}_low"] > other[f"{user}_high"])
    more = bool(one[gpu] > other[gpu] * (1.0 + indifference))
    return (faster and bool(one[gpu] >= other[gpu])) or (more and bool(one[user] >= other[user]))


def on_frontier(lines: Sequence[Line], architecture: str) -> list[Line]:
    """Return an architecture's lines on the frontier, by rising speed for users."""
    chosen = [li for li in lines if li["architecture"] == architecture and li["on_frontier"]]
    return sorted(chosen, key=lambda line: float(line["output_tokens_per_s_per_user"]))
