"""The order in which a pool's replicas take waiting requests: a key per request, smallest first.

Ties go to the lower request number. The running request with the largest key is the first to be
preempted. A new discipline is a function and an entry in `DISCIPLINES`; the engine compiles the
function (Numba).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple


class RequestView(NamedTuple):
    """What a discipline may see of a request."""

    entered: int
    """How many requests came to the pool before it."""
    arrival_s: float
    prompt_tokens: int
    ttft_slo_s: float
    """Seconds from arrival to the TTFT deadline of its class."""
    priority: int
    """Priority of its class, the smallest served first."""


class Discipline(NamedTuple):
    """A queue discipline."""

    key: Callable[[Any], float]
    """Return what waiting requests are sorted by, from a `RequestView`."""
    class_key: str | None = None
    """What it reads of the request's class, if anything."""


def fcfs(request: RequestView) -> float:
    """First come, first served."""
    return float(request.entered)


def sjf(request: RequestView) -> float:
    """Shortest prompt first."""
    return float(request.prompt_tokens)


def edf(request: RequestView) -> float:
    """Earliest deadline of the first token first."""
    return request.arrival_s + request.ttft_slo_s


def priority(request: RequestView) -> float:
    """Smallest priority first, as in vLLM; within one, in order of arrival."""
    return float(request.priority)


DISCIPLINES: dict[str, Discipline] = {
    "fcfs": Discipline(fcfs),
    "sjf": Discipline(sjf),
    "edf": Discipline(edf, "ttft_slo_s"),
    "priority": Discipline(priority, "priority"),
}

if TYPE_CHECKING:
    DisciplineName = str
else:
    DisciplineName = Literal[tuple(DISCIPLINES)]
