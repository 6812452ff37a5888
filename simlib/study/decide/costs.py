"""What output tokens cost: dollars from a price list, and a bound on energy from datasheets."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simlib.latency import catalog

_FILE = Path(__file__).parent / "prices.csv"
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per GPU and hour, as a range."""

    low: float
    high: float
    date: str
    source: str


def prices() -> dict[str, Price]:
    """Return the prices of the list that ships with simlib, by GPU."""
    with _FILE.open(newline="", encoding="utf-8") as text:
        return {
            row["gpu"]: Price(
                float(row["usd_per_gpu_hour_low"]),
                float(row["usd_per_gpu_hour_high"]),
                row["date"],
                row["source"],
            )
            for row in csv.DictReader(text)
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
    sources = set()
    for name, count in hardware.items():
        if name in given:
            one = Price(given[name], given[name], "", "given")
        elif name in listed:
            one = listed[name]
        else:
            return None
        low, high = low + count * one.low, high + count * one.high
        sources.add(f"{one.source} ({one.date})" if one.date else one.source)
    per_million = 1e6 / (output_tokens_per_s * _SECONDS_PER_HOUR)
    return {
        "usd_per_million_output_tokens_low": low * per_million,
        "usd_per_million_output_tokens_high": high * per_million,
        "usd_per_hour_low": low,
        "usd_per_hour_high": high,
        "source": "; ".join(sorted(sources)),
    }


def energy(hardware: Mapping[str, int], output_tokens_per_s: float) -> dict[str, Any] | None:
    """Return an upper bound of the GPUs' joules per output token; None if a power is not known.

    Every GPU at the board power of its datasheet all the time: what cooling, CPUs and network
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
        "source": "board power of the datasheets",
    }
