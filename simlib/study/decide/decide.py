"""A whole decision in this process and its workers: what ``simlib decide`` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from simlib.files import write_json
from simlib.study.decide.answer import answered
from simlib.study.decide.job import run_job
from simlib.study.plan.cases import Case, cases_of
from simlib.study.plan.decision import Decision
from simlib.study.plan.searches import job_paths

Told = Callable[[int, int, str, dict[str, Any]], None]
"""Called with how many jobs are done, of how many, the round of the last one, and its outcome."""


def decide(
    settings: Mapping[str, Any],
    decision: Decision,
    results: Path,
    *,
    cores: int | None = None,
    told: Told = lambda done, total, name, found: None,
) -> list[tuple[Case, dict[str, Any]]]:
    """Return each case of a decision with its answer.

    Searches run in parallel, and all their simulations are kept in the results folder: an
    interrupted decision goes on where it was, a refined one reuses what it can.

    Parameters
    ----------
    settings
        Settings of the simulation, as a tree.
    cores
        Worker processes; default: one per core.
    told
        Hears of progress.

    Raises
    ------
    InvalidParameterError
        For a wrong value, or if no deployment fits.
    """
    cases = cases_of(settings, decision)
    requests = {key: value for case in cases for key, value in case.jobs.items()}
    for job, request in requests.items():
        write_json(job_paths(results, job)[0], request)
    found: dict[str, dict[str, Any]] = {}
    workers = max(1, min(cores or os.cpu_count() or 1, len(requests)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: dict[Future[dict[str, Any]], str] = {}
        waiting = dict(requests)
        try:
            while waiting or running:
                for job in [one for one in waiting if found.keys() >= set(waiting[one]["reads"])]:
                    running[pool.submit(run_job, *_paths(results, job))] = job
                    del waiting[job]
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(done)
                    found[job] = done.result()
                    told(len(found), len(requests), requests[job]["round"], found[job])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [
        (case, answered(case.to_dict(), decision.accuracy, decision.prices, found))
        for case in cases
    ]


def _paths(results: Path, job: str) -> tuple[Path, Path, Path]:
    request, outcome = job_paths(results, job)
    return request, results, outcome
