"""Simulated closed loops against measured ones: the accuracy the validation states holds."""

import importlib.util
import os
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SIMLIB_SHARED_DATA", REPO.parent / "shared" / "data"))
MEASURED = DATA / "measured_h100_vllm_closed_loop.csv"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MEASURED.exists(), reason=f"measured data absent: {MEASURED.name}"),
]


def benchmark() -> ModuleType:
    path = REPO / "benchmarks" / "validate_measured.py"
    spec = importlib.util.spec_from_file_location("validate_measured", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@cache
def relative_errors(kind: str, protocol: str) -> dict[str, np.ndarray]:
    """Return relative errors (TTFT, TPOT) and measured TTFT per row, by engine version."""
    validate = benchmark()
    rows, _ = validate.read(MEASURED)
    errors = defaultdict(list)
    for row in rows:
        overhead = validate.OVERHEADS[protocol][row.version]
        latency = validate.latency_of(row, kind, overhead, Path())
        ttft_s, tpot_s = validate.predict(row, latency, validate.PROTOCOLS[protocol][row.version])
        ttft_s += overhead[2]
        pair = (ttft_s / row.ttft_s - 1, tpot_s / row.tpot_s - 1, row.ttft_s)
        errors[row.version].append(pair)
    return {version: np.array(pairs) for version, pairs in errors.items()}


@pytest.mark.parametrize("kind", ["roofline", "affine"])
def test_tpot_is_within_5_percent_of_measured_for_every_engine_version(kind):
    errors = relative_errors(kind, "stated")
    assert sum(map(len, errors.values())) == 135
    for part in errors.values():
        assert np.abs(part[:, 1]).mean() < 0.05


@pytest.mark.parametrize("kind", ["roofline", "affine"])
def test_ttft_of_the_70b_rows_is_within_10_percent_of_measured(kind):
    part = relative_errors(kind, "stated")[""]
    assert len(part) == 45
    assert np.abs(part[:, 0]).mean() < 0.10
    # also where requests wait for KV cache, which tests its capacity and preemption
    short_of_cache = part[part[:, 2] > 5.0]
    assert len(short_of_cache) == 3
    assert np.abs(short_of_cache[:, 0]).max() < 0.15


@pytest.mark.parametrize("kind", ["roofline", "affine"])
def test_ttft_over_all_rows_misses_15_percent_by_little_as_stated_and_meets_it_as_inferred(kind):
    """The 32B rows: 23 % at the stated lengths; see `benchmarks/validate_measured.py`."""
    means = {
        protocol: np.abs(
            np.concatenate(list(relative_errors(kind, protocol).values()))[:, 0]
        ).mean()
        for protocol in ("stated", "inferred")
    }
    assert means["stated"] < 0.19
    assert means["inferred"] < 0.15
