"""One simulation from its configuration: the only place that knows every engine."""

from __future__ import annotations

from simlib.core import recursion
from simlib.core.config import SimConfig
from simlib.core.records import RequestRecords
from simlib.core.sampling import sample_requests
from simlib.workload.requests import Requests


def simulate(config: SimConfig, replicate: int = 0) -> RequestRecords:
    """Sample the requests of one replicate and serve them; a row per request.

    With ``config.timeline`` the result is a `simlib.serving.timeline.TimedRecords`.
    """
    requests = sample_requests(config, replicate)
    if config.timeline:
        return _timed(requests, config, replicate)
    if config.serving == "batching":
        from simlib.serving import assemble  # the token-rate model does without its catalog

        return assemble.serve(requests, config, replicate)
    if config.engine == "simpy":
        from simlib.core import simulator  # imports SimPy, which the fast engine does without

        return simulator.serve(requests, config)[0]
    return recursion.serve(requests, config)


def _timed(requests: Requests, config: SimConfig, replicate: int) -> RequestRecords:
    """Serve by continuous batching, and keep the timeline up to ``sim_seconds``.

    What replicas do later, to serve all to their end, lies in no window.
    """
    from simlib.serving.assemble import deployment_of, serve
    from simlib.serving.timeline import TimedRecords, Timeline

    timeline = Timeline(until_s=config.sim_seconds)
    records = serve(requests, config, replicate, timeline=timeline)
    pools = deployment_of(config.batching, config.latency, config.own).pools
    run = timeline.run([pool.capacity_blocks for pool in pools])
    return TimedRecords(**records.columns(), timeline=run.until(config.sim_seconds))
