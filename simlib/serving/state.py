"""The state of a run: a few arrays, one line a field. All times are seconds since the run's start.

Nothing else is kept anywhere: a run can be stopped between two events and gone on with later.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

NOBODY: Final = -1
"""No request: an empty queue, or the end of one."""

RUN = np.dtype(
    [
        ("now_s", "f8"),  # time of the last event
        ("upcoming", "i8"),  # next request to arrive
        ("sent", "i8"),  # requests that were sent; these have an arrival time
        ("vacant", "i8"),  # closed loop: requests to send now; else those that have ended
        ("starting", "i8"),  # replicas that start an iteration once all of this time has happened
        ("first_link", "i8"),  # calendar places: replicas before it, then links
        ("transfers", "i8"),  # … then the next end of a transfer
        ("reading", "i8"),  # … then the next request through the front end
        ("arrivals", "i8"),  # … then the next arrival
        ("in_transfer", "i8"),  # heap of requests in transfer, by their end
        ("read", "i8"),  # heap of requests in the front end, by their end
        ("prefill_emits", "?"),  # whether the iteration that ends a prefill emits the first token
        ("request_s", "f8"),  # front end: seconds of a request
        ("token_s", "f8"),  # front end: seconds of a prompt token
        ("token_bytes", "f8"),  # KV cache to transfer per prompt token
        ("bandwidth", "f8"),  # of each link, bytes per second
        ("base_latency_s", "f8"),  # from a transfer's last byte to its end
        ("overlap_layers", "i8"),  # layers sent while the prefill runs
        ("fair", "?"),  # whether transfers share a link
        ("noted_until_s", "f8"),  # timeline: what begins later is not noted; -inf without one
        ("jumps", "i8"),  # timeline: rows of each table so far
        ("moves", "i8"),
        ("gaps", "i8"),
    ],
    align=True,
)

POOL = np.dtype(
    [
        ("first", "i8"),  # its first replica
        ("replicas", "i8"),
        ("max_batch_tokens", "i8"),
        ("max_batch_size", "i8"),
        ("capacity_blocks", "i8"),  # KV cache of a replica
        ("block_tokens", "i8"),
        ("router", "i8"),  # numbers of its policies, in the order of their dicts
        ("discipline", "i8"),
        ("policy", "i8"),
        ("mixes", "?"),  # whether decodes run along with prompts
        ("in_order", "?"),  # whether whoever comes later waits behind all others
        ("hands_over", "?"),  # role: only prefills, then requests move on
        ("receives", "?"),  # role: requests come with their KV cache
        ("formula", "i8"),  # number of its latency formula
        ("turn", "i8"),  # requests that its router has been asked for
        ("first_draw", "i8"),  # row of uniforms of its router, and how many
        ("draws", "i8"),
    ],
    align=True,
)

REPLICA = np.dtype(
    [
        ("pool", "i8"),
        ("start_s", "f8"),  # start of the running jump (iterations alike)
        ("end_s", "f8"),  # its end, infinite when none runs
        ("steps", "i8"),  # decode steps of the running jump; 0 if it only prefills
        ("batch", "i8"),  # sequences that decode
        ("context", "i8"),  # tokens of KV cache that they hold
        ("step", "i8"),  # decode steps done so far
        ("phase_sum", "i8"),  # sum of the phases of these sequences, see ``phases``
        ("fixed_blocks", "i8"),  # blocks of requests that do not decode: prompts, transfers
        ("joined", "i8"),  # sequences that decode next for the first time since they came
        ("ending", "i8"),  # prompts that end with the running iteration
        ("partial", "i8"),  # the prompt in progress, …
        ("before", "i8"),  # … its tokens done, …
        ("tokens", "i8"),  # … and in all
        ("waiting", "i8"),  # heap of waiting requests, by key
        ("queued", "i8"),  # how many there are
        ("unreserved", "i8"),  # those of them whose KV cache has no blocks here yet
        ("blocked", "?"),  # whether the first of them found no room, and none was freed since
        ("ready", "i8"),  # first of the transferred requests that have not joined the batch …
        ("last_ready", "i8"),  # … and the last
        ("starts", "?"),  # whether it is in the list of replicas to start
        ("decoded_s", "f8"),  # end of the last jump that decoded
        ("prefill_tokens", "i8"),  # timeline: of the running jump
        ("first_waiting", "i8"),  # timeline: requests waiting at its start
        ("first_blocks", "i8"),  # timeline: blocks held in its first iteration
    ],
    align=True,
)

REQUEST = np.dtype(
    [
        ("prompt", "i4"),  # tokens
        ("steps", "i4"),  # decode steps in all
        ("decoded", "i4"),  # decode steps done when it was preempted
        ("child", "i4"),  # links of the queue that it is in
        ("sibling", "i4"),
        ("recomputes", "?"),  # whether it was preempted, and computes its KV cache again
        ("refused", "?"),
    ],
    align=True,
)

LINK = np.dtype(
    [
        ("free_s", "f8"),  # fifo: when all bytes asked for so far have been sent
        ("last_s", "f8"),  # fair: time of the last change
        ("sent_bytes", "f8"),  # fair: what each transfer present has been sent by then
        ("active", "i8"),  # fair: transfers present
        ("first", "i8"),  # fair: heap of them, by the bytes sent when they are through
    ],
    align=True,
)

STAMPS = (
    "arrival_s",
    "routed_s",
    "prefill_start_s",
    "prefill_end_s",
    "transfer_start_s",
    "transfer_end_s",
    "decode_start_s",
    "first_token_s",
    "finish_s",
    "last_token_s",
)
"""Rows of ``stamps``, NaN where it did not happen; the last one is kept for timelines only."""
(
    ARRIVAL, ROUTED, PREFILL_START, PREFILL_END, TRANSFER_START, TRANSFER_END, DECODE_START,
    FIRST_TOKEN, FINISH, LAST_TOKEN,
) = range(len(STAMPS))  # fmt: skip
PREFILL_REPLICA, DECODE_REPLICA, PREEMPTIONS = range(3)
"""Rows of ``counts``."""

JUMP = np.dtype(
    [
        ("pool", "u1"),  # role: 0 where requests arrive, 1 where KV caches are received
        ("replica", "u4"),
        ("start_s", "f8"),
        ("end_s", "f8"),
        ("steps", "u4"),
        ("prefill_tokens", "u4"),
        ("decode_batch", "u4"),
        ("decode_context", "u4"),
        ("waiting", "u4"),
        ("first_blocks", "u4"),
        ("blocks", "u4"),
        ("left_blocks", "u4"),
    ]
)
MOVE = np.dtype(
    [
        ("pool", "u1"),
        ("running", "u1"),
        ("replica", "u4"),
        ("time_s", "f8"),
        ("before", "u4"),
        ("after", "u4"),
    ]
)
GAP = np.dtype(
    [("time_s", "f8"), ("gap_s", "f8"), ("growth_s", "f8"), ("count", "u4"), ("sequences", "u4")]
)


class State(NamedTuple):
    """All arrays of a run; records are `numpy.recarray`, R replicas, n requests."""

    run: Any
    """One `RUN`."""
    pools: Any
    """`POOL`, entry pool first."""
    replicas: Any
    """`REPLICA`, the decode pool's first: iteration ends of one time happen in this order."""
    requests: Any
    """`REQUEST`, in order of sending."""
    links: Any
    """`LINK`."""
    workers_s: NDArray[np.float64]
    """When each worker of the front end is free; empty without one."""
    stamps: NDArray[np.float64]
    """(`STAMPS`, n)."""
    counts: NDArray[np.int32]
    """(3, n): replicas and preemptions."""
    key: NDArray[np.float64]
    """(n,): what the queue that a request is in, or came from, sorts by."""
    due: NDArray[np.float64]
    """(n,): end of reading or transfer, or bytes sent on a link when it is through."""
    slo_s: NDArray[np.float64]
    """(n,): of its class; empty without classes."""
    priority: NDArray[np.int64]
    """(n,): the same."""
    uniforms: NDArray[np.float64]
    """(draws, n): of the routers that draw."""
    ends: NDArray[np.int64]
    """(R, batch): heap of decoding sequences, (step after which it is done, request) in one."""
    joined: NDArray[np.int32]
    """(R, batch): requests, see ``REPLICA.joined``."""
    ending: NDArray[np.int32]
    """(R, batch): requests, see ``REPLICA.ending``."""
    entering: NDArray[np.int32]
    """(batch,): requests that enter a pool with the running event."""
    phases: NDArray[np.int64]
    """(R, block): decoding sequences by (tokens held - steps done) modulo the block, which stays
    the same while they decode."""
    outstanding: NDArray[np.int64]
    """(2, R): requests and tokens on each replica, for routers."""
    starting: NDArray[np.int64]
    """(R,): replicas to start, ``RUN.starting`` of them."""
    parameters: NDArray[np.float64]
    """(pools, parameters): of each pool's latency formula."""
    next_s: NDArray[np.float64]
    """(places,): when the next event of each place of the calendar is due."""
    winners: NDArray[np.int64]
    """(2 places,): tournament of the places, the earliest at 1."""
    jumps: Any
    """`JUMP` rows of the timeline that have not been taken out yet."""
    moves: Any
    """`MOVE` rows."""
    gaps: Any
    """`GAP` rows."""
