"""Latency models against measured data: the catalog's fits hold their stated accuracy."""

import csv
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from simlib.latency import catalog
from simlib.latency.affine import AffineLatency
from simlib.latency.roofline import RooflineLatency
from tests.analytic.transfer_fit import fit_transfer

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SIMLIB_SHARED_DATA", REPO.parent / "shared" / "data"))


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"measured data absent: {name}")
    with path.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(line for line in text if not line.startswith("#")))


def relative_errors(latency, part: list[dict[str, str]]) -> dict[str, list[float]]:
    """Absolute relative errors of a latency model by phase."""
    errors: dict[str, list[float]] = {"prefill": [], "decode": []}
    for row in part:
        batch, tokens = int(row["batch"]), int(row["tokens_or_ctx"])
        if row["phase"] == "prefill":
            seconds = latency.iteration_s([(tokens, 0)] * batch, 0, 0)
        else:
            seconds = latency.iteration_s([], batch, batch * tokens)
        errors[row["phase"]].append(abs(1e3 * seconds / float(row["ms"]) - 1))
    return errors


def deployments() -> dict[tuple[str, str, int], list[dict[str, str]]]:
    parts = defaultdict(list)
    for row in rows("aic_vllm_latency_grid.csv"):
        parts[row["model"], row["system"], int(row["tp"])].append(row)
    return parts


@pytest.mark.parametrize("gpu", ["a100_sxm", "h100_sxm", "h200_sxm"])
def test_the_roofline_is_within_6_percent_of_prefill_and_4_of_decode_per_gpu(gpu):
    errors: dict[str, list[float]] = {"prefill": [], "decode": []}
    for (model, system, tp), part in deployments().items():
        if system == gpu:
            latency = RooflineLatency.from_catalog(model, gpu, tp)
            for phase, values in relative_errors(latency, part).items():
                errors[phase] += values
    assert len(errors["decode"]) > 100
    assert fmean(errors["prefill"]) <= 0.06
    assert fmean(errors["decode"]) <= 0.04


def test_the_affine_model_is_within_3_5_percent_of_prefill_and_4_of_decode_everywhere():
    for (model, gpu, tp), part in deployments().items():
        errors = relative_errors(AffineLatency.from_catalog(model, gpu, tp), part)
        assert fmean(errors["prefill"]) <= 0.035, (model, gpu, tp)
        assert fmean(errors["decode"]) <= 0.04, (model, gpu, tp)


def transfers() -> dict[str, list[dict[str, str]]]:
    parts = defaultdict(list)
    for row in rows("mooncake_kv_transfer_measured.csv"):
        parts[row["system"]].append(row)
    return parts


def kv_bytes(model: str) -> float:
    """KV bytes per token on 8 GPUs; the mixture of experts has 94 layers of 4 KV heads."""
    known = catalog.model("Qwen/Qwen3-8B")
    if model == "Qwen3-235B-A22B":
        known = replace(known, layers=94, kv_heads=4)
    else:
        assert model == "Qwen3-8B"
    return catalog.kv_bytes_per_token(known, 8)


def test_kv_bytes_per_token_equal_the_measured_volume_of_long_prompts():
    """Long prompts, where whole blocks do not matter, within the 5 % between MB and MiB."""
    checked = 0
    for part in transfers().values():
        for row in part:
            if int(row["prompt_tokens"]) >= 4096:
                volume = int(row["prompt_tokens"]) * kv_bytes(row["model"])
                assert 0.95 < float(row["kv_mb"]) * 1e6 / volume < 1.01
                checked += 1
    assert checked == 8


def test_transfer_time_is_base_latency_and_bandwidth_within_5_percent_of_measured():
    """Mean absolute errors: 3.7 % (H800, 8 x ConnectX-7) and 2.0 % (H20, 4 x 400 Gb/s)."""
    for part in transfers().values():
        per_token = kv_bytes(part[0]["model"])
        tokens = [int(row["prompt_tokens"]) for row in part]
        seconds = [float(row["transfer_ms"]) / 1e3 for row in part]
        link = fit_transfer([n * per_token for n in tokens], seconds)
        errors = [
            abs(link.seconds(n, per_token) / measured - 1)
            for n, measured in zip(tokens, seconds, strict=True)
        ]
        assert fmean(errors) < 0.05
        assert max(errors) < 0.10
