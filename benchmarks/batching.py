"""Simulated requests per second of the batching engine, and what it takes in memory.

Run ``python benchmarks/batching.py [requests]`` on an otherwise idle core. The load is a share of
the rate at which a long closed loop of the same deployment completes requests.
"""

import argparse
import csv
import time
import tracemalloc
from pathlib import Path

import numpy as np

from simlib.serving.catalog import gpu, kv_capacity_tokens, model
from simlib.serving.cluster import simulate, simulate_closed_loop
from simlib.serving.deployment import Deployment, Disaggregated, Monolithic, Pool, TransferLink
from simlib.serving.latency import latency_model
from simlib.workload.requests import Requests

LATENCY = latency_model("roofline", model="llama-3.1-70b", gpu="h100_sxm", tensor_parallel=4)
KV_TOKENS = kv_capacity_tokens(model("llama-3.1-70b"), gpu("h100_sxm"), 4)
POOL = {"latency": LATENCY, "kv_capacity_tokens": KV_TOKENS, "max_batch_tokens": 2048}
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


def report(name: str, deployment: Deployment, n: int, load: float) -> None:
    """Time one run, one ten times as long, and trace the memory of the first."""
    rate = load * capacity_per_s(deployment, np.random.default_rng(1))
    seconds = []
    for size in (n, 10 * n):
        requests = workload(size, rate)
        begin = time.process_time()
        records = simulate(requests, deployment)
        seconds.append(time.process_time() - begin)
    requests = workload(n, rate)
    tracemalloc.start()
    simulate(requests, deployment)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ttft = np.nanquantile(records.first_token_s - records.arrival_s, [0.5, 0.99])
    print(
        f"{name:28s} {rate:6.2f}/s offered  {n / seconds[0]:9.0f} requests/s  "
        f"10x longer: {seconds[1] / seconds[0]:5.2f}x  {peak / n:4.0f} B/request  "
        f"TTFT p50 {ttft[0]:.3f} s p99 {ttft[1]:.3f} s"
    )


def main() -> None:
    """Report on both architectures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", nargs="?", type=int, default=100_000)
    parser.add_argument("--load", type=float, default=0.7)
    options = parser.parse_args()
    link = TransferLink(50e9, 0.001)
    for name, deployment in (
        ("monolithic 2 replicas", Monolithic(Pool(**POOL, replicas=2))),
        ("  least requests", Monolithic(Pool(**POOL, replicas=2, router="least_requests"))),
        ("  prefill first", Monolithic(Pool(**POOL, replicas=2, policy="prefill_first"))),
        ("disaggregated 1 + 1", Disaggregated(Pool(**POOL), Pool(**POOL), link)),
        (
            "disaggregated 2 + 2",
            Disaggregated(Pool(**POOL, replicas=2), Pool(**POOL, replicas=2), link),
        ),
        (
            "  least tokens",
            Disaggregated(
                Pool(**POOL, replicas=2, router="least_tokens"),
                Pool(**POOL, replicas=2, router="least_tokens"),
                link,
            ),
        ),
    ):
        report(name, deployment, options.requests, options.load)


if __name__ == "__main__":
    main()
