"""Simulated requests per second of the batching engine, and what it takes in memory.

Run ``python benchmarks/batching.py [requests]`` on an otherwise idle core. The load is a share of
the rate at which a long closed loop of the same deployment completes requests. Beside the requests
per second stand the floors that a change of the engine must not fall below.
"""

import argparse
import csv
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from simlib.core.records import RequestRecords
from simlib.latency.catalog import gpu, kv_capacity_tokens, model
from simlib.latency.models import latency_model
from simlib.serving.cluster import simulate, simulate_closed_loop
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic, Pool, TransferLink
from simlib.workload.requests import Requests

LATENCY = latency_model("roofline", model="llama-3.1-70b", gpu="h100_sxm", tensor_parallel=4)
KV_TOKENS = kv_capacity_tokens(model("llama-3.1-70b"), gpu("h100_sxm"), 4)
POOL = {"latency": LATENCY, "kv_capacity_tokens": KV_TOKENS, "max_batch_tokens": 2048}
MONOLITHIC_FLOOR = 150_000.0
DISAGGREGATED_FLOOR = 100_000.0
CONVERSATIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "azure2023_conv.csv"


def lengths(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw lengths of the Azure 2023 conversation trace, or of lognormals near it."""
    if CONVERSATIONS.exists():
        with CONVERSATIONS.open(newline="") as text:
            rows = list(csv.reader(text))[1:]
        table = np.array([[int(row[1]), int(row[2])] for row in rows])
        table = table[table.min(axis=1) >= 1]
        picked = table[rng.integers(0, len(table), n)]
        return picked[:, 0].copy(), picked[:, 1].copy()
    prompt = np.clip(rng.lognormal(6.6, 0.9, n).astype(np.int64), 1, 14_000)
    output = np.clip(rng.lognormal(5.1, 0.7, n).astype(np.int64), 1, 1_500)
    return prompt, output


def capacity_per_s(deployment: Deployment, rng: np.random.Generator) -> float:
    """Return the rate at which a saturated deployment completes requests."""
    prompt, output = lengths(6_000, rng)
    records = simulate_closed_loop(prompt, output, 400, deployment)
    ends = np.sort(records.finish_s)
    return 3_000 / (ends[4_500] - ends[1_500])


def workload(n: int, rate_per_s: float, seed: int = 0) -> Requests:
    """Return Poisson arrivals with conversation lengths."""
    rng = np.random.default_rng(seed)
    prompt, output = lengths(n, rng)
    return Requests(np.cumsum(rng.exponential(1 / rate_per_s, n)), prompt, output)


@dataclass(frozen=True)
class Case:
    """A deployment to serve with, and the requests/s that one core should reach at least."""

    name: str
    deployment: Deployment
    floor_per_s: float | None = None
    concurrency: int | None = None
    """Requests in flight of a closed loop; None for Poisson arrivals."""


def cases() -> list[Case]:
    """Return both architectures: routed blindly, routed by load, and in a closed loop."""
    link = TransferLink(50e9, 0.001)
    one = Pool(**POOL)
    two = Pool(**POOL, replicas=2)
    fewest = Pool(**POOL, replicas=2, router="least_requests")
    lightest = Pool(**POOL, replicas=2, router="least_tokens")
    whole = Pool(**POOL, replicas=2, policy="prefill_first")
    return [
        Case("monolithic 2", Monolithic(two), MONOLITHIC_FLOOR),
        Case("  least_requests", Monolithic(fewest), MONOLITHIC_FLOOR),
        Case("  prefill_first", Monolithic(whole)),
        Case("  closed loop", Monolithic(two), None, 100),
        Case("disaggregated 1 + 1", Disaggregated(one, one, link), DISAGGREGATED_FLOOR),
        Case("  closed loop", Disaggregated(one, one, link), DISAGGREGATED_FLOOR, 100),
        Case("disaggregated 2 + 2", Disaggregated(two, two, link), DISAGGREGATED_FLOOR),
        Case("  least_tokens", Disaggregated(lightest, lightest, link), DISAGGREGATED_FLOOR),
        Case("  closed loop", Disaggregated(lightest, lightest, link), None, 100),
    ]


def runner(case: Case, n: int, load: float) -> Callable[[], RequestRecords]:
    """Return a function that simulates `n` requests."""
    if case.concurrency is not None:
        prompt, output = lengths(n, np.random.default_rng(0))
        return partial(simulate_closed_loop, prompt, output, case.concurrency, case.deployment)
    rate = load * capacity_per_s(case.deployment, np.random.default_rng(1))
    return partial(simulate, workload(n, rate), case.deployment)


def report(case: Case, n: int, load: float, repeats: int) -> None:
    """Time the best of several runs and one ten times as long; trace the memory of one."""
    run = runner(case, n, load)
    seconds = min(timed(run)[0] for _ in range(repeats))
    longer, records = timed(runner(case, 10 * n, load))
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    verdict = ""
    if case.floor_per_s is not None:
        reached = "reached" if n / seconds >= case.floor_per_s else "MISSED"
        verdict = f"(floor {case.floor_per_s:,.0f}: {reached})"
    ttft = np.nanquantile(records.first_token_s - records.arrival_s, [0.5, 0.99])
    print(
        f"{case.name:20s} {n / seconds:>9,.0f} requests/s {verdict:24s} "
        f"10x longer: {longer / seconds:5.2f}x  {peak / n:4.0f} B/request  "
        f"TTFT p50 {ttft[0]:.3f} s p99 {ttft[1]:.3f} s",
        flush=True,
    )


def timed(run: Callable[[], RequestRecords]) -> tuple[float, RequestRecords]:
    """Return the seconds of CPU that a run takes, and its records."""
    begin = time.process_time()
    records = run()
    return time.process_time() - begin, records


def main() -> None:
    """Report on all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", nargs="?", type=int, default=100_000)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for case in cases():
        report(case, options.requests, options.load, options.repeats)


if __name__ == "__main__":
    main()
