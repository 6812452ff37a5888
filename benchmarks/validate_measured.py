"""Simulate every measured closed-loop row that the latency models cover, and report the errors.

    python benchmarks/validate_measured.py MEASURED.csv [--latency roofline|affine|aiconfigurator]
        [--protocol stated|inferred] [--calibrate] [--held-out] [--quiet] [--output PAGE.md]

The benchmark sends 10 requests per place in flight (means times that number are whole
nanoseconds, for nearly all rows of 0.12.0). Lengths follow a `Protocol`. Three constants per
engine version describe the engine's overhead (`OVERHEADS`), whatever the latency model;
`--calibrate` shows how they were found. Nothing is tuned per row.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from simlib.errors import InvalidParameterError
from simlib.serving import catalog
from simlib.serving.aiconfigurator import build_latency_table
from simlib.serving.cluster import simulate_closed_loop
from simlib.serving.deployment import Monolithic, Pool
from simlib.serving.latency import latency_model
from simlib.serving.protocol import LatencyModel

LATENCIES = ("roofline", "affine", "aiconfigurator")
REQUESTS_PER_PLACE = 10
MAX_BATCH_SIZE = 1024
"""vLLM's default for a server on a GPU of 80 GB."""

Overhead = tuple[float, float, float]
"""Seconds per step, per sequence and step, and of a request outside the scheduler."""


@dataclass(frozen=True)
class Protocol:
    """How a benchmark was run, as far as its rows do not say."""

    shortest: float
    """Lengths are uniform between this share of nominal and nominal."""
    max_batch_tokens: int


STATED = Protocol(0.8, 8192)
"""Lengths as published for this kind of benchmark; batch as vLLM's default on 80 GB."""
PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "stated": {"0.12.0": STATED, "": STATED},
    # the rows of 0.12.0 fit nominal lengths and half the batch better, above all where KV cache
    # is short; an inference from those rows themselves, so not the default
    "inferred": {"0.12.0": Protocol(1.0, 4096), "": STATED},
}
OVERHEADS: dict[str, dict[str, Overhead]] = {
    "stated": {"0.12.0": (1.5e-3, 5e-5, 0.08), "": (5e-4, 3.5e-5, 0.015)},
    "inferred": {"0.12.0": (1.5e-3, 5e-5, 0.015), "": (5e-4, 3.5e-5, 0.015)},
}
"""By protocol and engine version. The 80 ms stand for more than reading a request: with lengths as
stated, something delays first tokens of 0.12.0 (and not its later ones) that is not modelled."""
STEPS_S = (0.0, 5e-4, 1e-3, 1.5e-3, 2e-3, 2.5e-3)
SEQUENCES_S = (0.0, 2e-5, 3.5e-5, 5e-5, 6.5e-5)
REQUESTS_S = tuple(k * 5e-3 for k in range(21))


@dataclass(frozen=True)
class Row:
    version: str
    model: str
    gpu: str
    precision: str
    prompt: int
    output: int
    concurrency: int
    tensor_parallel: int
    ttft_s: float
    tpot_s: float


def read(path: Path) -> tuple[list[Row], Counter[str]]:
    """Return the rows that can be simulated, and why the others cannot."""
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    with path.open(newline="", encoding="utf-8") as text:
        for line in csv.DictReader(text):
            if not line["concurrency"]:
                left_out["no concurrency stated"] += 1
                continue
            rows.append(
                Row(
                    version=line["backend_version"],
                    model=line["model_path"],
                    gpu=line["system"],
                    precision=line["precision"] or "bf16",
                    prompt=int(line["isl"]),
                    output=int(line["osl"]),
                    concurrency=int(float(line["concurrency"])),
                    tensor_parallel=int(line["tp_size"]),
                    ttft_s=float(line["silicon_ttft_ms"]) / 1e3,
                    tpot_s=float(line["silicon_tpot_ms"]) / 1e3,
                )
            )
    return rows, left_out


def latency_of(row: Row, kind: str, overhead: tuple[float, ...], folder: Path) -> LatencyModel:
    """Return the latency model of a row's deployment."""
    table = None
    if kind == "aiconfigurator":
        name = f"{row.model}-{row.gpu}-{row.tensor_parallel}-{row.precision}".replace("/", "-")
        table = folder / f"{name}.json"
        if not table.exists():
            # that package knows Llama 3.1 by the name it was first published under
            known = row.model.replace("meta-llama/Llama-3.1", "meta-llama/Meta-Llama-3.1")
            build_latency_table(known, row.gpu, row.tensor_parallel, table, precision=row.precision)
    return latency_model(
        kind,
        model=row.model,
        gpu=row.gpu,
        tensor_parallel=row.tensor_parallel,
        precision=row.precision,
        table=table,
        step_overhead_s=overhead[0],
        sequence_overhead_s=overhead[1],
    )


def predict(row: Row, latency: LatencyModel, protocol: Protocol) -> tuple[float, float]:
    """Return mean TTFT (without the time outside the scheduler) and TPOT of a simulated row."""
    capacity = catalog.kv_capacity_tokens(
        catalog.model(row.model), catalog.gpu(row.gpu), row.tensor_parallel, precision=row.precision
    )
    pool = Pool(
        latency,
        kv_capacity_tokens=capacity,
        max_batch_tokens=protocol.max_batch_tokens,
        max_batch_size=MAX_BATCH_SIZE,
    )
    count = REQUESTS_PER_PLACE * row.concurrency
    draw = np.random.default_rng(0)
    shortest = protocol.shortest
    prompt = draw.integers(round(shortest * row.prompt), row.prompt, count, endpoint=True)
    output = draw.integers(round(shortest * row.output), row.output, count, endpoint=True)
    records = simulate_closed_loop(prompt, output, row.concurrency, Monolithic(pool))
    ttft = records.first_token_s - records.arrival_s
    tpot = (records.finish_s - records.first_token_s) / (output - 1)
    return float(ttft.mean()), float(tpot.mean())


def calibrate(rows: list[Row], kind: str, protocol: Protocol, folder: Path) -> Overhead:
    """Return the overheads on a grid with the least sum of mean errors of TTFT and TPOT."""
    ttft = np.array([row.ttft_s for row in rows])
    tpot = np.array([row.tpot_s for row in rows])
    found: list[tuple[float, Overhead]] = []
    for step_s, sequence_s in product(STEPS_S, SEQUENCES_S):
        overhead = (step_s, sequence_s, 0.0)
        pairs = [predict(row, latency_of(row, kind, overhead, folder), protocol) for row in rows]
        predicted = np.array(pairs)
        tpot_error = np.abs(predicted[:, 1] / tpot - 1).mean()
        for request_s in REQUESTS_S:
            ttft_error = np.abs((predicted[:, 0] + request_s) / ttft - 1).mean()
            found.append((float(ttft_error + tpot_error), (step_s, sequence_s, request_s)))
    return min(found)[1]


def held_out(
    rows: list[Row], kind: str, protocol: Protocol, folder: Path
) -> tuple[Overhead, Overhead, float, float]:
    """Return the overheads of each half of the rows, and the errors they make on the other half.

    Errors are means of absolute relative errors of TTFT and of TPOT.
    """
    found: list[Overhead] = []
    errors: list[tuple[float, float]] = []
    for half in (0, 1):
        overhead = calibrate(rows[1 - half :: 2], kind, protocol, folder)
        found.append(overhead)
        for row in rows[half::2]:
            ttft_s, tpot_s = predict(row, latency_of(row, kind, overhead, folder), protocol)
            ttft_error = (ttft_s + overhead[2]) / row.ttft_s - 1
            errors.append((abs(ttft_error), abs(tpot_s / row.tpot_s - 1)))
    ttft, tpot = np.mean(errors, axis=0)
    return found[0], found[1], float(ttft), float(tpot)


@dataclass(frozen=True)
class Outcome:
    """A row as simulated."""

    row: Row
    ttft_s: float
    tpot_s: float

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors of TTFT and TPOT."""
        return self.ttft_s / self.row.ttft_s - 1, self.tpot_s / self.row.tpot_s - 1

    @property
    def group(self) -> str:
        """What was measured."""
        row = self.row
        return f"{row.model} {row.precision}, vLLM {row.version or '(unstated)'}"


def simulate_rows(
    rows: list[Row], kind: str, protocol: str, folder: Path
) -> tuple[list[Outcome], Counter[str]]:
    """Return the simulated rows, and why the others cannot be simulated."""
    outcomes: list[Outcome] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        overhead = OVERHEADS[protocol][row.version]
        try:
            latency = latency_of(row, kind, overhead, folder)
        except InvalidParameterError as error:
            left_out[str(error)] += 1
            continue
        ttft_s, tpot_s = predict(row, latency, PROTOCOLS[protocol][row.version])
        outcomes.append(Outcome(row, ttft_s + overhead[2], tpot_s))
    return outcomes, left_out


def groups(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes by what was measured, then all of them."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.group].append(outcome)
    return {**found, "all": outcomes}


def sizes(outcomes: list[Outcome]) -> tuple[float, float, float, float]:
    """Return mean and median absolute error of TTFT, then of TPOT, percent."""
    size = 100 * np.abs([outcome.errors for outcome in outcomes])
    means, medians = size.mean(axis=0), np.median(size, axis=0)
    return float(means[0]), float(medians[0]), float(means[1]), float(medians[1])


def markdown(rows: list[Row], left_out: Counter[str], kind: str, folder: Path) -> str:
    """Return the accuracy of every latency model, and a table of all rows of one, as a page."""
    lines = ["<!-- made by benchmarks/validate_measured.py -->", ""]
    lines += ["| latency model | protocol | rows | of | TTFT mean | median | TPOT mean | median |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    by_run: dict[tuple[str, str], list[Outcome]] = {}
    for protocol in PROTOCOLS:
        for model in LATENCIES:
            outcomes, missing = simulate_rows(rows, model, protocol, folder)
            left_out += Counter({f"{model}: {why}": n for why, n in missing.items()})
            by_run[model, protocol] = outcomes
            for name, part in groups(outcomes).items() if outcomes else ():
                percent = " | ".join(f"{value:.1f} %" for value in sizes(part))
                lines.append(f"| {model} | {protocol} | {len(part)} | {name} | {percent} |")
    lines += [
        "",
        f"Every row with `{kind}`, protocol `stated`; milliseconds, measured in brackets.",
        "",
    ]
    lines += ["| model | TP | prompt | output | in flight | TTFT | error | TPOT | error |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for outcome in by_run[kind, "stated"]:
        row, (ttft, tpot) = outcome.row, outcome.errors
        lines.append(
            f"| {row.model.rpartition('/')[2]} {row.precision} | {row.tensor_parallel} "
            f"| {row.prompt} | {row.output} | {row.concurrency} "
            f"| {1e3 * outcome.ttft_s:.0f} ({1e3 * row.ttft_s:.0f}) | {100 * ttft:+.0f} % "
            f"| {1e3 * outcome.tpot_s:.1f} ({1e3 * row.tpot_s:.1f}) | {100 * tpot:+.0f} % |"
        )
    lines += ["", *(f"Not simulated: {count} rows, {why}." for why, count in left_out.items()), ""]
    return "\n".join(lines)


def report(outcomes: list[Outcome], left_out: Counter[str], quiet: bool) -> None:
    """Print every row unless `quiet`, then the errors."""
    if not quiet:
        print("model precision TP prompt/output concurrency: TTFT ms (error) TPOT ms (error)")
        for outcome in outcomes:
            row, (ttft, tpot) = outcome.row, outcome.errors
            print(
                f"{row.model} {row.precision} TP{row.tensor_parallel} "
                f"{row.prompt}/{row.output} x{row.concurrency}: "
                f"{1e3 * outcome.ttft_s:.0f} for {1e3 * row.ttft_s:.0f} ({100 * ttft:+.0f} %) "
                f"{1e3 * outcome.tpot_s:.1f} for {1e3 * row.tpot_s:.1f} ({100 * tpot:+.0f} %)"
            )
    for reason, count in left_out.items():
        print(f"not simulated: {count} rows, {reason}")
    for name, part in groups(outcomes).items():
        ttft_mean, ttft_median, tpot_mean, tpot_median = sizes(part)
        print(
            f"{name}: {len(part)} rows, mean absolute error TTFT {ttft_mean:.1f} % "
            f"(median {ttft_median:.1f} %), TPOT {tpot_mean:.1f} % (median {tpot_median:.1f} %)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path)
    parser.add_argument("--latency", choices=LATENCIES, default="roofline")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="stated")
    parser.add_argument("--calibrate", action="store_true", help="print the best overheads")
    parser.add_argument(
        "--held-out", action="store_true", help="fit overheads to half of the rows, test on half"
    )
    parser.add_argument("--quiet", action="store_true", help="no line per row")
    parser.add_argument("--output", type=Path, help="write a Markdown page of all of it instead")
    options = parser.parse_args()
    rows, left_out = read(options.measured)
    protocols = PROTOCOLS[options.protocol]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.output:
            page = markdown(rows, left_out, options.latency, folder)
            options.output.write_text(page, encoding="utf-8")
            return
        if options.held_out:
            for version, protocol in protocols.items():
                part = [row for row in rows if row.version == version]
                first, second, ttft, tpot = held_out(part, options.latency, protocol, folder)
                print(
                    f"{version or '(unstated)'}: overheads {first} and {second}, "
                    f"error on the other half TTFT {100 * ttft:.1f} %, TPOT {100 * tpot:.1f} %"
                )
            return
        if options.calibrate:
            for version, protocol in protocols.items():
                part = [row for row in rows if row.version == version]
                print(version or "(unstated)", calibrate(part, options.latency, protocol, folder))
            return
        print(f"{options.latency}, protocol {options.protocol}: {protocols}")
        overheads = OVERHEADS[options.protocol]
        print(f"overheads (seconds a step, a sequence, a request): {overheads}")
        outcomes, missing = simulate_rows(rows, options.latency, options.protocol, folder)
        report(outcomes, left_out + missing, options.quiet)


if __name__ == "__main__":
    main()
