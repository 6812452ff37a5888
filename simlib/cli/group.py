"""Click commands with one-line errors, and a group that imports a command only when it runs."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

from simlib.errors import InvalidParameterError


class InputError(click.ClickException):
    """Bad input, told in one line; exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the message to stderr, or to `file`."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can cause into a one-line message: bad values, unwritable files."""
    try:
        yield
    except InvalidParameterError as error:
        raise InputError(" ".join(str(error).split())) from None
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # the reader of our output left (| head): click ends quietly
        place = f": {error.filename}" if error.filename is not None else ""
        raise InputError(f"{error.strerror or error}{place}") from None


class Command(click.Command):
    """A command whose bad input ends in one line on stderr and exit code 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options."""
        with one_line_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with one_line_errors():
            return super().invoke(ctx)


class Lazy(NamedTuple):
    """A command that is imported only when it runs."""

    target: str
    """``module:attribute`` of the click command."""
    short_help: str
    """What the group's help says of it."""


class Group(click.Group):
    """A group whose commands have one-line errors and may be lazy.

    Parameters
    ----------
    lazy : mapping of command name to Lazy, optional
        Commands by name. The group's own help shows their `short_help` without importing them.
    """

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def invoke(self, ctx: click.Context) -> Any:
        """Run the group and the command that it leads to."""
        with one_line_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it if it is lazy; None if there is none of that name."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.lazy[cmd_name].target} is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the lazy ones."""
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name].short_help))
            else:
                rows.append((name, self.commands[name].get_short_help_str(limit=80)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


Group.group_class = Group
