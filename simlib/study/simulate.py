"""One simulation from its configuration: the only place that knows every engine."""

from __future__ import annotations

from simlib.core import recursion
from simlib.core.config import SimConfig
from simlib.core.records import RequestRecords
from simlib.core.sampling import sample_requests


def simulate(config: SimConfig, replicate: int = 0) -> RequestRecords:
    """Sample the requests of one replicate and serve them; a row per request."""
    requests = sample_requests(config, replicate)
    if config.serving == "batching":
        from simlib.serving import assemble  # the token-rate model does without its catalog

        return assemble.serve(requests, config, replicate)
    if config.engine == "simpy":
        from simlib.core import simulator  # imports SimPy, which the fast engine does without

        return simulator.serve(requests, config)[0]
    return recursion.serve(requests, config)
