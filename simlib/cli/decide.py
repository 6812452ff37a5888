"""``simlib decide``: disaggregate or not, in which split, and how sure that is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from simlib.cli.group import Command
from simlib.cli.options import parse_assignment
from simlib.errors import InvalidParameterError

_WANTED_REQUESTS = 6000
_FEWEST_SECONDS = 300.0
_WARMUP_SHARE = 0.2
_OVERHEADS = {"step_overhead_s": 0.0015, "sequence_overhead_s": 50e-6}
"""Of an engine like vLLM, as in the studies that ship with simlib."""


@click.command(cls=Command)
@click.option(
    "--config",
    type=click.Path(),
    help="YAML file of one simulation; of a study file, its defaults.",
)
@click.option(
    "--model",
    help="Model of the catalog, such as llama-3.1-70b, or the path of a config.json.  "
    "[default: token rates]",
)
@click.option("--gpus", required=True, metavar="NxGPU", help="Such as 8xh100_sxm; or a number.")
@click.option("--ttft", type=float, help="SLO: time to first token, seconds.")
@click.option("--tpot", type=float, help="SLO: mean time per output token, seconds.")
@click.option("--e2e", type=float, help="SLO: time to the last token, seconds.")
@click.option(
    "--attainment", type=float, default=0.95, show_default=True,
    help="Share of the requests that must be within the whole SLO.",
)  # fmt: skip
@click.option("--prompt-p50", type=float, help="Median prompt, tokens; with --prompt-p90.")
@click.option("--prompt-p90", type=float, help="90th percentile of prompts, tokens.")
@click.option("--output-p50", type=float, help="Median output, tokens; with --output-p90.")
@click.option("--output-p90", type=float, help="90th percentile of outputs, tokens.")
@click.option("--trace", type=click.Path(), help="Replay this trace, faster and faster, instead.")
@click.option("--tensor-parallel", metavar="N,N,…", help="[default: what the model needs and up]")
@click.option(
    "--data-parallel-size",
    metavar="N,N,…",
    help="Attention ranks of a replica of a mixture of experts, --tensor-parallel GPUs each.  "
    "[default: 1]",
)
@click.option("--architectures", metavar="mono,disagg", help="[default: both]")
@click.option("--rate", type=float, help="Also: the fewest GPUs that carry this rate.")
@click.option("--price", "price", metavar="GPU=USD", multiple=True, help="Dollars an hour.")
@click.option("--precision", type=float, default=0.02, show_default=True,
              help="Half width of a capacity's 95% interval over the estimate.")  # fmt: skip
@click.option("--sim-seconds", type=float,
              help="Length of a run.  [default: about 6,000 requests, at least 300 s]")  # fmt: skip
@click.option("--warmup-seconds", type=float, help="[default: a fifth of the run]")
@click.option("--seed", type=int, help="Random seed.  [default: 42]")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True,
              help="Set any key of the configuration; repeatable.")  # fmt: skip
@click.option("--cores", type=click.IntRange(1), help="Worker processes.  [default: all]")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default="results",
              show_default=True, help="Where simulations are kept, and found again.")  # fmt: skip
@click.option("--keep-requests", is_flag=True,
              help="Also keep the requests of each simulation: gigabytes.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@click.option("--commands", is_flag=True, help="Also print how to start the best of each.")
def main(results: Path, cores: int | None, as_json: bool, commands: bool, **given: Any) -> None:
    """Find the deployment that carries the most within an SLO, and say by what margin.

    Every monolithic deployment and every prefill:decode split that uses the GPUs is simulated at
    the rates that its capacity needs: the highest rate at which enough requests are within all
    parts of the SLO; those that may be the best are found to --precision, the others coarsely.
    What each simulation says is kept in --results: an interrupted run goes on where it was, and a
    changed question reuses what it can.

    \b
    Example: 9 deployments in some seconds.
      simlib decide --model llama-3.1-70b --gpus 8xh100_sxm --ttft 2 --tpot 0.05 \\
        --prompt-p50 1500 --prompt-p90 6000 --output-p50 250 --output-p90 800
    """  # noqa: D301 - click's mark for text that keeps its lines is the character itself
    from simlib.core.config import SimConfig
    from simlib.study.decide.decide import decide
    from simlib.study.decide.words import ten_lines
    from simlib.study.plan.decision import Decision

    decision = Decision.from_dict(_decision(given))
    settings = _with_length(_settings(given), decision, given)
    ((case, answer),) = decide(settings, decision, results, cores=cores, told=_told)
    lines = ten_lines(answer, SimConfig.from_dict(case.settings))
    if as_json:
        from simlib import __version__

        click.echo(json.dumps({"lines": lines, "simlib_version": __version__, **answer}, indent=2))
        return
    for line in lines:
        click.echo(line)
    if commands:
        _echo_commands(answer)


def _told(done: int, total: int, what: str, found: dict[str, Any]) -> None:
    """Show progress on stderr: each deployment that a job looked at, and its capacity."""
    progress = f"[{done}/{total}]"
    if what == "fewest":
        said = str(found["gpus"] or "more than there are")
        click.echo(f"{progress} fewest GPUs: {said}", file=sys.stderr)
        return
    if what == "slower":
        said = found["deployment"] or "nothing to look at"
        click.echo(f"{progress} with longer steps: {said}", file=sys.stderr)
    for one in found["deployments"]:
        capacity = one["capacity_per_s"]
        if capacity is not None:
            said = f"{capacity:.3g} requests/s"
        else:
            said = one["outcome"] if one["outcome"] != "never" else "cannot meet the SLO"
        if one["stopped_by"] == "behind":
            said += ", not among the best"
        click.echo(f"{progress} {one['name']}: {said}", file=sys.stderr)


def _echo_commands(answer: dict[str, Any]) -> None:
    for architecture, recipe in answer["recipes"].items():
        if recipe is None:
            continue
        click.echo(f"\n# {architecture}: {recipe['versions']}")
        for one in recipe["vllm"]:
            click.echo(f"# {one['run']} x, {one['gpus']} GPUs each ({one['pool']})")
            click.echo(one["command"])
        for note in recipe["notes"]:
            click.echo(f"# {note}")


def _decision(given: dict[str, Any]) -> dict[str, Any]:
    """Return the decision that the options ask for."""
    slo = {f"{part}_s": given[part] for part in ("ttft", "tpot", "e2e") if given[part] is not None}
    if not slo:
        raise InvalidParameterError("SLO", "none", "given: --ttft, --tpot or --e2e, in seconds")
    deployments: dict[str, Any] = {"gpus": _gpus(given["gpus"])}
    if given["tensor_parallel"]:
        deployments["tensor_parallel"] = _whole("--tensor-parallel", given["tensor_parallel"])
    if given["data_parallel_size"]:
        ranks = _whole("--data-parallel-size", given["data_parallel_size"])
        deployments["data_parallel_size"] = ranks
    if given["architectures"]:
        deployments["architectures"] = given["architectures"].split(",")
    return {
        "slo": {**slo, "attainment": given["attainment"]},
        "deployments": deployments,
        "rate_per_s": given["rate"],
        "accuracy": {"relative": given["precision"]},
        "prices": dict(_price(text) for text in given["price"]),
        "keep_requests": given["keep_requests"],
    }


def _gpus(text: str) -> int | dict[str, int]:
    match = re.fullmatch(r"(\d+)(?:x([A-Za-z0-9_]+))?", text.strip())
    if match is None:
        raise InvalidParameterError("--gpus", text, "a number, or NxGPU such as 8xh100_sxm")
    return {match[2]: int(match[1])} if match[2] else int(match[1])


def _whole(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidParameterError(option, text, "whole numbers separated by commas") from None


def _price(text: str) -> tuple[str, float]:
    key, value = parse_assignment(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidParameterError("--price", text, "GPU=USD, such as h100_sxm=2.5")
    return key, float(value)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the simulation: of the file, changed by the options."""
    from simlib.core.config import load_config
    from simlib.core.overrides import overridden

    settings: dict[str, Any] = load_config(given["config"]).to_dict() if given["config"] else {}
    overrides: dict[str, Any] = {}
    if given["model"]:
        overrides["serving"] = "batching"
        overrides["latency.model"] = given["model"]
        if not given["config"]:
            overrides |= {f"latency.{key}": value for key, value in _OVERHEADS.items()}
    for name in ("prompt", "output"):
        if section := _lengths(name, given):
            overrides[f"{name}_tokens"] = section
    if given["trace"]:
        overrides["arrival"] = {"kind": "trace", "path": given["trace"]}
    if given["seed"] is not None:
        overrides["random_seed"] = given["seed"]
    overrides |= dict(parse_assignment(text) for text in given["assignments"])
    return overridden(settings, overrides)


def _lengths(name: str, given: dict[str, Any]) -> dict[str, Any] | None:
    p50, p90 = given[f"{name}_p50"], given[f"{name}_p90"]
    if p50 is None and p90 is None:
        return None
    if p50 is None or p90 is None:
        missing = "p90" if p90 is None else "p50"
        raise InvalidParameterError(f"--{name}-{missing}", None, "given with the other one")
    return {"mode": "p50_p90", "p50": p50, "p90": p90}


def _with_length(settings: dict[str, Any], decision: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the length of a run: as asked, or long enough for the rates."""
    from simlib.core.config import SimConfig
    from simlib.core.overrides import overridden
    from simlib.study.decide.first_guess import first_guess
    from simlib.study.plan.deployments import deployments_of

    seconds = given["sim_seconds"]
    if seconds is None and (given["config"] is None and "sim_seconds" not in settings):
        seconds = _FEWEST_SECONDS
        if SimConfig.from_dict(settings).arrival.process.at_rate:
            found = deployments_of(settings, decision.deployments).deployments
            best = max(first_guess(one.config, decision.slo) for one in found)
            seconds = max(seconds, float(f"{_WANTED_REQUESTS / best:.2g}"))
    changes: dict[str, Any] = {} if seconds is None else {"sim_seconds": seconds}
    if given["warmup_seconds"] is not None:
        changes["warmup_seconds"] = given["warmup_seconds"]
    elif seconds is not None:
        changes["warmup_seconds"] = _WARMUP_SHARE * seconds
    return overridden(settings, changes)
