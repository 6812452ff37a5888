"""The figure that compares TTFT: distributions, and percentiles side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from simlib.cli.group import Command
from simlib.cli.options import configures, overrides_of
from simlib.errors import InvalidParameterError

if TYPE_CHECKING:  # matplotlib takes half a second, which --help need not pay
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from simlib.core.config import Engine, Mode, SimConfig
    from simlib.core.records import Floats, TtftDefinition
    from simlib.core.settings import ConfigSource
    from simlib.core.simulator import DisaggParams, LogNormalParams, MonoParams

Run = tuple[Mapping[str, Any], "Floats"]
"""Statistics and TTFT samples, as `run_sim_with_details` returns them."""

SUFFIXES = (".png", ".svg", ".pdf")
DEFAULT_OUTPUT = "ttft_comparison.png"
# Okabe and Ito's palette, told apart with any colour vision (https://jfly.uni-koeln.de/color/)
COLOURS = {"mono": "#0072B2", "disagg": "#D55E00"}
_MORE_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LABELS = {"mono": "monolithic", "disagg": "disaggregated"}
_INK, _GRID = "#333333", "#DDDDDD"
_ENDS = {
    "first_decode_step": "first decode step",
    "prefill_end": "end of prefill",
    "transfer_end": "end of KV transfer",
}


def run_sim_with_details(
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
) -> tuple[dict[str, Any], Floats]:
    """Run one simulation and return its statistics and the TTFT samples behind them.

    The parameters are those of `simlib.core.simulator.run_simulation`; one that is left out is
    taken from `config` (a SimConfig or the path of a YAML file), by default ``SimConfig()``.

    Returns
    -------
    statistics : dict
        As `simlib.study.tables.one_run.statistics_of` returns.
    ttft_s : array, shape (num_samples,)
        TTFT in seconds of the requests that arrived in the window and got a first token, in
        order of arrival.

    Raises
    ------
    InvalidParameterError
        If a value is not allowed.
    """
    from simlib.core.settings import point_config
    from simlib.study.tables.one_run import run, ttft_samples

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
    records, statistics = run(resolved, replicate)
    return statistics, ttft_samples(records, resolved)


def plot_ttft_comparison(
    runs: Mapping[str, Run] | None = None,
    output: str | Path | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw TTFT distributions and percentiles of several runs side by side.

    Left, the empirical distribution of TTFT on a logarithmic axis, as a share of all requests
    served: it stays below 1 where requests never got a first token. Right, the mean and the
    percentiles; an arrow marks a lower bound, hatching an unstable run.

    Parameters
    ----------
    runs : mapping of label to (statistics, ttft_s), optional
        As `run_sim_with_details` returns them; by default both deployments as configured by
        ``SimConfig()``. The labels mono and disagg have their own colours.
    output : path, optional
        Where to write the figure, whole or not at all: .png, .svg or .pdf. Without any argument
        it is ``ttft_comparison.png`` in the working directory, and the path is printed.
    title : str
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; no global state of matplotlib is touched.

    Raises
    ------
    InvalidParameterError
        If a run has no TTFT samples, definitions of TTFT differ, or the path's ending is unknown.
    """
    from matplotlib.figure import Figure

    unasked = runs is None and output is None
    if runs is None:
        runs = {mode: run_sim_with_details(mode) for mode in COLOURS}  # type: ignore[arg-type]
    path = Path(DEFAULT_OUTPUT) if unasked else None if output is None else Path(output)
    definition = _check(runs, path)
    colours = _colours(list(runs))
    figure = Figure(figsize=(10.0, 4.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
    _draw_distributions(left, runs, colours)
    _draw_percentiles(right, runs, colours)
    for axes in (left, right):
        _tidy(axes)
    left.set_xlabel(f"TTFT to {_ENDS[definition]} (s)")
    right.set_ylabel(f"TTFT to {_ENDS[definition]} (s)")
    figure.legend(
        handles=left.get_lines()[: len(runs)],
        loc="outside lower center",
        ncols=min(len(runs), 4),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    if title:
        figure.suptitle(title, fontsize=12, color=_INK, parse_math=False)
    if path is not None:
        save(figure, path)
    if unasked:
        print(path)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; the same figure gives the same bytes."""
    import matplotlib as mpl

    from simlib.files import replacing

    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    with mpl.rc_context({"svg.hashsalt": "simlib"}), replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, metadata=metadata)


def _check(runs: Mapping[str, Run], path: Path | None) -> str:
    """Return the one definition of TTFT that all runs share."""
    if not runs:
        raise InvalidParameterError("runs", "no runs", "at least one run")
    for label, (_, values) in runs.items():
        if len(values) == 0:
            raise InvalidParameterError(
                f"runs[{label!r}]", "no TTFT samples", "a run in which a request got a first token"
            )
    definitions = {str(statistics["ttft_definition"]) for statistics, _ in runs.values()}
    if len(definitions) > 1:
        raise InvalidParameterError(
            "ttft_definition", ", ".join(sorted(definitions)), "the same in all runs"
        )
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise InvalidParameterError("output", str(path), "a path ending in " + ", ".join(SUFFIXES))
    return definitions.pop()


def _colours(labels: Sequence[str]) -> dict[str, str]:
    others = [label for label in labels if label not in COLOURS]
    more = {label: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, label in enumerate(others)}
    return {label: COLOURS.get(label) or more[label] for label in labels}


def _draw_distributions(axes: Axes, runs: Mapping[str, Run], colours: Mapping[str, str]) -> None:
    from simlib.core.metrics import METRICS

    for label, (statistics, values) in runs.items():
        served = statistics["arrived"] - statistics["rejected"]
        x = np.sort(values)
        share = np.arange(1, len(x) + 1) / served
        # from 0 at the smallest value, so that the first step is drawn
        axes.step(
            np.concatenate([x[:1], x]),
            np.concatenate([[0.0], share]),
            where="post",
            color=colours[label],
            linewidth=1.8,
            label=_label(label, statistics),
        )
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.02)
    axes.set_ylabel("share of requests")
    axes.set_title("Distribution", fontsize=11, color=_INK, loc="left")
    for statistic in METRICS["ttft"].statistics:
        if statistic.percent is None:
            continue
        share, name = statistic.percent / 100, statistic.short
        axes.axhline(share, color="#999999", linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        axes.annotate(
            name,
            (1.0, share),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#777777",
            annotation_clip=False,
        )


def _draw_percentiles(axes: Axes, runs: Mapping[str, Run], colours: Mapping[str, str]) -> None:
    from simlib.core.metrics import METRICS

    shown = METRICS["ttft"].statistics
    names = [statistic.name for statistic in shown]
    width = 0.86 / len(runs)
    for i, (label, (statistics, _)) in enumerate(runs.items()):
        # what tables leave empty, for want of requests, has no bar
        without = statistics.get("unsupported", ())
        heights = np.array([np.nan if name in without else statistics[name] for name in names])
        x = np.arange(len(names)) + (i - (len(runs) - 1) / 2) * width
        unstable = statistics.get("stability") == "unstable"
        axes.bar(
            x,
            heights,
            width * 0.94,
            color=colours[label],
            hatch="///" if unstable else None,
            edgecolor="white",
            linewidth=0.0,
        )
        for position, height, name in zip(x, heights, names, strict=True):
            if np.isnan(height):
                continue
            bound = "↑" if name in statistics["lower_bounds"] else ""
            axes.annotate(
                f"{_short(height)}{bound}",
                (position, height),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=_INK,
            )
    # from zero, so that the bars' lengths can be compared
    axes.set_ylim(0.0, axes.get_ylim()[1] * 1.05)
    axes.set_xticks(range(len(names)), [statistic.short for statistic in shown])
    axes.set_title("Mean and percentiles", fontsize=11, color=_INK, loc="left")


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="both" if axes.get_xscale() == "log" else "y", color=_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(10)
        label.set_color(_INK)
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _short(seconds: float) -> str:
    """Return two significant digits, or whole seconds from 10 on: it must fit above a bar."""
    return f"{seconds:.0f}" if seconds >= 9.95 else f"{seconds:.2g}"


def _label(label: str, statistics: Mapping[str, Any]) -> str:
    """Return what the legend calls a run: its name, its GPUs, and whether it is unstable."""
    name = _LABELS.get(label, label)
    if "num_gpus" in statistics:
        gpus = f"{statistics['num_gpus']} GPUs"
    else:
        gpus = f"{statistics['prefill_gpus']}+{statistics['decode_gpus']} GPUs"
    mark = ", unstable" if statistics.get("stability") == "unstable" else ""
    return f"{name} ({gpus}{mark})"


@click.command(cls=Command)
@click.option(
    "--output",
    type=click.Path(),
    default=DEFAULT_OUTPUT,
    show_default=True,
    help="Figure to write: .png, .svg or .pdf.",
)
@click.option("--title", default=None, help="Heading; by default the load.")
@click.option("--replicate", type=int, default=0, help="Other random streams.")
@configures(without=("mode",))
def main(output: str, title: str | None, replicate: int, config: str | None, **given: Any) -> None:
    """Draw both deployments' TTFT: distributions and percentiles, on identical requests."""
    from simlib.core.settings import resolve_config

    base = resolve_config(config, overrides_of(given))
    runs = {
        mode: run_sim_with_details(mode, config=base, replicate=replicate)  # type: ignore[arg-type]
        for mode in COLOURS
    }
    plot_ttft_comparison(runs, output, title=_load(base) if title is None else title)
    click.echo(output)


def _load(config: SimConfig) -> str:
    if config.arrival.process.replayed:
        return f"TTFT, {Path(str(config.arrival.path)).name} at speed {config.arrival.speed:g}"
    return f"TTFT at {config.arrival.rate_per_s:g} requests/s"


if __name__ == "__main__":
    main()
