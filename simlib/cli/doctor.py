"""``simlib doctor``: check a results folder against a study file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from simlib.cli.group import Command

_SHOWN = 10


@click.command(cls=Command)
@click.argument(
    "config", type=click.Path(exists=True, dir_okay=False, path_type=Path), default="config.yaml"
)
@click.option(
    "--results",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="results",
    show_default=True,
)
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where relative paths of traces start, too; default: the folder of CONFIG.",
)
@click.option("--prune", is_flag=True, help="Remove what is stale.")
@click.option("--yes", is_flag=True, help="Do not ask before removing.")
@click.option("--json", "as_json", is_flag=True, help="Print every file name, as JSON.")
@click.pass_context
def doctor(
    ctx: click.Context,
    config: Path,
    results: Path,
    source: Path | None,
    prune: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Check the results folder against the studies of CONFIG.

    Every result, table and figure is read whole: complete, missing, or corrupt (damaged, altered,
    or of another point, model version or version of the study). Stale files are those that the
    workflow wrote and no study wants; files of others are neither listed nor removed.

    The exit code is 1 if something is missing or corrupt: the next run makes it (again).
    """
    from simlib.core.reading import read_yaml
    from simlib.study.jobs import diagnosis
    from simlib.study.jobs.lock import FolderInUseError, hold
    from simlib.study.plan.grid import resolve

    studies = resolve(read_yaml(config), str(config), source=source or config.parent)
    if prune:
        try:
            hold(results.resolve().parent)
        except FolderInUseError as error:
            raise click.ClickException(str(error)) from None
    found = diagnosis.diagnose(studies, results)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(f"complete: {len(found.inventory.intact)}")
        _tell("missing", [str(path) for path in found.inventory.missing])
        _tell("corrupt", [f"{path}: {why}" for path, why in found.inventory.corrupt.items()])
        _tell("stale", [str(path) for path in found.stale])
    if prune and found.stale:
        count = len(found.stale)
        if not yes:
            click.confirm(f"Remove {count} stale files?", abort=True, err=True)
        diagnosis.prune(results, found.stale)
        click.echo(f"removed {count} stale files", err=True)
    ctx.exit(0 if found.healthy else 1)


def _tell(condition: str, lines: list[str]) -> None:
    click.echo(f"{condition}: {len(lines)}")
    for line in lines[:_SHOWN]:
        click.echo(f"  {line}")
    if len(lines) > _SHOWN:
        click.echo(f"  … and {len(lines) - _SHOWN} more (--json lists all)")
