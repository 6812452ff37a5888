"""The theory's mean TTFT beside the simulated one, where a formula is valid."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.stats.queueing import mdc_mean_wait_s, mgc_mean_wait_s, utilisation
from simlib.study.figures.axes import XAxis
from simlib.study.figures.data import Point
from simlib.workload.lengths import Moments, lognormal_moments, uniform_moments

_POINTS = 60


@dataclass(frozen=True, slots=True)
class TheoryCurve:
    """A mean TTFT over x, and the name of the formula."""

    x: list[float]
    mean_ttft_s: list[float]
    label: str


def theory_curve(points: list[tuple[float, Point]], axis: XAxis) -> TheoryCurve | None:
    """Return the mean TTFT in theory along a line of points, where its queue is stable.

    Monolithic FCFS serving under Poisson arrivals is M/G/c: the mean wait is exact for one
    server and for fixed lengths, else Lee and Longton's approximation. None where no formula
    holds: for two pools in series, traces, and lengths whose moments are not known.
    """
    if not axis.numeric or len(points) < 2:
        return None
    configs = [(x, point.config) for x, point in points]
    if any(_moments(config) is None for _, config in configs):
        return None
    if axis.factor is not None and axis.factor.name == "arrival.rate_per_s":
        # the rate alone changes along the line: the curve can be drawn between the points
        low, high = configs[0][0], configs[-1][0]
        spread = np.geomspace if axis.log else np.linspace
        first = configs[0][1]
        configs = [(x, _at_rate(first, x)) for x in spread(low, high, _POINTS).tolist()]
    pairs = [(x, value) for x, config in configs if (value := _mean_ttft_s(config)) is not None]
    if len(pairs) < 2:
        return None
    x, values = zip(*pairs, strict=True)
    return TheoryCurve(list(x), list(values), _label(configs[0][1]))


@functools.cache
def _lognormal(mean: float, sigma: float, min_value: int) -> Moments:
    return lognormal_moments(mean, sigma, min_value)  # a long sum, the same for a whole line


def _at_rate(config: dict[str, Any], rate_per_s: float) -> dict[str, Any]:
    return {**config, "arrival": {**config["arrival"], "rate_per_s": rate_per_s}}


def _moments(config: dict[str, Any]) -> tuple[Moments, Moments] | None:
    """Return the moments of prompts and outputs of a configuration that a formula covers."""
    if config["mode"] != "mono" or config["arrival"]["kind"] != "poisson":
        return None
    found = []
    for name in ("prompt_tokens", "output_tokens"):
        tokens = config[name]
        if tokens["mode"] == "fixed":
            found.append(Moments(float(tokens["value"]), float(tokens["value"]) ** 2))
        elif tokens["mode"] == "uniform":
            found.append(uniform_moments(tokens["low"], tokens["high"]))
        elif tokens["mode"] == "log":
            found.append(_lognormal(tokens["mean"], tokens["sigma"], tokens["min_value"]))
        else:
            return None
    return found[0], found[1]


def _mean_ttft_s(config: dict[str, Any]) -> float | None:
    moments = _moments(config) if config["serving"] == "token_rate" else None
    if moments is None:
        return None
    prompt, output = moments
    cluster = config["cluster_mono"]
    prefill, decode = cluster["prefill_tokens_per_s"], cluster["decode_tokens_per_s"]
    rate, servers = config["arrival"]["rate_per_s"], cluster["num_gpus"]
    service_s = prompt.mean / prefill + output.mean / decode
    variance = prompt.variance / prefill**2 + output.variance / decode**2
    if utilisation(rate, service_s, servers) >= 1:
        return None
    try:
        wait_s = (
            mdc_mean_wait_s(rate, service_s, servers)
            if _fixed(config)
            else mgc_mean_wait_s(rate, service_s, max(variance, 0.0) / service_s**2, servers)
        )
    except InvalidParameterError:
        return None
    first_token_s = 1.0 / decode if config["ttft_definition"] == "first_decode_step" else 0.0
    return float(wait_s + prompt.mean / prefill + first_token_s)


def _fixed(config: dict[str, Any]) -> bool:
    return all(config[name]["mode"] == "fixed" for name in ("prompt_tokens", "output_tokens"))


def _label(config: dict[str, Any]) -> str:
    if _fixed(config):
        return "M/D/c theory, exact"
    if config["cluster_mono"]["num_gpus"] == 1:
        return "M/G/1 theory, exact"
    return "M/G/c, Lee–Longton approx."
