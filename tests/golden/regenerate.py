"""Write the digests of this model version's results: `python tests/golden/regenerate.py`.

Raise `simlib.core.model_version.MODEL_VERSION` first: results that are stored under a version must
stay what that version computes. `--force` rewrites the digests of a version never released.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.model_version import MODEL_VERSION
from simlib.core.records import COLUMN_NAMES, RequestRecords
from simlib.study.jobs.simulate import simulate

FOLDER = Path(__file__).resolve().parent
PATH = FOLDER / f"model_v{MODEL_VERSION}.json"

BASE = {"sim_seconds": 40.0, "warmup_seconds": 5.0, "random_seed": 11}
KV = {"kv_base_latency_s": 0.01, "kv_bytes_per_token": 131072.0}
BATCHING = {"serving": "batching", "arrival": {"rate_per_s": 5.0}}
SMALL_KV = {"kv_capacity_tokens": 6000, "max_batch_size": 64}
CONFIGS: dict[str, dict] = {
    "batching mono": {"mode": "mono", **BATCHING},
    "batching disagg": BATCHING,
    "batching mono, prefill first, preempting": {
        "mode": "mono",
        **BATCHING,
        "batching_mono": {"pool": {**SMALL_KV, "policy": "prefill_first", "router": "random"}},
    },
    "batching disagg, shared link": {
        **BATCHING,
        "latency": {"kind": "affine"},
        "batching_disagg": {
            "prefill": {"replicas": 2, "router": "power_of_two"},
            "decode": {**SMALL_KV, "replicas": 2},
            "link": {"bandwidth_bytes_per_s": 5e9, "scope": "shared", "contention": "fair"},
        },
    },
    "batching, closed loop": {
        "serving": "batching",
        "mode": "mono",
        "arrival": {"kind": "closed_loop", "concurrency": 24, "requests": 800},
    },
    "mono": {"mode": "mono"},
    "disagg": {},
    "mono overloaded": {"mode": "mono", "cluster_mono": {"num_gpus": 1}},
    "disagg overloaded, cut": {
        "cluster_disagg": {"prefill_gpus": 1, "decode_gpus": 1},
        "arrival": {"rate_per_s": 9.0},
        "drain": False,
    },
    "mono cut": {"mode": "mono", "arrival": {"rate_per_s": 12.0}, "drain": False},
    "disagg with transfer": {"cluster_disagg": KV},
    "fixed lengths": {
        "prompt_tokens": {"mode": "fixed", "value": 800},
        "output_tokens": {"mode": "fixed", "value": 200},
    },
    "exponential lengths": {
        "mode": "mono",
        "prompt_tokens": {"mode": "exponential", "mean": 800.0, "min_value": 1},
        "output_tokens": {"mode": "exponential", "mean": 200.0, "min_value": 1},
    },
    "lengths in tokens": {
        "prompt_tokens": {"mode": "real_mean_std", "mean": 600.0, "std": 500.0},
        "output_tokens": {"mode": "p50_p90", "p50": 300.0, "p90": 900.0},
    },
    "lengths from a file": {
        "prompt_tokens": {"mode": "empirical", "path": str(FOLDER / "lengths.txt")}
    },
    "simpy mono": {"mode": "mono", "engine": "simpy"},
    "simpy disagg with transfer": {"engine": "simpy", "cluster_disagg": KV},
    "trace replayed": {
        "arrival": {
            "kind": "trace",
            "path": str(FOLDER / "tiny_trace.csv"),
            "speed": 1.5,
            "start_s": 2.0,
        },
        "sim_seconds": 8.0,
        "warmup_seconds": 1.0,
    },
}


def digest(records: RequestRecords) -> str:
    """Return a hash of all columns; times count to the nanosecond, -1 where there is none.

    Without a front end, requests are routed on arrival; the first digests did not know of routing.
    """
    sha = hashlib.sha256()
    routed_later = np.any(records.routed_s > records.arrival_s)
    for name in COLUMN_NAMES:
        if name == "routed_s" and not routed_later:
            continue
        column = getattr(records, name)
        if column.dtype.kind == "f":
            column = np.where(np.isnan(column), -1.0, np.rint(column * 1e9))
        sha.update(column.astype("<i8").tobytes())
    return sha.hexdigest()[:24]


def digests() -> dict[str, str]:
    """Return the digest of each configuration's results, two replicates each."""
    found = {}
    for name, changes in CONFIGS.items():
        config = SimConfig.from_dict(BASE | changes)
        found[name] = "-".join(digest(simulate(config, replicate)) for replicate in (0, 1))
    return found


def main(arguments: list[str]) -> None:
    """Write the file of the current version, unless it is there and says something else."""
    found = digests()
    if PATH.exists() and "--force" not in arguments:
        if json.loads(PATH.read_text(encoding="utf-8")) == found:
            print(f"{PATH.name} is up to date")
            return
        raise SystemExit(f"results changed: raise MODEL_VERSION (now {MODEL_VERSION}) first")
    PATH.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {PATH.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
