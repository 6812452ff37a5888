"""The CSV file of each request's TTFT that `simulate` writes on request."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from simlib.core.config import SimConfig
from simlib.core.records import (
    TTFT_PARTS,
    RequestRecords,
    Status,
    in_window,
    ttft_parts,
    ttft_s,
)
from simlib.files import replacing

HEADER = (
    "request_id",
    "arrival_s",
    "ttft_s",
    *TTFT_PARTS,
    "prompt_tokens",
    "output_tokens",
    "status",
)


def write_ttft(path: Path, records: RequestRecords, config: SimConfig) -> None:
    """Write a row per request that counts, in order of arrival, whole or not at all.

    ``ttft_s`` follows the configuration's definition; the six parts sum to TTFT as
    ``first_decode_step`` defines it. What did not happen is empty. Numbers are written in full,
    so reading them gives the same values.
    """
    counted = records.select(in_window(records, config.warmup_seconds, config.sim_seconds))
    parts = ttft_parts(counted)
    status = {int(value): value.name.lower() for value in Status}
    columns: list[list[Any]] = [
        counted.request_id.tolist(),
        counted.arrival_s.tolist(),
        _filled(ttft_s(counted, config.ttft_definition).tolist()),
        *(_filled(parts[name].tolist()) for name in TTFT_PARTS),
        counted.prompt_tokens.tolist(),
        counted.output_tokens.tolist(),
        [status[value] for value in counted.status.tolist()],
    ]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(zip(*columns, strict=True))


def _filled(values: list[float]) -> list[float | str]:
    """Return `values` with empty texts for NaN."""
    return ["" if math.isnan(value) else value for value in values]
