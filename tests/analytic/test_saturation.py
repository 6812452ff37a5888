"""Offered load of batching pools: what requests need is what a saturated deployment gets done."""

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.slo import Slo
from simlib.serving.saturation import needs_of
from simlib.study.decide.load import Load
from simlib.study.jobs.simulate import simulate
from simlib.study.measurement.measure import measure_point

SMALL = {"replicas": 2, "max_batch_size": 8}
DEPLOYMENTS = {
    "mono": {"mode": "mono", "batching_mono": {"pool": {**SMALL}}},
    "prefill_first": {
        "mode": "mono",
        "batching_mono": {"pool": {**SMALL, "policy": "prefill_first"}},
    },
    "sjf": {"mode": "mono", "batching_mono": {"pool": {**SMALL, "discipline": "sjf"}}},
    "small KV cache": {"mode": "mono", "batching_mono": {"pool": {"kv_capacity_tokens": 20_000}}},
    "decode-bound": {"mode": "disagg", "batching_disagg": {"decode": {"max_batch_size": 8}}},
    "prefill-bound": {
        "mode": "disagg",
        "output_tokens": {"mean": 1.0, "sigma": 0.1},
    },
    "link-bound": {
        "mode": "disagg",
        "batching_disagg": {"link": {"bandwidth_bytes_per_s": 1e9}},
    },
}


def at(name: str, rho: float, requests: float) -> SimConfig:
    """Return a run of so many requests in which the busiest pool has a load of rho."""
    settings = {"serving": "batching", **DEPLOYMENTS[name]}
    probe = SimConfig.from_dict({**settings, "arrival": {"rate_per_s": 1}, "sim_seconds": 5000})
    records = simulate(probe)
    work_s = max(float(np.mean(need.seconds(records))) for need in needs_of(probe).values())
    seconds = requests / (rho / work_s)
    return SimConfig.from_dict(
        {
            **settings,
            "arrival": {"rate_per_s": rho / work_s},
            "sim_seconds": seconds,
            "warmup_seconds": 0.2 * seconds,
        }
    )


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_overloaded_deployment_gets_done_what_its_saturated_pool_can(name: str) -> None:
    """At a load of 1.3 it serves, while queues last, work for just the seconds that there are."""
    config = at(name, 1.3, 30_000)
    records = simulate(config)
    needs = needs_of(config)
    begin, end = 0.4 * config.sim_seconds, config.sim_seconds
    done = (records.finish_s >= begin) & (records.finish_s < end)
    served = max(float(need.seconds(records)[done].sum()) for need in needs.values())
    assert served / (end - begin) == pytest.approx(1.0, abs=0.06)


def test_needs_do_not_depend_on_the_rate() -> None:
    one, other = (needs_of(at("mono", rho, 3_000)) for rho in (0.5, 0.9))
    assert one == other


def test_pools_without_an_offered_load_have_no_needs() -> None:
    closed = {"kind": "closed_loop", "concurrency": 4, "requests": 100}
    assert needs_of(SimConfig()) == {}
    assert needs_of(SimConfig(serving="batching", mode="mono", arrival=closed)) == {}


@pytest.mark.parametrize("name", ["mono", "decode-bound"])
@pytest.mark.parametrize(("rho", "verdicts"), [
    (0.5, {"stable"}), (0.99, {"undetermined", "unstable"}), (1.3, {"unstable"}),
])  # fmt: skip
def test_a_nearly_critical_batching_point_is_not_called_stable(
    name: str, rho: float, verdicts: set[str]
) -> None:
    config = at(name, rho, 6_000)
    for replicate in range(4):
        point = measure_point([simulate(config, replicate)], config)
        assert point.stability.verdict in verdicts, point.stability.reason
        assert max(point.rho().values()) == pytest.approx(rho, rel=0.15)


def test_a_decision_judges_stability_as_a_table_does(tmp_path) -> None:
    config = at("mono", 0.97, 3_000)
    load = Load(config, Slo(ttft_s=2.0), tmp_path)
    rate = config.arrival.rate_per_s
    load.measure(rate, 3)
    records = [load.records(load.at(rate), replicate) for replicate in range(3)]
    assert load.stability(rate) == measure_point(records, load.at(rate)).stability
