"""Fit the latency models' coefficients to a grid of measured latencies, and state the fit error.

    python benchmarks/fit_latency.py GRID.csv [GRID.csv …]          report, write nothing
    python benchmarks/fit_latency.py --write GRID.csv …             replace the catalog's files
    python benchmarks/fit_latency.py --generate GRID.csv            ask aiconfigurator-core

A grid has columns model, system, tp, phase (prefill or decode), batch, tokens_or_ctx, ms, and
optionally precision. Errors are mean absolute relative errors in percent.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares, linprog, minimize

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.affine import AffineCoefficients, AffineLatency
from simlib.latency.roofline import RooflineCalibration, RooflineLatency

FOLDER = Path(__file__).resolve().parent.parent / "simlib" / "latency" / "calibration"
MODELS = (
    "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-70B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-32B",
)
GPUS = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s")
PROMPTS = sorted({*(2**k for k in range(6, 16)), *(3 * 2**k for k in range(7, 14))})
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384)
GRID_COLUMNS = ("model", "system", "tp", "precision", "phase", "batch", "tokens_or_ctx", "ms")
DEFAULT_FROM = ("a100_sxm", "h100_sxm", "h200_sxm")


def generate(path: Path) -> None:
    """Write a grid of every model, GPU, precision and tensor parallelism that fits."""
    from aiconfigurator_core.sdk.engine import EngineHandle

    with path.open("w", newline="", encoding="utf-8") as text:
        out = csv.writer(text)
        out.writerow(GRID_COLUMNS)
        for model in MODELS:
            for gpu in GPUS:
                for precision in ("bf16", "fp8"):
                    for tp in (1, 2, 4, 8):
                        try:
                            catalog.gpu(gpu).flops(precision)
                            catalog.kv_capacity_tokens(
                                catalog.model(model), catalog.gpu(gpu), tp, precision=precision
                            )
                        except InvalidParameterError:
                            continue
                        options = {} if precision == "bf16" else {"gemm_quant_mode": precision}
                        try:
                            engine = EngineHandle.compile(model, gpu, "vllm", tp_size=tp, **options)
                            rows = [
                                ("prefill", 1, n, engine.predict_prefill_latency(1, n, 0))
                                for n in PROMPTS
                            ] + [
                                ("decode", b, c, engine.decode_step_latency(b, c, 2))
                                for b in BATCHES
                                for c in CONTEXTS
                                if b * c <= 400_000
                            ]
                        except Exception as error:  # its errors share no base class
                            print("no data:", model, gpu, tp, precision, str(error)[:80])
                            continue
                        out.writerows((model, gpu, tp, precision, *row) for row in rows)


def read(paths: list[Path]) -> pd.DataFrame:
    """Read grids into one table, with the catalog's names and seconds."""
    grid = pd.concat([pd.read_csv(path) for path in paths])
    if "precision" not in grid:
        grid["precision"] = "bf16"
    grid["precision"] = grid["precision"].fillna("bf16")
    grid["model"] = [catalog.model(name).name for name in grid["model"]]
    grid["seconds"] = grid["ms"] / 1e3
    return grid.rename(columns={"system": "gpu"}).reset_index(drop=True)


def predicted(model: AffineLatency | RooflineLatency, grid: pd.DataFrame) -> np.ndarray:
    """Return a latency model's seconds for each row of a grid."""
    columns = (grid[name].tolist() for name in ("phase", "batch", "tokens_or_ctx"))
    return np.array(
        [
            model.iteration_s([(n, 0)] * b, 0, 0)
            if phase == "prefill"
            else model.iteration_s([], b, b * n)
            for phase, b, n in zip(*columns, strict=True)
        ]
    )


def errors(relative: np.ndarray, grid: pd.DataFrame) -> tuple[float, float]:
    """Return mean absolute errors of prefill and decode in percent."""
    prefill = (grid["phase"] == "prefill").to_numpy()
    size = 100 * np.abs(relative)
    return float(size[prefill].mean()), float(size[~prefill].mean())


def least_absolute(
    features: np.ndarray, seconds: np.ndarray, lower: list[float | None]
) -> np.ndarray:
    """Return the coefficients of the least sum of absolute relative errors (a linear program)."""
    scale = features.max(axis=0)
    x = features / scale / seconds[:, None]
    n, k = x.shape
    eye = np.eye(n)
    bounds = [(None if low is None else low, None) for low in lower] + [(0, None)] * n
    result = linprog(
        np.concatenate([np.zeros(k), np.ones(n)]),
        A_ub=np.block([[x, -eye], [-x, -eye]]),
        b_ub=np.concatenate([np.ones(n), -np.ones(n)]),
        bounds=bounds,
    )
    return np.asarray(result.x[:k]) / scale


def fit_affine(grid: pd.DataFrame) -> AffineCoefficients:
    """Fit the seven coefficients of one model on one deployment."""
    prefill = grid[grid["phase"] == "prefill"].sort_values("tokens_or_ctx")
    n = prefill["tokens_or_ctx"].to_numpy(float)
    y = prefill["seconds"].to_numpy()
    lines = np.stack([np.ones_like(n), n, n * n], axis=1)

    def cost(p: np.ndarray) -> float:
        return float(np.abs(np.maximum(p[0], lines @ p[1:]) / y - 1).mean())

    best = np.array([y.min(), 0, 0, 0])
    for floor in range(len(n) // 2):  # the first `floor` points lie on the floor
        line = least_absolute(lines[floor:], y[floor:], [None, 0.0, 0.0])
        start = np.array([y[: floor + 1].mean(), *line])
        scale = np.where(start == 0, 1e-12, start)
        polished = minimize(
            lambda p, s=scale: cost(p * s) + 1e3 * float(min(0.0, *(p * s)[2:])) ** 2,
            start / scale,
            method="Nelder-Mead",
            options={"maxiter": 3000, "xatol": 1e-9, "fatol": 1e-12},
        )
        for p in (start, polished.x * scale):
            if cost(p) < cost(best) and p[0] > 0 and min(p[2:]) >= 0:
                best = p
    decode = grid[grid["phase"] == "decode"]
    b = decode["batch"].to_numpy(float)
    features = np.stack([np.ones_like(b), b, b * decode["tokens_or_ctx"].to_numpy(float)], axis=1)
    line = least_absolute(features, decode["seconds"].to_numpy(), [0.0, 0.0, 0.0])
    return AffineCoefficients(*(float(value) for value in (*best, *line)))


def fit_roofline(gpu: str, precision: str, grid: pd.DataFrame) -> RooflineCalibration:
    """Fit the efficiencies of one GPU and precision over all its models and TP."""
    groups = list(grid.groupby(["model", "tp"]))
    weights = np.concatenate(
        [
            # prefill and decode count alike, though the grid has fewer prefill points
            np.where(g["phase"] == "prefill", (g["phase"] == "decode").sum(), 1.0)
            / np.where(g["phase"] == "prefill", (g["phase"] == "prefill").sum(), 1.0)
            for _, g in groups
        ]
    )
    seconds = np.concatenate([g["seconds"].to_numpy() for _, g in groups])

    def residuals(log_p: np.ndarray) -> np.ndarray:
        calibration = RooflineCalibration(*np.exp(log_p).tolist())
        times = [
            predicted(
                RooflineLatency(
                    catalog.model(model),
                    catalog.gpu(gpu),
                    int(tp),
                    calibration,
                    precision=precision,
                ),
                g,
            )
            for (model, tp), g in groups
        ]
        return np.sqrt(weights) * (np.concatenate(times) / seconds - 1)

    start = np.log([0.7, 0.8, 0.5, 0.8, 5e-6, 0.7, 0.7, 0.7, 1e-5, 2e-5, 1e-5, 10.0])
    low = np.log([0.1, 0.2, 0.05, 0.2, 1e-7, 0.02, 0.02, 0.02, 1e-8, 1e-7, 1e-8, 1.0])
    high = np.log([1.0, 1.0, 1.0, 1.0, 1e-4, 2.0, 2.0, 2.0, 1e-3, 1e-3, 1e-3, 60.0])
    fit = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.02)
    return RooflineCalibration(*(float(f"{value:.4g}") for value in np.exp(fit.x)))


def roofline_rows(grid: pd.DataFrame, say: Callable[[str], None]) -> list[list[str]]:
    """Fit every GPU and precision of a grid, then the default that other GPUs use."""
    header = ["gpu", "precision", *(f.name for f in fields(RooflineCalibration))]
    header += ["prefill_error_percent", "decode_error_percent", "rows", "source"]
    rows = [header]
    fitted: dict[tuple[str, str], RooflineCalibration] = {}
    for (gpu, precision), part in grid.groupby(["gpu", "precision"], sort=False):
        calibration = fit_roofline(gpu, precision, part)
        fitted[gpu, precision] = calibration
        pair = roofline_errors(gpu, precision, calibration, part)
        rows.append(roofline_row(gpu, precision, calibration, pair, len(part), SOURCE))
        say(f"roofline {gpu} {precision}: prefill {pair[0]:.2f} %, decode {pair[1]:.2f} %")
    for precision in ("bf16", "fp8"):
        known = {g: c for (g, p), c in fitted.items() if p == precision and g in DEFAULT_FROM}
        if known:
            merged = _geometric_mean(list(known.values()))
            left_out = []
            for gpu, own in known.items():
                others = [c for g, c in known.items() if g != gpu] or [own]
                part = grid[(grid["gpu"] == gpu) & (grid["precision"] == precision)]
                left_out.append(roofline_errors(gpu, precision, _geometric_mean(others), part))
            pair = tuple(np.mean(left_out, axis=0).tolist())
            source = f"geometric mean of {' '.join(known)}; error with the tested GPU left out"
            rows.append(roofline_row("default", precision, merged, pair, len(known), source))
            say(f"roofline default {precision}: prefill {pair[0]:.2f} %, decode {pair[1]:.2f} %")
    return rows


def _geometric_mean(calibrations: list[RooflineCalibration]) -> RooflineCalibration:
    means = np.exp(np.log([astuple(c) for c in calibrations]).mean(axis=0))
    return RooflineCalibration(*(float(f"{value:.4g}") for value in means))


def roofline_row(
    gpu: str,
    precision: str,
    calibration: RooflineCalibration,
    pair: tuple[float, ...],
    count: int,
    source: str,
) -> list[str]:
    numbers = [f"{value:.4g}" for value in astuple(calibration)]
    return [gpu, precision, *numbers, f"{pair[0]:.2f}", f"{pair[1]:.2f}", str(count), source]


def roofline_errors(
    gpu: str, precision: str, calibration: RooflineCalibration, grid: pd.DataFrame
) -> tuple[float, float]:
    """Return the errors of one calibration over a grid of one GPU."""
    relative = np.empty(len(grid))
    for (model, tp), index in grid.groupby(["model", "tp"]).indices.items():
        part = grid.iloc[index]
        latency = RooflineLatency(
            catalog.model(model), catalog.gpu(gpu), int(tp), calibration, precision=precision
        )
        relative[index] = predicted(latency, part) / part["seconds"] - 1
    return errors(relative, grid)


def affine_rows(grid: pd.DataFrame, say: Callable[[str], None]) -> list[list[str]]:
    """Fit every model, GPU, TP and precision of a grid."""
    header = ["model", "gpu", "tensor_parallel", "precision"]
    header += [f.name for f in fields(AffineCoefficients)]
    header += ["prefill_error_percent", "decode_error_percent", "rows", "source"]
    rows = [header]
    pairs = []
    for key, part in grid.groupby(["model", "gpu", "tp", "precision"], sort=False):
        coefficients = fit_affine(part)
        pair = errors(predicted(AffineLatency(coefficients, 1.0), part) / part["seconds"] - 1, part)
        pairs.append(pair)
        numbers = [f"{value:.6g}" for value in astuple(coefficients)]
        name = [str(value) for value in key]
        rows.append([*name, *numbers, f"{pair[0]:.2f}", f"{pair[1]:.2f}", str(len(part)), SOURCE])
        say(f"affine {' '.join(name)}: prefill {pair[0]:.2f} %, decode {pair[1]:.2f} %")
    mean, worst = np.mean(pairs, axis=0), np.max(pairs, axis=0)
    say(f"affine mean: prefill {mean[0]:.2f} %, decode {mean[1]:.2f} %")
    say(f"affine worst: prefill {worst[0]:.2f} %, decode {worst[1]:.2f} %")
    return rows


SOURCE = "kernels measured with vLLM, composed by aiconfigurator-core 0.12.0 (Apache-2.0)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grids", nargs="+", type=Path)
    parser.add_argument("--generate", action="store_true", help="write the grid first")
    parser.add_argument("--write", action="store_true", help="replace the catalog's files")
    parser.add_argument("--only", choices=["roofline", "affine"])
    options = parser.parse_args()
    if options.generate:
        generate(options.grids[0])
    grid = read(options.grids)
    for kind, fit in (("roofline", roofline_rows), ("affine", affine_rows)):
        if options.only in {None, kind}:
            rows = fit(grid, print)
            if options.write:
                with (FOLDER / f"{kind}.csv").open("w", newline="", encoding="utf-8") as text:
                    csv.writer(text, lineterminator="\n").writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
