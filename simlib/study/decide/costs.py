"""What output tokens cost: dollars from a price list, and a bound on energy from power limits."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from simlib.latency import catalog

_FILE = Path(__file__).parent / "prices.csv"
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per GPU and hour: the lowest and the highest of some offers."""

    low: float
    high: float
    date: str
    """Month of the oldest one."""
    source: str
    """Whose offers."""


@cache
def prices() -> dict[str, Price]:
    """Return the prices of the list that ships with simlib, by GPU: on demand, without commitment.

    The list says of each offer when and where it was read.
    """
    offers: dict[str, list[dict[str, str]]] = {}
    with _FILE.open(newline="", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            offers.setdefault(row["gpu"], []).append(row)
    return {
        gpu: Price(
            min(float(row["usd_per_gpu_hour"]) for row in rows),
            max(float(row["usd_per_gpu_hour"]) for row in rows),
            min(row["date"] for row in rows),
            ", ".join(f"{row['offer']} ({row['date']})" for row in rows),
        )
        for gpu, rows in offers.items()
    }


def cost(
    hardware: Mapping[str, int], output_tokens_per_s: float, given: Mapping[str, float]
) -> dict[str, Any] | None:
    """Return dollars per million output tokens at a rate of them; None without a price.

    Parameters
    ----------
    hardware
        GPUs by name.
    output_tokens_per_s
        Of the whole deployment.
    given
        The user's dollars per GPU and hour, by name; they win over the list's.
    """
    listed = prices()
    low = high = 0.0
    gpus = sum(hardware.values())
    sources = set()
    for name, count in hardware.items():
        if name in given:
            one = Price(given[name], given[name], "", "given")
        elif name in listed:
            one = listed[name]
        else:
            return None
        low, high = low + count * one.low, high + count * one.high
        sources.add(one.source)
    per_million = 1e6 / (output_tokens_per_s * _SECONDS_PER_HOUR)
    return {
        "usd_per_million_output_tokens_low": low * per_million,
        "usd_per_million_output_tokens_high": high * per_million,
        "usd_per_gpu_hour_low": low / gpus,
        "usd_per_gpu_hour_high": high / gpus,
        "usd_per_hour_low": low,
        "usd_per_hour_high": high,
        "source": "; ".join(sorted(sources)),
    }


def energy(hardware: Mapping[str, int], output_tokens_per_s: float) -> dict[str, Any] | None:
    """Return an upper bound of the GPUs' joules per output token; None if a power is not known.

    Every GPU at its power limit all the time: what cooling, CPUs and network
    take comes on top, what GPUs save while they wait is not known.
    """
    watts = 0.0
    for name, count in hardware.items():
        power = catalog.gpu(name).board_power_w if name in catalog.gpu_names() else None
        if power is None:
            return None
        watts += count * power
    return {
        "joules_per_output_token_at_most": watts / output_tokens_per_s,
        "watts_at_most": watts,
        "source": "power limits of the catalog",
    }
