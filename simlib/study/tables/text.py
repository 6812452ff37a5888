"""Rows of results as aligned text or CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simlib.files import replacing


def as_text(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return an aligned table: a line per row, four significant digits, numbers to the right.

    Statistics that a row's ``lower_bounds`` names are marked with ≥; those that its ``unsupported``
    names are left out, as tables do.

    Parameters
    ----------
    rows : sequence of mappings
        Values by key.
    columns : mapping of key to heading
        What to show, in order.
    """
    cells = [list(columns.values()), *([_marked(row, key) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [any(isinstance(row.get(key), (int, float)) for row in rows) for key in columns]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _marked(row: Mapping[str, Any], key: str) -> str:
    if key in row.get("unsupported", ()):
        return cell(None)
    bound = key in row.get("lower_bounds", ())
    return f"≥{cell(row[key])}" if bound else cell(row.get(key))


def cell(value: Any) -> str:
    """Return a value as a table shows it; an en dash for what does not exist."""
    if _is_missing(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return CSV with a header line, numbers in full, and empty cells for what does not exist.

    What a row's ``unsupported`` names is empty, too.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        without = row.get("unsupported", ())
        writer.writerow(
            ["" if key in without or _is_missing(row.get(key)) else row[key] for key in columns]
        )
    return buffer.getvalue()


def write_table(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of a study as CSV, whole or not at all: nine digits, what is missing is empty.

    Columns come in the order in which lines first have them. A third of a job's time would go into
    importing a library for this.
    """
    columns = list(dict.fromkeys(key for line in lines for key in line))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(line.get(key)) for key in columns] for line in lines)


def write_curves(
    path: Path, curves: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]] | None]
) -> None:
    """Write a table of curves as `write_table` would, a line per step.

    Parameters
    ----------
    path : Path
        Of the table.
    curves : sequence
        Each with what it is of, and its columns of numbers, arrays of shape (steps,); None has no
        line.
    """
    found = [curve for curve in curves if curve is not None]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for number, (where, columns) in enumerate(found):
            head = io.StringIO()
            writer = csv.writer(head, lineterminator="")
            if number == 0:
                csv.writer(file, lineterminator="\n").writerow([*where, *columns])
            writer.writerow([_text(value) for value in where.values()])
            step = head.getvalue().replace("%", "%%") + len(columns) * ",%.9g" + "\n"
            values = np.column_stack(list(columns.values()))
            file.write(step * len(values) % tuple(values.ravel()))


def _text(value: Any) -> str:
    if type(value) is str:  # most cells: this comes first
        return value
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return "" if value is None else str(value)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
