"""Per-request records, and everything that is derived from them.

Engines stamp times; all that is reported (waits, TTFT, TPOT, utilisation) is a pure function of
the stamps, so a definition can change without simulating again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError
from simlib.workload.requests import Requests

Floats = NDArray[np.float64]
TtftDefinition = Literal["first_decode_step", "prefill_end", "transfer_end"]
TTFT_DEFINITIONS: tuple[TtftDefinition, ...] = get_args(TtftDefinition)
TTFT_PARTS = (
    "front_end_s",
    "prefill_wait_s",
    "prefill_s",
    "transfer_wait_s",
    "transfer_s",
    "decode_wait_s",
    "first_decode_step_s",
)
TTFT_PARTS_OF: dict[str, tuple[str, ...]] = {
    "prefill_end": TTFT_PARTS[: TTFT_PARTS.index("prefill_s") + 1],
    "transfer_end": TTFT_PARTS[: TTFT_PARTS.index("transfer_s") + 1],
    "first_decode_step": TTFT_PARTS,
}
"""The parts that sum to the TTFT of each definition."""


class Status(IntEnum):
    """How a request ended."""

    FINISHED = 0
    UNFINISHED = 1
    REJECTED = 2


@dataclass(frozen=True, slots=True)
class RequestRecords:
    """Columns of one run, a row per request in order of arrival.

    Times are seconds since the run's start, NaN where the event did not happen. In a monolithic
    run the transfer has no length and no wait, and decode_replica equals prefill_replica.
    """

    request_id: NDArray[np.int64]
    arrival_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    routed_s: Floats
    """When the router got the request: on arrival, or once a front end had read it."""
    prefill_start_s: Floats
    prefill_end_s: Floats
    transfer_start_s: Floats
    transfer_end_s: Floats
    decode_start_s: Floats
    first_token_s: Floats
    finish_s: Floats
    prefill_replica: NDArray[np.int32]
    """Index of the replica within its pool, -1 where the request never started."""
    decode_replica: NDArray[np.int32]
    preemptions: NDArray[np.int32]
    status: NDArray[np.int8]
    """A `Status` value."""

    def __len__(self) -> int:
        return len(self.request_id)

    def select(self, mask: NDArray[np.bool_]) -> RequestRecords:
        """Return the rows where `mask` is true."""
        return RequestRecords(**{name: column[mask] for name, column in self.columns().items()})

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


COLUMN_NAMES = tuple(field.name for field in fields(RequestRecords))
TIME_STAMPS = (
    "routed_s",
    "prefill_start_s",
    "prefill_end_s",
    "transfer_start_s",
    "transfer_end_s",
    "decode_start_s",
    "first_token_s",
    "finish_s",
)


def records_of(requests: Requests, stamps: Mapping[str, NDArray[Any]]) -> RequestRecords:
    """Join a run's requests with what an engine stamped on them.

    Columns that `stamps` leaves out take the value of a request that simply finished.
    """
    n = len(requests)
    optional = {
        "prefill_replica": np.int32,
        "decode_replica": np.int32,
        "preemptions": np.int32,
        "status": np.int8,
    }
    defaults: dict[str, NDArray[Any]] = {
        name: np.zeros(n, kind) for name, kind in optional.items() if name not in stamps
    }
    defaults["routed_s"] = requests.arrival_s
    return RequestRecords(
        request_id=np.arange(n, dtype=np.int64),
        arrival_s=requests.arrival_s,
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens,
        **{**defaults, **stamps},
    )


def cut_at(records: RequestRecords, end_s: float) -> RequestRecords:
    """Return what an observer sees who stops watching at `end_s`: the run without a drain.

    Events at or after `end_s` did not happen; requests without a finish are unfinished.
    """
    changes: dict[str, NDArray[Any]] = {}
    for name in TIME_STAMPS:
        stamps = getattr(records, name)
        changes[name] = np.where(stamps < end_s, stamps, np.nan)
    lost = (records.status == Status.FINISHED) & np.isnan(changes["finish_s"])
    changes["status"] = np.where(lost, np.int8(Status.UNFINISHED), records.status)
    for replica, start in (
        ("prefill_replica", "prefill_start_s"),
        ("decode_replica", "decode_start_s"),
    ):
        started = ~np.isnan(changes[start])
        changes[replica] = np.where(started, getattr(records, replica), np.int32(-1))
    return replace(records, **changes)


def in_window(records: RequestRecords, start_s: float, end_s: float) -> NDArray[np.bool_]:
    """Return which requests count: those that arrive in [start_s, end_s)."""
    arrival_s = records.arrival_s
    return np.logical_and(arrival_s >= start_s, arrival_s < end_s)


def ttft_s(records: RequestRecords, definition: TtftDefinition = "first_decode_step") -> Floats:
    """Return the time to first token of each request in seconds, NaN where there was none.

    ``first_decode_step`` ends when the decode side emits the first token (the default),
    ``prefill_end`` when the prefill has computed it, ``transfer_end`` when the KV cache has
    reached the decode side.
    """
    if definition not in TTFT_DEFINITIONS:
        raise InvalidParameterError(
            "ttft_definition", definition, "one of " + ", ".join(TTFT_DEFINITIONS)
        )
    end = {
        "first_decode_step": records.first_token_s,
        "prefill_end": records.prefill_end_s,
        "transfer_end": records.transfer_end_s,
    }[definition]
    return end - records.arrival_s


def ttft_parts(records: RequestRecords) -> dict[str, Floats]:
    """Return the parts of ``first_decode_step`` TTFT, in seconds; they sum to it exactly."""
    stamps = (
        records.arrival_s,
        records.routed_s,
        records.prefill_start_s,
        records.prefill_end_s,
        records.transfer_start_s,
        records.transfer_end_s,
        records.decode_start_s,
        records.first_token_s,
    )
    return {name: stamps[i + 1] - stamps[i] for i, name in enumerate(TTFT_PARTS)}


def tpot_s(records: RequestRecords) -> Floats:
    """Return the mean time per output token after the first, NaN for one-token outputs."""
    gaps = (records.output_tokens - 1).astype(np.float64)
    gaps[gaps == 0] = np.nan
    return (records.finish_s - records.first_token_s) / gaps


def e2e_s(records: RequestRecords) -> Floats:
    """Return the time from arrival to the last token, in seconds."""
    return records.finish_s - records.arrival_s


def busy_s(start: Floats, end: Floats, window: tuple[float, float]) -> float:
    """Return the total length of the intervals [start, end) inside `window`, in seconds.

    An interval without a start counts nothing; one without an end lasts to the window's end.
    """
    low, high = window
    clipped = np.minimum(np.nan_to_num(end, nan=np.inf), high) - np.maximum(start, low)
    return float(np.nansum(np.maximum(clipped, 0.0)))


def active_s(
    start: Floats, end: Floats, replica: NDArray[np.int32], window: tuple[float, float]
) -> float:
    """Return for how long replicas hold at least one interval [start, end), summed over replicas.

    As `busy_s`, but intervals that overlap on a replica count once: a batch is one occupation.
    """
    low, high = window
    begin = np.maximum(start, low)
    finish = np.minimum(np.nan_to_num(end, nan=np.inf), high)
    kept = begin < finish  # also leaves out what never started
    order = np.lexsort((begin[kept], replica[kept]))
    begin, finish, replica = begin[kept][order], finish[kept][order], replica[kept][order]
    total = 0.0
    for index in np.unique(replica):
        mine = replica == index
        reached = np.maximum.accumulate(finish[mine])
        before = np.concatenate([[low], reached[:-1]])
        total += float(np.sum(np.maximum(reached - np.maximum(begin[mine], before), 0.0)))
    return total
