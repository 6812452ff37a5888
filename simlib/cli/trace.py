"""``simlib trace``: make a synthetic trace, describe any trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from simlib.cli.group import Group
from simlib.workload.requests import Requests
from simlib.workload.trace_generator import generate_trace
from simlib.workload.traces import load_trace, trace_sha256, write_trace

_PERCENTILES = (1, 10, 50, 90, 99)


@click.group(cls=Group, short_help="Make and inspect request traces.")
def trace() -> None:
    """Make and inspect request traces."""


@trace.command("generate", short_help="Write a synthetic trace.")
@click.option("--seed", type=int, default=42, show_default=True, help="Random seed.")
@click.option(
    "--duration-s", type=float, default=1800.0, show_default=True, help="Length in seconds."
)
@click.option(
    "--rate", type=float, default=3.0, show_default=True, help="Mean arrivals per second."
)
@click.option(
    "--cv",
    type=float,
    default=2.0,
    show_default=True,
    help="Coefficient of variation of the gaps between requests; 1 is Poisson's.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("data/generated_trace.csv"),
    show_default=True,
    help="File to write, CSV in the format of Azure's 2023 traces.",
)
def _generate(seed: int, duration_s: float, rate: float, cv: float, output: Path) -> None:
    """Write a synthetic trace with bursty arrivals and mixed lengths, and describe it as JSON.

    The defaults write the trace that comes with the repository.
    """
    requests = generate_trace(
        seed=seed, duration_s=duration_s, mean_rate_per_s=rate, interarrival_cv=cv
    )
    write_trace(requests, output)
    _print(output, requests)


@trace.command("describe", short_help="Counts, rates and lengths of a trace, as JSON.")
@click.argument("path", type=click.Path(path_type=Path))
def _describe(path: Path) -> None:
    """Print the size, rate, burstiness and lengths of the trace at PATH as JSON."""
    _print(path, load_trace(path))


def describe_trace(requests: Requests) -> dict[str, Any]:
    """Return the size, rate, burstiness and lengths of a trace of at least one request.

    The interarrival coefficient of variation (standard deviation of the gaps between requests over
    their mean) is 1 for a Poisson process. It and the rate are None where gaps do not define them.
    """
    gaps_s = np.diff(requests.arrival_s)
    mean_s = float(gaps_s.mean()) if len(gaps_s) else 0.0
    return {
        "requests": len(requests),
        "span_s": float(requests.arrival_s[-1] - requests.arrival_s[0]),
        "mean_rate_per_s": 1.0 / mean_s if mean_s > 0 else None,
        "interarrival_cv": float(gaps_s.std()) / mean_s if mean_s > 0 else None,
        "prompt_tokens": _tokens(requests.prompt_tokens),
        "output_tokens": _tokens(requests.output_tokens),
    }


def _tokens(lengths: NDArray[np.int64]) -> dict[str, float]:
    percentiles = np.percentile(lengths, _PERCENTILES)
    return {
        "mean": float(lengths.mean()),
        "min": int(lengths.min()),
        **{f"p{p}": float(x) for p, x in zip(_PERCENTILES, percentiles, strict=True)},
        "max": int(lengths.max()),
    }


def _print(path: Path, requests: Requests) -> None:
    described = {"path": str(path), "sha256": trace_sha256(path), **describe_trace(requests)}
    click.echo(json.dumps(described, indent=2))
