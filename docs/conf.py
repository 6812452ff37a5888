"""Settings of the documentation; `make docs` builds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import simlib
from simlib.cli.run import cli
from simlib.core.validation import ConfigModel

project = "simlib"
author = "The simlib developers"
copyright = "2026, The simlib developers"
version = release = simlib.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_generated_measured.md", "_generated_scoreboard.md", "api/generated"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
napoleon_google_docstring = False
# words in a type, such as a shape, are no links
napoleon_use_param = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Floats", "Tokens")}
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "exclude-members": "model_config",
}

html_theme = "furo"
html_title = f"simlib {release}"
html_show_copyright = False


def help_texts(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    """Yield the help of a command and of all commands below it, as Markdown."""
    settings = {"max_content_width": 90, **command.context_settings}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from help_texts(found, context, child)


# The page of commands shows what the programs themselves say.
generated = Path(__file__).parent / "api" / "generated"
generated.mkdir(exist_ok=True)
(generated / "commands.md").write_text("\n".join(help_texts(cli, None, "simlib")), "utf-8")


_plain: dict[str, list[str]] = {}


def _keep(_app: Any, what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    if what in ("attribute", "data"):
        _plain[name] = lines.copy()


def _restore(_app: Any, what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    if name in _plain:
        lines[:] = _plain.pop(name)


def _signature(
    _app: Any, _what: str, _name: str, obj: Any, _options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Return the keys and defaults of a configuration model: its types stand at the fields."""
    if not (isinstance(obj, type) and issubclass(obj, ConfigModel) and obj.model_fields):
        return None
    parts = ["*"]
    for key, field in obj.model_fields.items():
        factory = getattr(field.default_factory, "__name__", "")
        default = f"{factory}()" if factory else repr(field.default)
        parts.append(key if field.is_required() else f"{key}={default}")
    return f"({', '.join(parts)})", returns


def setup(app: Any) -> None:
    """Keep napoleon from reading the text before a colon in a field's docstring as its type."""
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
