"""Simulate every measured closed-loop row that the latency models cover, and report the errors.

    python benchmarks/validate_measured.py MEASURED.csv [--latency roofline|affine|aiconfigurator]
        [--protocol published|default_batch|spread_lengths] [--calibrate] [--held-out] [--quiet]
        [--output PAGE.md]

The benchmark sends 10 requests per place in flight; a `Protocol` says of what lengths, and how much
fits a batch. `OVERHEADS` describes each engine version by two constants, and one front end of two
constants serves all of them; `--calibrate` shows how they were found. Nothing is tuned per row.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from simlib.core.batching import FrontEnd
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.aiconfigurator import build_latency_table
from simlib.latency.models import latency_model
from simlib.latency.protocol import LatencyModel
from simlib.serving.deployment import Pool, monolithic
from simlib.serving.engine import simulate
from simlib.workload.requests import Requests

LATENCIES = ("roofline", "affine", "aiconfigurator")
REQUESTS_PER_PLACE = 10
DEFAULT_BATCH_TOKENS = 8192
"""vLLM's default for a server on a GPU of 80 GB."""


@dataclass(frozen=True)
class Protocol:
    """How a benchmark was run, as far as its rows do not say."""

    shortest: float
    """Lengths are uniform between this share of nominal and nominal."""
    spare_tokens: int | None = None
    """Tokens of a batch beyond one prompt and a token of each request; None: vLLM's default."""
    memory_fraction: float = 0.9
    """Share of the memory the engine uses; the default is vLLM's."""

    def max_batch_tokens(self, row: Row) -> int:
        """Return the tokens of a batch of the server that was measured."""
        if self.spare_tokens is None:
            return DEFAULT_BATCH_TOKENS
        return row.concurrency + row.prompt + self.spare_tokens


INFERENCE_MAX = Protocol(0.8)
"""InferenceMAX's published client and server settings; its sweep is that of the 70B rows."""
AICONFIGURATOR = Protocol(1.0, 1500)
"""aiconfigurator's published benchmark client (`genai_perf_runner.py`: lengths without spread, ten
requests per place) and its benchmark rules for vLLM (`rule_plugin/benchmark/vllm.rule`)."""
PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "published": {"0.12.0": AICONFIGURATOR, "": INFERENCE_MAX},
    # what the rows of 0.12.0 would have been without the benchmark rules, or with other lengths
    "default_batch": {"0.12.0": Protocol(1.0), "": INFERENCE_MAX},
    "spread_lengths": {"0.12.0": Protocol(0.8), "": INFERENCE_MAX},
}
Candidate = TypeVar("Candidate")
Overhead = tuple[float, float]
"""Seconds per step, and per sequence and step."""
OVERHEADS: dict[str, Overhead] = {"0.12.0": (1.5e-3, 5e-5), "": (5e-4, 3.5e-5)}
"""By engine version."""
FRONT_END = FrontEnd(request_s=3e-3, token_s=2e-6)
VARIANTS: dict[str, tuple[Protocol, FrontEnd]] = {
    "no front end": (AICONFIGURATOR, FrontEnd()),
    "1,000 tokens to spare in a batch, not 1,500": (Protocol(1.0, 1000), FRONT_END),
    "2,000 tokens to spare in a batch": (Protocol(1.0, 2000), FRONT_END),
    "85 % of the memory used, not 90 %": (Protocol(1.0, 1500, 0.85), FRONT_END),
}
"""What if the rows of 0.12.0 had been measured otherwise; only shown."""
STEPS_S = (0.0, 5e-4, 1e-3, 1.5e-3, 2e-3, 2.5e-3)
SEQUENCES_S = (0.0, 2e-5, 3.5e-5, 5e-5, 6.5e-5)
REQUESTS_S = (0.0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2e-2)
TOKENS_S = (0.0, 1e-6, 2e-6, 3e-6, 4e-6, 6e-6, 1e-5)


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


def capacity_of(row: Row, memory_fraction: float) -> int:
    """Return the tokens of KV cache of a row's deployment."""
    return catalog.kv_capacity_tokens(
        catalog.model(row.model),
        catalog.gpu(row.gpu),
        row.tensor_parallel,
        precision=row.precision,
        memory_fraction=memory_fraction,
    )


def is_short(row: Row) -> bool:
    """Return whether the requests in flight would not all fit the KV cache at nominal lengths."""
    capacity = capacity_of(row, PROTOCOLS["published"][row.version].memory_fraction)
    return row.concurrency * (row.prompt + row.output) > capacity


def predict(
    row: Row, latency: LatencyModel, protocol: Protocol, front_end: FrontEnd
) -> tuple[float, float]:
    """Return mean TTFT and TPOT of a simulated row."""
    pool = Pool.of(
        latency,
        kv_capacity_tokens=capacity_of(row, protocol.memory_fraction),
        max_batch_tokens=protocol.max_batch_tokens(row),
        max_batch_size=row.concurrency,
    )
    count = REQUESTS_PER_PLACE * row.concurrency
    draw = np.random.default_rng(0)
    shortest = protocol.shortest
    prompt = draw.integers(round(shortest * row.prompt), row.prompt, count, endpoint=True)
    output = draw.integers(round(shortest * row.output), row.output, count, endpoint=True)
    deployment = monolithic(pool, front_end=front_end)
    records = simulate(
        Requests(np.zeros(count), prompt, output), deployment, concurrency=row.concurrency
    )
    ttft = records.first_token_s - records.arrival_s
    tpot = (records.finish_s - records.first_token_s) / (output - 1)
    return float(ttft.mean()), float(tpot.mean())


@dataclass(frozen=True)
class Engine:
    """All that is fitted: the overheads of each engine version, and the front end of all."""

    overheads: dict[str, Overhead]
    front_end: FrontEnd


FITTED = Engine(OVERHEADS, FRONT_END)


def calibrate(
    rows: Sequence[Row], kind: str, protocols: dict[str, Protocol], folder: Path
) -> Engine:
    """Return the constants on a grid: overheads by the error of TPOT, the front end by TTFT's."""

    def tpot_error(overhead: Overhead, version: str) -> float:
        part = [row for row in rows if row.version == version]
        engine = Engine({version: overhead}, FRONT_END)
        return sizes(simulate_rows(part, kind, protocols, folder, engine)[0])[2]

    def ttft_error(front_end: FrontEnd) -> float:
        engine = Engine(overheads, front_end)
        return sizes(simulate_rows(rows, kind, protocols, folder, engine)[0])[0]

    overheads: dict[str, Overhead] = {}
    for version in sorted({row.version for row in rows}):
        pairs = list(product(STEPS_S, SEQUENCES_S))
        overheads[version] = best(pairs, partial(tpot_error, version=version))
    front_ends = [
        FrontEnd(request_s=request_s, token_s=token_s)
        for request_s, token_s in product(REQUESTS_S, TOKENS_S)
    ]
    return Engine(overheads, best(front_ends, ttft_error))


def best(candidates: Sequence[Candidate], error: Callable[[Candidate], float]) -> Candidate:
    """Return the candidate of the least error."""
    return candidates[int(np.argmin([error(candidate) for candidate in candidates]))]


def held_out(
    rows: Sequence[Row], kind: str, protocols: dict[str, Protocol], folder: Path
) -> tuple[list[Engine], list[Outcome]]:
    """Return the constants of each half of the rows, and the other half simulated with them."""
    engines: list[Engine] = []
    outcomes: list[Outcome] = []
    for half in (0, 1):
        engine = calibrate(rows[1 - half :: 2], kind, protocols, folder)
        engines.append(engine)
        outcomes += simulate_rows(rows[half::2], kind, protocols, folder, engine)[0]
    return engines, outcomes


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
    rows: Sequence[Row],
    kind: str,
    protocols: dict[str, Protocol],
    folder: Path,
    engine: Engine = FITTED,
) -> tuple[list[Outcome], Counter[str]]:
    """Return the simulated rows, and why the others cannot be simulated."""
    outcomes: list[Outcome] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            latency = latency_of(row, kind, engine.overheads[row.version], folder)
        except InvalidParameterError as error:
            left_out[str(error)] += 1
            continue
        times = predict(row, latency, protocols[row.version], engine.front_end)
        outcomes.append(Outcome(row, *times))
    return outcomes, left_out


def groups(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes by what was measured and by KV cache, then all of them."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.group].append(outcome)
    for outcome in outcomes:
        found["short of KV cache" if is_short(outcome.row) else "KV cache to spare"].append(outcome)
    return {**found, "all": outcomes}


def sizes(outcomes: list[Outcome]) -> tuple[float, float, float, float]:
    """Return mean and median absolute error of TTFT, then of TPOT, percent."""
    size = 100 * np.abs([outcome.errors for outcome in outcomes])
    means, medians = size.mean(axis=0), np.median(size, axis=0)
    return float(means[0]), float(medians[0]), float(means[1]), float(medians[1])


def patterns(outcomes: list[Outcome]) -> list[str]:
    """Return a table of the signed mean error by every column of a row."""
    columns: dict[str, Callable[[Row], object]] = {
        "model": lambda row: row.model.rpartition("/")[2],
        "tensor parallelism": lambda row: row.tensor_parallel,
        "prompt tokens": lambda row: row.prompt,
        "output tokens": lambda row: row.output,
        "in flight": lambda row: row.concurrency,
    }
    lines = ["| by | | rows | TTFT bias | TTFT error | TPOT bias | TPOT error |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, column in columns.items():
        found: dict[object, list[tuple[float, float]]] = defaultdict(list)
        for outcome in outcomes:
            found[column(outcome.row)].append(outcome.errors)
        for value, pairs in sorted(found.items(), key=lambda item: item[0]):  # type: ignore[arg-type,return-value]
            bias = 100 * np.mean(pairs, axis=0)
            size = 100 * np.abs(pairs).mean(axis=0)
            lines.append(
                f"| {name} | {value} | {len(pairs)} | {bias[0]:+.1f} % | {size[0]:.1f} % "
                f"| {bias[1]:+.1f} % | {size[1]:.1f} % |"
            )
    return lines


def variants(rows: list[Row], kind: str, folder: Path) -> list[str]:
    """Return a table of the errors that other settings than the published ones give."""
    lines = ["| variant | TTFT, rows of 0.12.0 | TTFT, short of KV cache | TPOT, rows of 0.12.0 |"]
    lines += ["|---|---|---|---|"]
    part = [row for row in rows if row.version == "0.12.0"]
    for name, (protocol, front_end) in {
        "as published": (AICONFIGURATOR, FRONT_END),
        **VARIANTS,
    }.items():
        engine = Engine(OVERHEADS, front_end)
        outcomes, _ = simulate_rows(part, kind, {"0.12.0": protocol}, folder, engine)
        ttft, _, tpot, _ = sizes(outcomes)
        short = sizes(groups(outcomes)["short of KV cache"])[0]
        lines.append(f"| {name} | {ttft:.1f} % | {short:.1f} % | {tpot:.1f} % |")
    return lines


def markdown(rows: list[Row], left_out: Counter[str], kind: str, folder: Path) -> str:
    """Return the accuracy of every latency model, and a table of all rows of one, as a page."""
    lines = ["<!-- made by benchmarks/validate_measured.py -->", ""]
    lines += ["| latency model | protocol | rows | of | TTFT mean | median | TPOT mean | median |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    by_run: dict[tuple[str, str], list[Outcome]] = {}
    for protocol, protocols in PROTOCOLS.items():
        for model in LATENCIES:
            outcomes, missing = simulate_rows(rows, model, protocols, folder)
            left_out += Counter({f"{model}: {why}": n for why, n in missing.items()})
            by_run[model, protocol] = outcomes
            for name, part in groups(outcomes).items() if outcomes else ():
                percent = " | ".join(f"{value:.1f} %" for value in sizes(part))
                lines.append(f"| {model} | {protocol} | {len(part)} | {name} | {percent} |")
    headline = by_run[kind, "published"]
    lines += ["", f"Errors with `{kind}`, protocol `published`, by each column of the data.", ""]
    lines += patterns(headline)
    lines += ["", f"Other settings for the rows of 0.12.0, `{kind}`.", ""]
    lines += variants(rows, kind, folder)
    lines += [
        "",
        f"Every row with `{kind}`, protocol `published`; milliseconds, measured in brackets.",
        "",
    ]
    lines += ["| model | TP | prompt | output | in flight | TTFT | error | TPOT | error |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for outcome in headline:
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
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="published")
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
            engines, outcomes = held_out(rows, options.latency, protocols, folder)
            print(*engines, sep="\n")
            report(outcomes, left_out, quiet=True)
            return
        if options.calibrate:
            print(calibrate(rows, options.latency, protocols, folder))
            return
        print(f"{options.latency}, protocol {options.protocol}: {protocols}")
        print(FITTED)
        outcomes, missing = simulate_rows(rows, options.latency, protocols, folder)
        report(outcomes, left_out + missing, options.quiet)


if __name__ == "__main__":
    main()
