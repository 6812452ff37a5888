"""``simlib study``: check a study file, and the stages that the workflow runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from simlib.latency.catalog import BYTES_PER_PARAMETER

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def study() -> None:
    """Check a study file, or run one stage of a study by hand."""


@study.command()
@click.argument("config", type=_FILE, default="config.yaml")
def check(config: Path) -> None:
    """Validate CONFIG and say how many simulations each study needs."""
    from simlib.core.reading import read_yaml
    from simlib.study.plan.grid import resolve

    for resolved in resolve(read_yaml(config), str(config), source=config.parent):
        if resolved.cases:
            click.echo(
                f"{resolved.name}: {len(resolved.cases)} "
                f"decision{'' if len(resolved.cases) == 1 else 's'}, {len(resolved.jobs())} jobs, "
                "which choose their simulations"
            )
            continue
        points = {row.point_id: row.replicates for row in resolved.rows}
        factors = " x ".join(f"{factor.name} ({len(factor.levels)})" for factor in resolved.factors)
        precise = any(row.precision is not None for row in resolved.rows)
        click.echo(
            f"{resolved.name}: {len(points)} points, "
            f"{sum(points.values())} simulations{' or more, until precise' if precise else ''}; "
            f"{factors or 'no sweep'}"
        )


@study.command()
@click.argument("study_json", type=_FILE)
@click.option("--results", type=_FOLDER, default="results", show_default=True)
@click.option("--output", type=_FOLDER, required=True, help="Folder of the tables.")
def tables(study_json: Path, results: Path, output: Path) -> None:
    """Write the tables of the study that STUDY_JSON describes."""
    from simlib.study.tables.write import write_tables

    write_tables(study_json, results, output)


@study.command()
@click.argument("study_json", type=_FILE)
@click.option("--tables", type=_FOLDER, required=True, help="Folder of the tables.")
@click.option("--output", type=_FOLDER, required=True, help="Folder of the figures.")
@click.option(
    "--kept",
    type=_FOLDER,
    help="Folder that keeps what was drawn: the next time, only figures whose data, title or code "
    "changed are drawn again. Default: draw all.",
)
def figures(study_json: Path, tables: Path, output: Path, kept: Path | None) -> None:
    """Draw the figures of the study that STUDY_JSON describes."""
    from simlib.study.figures import write_figures

    for path in write_figures(study_json, tables, output, kept=kept):
        click.echo(path)


@study.command()
@click.argument("request", type=_FILE)
@click.option("--results", type=_FOLDER, default="results", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def precise(request: Path, results: Path, output: Path) -> None:
    """Lengthen and replicate the runs of points until the precision that REQUEST asks for."""
    from simlib.study.jobs.precision import make_precise

    click.echo(json.dumps(make_precise(request, results, output), indent=2))


@study.command()
@click.argument("request", type=_FILE)
@click.option("--results", type=_FOLDER, default="results", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def capacity(request: Path, results: Path, output: Path) -> None:
    """Find the capacity of the deployment that REQUEST describes, or the fewest GPUs for a rate."""
    from simlib.study.decide.job import run_job

    run_job(request, results, output)


@study.command()
@click.option("--request", type=_FILE, help="JSON file with the settings below.")
@click.option("--model", help="Hugging Face identifier; -- may stand for /.")
@click.option("--gpu", help="Such as h100_sxm.")
@click.option("--tensor-parallel", type=click.IntRange(1))
@click.option("--precision", type=click.Choice(list(BYTES_PER_PARAMETER)), default="bf16")
@click.option(
    "--expert-precision",
    type=click.Choice(list(BYTES_PER_PARAMETER)),
    help="Of routed experts; default: as --precision.",
)
@click.option(
    "--backend",
    type=click.Choice(["vllm", "sglang", "trtllm"]),
    default="vllm",
    help="Engine whose kernels were measured.",
)
@click.option(
    "--expert-parallel",
    type=click.IntRange(1),
    default=1,
    help="GPUs over which whole experts are spread; default: 1, each GPU has a part of each.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def latency_table(
    request: Path | None,
    model: str | None,
    gpu: str | None,
    tensor_parallel: int | None,
    precision: str,
    expert_precision: str | None,
    backend: str,
    expert_parallel: int,
    output: Path,
) -> None:
    """Write the latencies of one replica as measured kernels compose them (aiconfigurator)."""
    from simlib.files import read_json, replacing
    from simlib.latency.aiconfigurator import build_latency_table

    given = {
        "model": model,
        "gpu": gpu,
        "tensor_parallel": tensor_parallel,
        "precision": precision,
        "expert_precision": expert_precision,
        "backend": backend,
        "expert_parallel": expert_parallel,
    }
    if model is not None:
        given["model"] = model.replace("--", "/")
    if request is not None:
        given |= read_json(request)
    for name in ("model", "gpu", "tensor_parallel"):
        if given[name] is None:
            raise click.UsageError(f"Missing option '--{name.replace('_', '-')}' or '--request'.")
    with replacing(output) as temporary:
        build_latency_table(path=temporary, **given)  # type: ignore[arg-type]


@study.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def schema(output: Path) -> None:
    """Write the JSON Schema of config.yaml."""
    from simlib.files import replacing
    from simlib.study.plan.schema import study_file_schema

    with replacing(output) as temporary:
        text = json.dumps(study_file_schema(), indent=2, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")
