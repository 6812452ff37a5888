"""Command-line options that set the configuration, shared by all commands that simulate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from simlib.errors import InvalidParameterError

_KEYS = {
    "mode": "mode",
    "sim_seconds": "sim_seconds",
    "warmup_seconds": "warmup_seconds",
    "seed": "random_seed",
    "rate": "arrival.rate_per_s",
    "engine": "engine",
    "drain": "drain",
    "ttft_definition": "ttft_definition",
}
"""Key of the configuration by option."""

_OPTIONS = {
    "config": click.option(
        "--config",
        type=click.Path(),
        help="YAML file of one simulation; of a study file, its defaults.",
    ),
    "mode": click.option(
        "--mode", metavar="[mono|disagg]", help="Which deployment serves.  [default: disagg]"
    ),
    "sim_seconds": click.option(
        "--sim-seconds", type=float, help="Requests arrive in [0, this).  [default: 600]"
    ),
    "warmup_seconds": click.option(
        "--warmup-seconds", type=float, help="Earlier arrivals do not count.  [default: 60]"
    ),
    "seed": click.option("--seed", type=int, help="Random seed.  [default: 42]"),
    "rate": click.option("--rate", type=float, help="Arrivals per second.  [default: 2]"),
    "engine": click.option(
        "--engine", metavar="[fast|simpy]", help="Both give the same result.  [default: fast]"
    ),
    "drain": click.option(
        "--drain/--no-drain",
        default=None,
        help="Serve every request to its end after --sim-seconds.  [default: drain]",
    ),
    "ttft_definition": click.option(
        "--ttft-definition",
        metavar="[first_decode_step|prefill_end|transfer_end]",
        help="Which event ends TTFT.  [default: first_decode_step]",
    ),
    "assignments": click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        help="Set any key of the configuration, such as cluster_mono.num_gpus=8; repeatable.",
    ),
}


def configures(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that adds the options of the configuration to a command.

    The command receives their values by name; `overrides_of` turns these into overrides.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        for name in reversed(_OPTIONS):
            if name not in without:
                function = _OPTIONS[name](function)
        return function

    return decorate


def overrides_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings given on the command line, by dotted key; ``--set`` comes last.

    Options that were not given are None and set nothing.
    """
    overrides = {
        _KEYS[name]: value for name, value in given.items() if name in _KEYS and value is not None
    }
    for text in given.get("assignments", ()):
        key, value = parse_assignment(text)
        overrides[key] = value
    return overrides


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``KEY=VALUE``; the value is read as YAML."""
    from simlib.core.reading import parse_yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidParameterError("--set", text, "KEY=VALUE, such as arrival.rate_per_s=3")
    try:
        return key.strip(), parse_yaml(value, key.strip(), "--set")
    except InvalidParameterError as error:
        if error.got != "--set":
            raise
        allowed = f"KEY=VALUE, the value {error.allowed}"
        raise InvalidParameterError("--set", text, allowed) from None


def numbers(_: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    """Return the numbers of ``0.5,1,2``; the callback of an option."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise InvalidParameterError(
            option.opts[-1], value, "numbers separated by commas, such as 0.5,1,2"
        ) from None
