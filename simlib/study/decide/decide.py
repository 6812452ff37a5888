"""A whole decision in this process and its workers: what ``simlib decide`` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from simlib.files import write_json
from simlib.study.decide.answer import answer
from simlib.study.decide.job import run_job
from simlib.study.plan.cases import Case, cases_of
from simlib.study.plan.decision import Decision
from simlib.study.plan.searches import first_round_of, job_paths

Told = Callable[[int, int, str, dict[str, Any] | None], None]
"""Called with how many jobs are done, of how many, and the one that ended with its outcome."""


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
    first = [job for job, request in requests.items() if not first_round_of(request)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for jobs in (first, [job for job in requests if job not in first]):
            running = {pool.submit(run_job, *_paths(results, job)): job for job in jobs}
            try:
                for done in as_completed(running):
                    job = running[done]
                    found[job] = done.result()
                    name = requests[job].get("name", "fewest GPUs")
                    told(len(found), len(requests), name, found[job])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [(case, answered(case.to_dict(), decision, found)) for case in cases]


def _paths(results: Path, job: str) -> tuple[Path, Path, Path]:
    request, outcome = job_paths(results, job)
    return request, results, outcome


def answered(
    case: Mapping[str, Any], decision: Decision, found: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the answer to a case from the outcomes of its jobs."""
    searches = [found[one["search"]] for one in case["deployments"]]
    fewest = None if case["fewest"] is None else found[case["fewest"]]
    return answer(case, searches, decision.accuracy, decision.prices, fewest)
