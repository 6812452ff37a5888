"""What others estimate for measured rows: aiconfigurator, where it is installed (PyPI)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

from measured import RefusedError, Row

Estimate = Callable[[Row], tuple[float, float]]
"""Mean TTFT and TPOT, seconds, of a row; raises `RefusedError`."""


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


def _asked(row: Row) -> dict[str, Any]:
    """Return the arguments of an estimate, in that package's words."""
    modes = {"gemm_quant_mode": row.gemm, "moe_quant_mode": row.moe}
    asked: dict[str, Any] = {
        "model_path": row.model.replace(
            "meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B"
        ).replace("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
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
