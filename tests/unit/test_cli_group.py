"""The lazy group, and what it makes of errors."""

from __future__ import annotations

import errno
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from simlib.cli.group import Group, InputError, Lazy, one_line_errors
from simlib.errors import InvalidParameterError


@click.group(cls=Group, lazy={"late": Lazy("no.such.module:main", "Comes late.")})
def program() -> None:
    """Program of this test."""


@program.group()
def nested() -> None:
    """Nested group."""


@nested.command()
@click.option("--what", default="parameter")
def fail(what: str) -> None:
    """Fail."""
    if what == "parameter":
        raise InvalidParameterError("a.b", "x\ny", "> 0", "file.yaml, line 3")
    if what == "file":
        Path("/no/such/folder/file").read_text(encoding="utf-8")
    raise RuntimeError("a fault of our own")


def test_help_shows_a_lazy_command_without_importing_it() -> None:
    result = CliRunner().invoke(program, ["--help"])
    assert result.exit_code == 0
    assert "Comes late." in result.stdout
    assert "Nested group." in result.stdout


def test_a_lazy_command_is_imported_when_it_runs() -> None:
    assert isinstance(CliRunner().invoke(program, ["late"]).exception, ModuleNotFoundError)


def test_a_lazy_target_must_be_a_command() -> None:
    group = Group("g", lazy={"bad": Lazy("simlib.errors:InvalidParameterError", "Bad.")})
    assert isinstance(CliRunner().invoke(group, ["bad"]).exception, TypeError)


def test_a_bad_value_in_a_nested_command_is_one_line_with_code_2() -> None:
    result = CliRunner().invoke(program, ["nested", "fail"])
    assert result.exit_code == 2
    assert result.stderr == "error: a.b must be > 0, got 'x\\ny' (file.yaml, line 3)\n"
    assert result.stdout == ""


def test_a_missing_file_is_one_line_with_code_2() -> None:
    result = CliRunner().invoke(program, ["nested", "fail", "--what", "file"])
    assert result.exit_code == 2
    assert result.stderr == "error: No such file or directory: /no/such/folder/file\n"


def test_a_fault_of_our_own_keeps_its_traceback() -> None:
    result = CliRunner().invoke(program, ["nested", "fail", "--what", "else"])
    assert isinstance(result.exception, RuntimeError)


def test_a_reader_that_left_is_no_bad_input() -> None:
    with pytest.raises(BrokenPipeError), one_line_errors():
        raise OSError(errno.EPIPE, "Broken pipe")
    with pytest.raises(InputError), one_line_errors():
        raise OSError(errno.ENOSPC, "No space left on device")
