"""What must hold for every input: one clear message, or it is accepted and then runs.

``python -m tests.fuzz.judge 2000`` judges so many configurations and traces.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from simlib.core.reading import read_yaml
from simlib.errors import InvalidParameterError
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.store import read_records
from simlib.study.jobs.workflow import Plan
from simlib.study.tables.write import write_tables
from simlib.workload.traces import load_trace
from tests.fuzz.configurations import as_text
from tests.fuzz.traces import trace_bytes

MOST_S = 10.0
MOST_KB = 500_000
RUNS_REQUESTS = 20_000
"""Accepted studies with more requests than this in all are sound, and too long to run here."""


def judge_configuration(content: bytes, folder: Path) -> str:
    """Return ``refused`` or ``ran``, or ``accepted`` for a study that would take long.

    Raises
    ------
    AssertionError
        If the message is not one clear line, or reading took too long.
    """
    path = folder / "config.yaml"
    path.write_bytes(content)
    started = time.perf_counter()
    try:
        plan = Plan.of(read_yaml(path), str(folder / "results"), str(folder))
    except InvalidParameterError as error:
        assert_clear(str(error))
        return "refused"
    finally:
        spent_s = time.perf_counter() - started
        assert spent_s < MOST_S, f"it took {spent_s:.1f} s to read"
    points = {row.point_id: row for study in plan.studies.values() for row in study.rows}
    work = sum(plan.requests(point) * row.replicates for point, row in points.items())
    if work > RUNS_REQUESTS or any(plan.latency_tables(point) for point in points):
        return "accepted"
    if any(row.config.sim_seconds > 1e6 for row in points.values()):
        return "accepted"
    plan.write()
    try:
        run_all(plan)
    except InvalidParameterError as error:  # such as: too few requests at hand for a closed loop
        assert_clear(str(error))
        return "refused when run"
    return "ran"


def run_all(plan: Plan) -> None:
    """Simulate every point of a plan, and write the tables of its studies."""
    for study in plan.studies.values():
        for row in study.rows:
            if row.precision is not None:
                return  # its job is tested elsewhere
            for replicate in range(row.replicates):
                folder = plan.results / "points" / row.point_id
                result = folder / f"r{replicate}.npz"
                if not result.exists():
                    run_point(folder / "point.json", replicate, result)
                    read_records(result, point_id=row.point_id, replicate=replicate)
        folder = plan.results / "studies" / study.name
        write_tables(folder / "study.json", plan.results, folder / "tables")


def judge_trace(content: bytes, folder: Path, name: str) -> str:
    """Return ``refused`` or ``ran`` for the bytes of a trace."""
    path = folder / name
    path.write_bytes(content)
    started = time.perf_counter()
    try:
        load_trace(path)
    except InvalidParameterError as error:
        assert_clear(str(error))
        return "refused"
    finally:
        assert time.perf_counter() - started < MOST_S
    return "ran"


def assert_clear(message: str) -> None:
    """Assert that a message names what, what is allowed, and what was given."""
    assert " must be " in message
    assert ", got " in message
    assert len(message) < 2500, message


def main(count: int, seed: int) -> int:
    """Judge so many inputs; return the number of those that broke the promise."""
    found: Counter[str] = Counter()
    slowest = 0.0
    warnings.simplefilter("error")
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            if number % 10 == 9:
                name, content = trace_bytes(rng)
                judge, arguments = judge_trace, (content, Path(folder), name)
            else:
                judge, arguments = judge_configuration, (as_text(rng), Path(folder))
            try:
                found[judge(*arguments)] += 1  # type: ignore[operator]
            except Exception as error:
                found["BROKEN"] += 1
                print(f"case {seed}/{number}: {type(error).__name__}: {str(error)[:300]}")
            slowest = max(slowest, time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{dict(found)}; slowest {slowest:.2f} s; peak {peak / 1000:.0f} MB")
    return found["BROKEN"]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) > 0)
