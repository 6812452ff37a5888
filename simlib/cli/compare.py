"""Both deployments side by side, on identical requests, with absolute and relative differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from simlib.cli.group import Command
from simlib.cli.options import configures, overrides_of

if TYPE_CHECKING:  # simulating is imported when it is done: the options alone answer --help
    from simlib.core.config import Engine, Mode, SimConfig
    from simlib.core.records import RequestRecords, TtftDefinition
    from simlib.core.settings import ConfigSource
    from simlib.core.simulator import DisaggParams, LogNormalParams, MonoParams
    from simlib.study.tables.pairs import Pair

MODES = ("mono", "disagg")
THROUGHPUT = "throughput_rps"
_COLUMNS = {
    "label": "",
    "mono": "mono",
    "disagg": "disagg",
    "difference": "difference",
    "interval": "95% CI",
    "relative": "relative",
    "verdict": "verdict",
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
        As `simlib.study.tables.one_run.statistics_of` returns.

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    from simlib.core.settings import point_config
    from simlib.study.tables.one_run import run

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


def pair_of(config: SimConfig, replicates: int) -> tuple[Pair, dict[str, list[dict[str, Any]]]]:
    """Simulate both deployments, and measure them as a study does.

    Returns
    -------
    pair : Pair
        The two sides, as the tables of a study compare them.
    runs : dict of mode to list of dict
        `simlib.study.tables.one_run.statistics_of` each replicate.
    """
    from simlib.study.jobs.simulate import simulate
    from simlib.study.measurement.measure import measure_point
    from simlib.study.plan.identity import is_random
    from simlib.study.tables.one_run import statistics_of
    from simlib.study.tables.pairs import Pair, Side

    sides, runs = [], {}
    for mode in MODES:
        own = config.model_copy(update={"mode": mode})
        # a replayed trace has no randomness, unless a router or a discipline draws
        records = [simulate(own, r) for r in range(replicates if is_random(own) else 1)]
        sides.append(Side(mode, own, measure_point(records, own), partial(_same, records)))
        runs[mode] = [statistics_of(one, own) for one in records]
    return Pair({}, *sides), runs


def _same(records: Sequence[RequestRecords]) -> Sequence[RequestRecords]:
    return records


def differences(pair: Pair) -> list[dict[str, Any]]:
    """Return the differences of two sides as a study's comparison.csv has them.

    Returns
    -------
    list of dict
        By metric: ``mono`` and ``disagg``, the estimates over the replicates; ``difference``
        (disagg - mono) and its 95% interval, ``low`` to ``high``; ``relative`` (difference / mono);
        ``p_adjusted`` and ``verdict``, family-wise at 5% for mean and p99 of TTFT, one by one for
        all else; ``other_definitions`` of TTFT that would turn the verdict; and ``note``, why
        something is missing. NaN where the data do not support a number.
    """
    from simlib.core.metrics import statistic_named
    from simlib.study.tables.comparison import compare_pairs
    from simlib.study.tables.joints import rate_joint

    shown = _shown()
    rows = []
    for line in compare_pairs([pair]):
        if line["statistic"] in shown:
            metric = statistic_named(line["statistic"])
            rows.append(
                {
                    "metric": metric.name,
                    "label": metric.label,
                    "mono": line["baseline_s"],
                    "disagg": line["candidate_s"],
                    "difference": line["difference_s"],
                    "low": line["difference_s_low"],
                    "high": line["difference_s_high"],
                    "relative": line["ratio"] - 1,
                    "p_adjusted": line["p_adjusted"],
                    "verdict": line["verdict"],
                    "other_definitions": line["other_definitions"],
                    "note": line["note"],
                }
            )
    done = rate_joint(pair, THROUGHPUT)
    mono, disagg = (side.point.mean(THROUGHPUT) for side in pair.sides)
    rows.append(
        {
            "metric": THROUGHPUT,
            "label": "throughput (1/s)",
            "mono": mono,
            "disagg": disagg,
            "difference": done.difference.estimate,
            "low": done.difference.low,
            "high": done.difference.high,
            "relative": done.ratio.estimate - 1,
            "p_adjusted": math.nan,
            "verdict": "",
            "other_definitions": "",
            "note": done.difference.reason,
        }
    )
    return rows


def _shown() -> list[str]:
    """Return the statistics that are shown: all of TTFT, and of others mean and last percentile."""
    from simlib.core.metrics import TTFT_BY, metrics_of

    names = []
    for metric in metrics_of("requests"):
        statistics = metric.statistics
        if metric in TTFT_BY.values():  # said beside the verdicts
            continue
        if metric.name != "ttft":
            statistics = tuple(dict.fromkeys((statistics[0], statistics[-1])))
        names += [statistic.name for statistic in statistics]
    return names


def warnings_about(pair: Pair) -> list[str]:
    """Return what makes this comparison unequal or unsteady, in words; empty if nothing does."""
    found = [f"mono against disagg: {text}" for text in pair.unfair.split("; ") if text]
    for side in pair.sides:
        stability = side.point.stability
        if stability.verdict == "unstable":
            found.append(
                f"{side.level} is unstable ({stability.reason}): "
                "its TTFT grows with the length of the run"
            )
        if side.point.lower_bounds():
            found.append(
                f"unfinished requests make some of {side.level}'s percentiles lower bounds"
            )
    return found


@click.command(cls=Command)
@click.option(
    "--replicates",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Runs of each deployment; a replayed trace has one, unless a router draws.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@configures(without=("mode",))
def main(replicates: int, as_json: bool, config: str | None, **given: Any) -> None:
    """Compare monolithic with disaggregated serving on identical requests.

    Numbers, intervals and verdicts are those of a study of the same two points: estimates over the
    replicates, differences disagg minus mono with their paired 95% confidence interval, verdicts
    family-wise at 5%. What the data cannot support is left empty. Unequal hardware is warned of.
    """
    from simlib.core.settings import resolve_config

    base = resolve_config(config, overrides_of(given))
    pair, runs = pair_of(base, replicates)
    rows = differences(pair)
    found = warnings_about(pair)
    for text in found:
        click.echo(f"warning: {text}", err=True)
    if as_json:
        from simlib.cli.run import json_ready

        report = {
            "replicates": pair.replicates,
            "differences": rows,
            "warnings": found,
            "runs": runs,
        }
        click.echo(json.dumps(json_ready(report), indent=2, allow_nan=False))
    else:
        click.echo(_as_text(pair, rows))


def _as_text(pair: Pair, rows: Sequence[Mapping[str, Any]]) -> str:
    from simlib.core.summary import pool_gpus
    from simlib.study.tables.text import as_text

    mono, disagg = pair.sides
    pools = pool_gpus(disagg.config)
    samples, count = mono.point.total("num_samples"), pair.replicates
    lines = [
        f"mono: {sum(pool_gpus(mono.config).values())} GPUs; disagg: {pools['prefill']} prefill + "
        f"{pools['decode']} decode GPUs",
        f"{samples} requests in {count} replicate{'s' if count > 1 else ''}, "
        f"the same on both sides; TTFT to {mono.config.ttft_definition}",
        "",
        as_text([{**row, **_difference(row)} for row in rows], _COLUMNS),
        "",
    ]
    used = [
        f"{side.level}: "
        + ", ".join(
            f"{pool} {side.point.mean(f'utilization_{pool}'):.1%}"
            for pool in pool_gpus(side.config)
        )
        for side in pair.sides
    ]
    lines.append(f"utilisation  {'; '.join(used)}")
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["note"] and row["verdict"] == "not tested":
            notes.setdefault(row["note"], []).append(row["label"].removesuffix(" (s)"))
    lines += [f"not tested   {', '.join(labels)}: {note}" for note, labels in notes.items()]
    lines += [
        f"but          {row['label'].removesuffix(' (s)')} by {row['other_definitions']}"
        for row in rows
        if row["other_definitions"]
    ]
    return "\n".join(lines)


def _difference(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the difference's cells; what is only rounding of times counts as none."""
    from simlib.stats.intervals import RESOLUTION

    missing = "–"
    if math.isnan(row["difference"]):
        return {"difference": missing, "interval": missing, "relative": missing}
    if abs(row["difference"]) <= RESOLUTION:
        return {"difference": "0", "interval": missing, "relative": "0.0%"}
    low, high = (
        open_end if math.isnan(end) else f"{end:+.3g}"
        for end, open_end in ((row["low"], "−∞"), (row["high"], "∞"))
    )
    interval = f"{low} to {high}"
    return {
        "difference": f"{row['difference']:+.4g}",
        "interval": missing if math.isnan(row["low"]) and math.isnan(row["high"]) else interval,
        "relative": _relative(row["relative"]),
    }


def _relative(relative: float) -> str:
    if math.isnan(relative):
        return "–"
    return f"{relative:+.1%}" if relative < 9 else f"x {relative + 1:.3g}"


if __name__ == "__main__":
    main()
