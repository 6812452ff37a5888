"""A whole decision in this process and its workers: what ``simlib decide`` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from simlib.files import write_json
from simlib.study.decide.answer import answer
from simlib.study.decide.costs import check_prices
from simlib.study.decide.deployments import DeploymentSpace
from simlib.study.decide.fewest import fewest_gpus
from simlib.study.decide.search import run_search
from simlib.study.decide.spec import Case, Decision, cases_of

Told = Callable[[int, int, str, dict[str, Any] | None], None]
"""Called with how many searches are done, of how many, and the one that ended and its outcome."""


def search_paths(results: Path, search: str) -> tuple[Path, Path]:
    """Return where the request and the outcome of a search are kept."""
    folder = results / "capacity"
    return folder / f"{search}.request.json", folder / f"{search}.json"


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
    check_prices(decision.prices)
    cases = cases_of(settings, decision)
    requests = {key: value for case in cases for key, value in case.searches().items()}
    for search, request in requests.items():
        write_json(search_paths(results, search)[0], request)
    found: dict[str, dict[str, Any]] = {}
    workers = max(1, min(cores or os.cpu_count() or 1, len(requests)))
    with ProcessPoolExecutor(workers) as pool:
        jobs = {
            pool.submit(run_search, request, results, outcome): search
            for search in requests
            for request, outcome in [search_paths(results, search)]
        }
        try:
            for job in as_completed(jobs):
                search = jobs[job]
                found[search] = job.result()
                told(len(found), len(jobs), requests[search]["name"], found[search])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [(case, _answered(case, decision, found, results)) for case in cases]


def _answered(
    case: Case, decision: Decision, found: Mapping[str, dict[str, Any]], results: Path
) -> dict[str, Any]:
    fewest = None
    if decision.rate_per_s is not None and isinstance(decision.deployments, DeploymentSpace):
        fewest = fewest_gpus(
            case.settings, decision.deployments, case.slo, decision.rate_per_s, results
        )
    plain = case.to_dict()
    searches = [found[one["search"]] for one in plain["deployments"]]
    return answer(plain, searches, decision.accuracy, decision.prices, fewest)
