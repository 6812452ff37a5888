"""What others estimate for measured rows: aiconfigurator and AISimulate, where installed (PyPI)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from measured import RefusedError, Row, requests_of, server_of

Estimate = Callable[[Row], tuple[float, float]]
"""Mean TTFT and TPOT, seconds, of a row; raises `RefusedError`."""


PATIENCE_S = 120
"""Seconds after which a simulation of a row is given up."""


def installed() -> dict[str, tuple[str, Estimate]]:
    """Return the peers that are installed, by the name of their column: label and estimate."""
    found = {"aiconfigurator": aiconfigurator(), "aisimulate": aisimulate()}
    return {name: peer for name, peer in found.items() if peer is not None}


def aiconfigurator() -> tuple[str, Estimate] | None:
    """Return its name with its version, and its estimate; None where it is not installed."""
    try:
        from aiconfigurator.cli.api import cli_estimate
        from aiconfigurator_core.sdk.perf_database import get_latest_database_version
    except ImportError:
        return None
    latest = cache(get_latest_database_version)  # takes seconds, and is asked for several times

    def estimate(row: Row) -> tuple[float, float]:
        if row.concurrency is None or not row.pools:
            raise RefusedError("requests in flight or pools not stated")
        try:
            version = latest(system=row.gpu, backend=row.engine)
            found = cli_estimate(**_asked(row), backend_version=version)
        except Exception as error:  # its errors share no base class
            raise RefusedError(f"{type(error).__name__}: {str(error)[:80]}") from None
        if not (found.ttft > 0 and found.tpot > 0):
            raise RefusedError("no time")
        return found.ttft / 1e3, found.tpot / 1e3

    return f"aiconfigurator {metadata.version('aiconfigurator')}", estimate


def _known_model(row: Row) -> str:
    return row.model.replace("meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B").replace(
        "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"
    )


def _asked(row: Row) -> dict[str, Any]:
    """Return the arguments of an estimate, in that package's words."""
    modes = {"gemm_quant_mode": row.gemm, "moe_quant_mode": row.moe}
    asked: dict[str, Any] = {
        "model_path": _known_model(row),
        "system_name": row.gpu,
        "backend_name": row.engine,
        "mode": row.mode,
        "isl": row.prompt,
        "osl": row.output,
        **{name: value for name, value in modes.items() if value},
    }
    if row.mode == "agg":
        [pool] = row.pools
        ranks = pool.attention_dp
        each = max(1, round((row.concurrency or 1) / ranks))
        return asked | {"batch_size": each, **_sizes("", pool)}
    for role, pool in zip(("prefill_", "decode_"), row.pools, strict=True):
        ranks = pool.workers * pool.attention_dp
        each = max(1, round((row.concurrency or 1) / ranks)) if role == "decode_" else 1
        asked |= {
            f"{role}batch_size": each,
            f"{role}num_workers": pool.workers,
            **_sizes(role, pool),
        }
    return asked


def _sizes(role: str, pool: Any) -> dict[str, int]:
    return {
        f"{role}tp_size": pool.tp,
        f"{role}pp_size": pool.pp,
        f"{role}attention_dp_size": pool.attention_dp,
        f"{role}moe_tp_size": pool.moe_tp,
        f"{role}moe_ep_size": pool.moe_ep,
    }


def aisimulate() -> tuple[str, Estimate] | None:
    """Return its name with its version, and its simulation; None where it is not installed."""
    command = Path(sys.executable).with_name("aisimulate")
    if not command.exists():
        return None

    def estimate(row: Row) -> tuple[float, float]:
        if row.concurrency is None or not row.pools:
            raise RefusedError("requests in flight or pools not stated")
        with TemporaryDirectory() as folder:
            config = Path(folder) / "prediction.yaml"
            config.write_text(yaml.safe_dump(_deployment(row)), encoding="utf-8")
            words = [command, "predict", "--config", config, "--output-dir", f"{folder}/out"]
            try:
                ran = subprocess.run(
                    words, check=False, capture_output=True, text=True, timeout=PATIENCE_S
                )
            except subprocess.TimeoutExpired:
                raise RefusedError(f"more than {PATIENCE_S} s") from None
            report = Path(folder) / "out" / "prediction.json"
            if ran.returncode != 0 or not report.exists():
                raise RefusedError(_complaint(ran.stderr))
            found = json.loads(report.read_text(encoding="utf-8"))
        return found["mean_ttft_ms"] / 1e3, found["mean_tpot_ms"] / 1e3

    return f"AISimulate {metadata.version('aisimulate')}", estimate


def _complaint(said: str) -> str:
    """Return the last line of a command that says more than that it failed."""
    lines = [
        line for line in said.splitlines() if line.strip() and "exited with status" not in line
    ]
    return lines[-1][:80] if lines else "no reason given"


def _deployment(row: Row) -> dict[str, Any]:
    """Return a row in AISimulate's words; of spread lengths, which it lacks, the means."""
    requests = requests_of(row)
    means = {
        name: round(sum(requests[f"{name}_tokens"][end] for end in ("low", "high")) / 2)
        for name in ("prompt", "output")
    }
    roles = ("aggregated",) if row.mode == "agg" else ("prefill", "decode")
    modes = {"gemm_quant_mode": row.gemm, "moe_quant_mode": row.moe}
    if "DeepSeek" in row.model:  # there are no kernels of latent attention in 8 bits
        modes["fmha_quant_mode"] = "bfloat16"
    tokens = server_of(row).get("max_batch_tokens") if row.mode == "agg" else None
    limits = {"scheduler": {"max_batched_tokens": tokens}} if tokens else {}
    return {
        "traffic": {
            "source": {
                "type": "synthetic",
                "input_tokens": means["prompt"],
                "output_tokens": means["output"],
            },
            "load": {"type": "concurrency", "concurrency": row.concurrency},
            "stop": {"requests": requests["arrival"]["requests"]},
        },
        "engine": {
            "mode": "aggregated" if row.mode == "agg" else "disaggregated",
            "model": _known_model(row),
            "hardware": row.gpu,
            "backend": row.engine,
            **{name: value for name, value in modes.items() if value},
            "workers": {
                role: {
                    **limits,
                    "parallelism": {
                        "replicas": pool.workers,
                        "tensor": pool.tp,
                        "pipeline": pool.pp,
                        "attention_data": pool.attention_dp,
                        "moe_tensor": pool.moe_tp,
                        "moe_expert": pool.moe_ep,
                    },
                }
                for role, pool in zip(roles, row.pools, strict=True)
            },
        },
    }
