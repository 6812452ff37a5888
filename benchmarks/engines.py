"""Requests per second of sampling and of both engines, and the engines' ratio, in one run."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import click

from simlib.core import recursion, simulator
from simlib.core.config import ArrivalConfig, ClusterDisagg, ClusterMonolithic, SimConfig
from simlib.core.sampling import sample_requests

FLOOR = 40.0


def requests_per_s(n: int, run: Callable[[], object], repeats: int) -> float:
    """Return the best rate of several runs: the others waited for other programs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return n / best


@click.command()
@click.option("--requests", "n", default=200_000, show_default=True, help="Requests a run.")
@click.option("--repeats", default=3, show_default=True, help="Runs; the best counts.")
@click.option("--large", default=0, help="Also run the fast engine once on this many requests.")
def main(n: int, repeats: int, large: int) -> None:
    """Print requests/s of sampling, the SimPy engine and the fast engine, and their ratio."""
    rate = 5.0
    config = SimConfig(
        sim_seconds=n / rate,
        arrival=ArrivalConfig(rate_per_s=rate),
        cluster_mono=ClusterMonolithic(num_gpus=4),
        cluster_disagg=ClusterDisagg(prefill_gpus=1, decode_gpus=3),
    )
    requests = sample_requests(config)
    sampling = requests_per_s(len(requests), lambda: sample_requests(config), repeats)
    print(f"{len(requests):,} requests; sampling {sampling:,.0f} requests/s")
    for mode in ("mono", "disagg"):
        one = SimConfig(**{**config.to_dict(), "mode": mode})
        slow = requests_per_s(len(requests), lambda one=one: simulator.serve(requests, one), 1)
        fast = requests_per_s(
            len(requests), lambda one=one: recursion.serve(requests, one), repeats
        )
        verdict = "reached" if fast / slow >= FLOOR else "MISSED"
        print(
            f"{mode:7s} simpy {slow:>10,.0f}/s   fast {fast:>12,.0f}/s   "
            f"ratio {fast / slow:6.1f} (floor {FLOOR:.0f}: {verdict})"
        )
    if large:
        for mode in ("mono", "disagg"):
            one = SimConfig(**{**config.to_dict(), "mode": mode, "sim_seconds": large / rate})
            start = time.perf_counter()
            records = recursion.serve(sample_requests(one), one)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{mode:7s} {len(records):,} requests in {seconds:.1f} s, peak {peak:.2f} GiB")
            del records


if __name__ == "__main__":
    main()
