"""The program of a batch: ``python -m simlib.study.jobs.run_batch RESULTS NAME``."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from simlib.errors import InvalidParameterError
from simlib.study.jobs.batches import is_whole, publish, read_batches, staged_path
from simlib.study.jobs.run_point import leave_out_scipy, run_point


def run_batch(results: Path, name: str) -> list[str]:
    """Run the simulations of a batch and publish their results together.

    Those that an earlier attempt finished are not run again. One that fails does not keep the
    others from being run; then nothing is published, since the job has failed, but all that
    finished stays staged.

    Returns
    -------
    list of str
        What failed, and why.

    Raises
    ------
    InvalidParameterError
        If the run that made the batches has been followed by another one without this batch.
    """
    batches = {batch.name: batch for batch in read_batches(results)}
    if name not in batches:
        raise InvalidParameterError("batch", name, "one of " + ", ".join(batches), str(results))
    failures = []
    for simulation in batches[name].simulations:
        staged = staged_path(results, *simulation)
        if is_whole(staged, *simulation):
            continue
        point_id, replicate = simulation
        where = f"point {point_id}, replicate {replicate}"
        try:
            run_point(staged.with_name("point.json"), replicate, staged)
        except InvalidParameterError as error:
            failures.append(f"{where}: {error}")
        except Exception as error:  # the next simulation may be sound
            traceback.print_exc()
            failures.append(f"{where}: {error!r}")
    if not failures:
        for simulation in batches[name].simulations:
            publish(results, *simulation)
    return failures


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    leave_out_scipy()
    if len(arguments) != 2:
        print("usage: python -m simlib.study.jobs.run_batch RESULTS NAME", file=sys.stderr)
        return 2
    try:
        failures = run_batch(Path(arguments[0]), arguments[1])
    except InvalidParameterError as error:
        failures = [str(error)]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
