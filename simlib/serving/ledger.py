"""The columns of one run while it is simulated: requests read, stamps written."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from simlib.core.records import RequestRecords, Status, records_of
from simlib.serving.deployment import Deployment, Monolithic
from simlib.workload.requests import Requests


def refused(requests: Requests, deployment: Deployment) -> NDArray[np.bool_]:
    """Return which requests can never fit, though alone on a replica.

    A replica that decodes must hold prompt and output, but for a last token that no step reads;
    a prefill replica the prompt.
    """
    prompt = requests.prompt_tokens
    if isinstance(deployment, Monolithic):
        pool = deployment.pool
        held = prompt + decode_steps(requests, deployment)
        return np.asarray(-(-held // pool.block_tokens) > pool.capacity_blocks)
    first, second = deployment.prefill, deployment.decode
    held = prompt + requests.output_tokens
    return np.asarray(
        (-(-prompt // first.block_tokens) > first.capacity_blocks)
        | (-(-held // second.block_tokens) > second.capacity_blocks)
    )


def decode_steps(requests: Requests, deployment: Deployment) -> NDArray[np.int64]:
    """Return the decode steps of each request: its tokens that the prefill does not emit."""
    prefill_emits = isinstance(deployment, Monolithic) and deployment.first_token == "prefill"
    return requests.output_tokens - int(prefill_emits)


class Ledger:
    """What the replicas of one run share: lists to read from, compact columns to stamp."""

    __slots__ = (
        "arrival",
        "decode_replica",
        "decode_start",
        "finish",
        "first_token",
        "preemptions",
        "prefill_end",
        "prefill_replica",
        "prefill_start",
        "prompt",
        "steps",
        "transfer_end",
        "transfer_start",
    )

    def __init__(self, requests: Requests, deployment: Deployment) -> None:
        n = len(requests)
        self.arrival: list[float] = requests.arrival_s.tolist()
        self.prompt: list[int] = requests.prompt_tokens.tolist()
        self.steps: list[int] = decode_steps(requests, deployment).tolist()
        never = np.full(n, np.nan).tobytes()
        self.prefill_start = array("d", never)
        self.prefill_end = array("d", never)
        self.finish = array("d", never)
        prefill_emits = isinstance(deployment, Monolithic) and deployment.first_token == "prefill"
        self.decode_start = array("d", b"" if prefill_emits else never)
        self.first_token = array("d", b"" if prefill_emits else never)
        apart = not isinstance(deployment, Monolithic)
        self.transfer_start = array("d", never if apart else b"")
        self.transfer_end = array("d", never if apart else b"")
        nowhere = np.full(n, -1, np.int32).tobytes()
        self.prefill_replica = array("i", nowhere)
        self.decode_replica = array("i", nowhere if apart else b"")
        self.preemptions = array("i", bytes(4 * n))

    def tokens(self, request: int) -> int:
        """Return the tokens that a request has where it decodes: prompt and decode steps."""
        return self.prompt[request] + self.steps[request]

    def records(self, requests: Requests, lost: NDArray[np.bool_]) -> RequestRecords:
        """Return the columns as records; `lost` requests were refused."""
        prefill_end = np.frombuffer(self.prefill_end)

        def column(stamps: array[float]) -> NDArray[np.float64]:
            return np.frombuffer(stamps) if len(stamps) else prefill_end

        finish = np.frombuffer(self.finish)
        status = np.where(np.isnan(finish), np.int8(Status.UNFINISHED), np.int8(Status.FINISHED))
        status[lost] = Status.REJECTED
        prefill_replica = np.frombuffer(self.prefill_replica, np.int32)
        return records_of(
            requests,
            {
                "prefill_start_s": np.frombuffer(self.prefill_start),
                "prefill_end_s": prefill_end,
                "transfer_start_s": column(self.transfer_start),
                "transfer_end_s": column(self.transfer_end),
                "decode_start_s": column(self.decode_start),
                "first_token_s": column(self.first_token),
                "finish_s": finish,
                "prefill_replica": prefill_replica,
                "decode_replica": (
                    np.frombuffer(self.decode_replica, np.int32)
                    if len(self.decode_replica)
                    else prefill_replica
                ),
                "preemptions": np.frombuffer(self.preemptions, np.int32),
                "status": status.astype(np.int8),
            },
        )
