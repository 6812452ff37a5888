"""TTFT percentiles over arrival rates, for both deployments on identical requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

import click

from simlib.cli.group import Command
from simlib.cli.options import configures, numbers, overrides_of
from simlib.errors import InvalidParameterError

if TYPE_CHECKING:  # simulating is imported when it is done: the options alone answer --help
    from simlib.core.config import Mode, SimConfig
    from simlib.core.settings import Settings

DEFAULT_RATES = (0.5, 1.0, 2.0, 3.0, 4.0)

CSV_COLUMNS = (
    "replicate",
    "ttft_definition",
    "arrived",
    "finished",
    "unfinished",
    "rejected",
    "lower_bounds",
    "utilization_gpu",
    "utilization_prefill",
    "utilization_decode",
)
"""Keys of the CSV after those of `columns`."""


def columns() -> dict[str, str]:
    """Return keys and headings of the printed table."""
    from simlib.core.metrics import METRICS

    return {
        "mode": "mode",
        "arrival_rate_per_s": "req/s",
        "total_gpus": "GPUs",
        "num_samples": "samples",
        **{statistic.name: statistic.short for statistic in METRICS["ttft"].statistics},
        "throughput_rps": "done/s",
        "rho": "rho",
        "stability": "stability",
    }


def run_point(
    mode: Mode = "disagg",
    arrival_rate_per_s: float = 2.0,
    *,
    replicate: int = 0,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Simulate one deployment at one arrival rate.

    Parameters
    ----------
    mode : {"mono", "disagg"}
        Which deployment serves.
    arrival_rate_per_s : float
        Mean arrival rate, requests per second.
    replicate : int
        Replicates of one seed see other random streams.
    **settings
        As in `simlib.core.settings.Settings`: sim_seconds, warmup_seconds, random_seed,
        prompt_lognormal, output_lognormal, mono_params, disagg_params, engine, drain,
        ttft_definition, and `config` for what is left out.

    Returns
    -------
    dict
        Statistics (see `simlib.study.tables.one_run.statistics_of`) with arrival_rate_per_s,
        prefill_tokens_per_s, total_gpus, replicate, and the largest offered load of a pool, rho.

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    from simlib.core.settings import point_config
    from simlib.study.tables.one_run import row_of

    config = point_config(mode=mode, arrival_rate_per_s=arrival_rate_per_s, **settings)
    return row_of(config, replicate)


def chosen_modes(mode: str) -> tuple[Mode, ...]:
    """Return the modes that ``--mode`` names: one, or both."""
    from simlib.core.config import Mode as ModeName

    modes: tuple[Mode, ...] = get_args(ModeName)
    if mode == "both":
        return modes
    if mode not in modes:
        raise InvalidParameterError("--mode", mode, "one of both, " + ", ".join(modes))
    return tuple(name for name in modes if name == mode)


def write_rows(
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, str],
    output_format: str,
    output: str | None,
) -> None:
    """Print the rows as a table or CSV, and write them as CSV to `output` if given."""
    from simlib.study.tables.text import as_csv, as_text, write_text

    csv_rows = [{**row, "lower_bounds": " ".join(row["lower_bounds"])} for row in rows]
    as_csv_text = as_csv(csv_rows, (*shown, *CSV_COLUMNS))
    if output is not None:
        write_text(Path(output), as_csv_text)
    if output_format == "csv":
        click.echo(as_csv_text, nl=False)
    else:
        definition = rows[0]["ttft_definition"]
        click.echo(f"TTFT in seconds ({definition}); rho: load of the busiest pool")
        click.echo(as_text(rows, shown))
        _explain_marks(rows, shown)


def swept(
    base: SimConfig, modes: Iterable[Mode], replicate: int, factors: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """Simulate every combination of modes and levels.

    Parameters
    ----------
    factors : mapping of parameter to levels
        Parameters of `simlib.core.settings.point_config`, such as arrival_rate_per_s.
    """
    from simlib.core.settings import point_config
    from simlib.study.tables.one_run import row_of

    levels = [[(name, value) for value in values] for name, values in factors.items()]
    # all points are checked before the first is simulated
    configs = [
        point_config(mode=mode, config=base, **dict(combination))  # type: ignore[arg-type]
        for combination in itertools.product(*levels)
        for mode in modes
    ]
    return [row_of(config, replicate) for config in configs]


def sweep_options(function: Any) -> Any:
    """Add the options that every sweep has."""
    for option in reversed(
        (
            click.option(
                "--rates",
                callback=numbers,
                default=",".join(f"{rate:g}" for rate in DEFAULT_RATES),
                show_default=True,
                help="Arrival rates, requests per second.",
            ),
            click.option(
                "--mode", metavar="[both|mono|disagg]", default="both", help="Which deployments."
            ),
            click.option("--replicate", type=int, default=0, help="Other random streams."),
            click.option(
                "--format",
                "output_format",
                type=click.Choice(["table", "csv"]),
                default="table",
                show_default=True,
                help="What to print.",
            ),
            click.option("--output", type=click.Path(), help="Also write CSV to this file."),
        )
    ):
        function = option(function)
    return function


@click.command(cls=Command)
@sweep_options
@configures(without=("mode", "rate"))
def main(
    rates: tuple[float, ...],
    mode: str,
    replicate: int,
    output_format: str,
    output: str | None,
    config: str | None,
    **given: Any,
) -> None:
    """Print TTFT percentiles over arrival rates, for both deployments.

    All points of one rate see the same requests. For replicates, intervals and figures, describe
    a study in config.yaml instead.
    """
    from simlib.core.settings import resolve_config

    base = resolve_config(config, overrides_of(given))
    rows = swept(base, chosen_modes(mode), replicate, {"arrival_rate_per_s": rates})
    write_rows(rows, columns(), output_format, output)


def _explain_marks(rows: Sequence[Mapping[str, Any]], shown: Mapping[str, str]) -> None:
    if any(row["stability"] == "unstable" for row in rows):
        click.echo("unstable: the queue grows all through the run; TTFT tells the run's length.")
    if any(row["lower_bounds"] for row in rows):
        click.echo("≥: a lower bound; some requests got no first token before the run ended.")
    if any(key in row["unsupported"] for row in rows for key in shown):
        click.echo("–: too few requests for it; a longer run (--sim-seconds) has more.")


if __name__ == "__main__":
    main()
