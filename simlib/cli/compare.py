"""Both deployments side by side, on identical requests, with absolute and relative differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from simlib.cli.group import Command
from simlib.cli.options import configures, overrides_of
from simlib.errors import InvalidParameterError

if TYPE_CHECKING:  # simulating is imported when it is done: the options alone answer --help
    from simlib.analysis.point import ConfigSource
    from simlib.core.config import Engine, Mode, SimConfig
    from simlib.core.records import TtftDefinition
    from simlib.core.simulator import DisaggParams, LogNormalParams, MonoParams

MODES = ("mono", "disagg")
COMPARED = {
    "mean_ttft_s": "TTFT mean (s)",
    "p50_ttft_s": "TTFT p50 (s)",
    "p90_ttft_s": "TTFT p90 (s)",
    "p95_ttft_s": "TTFT p95 (s)",
    "p99_ttft_s": "TTFT p99 (s)",
    "mean_tpot_s": "TPOT mean (s)",
    "mean_e2e_s": "E2E mean (s)",
    "p99_e2e_s": "E2E p99 (s)",
    "throughput_rps": "throughput (1/s)",
}
"""Statistics whose differences are shown, and their headings."""
_ROUNDING = 1e-9
_COLUMNS = {
    "metric": "",
    "mono": "mono",
    "disagg": "disagg",
    "difference": "difference",
    "interval": "95% CI",
    "relative": "relative",
}


def run_sim(
    mode: Mode | None = None,
    sim_seconds: float | None = None,
    warmup_seconds: float | None = None,
    random_seed: int | None = None,
    arrival_rate_per_s: float | None = None,
    prompt_lognormal: LogNormalParams | None = None,
    output_lognormal: LogNormalParams | None = None,
    mono_params: MonoParams | None = None,
    disagg_params: DisaggParams | None = None,
    *,
    config: ConfigSource = None,
    engine: Engine | None = None,
    drain: bool | None = None,
    ttft_definition: TtftDefinition | None = None,
    replicate: int = 0,
) -> dict[str, Any]:
    """Run one simulation and return its statistics.

    The parameters are those of `simlib.core.simulator.run_simulation`; one that is left out is
    taken from `config` (a SimConfig or the path of a YAML file), by default ``SimConfig()``.

    Returns
    -------
    dict
        As `simlib.analysis.point.statistics_of` returns.

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    from simlib.analysis.point import point_config, run

    resolved = point_config(
        mode,
        sim_seconds,
        warmup_seconds,
        random_seed,
        arrival_rate_per_s,
        prompt_lognormal,
        output_lognormal,
        mono_params,
        disagg_params,
        config=config,
        engine=engine,
        drain=drain,
        ttft_definition=ttft_definition,
    )
    return run(resolved, replicate)[1]


def differences(
    mono: Sequence[Mapping[str, Any]], disagg: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare replicates that saw the same requests, pair by pair.

    Parameters
    ----------
    mono, disagg : sequences of statistics, equally long
        Element i of both comes from replicate i.

    Returns
    -------
    list of dict
        By metric of `COMPARED`: the means over the replicates, ``difference`` (disagg - mono),
        ``relative`` (difference / mono), and the paired 95% t interval of the difference, ``low``
        to ``high``; NaN where there is none, as with a single replicate.
    """
    from simlib.stats.compare import paired

    if len(mono) != len(disagg) or not mono:
        raise InvalidParameterError(
            "disagg", f"{len(disagg)} replicates", f"as many as mono ({len(mono)}), at least 1"
        )
    rows = []
    for metric in COMPARED:
        before = [float(one[metric]) for one in mono]
        after = [float(one[metric]) for one in disagg]
        base, other = math.fsum(before) / len(before), math.fsum(after) / len(after)
        low = high = math.nan
        if len(before) > 1:
            interval = paired(before, after).difference
            low, high = interval.low, interval.high
        rows.append(
            {
                "metric": metric,
                "mono": base,
                "disagg": other,
                "difference": other - base,
                "low": low,
                "high": high,
                "relative": (other - base) / base if base else math.nan,
            }
        )
    return rows


def warnings_about(
    config: SimConfig, statistics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """Return what makes this comparison unequal or unsteady, in words; empty if nothing does."""
    from simlib.study.tables.comparison import unfairness

    sides = [config.model_copy(update={"mode": mode}) for mode in ("mono", "disagg")]
    found = [f"mono against disagg: {text}" for text in unfairness(*sides)]
    for mode, replicates in statistics.items():
        unstable = [one["stability_reason"] for one in replicates if one["stability"] == "unstable"]
        if unstable:
            found.append(
                f"{mode} is unstable in {len(unstable)} of {len(replicates)} replicates "
                f"({unstable[0]}): its TTFT grows with the length of the run"
            )
        if any(one["lower_bounds"] for one in replicates):
            found.append(f"unfinished requests make some of {mode}'s percentiles lower bounds")
    return found


@click.command(cls=Command)
@click.option(
    "--replicates",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Runs of each deployment, for the intervals; a replayed trace has one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@configures(without=("mode",))
def main(replicates: int, as_json: bool, config: str | None, **given: Any) -> None:
    """Compare monolithic with disaggregated serving on identical requests.

    Values are means over the replicates; differences are disagg minus mono, with the 95%
    confidence interval of the paired replicates. Unequal hardware is warned of.
    """
    from simlib.analysis.point import resolve_config

    base = resolve_config(config, overrides_of(given))
    if base.arrival.kind == "trace":
        replicates = 1  # a replay has no randomness
    runs = {
        mode: [run_sim(mode, config=base, replicate=i) for i in range(replicates)]  # type: ignore[arg-type]
        for mode in MODES
    }
    rows = differences(runs["mono"], runs["disagg"])
    found = warnings_about(base, runs)
    for text in found:
        click.echo(f"warning: {text}", err=True)
    if as_json:
        from simlib.cli.run import json_ready

        report = {"replicates": replicates, "differences": rows, "warnings": found, "runs": runs}
        click.echo(json.dumps(json_ready(report), indent=2, allow_nan=False))
    else:
        click.echo(_as_text(base, runs, rows))


def _as_text(
    config: SimConfig,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Sequence[Mapping[str, Any]],
) -> str:
    from simlib.analysis.table import as_text

    one = runs["mono"]
    samples = sum(statistics["num_samples"] for statistics in one)
    gpus = {mode: config.model_copy(update={"mode": mode}).deployment for mode in runs}
    pools = gpus["disagg"].gpus_by_pool
    heading = (
        f"mono: {gpus['mono'].total_gpus} GPUs; disagg: {pools['prefill']} prefill + "
        f"{pools['decode']} decode GPUs\n"
        f"{samples} requests in {len(one)} replicate{'s' if len(one) > 1 else ''}, "
        f"the same on both sides; TTFT to {config.ttft_definition}"
    )
    shown = [
        {
            **row,
            "metric": COMPARED[row["metric"]],
            **_difference(row),
        }
        for row in rows
    ]
    used = [
        f"{mode}: "
        + ", ".join(
            f"{key.removeprefix('utilization_')} "
            f"{math.fsum(one[key] for one in runs[mode]) / len(runs[mode]):.1%}"
            for key in runs[mode][0]
            if key.startswith("utilization_")
        )
        for mode in runs
    ]
    return f"{heading}\n\n{as_text(shown, _COLUMNS)}\n\nutilisation  {'; '.join(used)}"


def _difference(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the difference's cells; what is only rounding of times counts as none."""
    missing, noise = "–", _ROUNDING * abs(row["mono"])
    if math.isnan(row["difference"]):
        return {"difference": missing, "interval": missing, "relative": missing}
    if abs(row["difference"]) <= noise:
        return {"difference": "0", "interval": missing, "relative": "0.0%"}
    interval = f"{row['low']:+.3g} to {row['high']:+.3g}"
    return {
        "difference": f"{row['difference']:+.4g}",
        "interval": missing if math.isnan(row["low"]) else interval,
        "relative": _relative(row["relative"]),
    }


def _relative(relative: float) -> str:
    if math.isnan(relative):
        return "–"
    return f"{relative:+.1%}" if relative < 9 else f"x {relative + 1:.3g}"


if __name__ == "__main__":
    main()
