"""Kept figures: what no figure shows any more goes, and nothing that others put there."""

from __future__ import annotations

from pathlib import Path

from simlib.study.figures.kept import Kept


def test_only_kept_figures_are_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    drawn = tmp_path / "a.png"
    drawn.write_bytes(b"figure")
    before = Kept(folder)
    before.put("0" * 32, [drawn])
    for name in ("holiday.png", "logo.svg", "0123456789abcdef.png"):
        (folder / name).write_bytes(b"not ours")
    now = Kept(folder)
    now.put("1" * 32, [drawn])
    now.forget_unused()
    left = sorted(path.name for path in folder.iterdir() if len(path.stem) != 49)
    assert left == ["0123456789abcdef.png", "holiday.png", "logo.svg"]
    [kept] = [path.name for path in folder.iterdir() if len(path.stem) == 49]
    assert kept.endswith("-" + "1" * 32 + ".png")
