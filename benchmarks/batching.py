"""Seconds and memory of the batching engine, against an earlier commit if one is given.

    python benchmarks/batching.py [requests] [--against PYTHON] [--load 0.7]

Run it on an otherwise idle core. The load is a share of the rate at which a long closed loop of the
same deployment completes requests. PYTHON is the interpreter of a checkout of the commit to compare
with, installed in its own environment; both then run in turns, and the ratio is shown beside the
floor that a change must not fall below. The last column says by what factor the workflow's
estimate, which sizes its batches, is above the measured time.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from simlib.workload.requests import Requests

CONVERSATIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "azure2023_conv.csv"
MODEL = {"model": "llama-3.1-70b", "gpu": "h100_sxm", "tensor_parallel": 4}
FLOORS = {
    "mono 2": 10.0,
    "disagg 1+1": 10.0,
    "disagg 2+2": 10.0,
    "disagg 2+2 round_robin": 10.0,
    "disagg 2+2 least_tokens": 10.0,
    "disagg 2+2 power_of_two": 10.0,
    "mono 2, long prompts": 30.0,
    "disagg 1+1, caches fill": 30.0,
    "mono 2, timeline": 30.0,
    "disagg 1+1, timeline": 30.0,
}
"""Times as fast as the commit before there was one compiled engine."""


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


SETTINGS = {
    "router": ("round_robin", "least_requests", "least_tokens", "power_of_two"),
    "discipline": ("sjf", "edf"),
    "policy": ("prefill_first",),
}
"""Words in the name of a case."""


class Parts:
    """What deployments are made of, here or in the commit to compare with."""

    def __init__(self) -> None:
        try:
            from simlib.core.batching import LinkConfig
            from simlib.latency import catalog
            from simlib.latency.models import latency_model
            from simlib.serving import engine
            from simlib.serving.deployment import Classes, Pool, disaggregated, monolithic

            self.pool: Callable[..., Any] = Pool.of
            self.monolithic, self.disaggregated = monolithic, disaggregated
            self.link = LinkConfig(bandwidth_bytes_per_s=50e9, base_latency_s=0.001)
        except ImportError:  # before there was one compiled engine
            from simlib.serving.cluster import Classes  # type: ignore[attr-defined, no-redef]
            from simlib.serving.latency import latency_model  # type: ignore[import-not-found, no-redef]

            from simlib.serving import catalog, deployment  # type: ignore[attr-defined, no-redef]
            from simlib.serving import cluster as engine  # type: ignore[attr-defined, no-redef]

            self.pool = deployment.Pool
            self.monolithic, self.disaggregated = deployment.Monolithic, deployment.Disaggregated
            self.link = deployment.TransferLink(50e9, 0.001)
        from simlib.serving.timeline import Timeline

        self.timeline = Timeline
        self.engine, self.classes = engine, Classes
        self.latency = latency_model("roofline", **MODEL)
        self.kv_tokens = catalog.kv_capacity_tokens(
            catalog.model(MODEL["model"]), catalog.gpu(MODEL["gpu"]), MODEL["tensor_parallel"]
        )

    def own(self, kv_tokens: int | None = None, **settings: Any) -> Any:
        """Return a pool."""
        return self.pool(
            self.latency, kv_tokens or self.kv_tokens, max_batch_tokens=2048, **settings
        )

    def deployment(self, name: str) -> Any:
        """Return the deployment of a case."""
        kind, _, rest = name.partition(" ")
        settings: dict[str, Any] = {}
        for word in rest.replace(",", "").split():
            for key, allowed in SETTINGS.items():
                if word in allowed:
                    settings[key] = word
        replicas = [int(count) for count in rest.split()[0].rstrip(",").split("+")]
        if kind == "mono":
            return self.monolithic(self.own(replicas=replicas[0], **settings))
        settings_of_decode = {**settings, "discipline": "fcfs"}
        full = 25_000 if "caches fill" in name else None
        return self.disaggregated(
            self.own(replicas=replicas[0], **settings),
            self.own(full, replicas=replicas[1], **settings_of_decode),
            self.link,
        )

    def closed_loop(self, prompt: Any, output: Any, concurrency: int, deployment: Any) -> Any:
        """Simulate a closed loop."""
        if hasattr(self.engine, "simulate_closed_loop"):  # as before
            return self.engine.simulate_closed_loop(prompt, output, concurrency, deployment)
        requests = Requests(np.zeros(len(prompt)), prompt, output)
        return self.engine.simulate(requests, deployment, concurrency=concurrency)

    def rate(self, name: str, prompt: Any, output: Any) -> float:
        """Return the requests per second that a deployment completes when it is full."""
        if name.startswith(f"mono {MANY} "):
            return MANY * self.rate(name.replace(f" {MANY} ", " 1 "), prompt, output)
        full = min(len(prompt), 6_000)
        records = self.closed_loop(prompt[:full], output[:full], 400, self.deployment(name))
        ends = np.sort(records.finish_s)
        return float((full // 2) / (ends[3 * full // 4] - ends[full // 4]))

    def runner(self, name: str, n: int, load: float) -> Callable[[], Any]:
        """Return a function that simulates `n` requests of a case."""
        deployment = self.deployment(name)
        draw = np.random.default_rng(0)
        prompt, output = lengths(n, draw)
        if "long prompts" in name:
            prompt = draw.integers(8_000, 32_000, n)
        if "closed" in name:
            return partial(self.closed_loop, prompt, output, 100, deployment)
        plain = name.replace(" edf", "")  # the discipline does not change the rate
        arrival = np.cumsum(draw.exponential(1 / (load * self.rate(plain, prompt, output)), n))
        run = partial(self.engine.simulate, Requests(arrival, prompt, output), deployment)
        if "edf" in name:
            run.keywords["classes"] = self.classes(draw.choice([0.5, 2.0], n))
        if "timeline" in name:
            return partial(self.with_timeline, run)
        return run

    def with_timeline(self, run: Callable[..., Any]) -> None:
        """Simulate, and make the tables of the timeline, as a job does."""
        timeline = self.timeline()
        run(timeline=timeline)
        timeline.run([1, 1])


MANY = 128
"""Replicas of the case that is compared with a single one, at the same load of each."""
CASES = (
    "mono 1",
    "mono 2",
    "mono 2 least_requests",
    "mono 2 prefill_first",
    "mono 2 sjf",
    "mono 2 edf",
    "mono 2 closed",
    "mono 2, long prompts",
    "mono 2, timeline",
    f"mono {MANY} least_requests",
    "disagg 1+1",
    "disagg 1+1 closed",
    "disagg 1+1 sjf",
    "disagg 1+1 edf",
    "disagg 1+1, caches fill",
    "disagg 1+1, timeline",
    "disagg 2+2",
    "disagg 2+2 round_robin",
    "disagg 2+2 least_tokens",
    "disagg 2+2 power_of_two",
)


def measure(name: str, n: int, load: float, repeats: int = 3) -> dict[str, float]:
    """Return CPU seconds and bytes a request."""
    run = Parts().runner(name, n, load)
    run()
    seconds = min(timed(run) for _ in range(repeats))
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"seconds": seconds / n, "bytes": peak / n}


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds of CPU that a run takes."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def estimate_s(name: str) -> float:
    """Return what the workflow expects a request to take, to size its batches."""
    from simlib.study.jobs import workflow

    if "timeline" in name:
        return workflow._SECONDS_WITH_TIMELINE
    return workflow._SECONDS_BATCHING["fast"]


def main() -> None:
    """Report on all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", nargs="?", type=int, default=200_000)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--against", help="interpreter of the commit to compare with")
    parser.add_argument("--case", help="measure this one only, as JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.requests, options.load)))
        return
    for name in CASES:
        own = measure(name, options.requests, options.load)
        line = f"{name:26s} {own['seconds'] * 1e6:7.3f} us {own['bytes']:5.0f} B a request"
        if options.against:
            few = str(max(options.requests // 20, 2_000))
            command = [options.against, __file__, few, "--case", name, f"--load={options.load}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            before = json.loads(done.stdout)["seconds"]
            floor = f" (floor {FLOORS[name]:g})" if name in FLOORS else ""
            line += f"  {before / own['seconds']:5.1f} times{floor:11s}"
        line += f"  estimate {estimate_s(name) / own['seconds']:4.1f} times"
        print(line, flush=True)
    longer = [measure("mono 2", n, options.load, 1)["seconds"] for n in (20_000, 2_000_000)]
    print(f"100 times the requests: {longer[1] / longer[0]:.2f} times the cost of each")


if __name__ == "__main__":
    sys.exit(main())
