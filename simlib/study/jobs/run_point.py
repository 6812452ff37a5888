"""The program of one simulation: ``python -m simlib.study.jobs.run_point POINT REPLICATE OUTPUT``.

It imports only what a simulation needs: thousands of jobs pay for every import.
"""

from __future__ import annotations

import sys
from pathlib import Path

from simlib.core.config import SimConfig
from simlib.errors import InvalidParameterError
from simlib.study.jobs.described import located, read_point
from simlib.study.jobs.simulate import simulate
from simlib.study.jobs.store import write_records


def run_point(point: Path, replicate: int, output: Path) -> None:
    """Simulate one replicate of the point that a point file describes, and write its records."""
    described = read_point(point)
    config = SimConfig.from_dict(located(described))
    write_records(
        output,
        simulate(config, replicate),
        point_id=described["point_id"],
        replicate=replicate,
        config=described["config"],
    )


def leave_out_scipy() -> None:
    """Keep Numba from importing SciPy: half a second, for functions that no simulation uses."""
    sys.modules.setdefault("scipy.linalg", None)  # type: ignore[arg-type]


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    leave_out_scipy()
    if len(arguments) != 3 or not arguments[1].isdigit():
        print(
            "usage: python -m simlib.study.jobs.run_point POINT.json REPLICATE OUTPUT.npz",
            file=sys.stderr,
        )
        return 2
    try:
        run_point(Path(arguments[0]), int(arguments[1]), Path(arguments[2]))
    except InvalidParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
