"""Tables of curves are written at once, and yet as any other table."""

from __future__ import annotations

import math

import numpy as np

from simlib.study.tables.text import write_curves, write_table

CURVES = [
    (
        {"mode": "mono", "rate, per s": 1.5, "50% off": None, "point_id": 'a "b" 100%'},
        {"share": np.array([0.0, 1 / 3, 1.0]), "ttft_s": np.array([1e-9, 123456.7891, math.pi])},
    ),
    None,
    (
        {"mode": "disagg", "rate, per s": 2, "50% off": True, "point_id": "%s"},
        {"share": np.array([0.25]), "ttft_s": np.array([2.0])},
    ),
]


def test_curves_are_written_as_a_table_of_their_steps(tmp_path):
    write_curves(tmp_path / "curves.csv", CURVES)
    lines = [
        {**where, **dict(zip(columns, map(float, step), strict=True))}
        for where, columns in filter(None, CURVES)
        for step in zip(*columns.values(), strict=True)
    ]
    write_table(tmp_path / "lines.csv", lines)
    assert (tmp_path / "curves.csv").read_bytes() == (tmp_path / "lines.csv").read_bytes()


def test_no_curve_is_an_empty_table(tmp_path):
    write_curves(tmp_path / "curves.csv", [None])
    assert (tmp_path / "curves.csv").read_text().strip() == ""
