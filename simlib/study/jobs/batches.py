"""Batches: cheap simulations that share one job, because starting a job costs more than they do.

A simulation keeps its identity and its own result file. Until its batch ends, the file waits under
another name: when a job fails, Snakemake removes what it declared, and must not find it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from simlib.errors import InvalidParameterError
from simlib.files import read_json, write_json
from simlib.study.jobs.described import is_simulation
from simlib.study.jobs.store import read_records, result_path

BATCHES = ".batches.json"
"""In the results folder: the simulations of each batch of the run, by name."""

Simulation = tuple[str, int]
"""Point id and replicate."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The simulations of one job."""

    simulations: tuple[Simulation, ...]

    @property
    def name(self) -> str:
        """The same for the same simulations."""
        return hashlib.sha256(json.dumps(self.simulations).encode()).hexdigest()[:12]

    @property
    def points(self) -> set[str]:
        """The ids of its points."""
        return {point_id for point_id, _ in self.simulations}

    def files(self, results: Path) -> list[str]:
        """Return the results that it makes."""
        return [str(result_path(results, *simulation)) for simulation in self.simulations]


def compose(
    simulations: Iterable[Simulation], seconds: Callable[[str], float], most_s: float
) -> list[Batch]:
    """Put simulations, in order, into batches that take about `most_s` each.

    What would be alone in a batch needs none, and is left out.

    Parameters
    ----------
    simulations
        What is to be simulated.
    seconds
        About how long a simulation of a point takes, by point id.
    most_s
        0 makes no batches.
    """
    batches: list[list[Simulation]] = [[]]
    spent = 0.0
    for simulation in simulations:
        cost = seconds(simulation[0])
        if cost >= most_s:
            continue
        if spent + cost > most_s:
            batches.append([])
            spent = 0.0
        batches[-1].append(simulation)
        spent += cost
    return [Batch(tuple(batch)) for batch in batches if len(batch) > 1]


def write_batches(results: Path, batches: Iterable[Batch]) -> None:
    """Write down the batches of a run, by name, for its jobs and for the next run."""
    write_json(results / BATCHES, {batch.name: list(batch.simulations) for batch in batches})


def read_batches(results: Path) -> list[Batch]:
    """Return the batches of the last run; none if it wrote none.

    Raises
    ------
    InvalidParameterError
        If the file is not what `write_batches` wrote.
    """
    path = results / BATCHES
    if not path.exists():
        return []
    found = []
    for name, simulations in read_json(path, "batches").items():
        try:
            batch = Batch(tuple((point_id, replicate) for point_id, replicate in simulations))
            sound = all(is_simulation(*one) for one in batch.simulations) and batch.name == name
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise InvalidParameterError("batch", name, "as a run wrote it", str(path))
        found.append(batch)
    return found


def staged_path(results: Path, point_id: str, replicate: int) -> Path:
    """Return where a result waits for the end of its batch."""
    return result_path(results, point_id, replicate).with_suffix(".staged")


def is_whole(path: Path, point_id: str, replicate: int) -> bool:
    """Return whether a file is an intact result of this simulation."""
    try:
        read_records(path, point_id=point_id, replicate=replicate)
    except InvalidParameterError:
        return False
    return True


def publish(results: Path, point_id: str, replicate: int) -> None:
    """Give a staged result its name, unless another process just did."""
    path = result_path(results, point_id, replicate)
    try:
        staged_path(results, point_id, replicate).replace(path)
    except FileNotFoundError:
        if not path.exists():
            raise


def adopt(results: Path) -> None:
    """Publish what the batches of the last run had finished, if that run ended before they did."""
    for batch in read_batches(results):
        for simulation in batch.simulations:
            if is_whole(staged_path(results, *simulation), *simulation):
                publish(results, *simulation)
