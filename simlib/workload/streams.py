"""Named random streams: the same seed and replicate give the same requests to every deployment.

Streams are numbered once and for ever. A generator depends on (seed, replicate, stream) only, so
both architectures, every GPU count and every rate see the same draws (common random numbers), and
adding a stream never changes another.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Number of each random stream; never renumber."""

    ARRIVALS = 0
    PROMPT_TOKENS = 1
    OUTPUT_TOKENS = 2
    ROUTING = 3
    CLASSES = 4


def generator(random_seed: int, replicate: int, stream: Stream) -> np.random.Generator:
    """Return the generator of one stream of one replicate."""
    sequence = np.random.SeedSequence(random_seed, spawn_key=(replicate, int(stream)))
    return np.random.Generator(np.random.PCG64(sequence))
