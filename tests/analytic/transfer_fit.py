"""Seconds a KV cache takes from one replica to another: base latency plus bytes by bandwidth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simlib.errors import InvalidParameterError


@dataclass(frozen=True, slots=True)
class TransferModel:
    """Transfer of a KV cache over an idle link: ``base_latency_s + bytes / bytes_per_s``."""

    base_latency_s: float
    """Seconds of a transfer of nothing."""
    bytes_per_s: float
    """Bandwidth that all transfers of the link share."""

    def __post_init__(self) -> None:
        if not 0 <= self.base_latency_s < math.inf:
            raise InvalidParameterError("base_latency_s", self.base_latency_s, "finite and >= 0")
        if not self.bytes_per_s > 0:
            raise InvalidParameterError("bytes_per_s", self.bytes_per_s, "> 0")

    def seconds(self, tokens: float, kv_bytes_per_token: float) -> float:
        """Return the seconds to move the KV cache of so many tokens."""
        return self.base_latency_s + tokens * kv_bytes_per_token / self.bytes_per_s


def fit_transfer(size_bytes: Sequence[float], seconds: Sequence[float]) -> TransferModel:
    """Fit base latency and bandwidth to measured transfers by least relative squares.

    Parameters
    ----------
    size_bytes, seconds : sequences of equal length
        Bytes moved and seconds taken, one entry per measured transfer.

    Returns
    -------
    TransferModel
        Least sum of squared relative errors, the base latency not below 0.

    Raises
    ------
    InvalidParameterError
        If there are fewer than two sizes, a time is not above 0, or more bytes take less time.
    """
    if len(set(size_bytes)) < 2 or len(size_bytes) != len(seconds):
        raise InvalidParameterError("size_bytes", len(size_bytes), "2 or more sizes, one per time")
    if min(seconds) <= 0:
        raise InvalidParameterError("seconds", min(seconds), "> 0")
    weights = [1 / time**2 for time in seconds]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, size_bytes, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, seconds, strict=True)) / total
    pairs = list(zip(weights, size_bytes, seconds, strict=True))
    covariance = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in pairs)
    slope = covariance / sum(w * (x - mean_x) ** 2 for w, x, _ in pairs)
    base = mean_y - slope * mean_x
    if base < 0:  # through the origin instead
        base = 0.0
        slope = sum(w * x * y for w, x, y in pairs) / sum(w * x * x for w, x, _ in pairs)
    if slope <= 0:
        raise InvalidParameterError("seconds", list(seconds), "longer for more bytes")
    return TransferModel(base, 1 / slope)
