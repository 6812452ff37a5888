"""The requests of one run, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simlib.errors import InvalidParameterError


@dataclass(frozen=True, slots=True)
class Requests:
    """All requests of a run in order of arrival; three columns of one length."""

    arrival_s: NDArray[np.float64]
    """Arrival times in seconds since the run's start, not decreasing."""
    prompt_tokens: NDArray[np.int64]
    """Prompt lengths, at least 1."""
    output_tokens: NDArray[np.int64]
    """Output lengths, at least 1."""

    def __post_init__(self) -> None:
        """Refuse columns that no run can have."""
        lengths = {len(self.arrival_s), len(self.prompt_tokens), len(self.output_tokens)}
        if len(lengths) != 1:
            raise InvalidParameterError("requests", sorted(lengths), "columns of one length")
        if len(self) == 0:
            return
        if np.isnan(self.arrival_s).any() or (np.diff(self.arrival_s) < 0).any():
            raise InvalidParameterError("arrival_s", "unsorted times", "in order of arrival")
        if self.arrival_s[0] < 0:
            raise InvalidParameterError("arrival_s", float(self.arrival_s[0]), ">= 0")
        for name in ("prompt_tokens", "output_tokens"):
            smallest = int(getattr(self, name).min())
            if smallest < 1:
                raise InvalidParameterError(name, smallest, ">= 1")

    def __len__(self) -> int:
        return len(self.arrival_s)
