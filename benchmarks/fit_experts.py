"""Fit how fast routed experts run, per GPU and kind of products: `calibration/experts.csv`.

    python benchmarks/fit_experts.py GRID.csv [--generate] [--write]

The grid holds latencies of whole iterations of mixtures of experts, as `aiconfigurator-core`
composes them from measured kernels; `--generate` writes it. All but the three numbers of
`ExpertCalibration` is the roofline as it stands, so these also take up what it gets wrong about
attention in such models. The errors are of the fit itself, not held out; a row `default` is the
geometric mean of the others, and its error that of each with its own GPU left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import astuple, fields
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from simlib.latency import catalog
from simlib.latency.experts import UNPACKED, ExpertCalibration
from simlib.latency.roofline import RooflineLatency, roofline_calibration

FILE = Path(__file__).parents[1] / "simlib" / "latency" / "calibration" / "experts.csv"
BLACKWELL = ("b200_sxm", "b300_sxm", "gb200")
HOPPER = ("h100_sxm", "h200_sxm")
# what experts are computed in: the GPUs, the engines whose kernels count, and the deployments, each
# (Hugging Face identifier, name in the catalog, precisions of experts and of all else, GPUs of a
# replica, whether these have whole experts)
KINDS = {
    "bf16": (
        ("a100_sxm", *HOPPER, "b200_sxm"),
        ("vllm", "sglang"),
        (
            ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b", "bf16", "bf16", 1, False),
            ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b", "bf16", "bf16", 2, False),
            ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b", "bf16", "bf16", 4, True),
            ("Qwen/Qwen3-235B-A22B", "qwen3-235b-a22b", "bf16", "bf16", 8, False),
        ),
    ),
    # latencies composed for vLLM's FP8 blocks are 40 % above those that MiniMax M2.5 measures
    "fp8": (
        (*HOPPER, "b200_sxm"),
        ("sglang", "trtllm"),
        (
            ("Qwen/Qwen3-30B-A3B-FP8", "qwen3-30b-a3b", "fp8", "fp8", 1, False),
            ("Qwen/Qwen3-30B-A3B-FP8", "qwen3-30b-a3b", "fp8", "fp8", 2, True),
            ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8", "fp8", 4, True),
            ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8", "fp8", 8, True),
            ("MiniMaxAI/MiniMax-M2.5", "minimax-m2", "fp8", "fp8", 4, True),
            ("MiniMaxAI/MiniMax-M2.5", "minimax-m2", "fp8", "fp8", 8, True),
        ),
    ),
    "fp4": (
        BLACKWELL,
        ("vllm", "sglang"),
        (
            ("nvidia/Qwen3-235B-A22B-NVFP4", "qwen3-235b-a22b", "fp4", "fp4", 4, True),
            ("nvidia/Qwen3-235B-A22B-NVFP4", "qwen3-235b-a22b", "fp4", "fp4", 8, True),
            ("nvidia/MiniMax-M2.5-NVFP4", "minimax-m2", "fp4", "fp4", 4, True),
            ("nvidia/MiniMax-M2.5-NVFP4", "minimax-m2", "fp4", "fp4", 2, True),
        ),
    ),
    UNPACKED: (
        HOPPER,
        ("vllm",),
        tuple(
            ("openai/gpt-oss-120b", "gpt-oss-120b", "fp4", "bf16", gpus, False)
            for gpus in (1, 2, 4, 8)
        ),
    ),
}
PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (512, 2048, 8192)
COLUMNS = (
    "kind", "gpu", "backend", "model", "expert_precision", "precision", "tp", "ep", "phase",
    "batch", "tokens", "ms",
)  # fmt: skip


def generate(path: Path) -> None:
    """Write the grid; combinations without data are named and left out."""
    with path.open("w", newline="", encoding="utf-8") as text:
        out = csv.writer(text, lineterminator="\n")
        out.writerow(COLUMNS)
        for kind, (gpus, backends, deployments) in KINDS.items():
            for gpu, backend, deployment in product(gpus, backends, deployments):
                identifier, *rest = deployment
                tp, ep = deployment[4:]
                try:
                    rows = list(latencies(identifier, gpu, backend, tp, ep))
                except Exception as error:  # its errors share no base class
                    print("no data:", gpu, backend, *deployment, str(error)[:60])
                    continue
                out.writerows((kind, gpu, backend, *rest[:-1], int(ep), *row) for row in rows)


def latencies(
    model: str, gpu: str, backend: str, tp: int, ep: bool
) -> Iterator[tuple[str, int, int, float]]:
    """Yield phase, batch, tokens or context, and milliseconds."""
    from aiconfigurator_core.sdk.engine import EngineHandle

    sizes = {"moe_tp_size": 1 if ep else tp, "moe_ep_size": tp if ep else 1}
    engine = EngineHandle.compile(model, gpu, backend, tp_size=tp, **sizes)
    for n in PROMPTS:
        yield "prefill", 1, n, engine.predict_prefill_latency(1, n, 0)
    for b, c in product(BATCHES, CONTEXTS):
        if b * c <= 400_000:
            yield "decode", b, c, engine.mixed_step_breakdown(0, b, c - 1, 2)[0]


def predicted(grid: pd.DataFrame, calibration: ExpertCalibration) -> np.ndarray:
    """Return the roofline's seconds for each row of a grid of one GPU and kind."""
    seconds = np.empty(len(grid))
    for (gpu, precision, expert_precision, model, tp, ep), index in grid.groupby(
        ["gpu", "precision", "expert_precision", "model", "tp", "ep"]
    ).indices.items():
        latency = RooflineLatency(
            catalog.model(model),
            catalog.gpu(gpu),
            int(tp),
            roofline_calibration(gpu, catalog.gpu(gpu).computed_in(precision)),
            precision=precision,
            expert_precision=expert_precision,
            enable_expert_parallel=bool(ep),
            experts=calibration,
        )
        part = grid.iloc[index]
        seconds[index] = [
            latency.iteration_s([(n, 0)], 0, 0)
            if phase == "prefill"
            else latency.iteration_s([], b, b * n)
            for phase, b, n in zip(part["phase"], part["batch"], part["tokens"], strict=True)
        ]
    return seconds


def relative(grid: pd.DataFrame, calibration: ExpertCalibration) -> np.ndarray:
    return predicted(grid, calibration) / (grid["ms"].to_numpy() / 1e3) - 1


def fit(grid: pd.DataFrame) -> ExpertCalibration:
    """Return the three numbers; prompts and decodes count alike, though there are fewer prompts."""
    prefill = (grid["phase"] == "prefill").to_numpy()
    weights = np.sqrt(np.where(prefill, (~prefill).sum() / prefill.sum(), 1.0))

    def residuals(log_p: np.ndarray) -> np.ndarray:
        return weights * relative(grid, ExpertCalibration(*np.exp(log_p).tolist()))

    low, start, high = (0.03, 0.05, 1e-7), (0.4, 0.6, 2e-5), (1.0, 1.0, 1e-3)
    found = least_squares(
        residuals, np.log(start), bounds=(np.log(low), np.log(high)), loss="soft_l1", f_scale=0.05
    )
    return _rounded(np.exp(found.x))


def _rounded(values: np.ndarray) -> ExpertCalibration:
    return ExpertCalibration(*(float(f"{value:.4g}") for value in values))


def rows(grid: pd.DataFrame) -> Iterator[list[str]]:
    """Yield the lines of the file."""
    yield ["gpu", "computed_in", *(f.name for f in fields(ExpertCalibration)), *_ERRORS]
    for kind, part in grid.groupby("kind", sort=False):
        engines = " and ".join(KINDS[kind][1])
        source = f"kernels measured with {engines}, composed by aiconfigurator-core 0.12.0"
        fitted = {gpu: (fit(own), own) for gpu, own in part.groupby("gpu", sort=False)}
        for gpu, (calibration, own) in fitted.items():
            yield _line(gpu, kind, calibration, relative(own, calibration), own, source)
        merged = _mean([calibration for calibration, _ in fitted.values()])
        errors = []
        for gpu, (_, own) in fitted.items():
            others = [c for name, (c, _) in fitted.items() if name != gpu]
            errors.append(relative(own, _mean(others) if others else merged))
        text = f"geometric mean of {' '.join(fitted)}; error with the tested GPU left out"
        yield _line("default", kind, merged, np.concatenate(errors), part, text)


_ERRORS = ("prefill_error_percent", "decode_error_percent", "rows", "source")


def _mean(calibrations: list[ExpertCalibration]) -> ExpertCalibration:
    return _rounded(np.exp(np.log([astuple(c) for c in calibrations]).mean(axis=0)))


def _line(
    gpu: str,
    kind: str,
    calibration: ExpertCalibration,
    errors: np.ndarray,
    grid: pd.DataFrame,
    source: str,
) -> list[str]:
    prefill = (grid["phase"] == "prefill").to_numpy()
    sizes = [f"{100 * np.abs(errors[p]).mean():.2f}" for p in (prefill, ~prefill)]
    numbers = [f"{value:.4g}" for value in astuple(calibration)]
    line = [gpu, kind, *numbers, *sizes, str(len(grid)), source]
    print(*line[:-1])
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("--generate", action="store_true", help="write the grid first")
    parser.add_argument("--write", action="store_true", help="replace the catalog's file")
    options = parser.parse_args()
    if options.generate:
        generate(options.grid)
    lines = list(rows(pd.read_csv(options.grid)))
    if options.write:
        with FILE.open("w", newline="", encoding="utf-8") as text:
            csv.writer(text, lineterminator="\n").writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
