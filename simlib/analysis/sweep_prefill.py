"""TTFT percentiles over arrival rates and prefill rates, for both deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import click

from simlib.analysis.sweep import chosen_modes, columns, sweep_options, swept, write_rows
from simlib.cli.group import Command
from simlib.cli.options import configures, numbers, overrides_of

if TYPE_CHECKING:
    from simlib.core.config import Mode
    from simlib.core.settings import Settings

DEFAULT_PREFILL_RATES = (4000.0, 8000.0, 16000.0)


def run_point(
    mode: Mode = "disagg",
    arrival_rate_per_s: float = 2.0,
    prefill_tokens_per_s: float = 8000.0,
    *,
    replicate: int = 0,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Simulate one deployment at one arrival rate and one prefill rate.

    Parameters
    ----------
    mode : {"mono", "disagg"}
        Which deployment serves.
    arrival_rate_per_s : float
        Mean arrival rate, requests per second.
    prefill_tokens_per_s : float
        Prefill rate of one GPU; it takes precedence over that of mono_params or disagg_params.
    replicate : int
        Replicates of one seed see other random streams.
    **settings
        As for `simlib.analysis.sweep.run_point`.

    Returns
    -------
    dict
        As `simlib.analysis.sweep.run_point` returns.

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    from simlib.core.settings import point_config
    from simlib.study.tables.one_run import row_of

    config = point_config(
        mode=mode,
        arrival_rate_per_s=arrival_rate_per_s,
        prefill_tokens_per_s=prefill_tokens_per_s,
        **settings,
    )
    return row_of(config, replicate)


@click.command(cls=Command)
@click.option(
    "--prefill-rates",
    callback=numbers,
    default=",".join(f"{rate:g}" for rate in DEFAULT_PREFILL_RATES),
    show_default=True,
    help="Prefill tokens per second of one GPU.",
)
@sweep_options
@configures(without=("mode", "rate"))
def main(
    prefill_rates: tuple[float, ...],
    rates: tuple[float, ...],
    mode: str,
    replicate: int,
    output_format: str,
    output: str | None,
    config: str | None,
    **given: Any,
) -> None:
    """Print TTFT percentiles over prefill rates and arrival rates, for both deployments.

    The prefill rate is set on both deployments, and all points of one arrival rate see the same
    requests.
    """
    from simlib.core.settings import resolve_config

    base = resolve_config(config, overrides_of(given))
    factors = {"prefill_tokens_per_s": prefill_rates, "arrival_rate_per_s": rates}
    rows = swept(base, chosen_modes(mode), replicate, factors)
    shown = {"mode": "mode", "prefill_tokens_per_s": "prefill tok/s", **columns()}
    write_rows(rows, shown, output_format, output)


if __name__ == "__main__":
    main()
