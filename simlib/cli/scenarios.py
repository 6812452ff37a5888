"""The ``simlib scenarios`` commands: what scenarios there are, and running them."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

import click

from simlib.cli.group import Group
from simlib.cli.options import configures, overrides_of
from simlib.errors import InvalidParameterError

if TYPE_CHECKING:
    from simlib.utils.scenarios import Scenario

_FIRST_COLUMNS = {
    "scenario": "scenario",
    "mode": "mode",
    "total_gpus": "GPUs",
    "num_samples": "samples",
}
_LAST_COLUMNS = {"rho": "rho", "stability": "stability"}


@click.group(cls=Group)
def scenarios() -> None:
    """Ready-made scenarios: loads and deployments that show where queues form."""


@scenarios.command("list")
def list_scenarios() -> None:
    """List the scenarios."""
    from simlib.study.tables.text import as_text
    from simlib.utils.scenarios import SCENARIOS

    rows = [
        {"name": name, "description": scenario.description} for name, scenario in SCENARIOS.items()
    ]
    click.echo(as_text(rows, {"name": "scenario", "description": "what it sets"}))


@scenarios.command("run")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print all statistics as JSON.")
@click.option("--replicate", type=int, default=0, help="Other random streams.")
@configures(without=("mode", "rate"))
def run_scenarios(
    names: tuple[str, ...], as_json: bool, replicate: int, config: str | None, **given: Any
) -> None:
    """Run the scenarios NAME..., by default all, and print TTFT percentiles.

    A scenario changes the configuration that the options give.
    """
    from simlib.cli.run import json_ready
    from simlib.core.metrics import METRICS
    from simlib.core.settings import resolve_config
    from simlib.study.tables.one_run import row_of
    from simlib.study.tables.text import as_text
    from simlib.utils.scenarios import SCENARIOS

    base = resolve_config(config, overrides_of(given))
    chosen = [_scenario(name) for name in names or SCENARIOS]
    rows = [
        {"scenario": scenario.name, **row_of(scenario.apply(base), replicate)}
        for scenario in chosen
    ]
    if as_json:
        click.echo(json.dumps(json_ready(rows), indent=2, allow_nan=False))
        return
    click.echo(f"TTFT in seconds ({base.ttft_definition}); rho: load of the busiest pool")
    shown = {statistic.name: statistic.short for statistic in METRICS["ttft"].statistics}
    click.echo(as_text(rows, {**_FIRST_COLUMNS, **shown, **_LAST_COLUMNS}))


def _scenario(name: str) -> type[Scenario]:
    from simlib.utils.scenarios import SCENARIOS

    key = name.replace("-", "_")
    if key not in SCENARIOS:
        near = difflib.get_close_matches(key, SCENARIOS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InvalidParameterError("scenario", name, "one of " + ", ".join(SCENARIOS) + hint)
    return SCENARIOS[key]
