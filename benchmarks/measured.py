"""Measured serving points, and each of them as the configuration that a user would write.

A row says what was served on what and how many requests were in flight. How it was measured is not
said: `requests_of` states what is assumed of lengths and of the number of requests.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simlib.core.config import SimConfig
from simlib.core.sampling import sample_requests
from simlib.errors import InvalidParameterError
from simlib.serving.assemble import deployment_of
from simlib.serving.engine import simulate

PUBLIC_SWEEP = {(1024, 1024), (1024, 8192), (8192, 1024)}
"""Prompt and output tokens of the public InferenceMAX sweep, whose client draws lengths from 0.8
to 1.0 of these and sends ten requests per place in flight."""
SHORTEST = 0.8
SPARE_TOKENS = 1500
ALIKE = {"DeepSeek-V3": "DeepSeek-R1"}
"""Models of one architecture; some of their rows are one measurement under both names."""
SAME_TPOT = 0.02
"""Relative difference of mean TPOT below which two rows may be one measurement."""
MOST_IN_BATCH = 256
"""Sequences of a batch by default, which its tokens must not be below."""
_EIGHT_BIT = {"fp8", "fp8_block", "fp8_static"}
_SIZES = (
    ("tp", "tp_size"),
    ("pp", "pp_size"),
    ("attention_dp", "attention_dp_size"),
    ("moe_tp", "moe_tp_size"),
    ("moe_ep", "moe_ep_size"),
)


class RefusedError(Exception):
    """A row that cannot be simulated; says why."""


@dataclass(frozen=True)
class Pool:
    """Replicas of one role of a measured deployment."""

    workers: int
    tp: int
    pp: int
    attention_dp: int
    moe_tp: int
    moe_ep: int


@dataclass(frozen=True)
class Row:
    """One measured point."""

    engine: str
    version: str
    model: str
    gpu: str
    precision: str
    gemm: str
    """Format of the matrix products, as stated."""
    moe: str
    """Format of the experts, as stated."""
    mode: str
    prompt: int
    output: int
    concurrency: int | None
    """Requests in flight over the whole deployment."""
    pools: tuple[Pool, ...]
    """One of a monolithic deployment; prefill and decode of a disaggregated one; empty where the
    file does not state them."""
    ttft_s: float
    tpot_s: float
    development: bool

    @property
    def group(self) -> tuple[str, str, str]:
        """What shares unknowns: GPU, engine and architecture."""
        model = self.model.rpartition("/")[2]
        return self.gpu, self.engine, ALIKE.get(model, model)

    @property
    def gpus(self) -> int:
        """GPUs of the deployment, as stated."""
        return sum(pool.workers * pool.tp * pool.pp * pool.attention_dp for pool in self.pools)

    @property
    def deployment(self) -> tuple[Any, ...]:
        """What was started once and measured under several loads."""
        return (*self.group, self.version, self.precision, self.mode, self.pools)


def read_rows(path: Path, development: bool = True) -> list[Row]:
    """Read a file of measured points, in the columns of `measured_serving_development.csv`."""
    with path.open(newline="", encoding="utf-8") as text:
        return [_row(line, development) for line in csv.DictReader(text)]


def _row(line: dict[str, str], development: bool) -> Row:
    mode = line.get("mode") or "agg"
    roles = ("",) if mode == "agg" else ("prefill_", "decode_")
    pools = tuple(pool for role in roles if (pool := _pool(line, role)) is not None)
    return Row(
        engine=line["backend"],
        version=line["backend_version"],
        model=line["model_path"],
        gpu=line["system"],
        precision=_precision(line),
        gemm=line.get("gemm_quant_mode", ""),
        moe=line.get("moe_quant_mode", ""),
        mode=mode,
        prompt=int(line["isl"]),
        output=int(line["osl"]),
        concurrency=_concurrency(line, mode),
        pools=pools if len(pools) == len(roles) else (),
        ttft_s=float(line["silicon_ttft_ms"]) / 1e3,
        tpot_s=float(line["silicon_tpot_ms"]) / 1e3,
        development=development,
    )


def _pool(line: dict[str, str], role: str) -> Pool | None:
    workers = line.get(f"{role}num_workers", "") if role else "1"
    if not workers or not line.get(f"{role}tp_size"):
        return None
    sizes = {name: int(float(line.get(role + column) or 1)) for name, column in _SIZES}
    return Pool(workers=int(float(workers)), **sizes)


def _precision(line: dict[str, str]) -> str:
    """Return the format of the weights: as stated, or as the kernels' or the model's name says."""
    stated = line.get("moe_quant_mode") or line.get("gemm_quant_mode") or line["precision"]
    if stated in _EIGHT_BIT or "fp8" in line["model_path"].lower():
        return "fp8"
    return stated or "bf16"


def _concurrency(line: dict[str, str], mode: str) -> int | None:
    stated = line.get("concurrency") or ""
    found = re.search(r"silicon_concurrency=(\d+)", line.get("silicon_data_source", ""))
    if not stated and found:
        stated = found[1]
    return int(float(stated)) if stated else None


def is_dense(row: Row) -> bool:
    """Return whether a model has no experts, as far as its name says."""
    name = row.model.rpartition("/")[2].lower()
    return name.startswith("llama") or name.startswith("qwen3-32b")


def contradicted(rows: Sequence[Row]) -> set[int]:
    """Return the places of monolithic rows whose stated sizes cannot be those that were measured.

    Most rows of their deployment repeat the TPOT of a deployment with half of the GPUs or fewer,
    at the same lengths and number in flight.
    """
    alike: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    deployments: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.mode == "agg" and row.pools and row.concurrency:
            alike[_setting(row)].append(row)
            deployments[row.deployment].append(number)
    found: set[int] = set()
    for numbers in deployments.values():
        repeated = [
            any(
                2 * other.gpus <= rows[number].gpus
                and abs(other.tpot_s / rows[number].tpot_s - 1) < SAME_TPOT
                for other in alike[_setting(rows[number])]
            )
            for number in numbers
        ]
        if 2 * sum(repeated) > len(numbers):
            found.update(numbers)
    return found


def _setting(row: Row) -> tuple[object, ...]:
    return (*row.group, row.prompt, row.output, row.precision, row.concurrency)


Settings = Callable[[Row], dict[str, Any]]
"""What a user adds to the configuration of a row."""


def plain(row: Row) -> dict[str, Any]:
    """Return what a user writes who knows the server and the benchmark, and fits nothing.

    Raises
    ------
    RefusedError
        Where the configuration has no words for the row.
    """
    if row.concurrency is None:
        raise RefusedError("no number of requests in flight stated")
    if not row.pools:
        raise RefusedError("pools not stated")
    for pool in row.pools:
        if pool.pp > 1:
            raise RefusedError("pipeline parallelism")
    pools = [
        {
            "replicas": pool.workers,
            "gpu": row.gpu,
            "tensor_parallel": pool.tp,
            "data_parallel_size": pool.attention_dp,
            "enable_expert_parallel": pool.moe_ep > 1,
            **(server_of(row) if row.mode == "agg" else {}),
        }
        for pool in row.pools
    ]
    batching: dict[str, Any]
    if row.mode == "agg":
        batching = {"batching_mono": {"pool": pools[0]}}
    else:
        batching = {"batching_disagg": {"prefill": pools[0], "decode": pools[1]}}
    return {
        "mode": "mono" if row.mode == "agg" else "disagg",
        "serving": "batching",
        "latency": {"kind": "roofline", "model": row.model, **precisions(row)},
        **batching,
        **requests_of(row),
    }


def with_engine(row: Row) -> dict[str, Any]:
    """Return what a user writes who also names the serving engine: its defaults are filled in."""
    settings = plain(row)
    settings["latency"]["engine"] = row.engine
    return settings


def server_of(row: Row) -> dict[str, Any]:
    """Return settings of the server under test that were published, and its user would know.

    aiconfigurator's rules for servers under test give vLLM and TensorRT-LLM batches of as many
    tokens as requests in flight, a prompt and 1,500 (``generator/rule_plugin/benchmark``).
    """
    if public(row) or row.engine == "sglang" or row.concurrency is None:
        return {}
    return {"max_batch_tokens": max(row.concurrency + row.prompt + SPARE_TOKENS, MOST_IN_BATCH)}


_FORMATS = {"nvfp4": "fp4", "mxfp4": "fp4", "w4afp8": "int4"} | dict.fromkeys(_EIGHT_BIT, "fp8")


def precisions(row: Row) -> dict[str, str]:
    """Return formats of the dense products and of the experts."""
    if "gpt-oss" in row.model:  # as published: 4 bits for experts, 16 for the rest
        return {"precision": "bf16", "expert_precision": "fp4"}
    return {"precision": _FORMATS.get(row.precision, row.precision)}


def public(row: Row) -> bool:
    """Return whether a row is of the public sweep."""
    return (row.prompt, row.output) in PUBLIC_SWEEP


def requests_of(row: Row) -> dict[str, Any]:
    """Return arrivals and lengths: of one length, or spread as the public sweep's are.

    The measured means of the rows outside that sweep, times ten (vLLM) or twenty times the number
    in flight, are whole nanoseconds: so many requests were sent. Their TTFT hardly depends on the
    output length, as where requests of one length stay in step.
    """
    low = SHORTEST if public(row) else 1.0
    concurrency = row.concurrency or 1
    each = 10 if public(row) or row.engine == "vllm" else 20
    return {
        "arrival": {
            "kind": "closed_loop",
            "concurrency": concurrency,
            "requests": each * concurrency,
        },
        **{
            f"{name}_tokens": {"mode": "uniform", "low": round(low * most), "high": most}
            for name, most in (("prompt", row.prompt), ("output", row.output))
        },
    }


def predict(settings: dict[str, Any]) -> tuple[float, float]:
    """Return mean TTFT and mean TPOT, seconds, of a configuration's closed loop, start included.

    Raises
    ------
    RefusedError
        Where simlib refuses the configuration.
    """
    try:
        config = SimConfig.from_dict(settings)
        deployment = deployment_of(config.batching, config.latency, config.own)
    except InvalidParameterError as error:
        raise RefusedError(reason(error)) from None
    requests = sample_requests(config)
    records = simulate(requests, deployment, concurrency=config.arrival.concurrency)
    if np.isnan(records.finish_s).any():
        raise RefusedError("a request does not fit the KV cache")
    ttft_s = records.first_token_s - records.arrival_s
    gaps = np.maximum(requests.output_tokens - 1, 1)
    tpot_s = (records.finish_s - records.first_token_s) / gaps
    return float(ttft_s.mean()), float(tpot_s.mean())


def reason(error: InvalidParameterError) -> str:
    """Return why simlib refuses, without the row's own numbers."""
    return re.sub(r"[\d.]+ GB", "so many GB", f"{error.name} must be {error.allowed}")
