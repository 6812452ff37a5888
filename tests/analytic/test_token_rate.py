"""The token-rate model where queueing theory knows the answer.

Each test runs independent replicates under fixed seeds and asks two things: that theory lies within
four standard errors of their mean, and that the standard error is so small that a wrong model, or
a wrong formula, would be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.records import RequestRecords, in_window, ttft_parts, ttft_s
from simlib.core.summary import summarise
from simlib.stats.queueing import (
    erlang_c,
    mdc_mean_wait_s,
    mdc_probability_of_wait,
    mmc_mean_wait_s,
    mmc_wait_percentile_s,
)
from simlib.study.jobs.simulate import simulate
from simlib.workload.lengths import lognormal_moments
from tests.serving import offered_load

REPLICATES = 24
STANDARD_ERRORS = 4.0
WARMUP_S = 2_000.0
INSTANT = 1e12  # tokens per second: a phase that takes no time worth mentioning

Statistic = Callable[[RequestRecords, SimConfig], float]


def end_s(rate: float) -> float:
    """Return a run's length: enough requests for the precision asked for, and not more."""
    return WARMUP_S + min(20_000.0, 30_000.0 / rate)


def fixed(value: int) -> dict:
    return {"mode": "fixed", "value": value}


def exponential(mean: float) -> dict:
    # long, so that rounding to whole tokens does not matter: its variance is 1/12 of mean**2 = 1e8
    return {"mode": "exponential", "mean": mean, "min_value": 1}


def mono(rate: float, gpus: int, prompt: dict, output: dict, prefill: float, decode: float):
    return SimConfig.from_dict(
        {
            "mode": "mono",
            "sim_seconds": end_s(rate),
            "warmup_seconds": WARMUP_S,
            "random_seed": 2024,
            "arrival": {"rate_per_s": rate},
            "prompt_tokens": prompt,
            "output_tokens": output,
            "cluster_mono": {
                "num_gpus": gpus,
                "prefill_tokens_per_s": prefill,
                "decode_tokens_per_s": decode,
            },
        }
    )


def counted(records: RequestRecords, config: SimConfig) -> RequestRecords:
    return records.select(in_window(records, config.warmup_seconds, config.sim_seconds))


def prefill_wait(records: RequestRecords, config: SimConfig) -> float:
    return float(ttft_parts(counted(records, config))["prefill_wait_s"].mean())


def decode_wait(records: RequestRecords, config: SimConfig) -> float:
    return float(ttft_parts(counted(records, config))["decode_wait_s"].mean())


def share_waiting(records: RequestRecords, config: SimConfig) -> float:
    return float((ttft_parts(counted(records, config))["prefill_wait_s"] > 0).mean())


def mean_ttft(records: RequestRecords, config: SimConfig) -> float:
    return float(ttft_s(counted(records, config)).mean())


def reported(name: str) -> Statistic:
    return lambda records, config: float(summarise(records, config)[name])


def assert_theory(
    config: SimConfig, expected: dict[Statistic, float], *, relative_error: float
) -> None:
    """Check each statistic's mean over replicates against theory, and that the error is small."""
    runs = [simulate(config, replicate) for replicate in range(REPLICATES)]
    for statistic, theory in expected.items():
        samples = np.array([statistic(records, config) for records in runs])
        error = samples.std(ddof=1) / math.sqrt(REPLICATES)
        assert error < relative_error * theory, f"too wide to tell: {error:.3g} of {theory:.3g}"
        off = (samples.mean() - theory) / error
        assert abs(off) < STANDARD_ERRORS, (
            f"{samples.mean():.5g} is {off:+.1f} standard errors off the theoretical {theory:.5g}"
        )


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_one_gpu_with_fixed_lengths_is_m_d_1(rho):
    service = 800 / 1000.0 + 100 / 500.0  # 1 s
    config = mono(rho / service, 1, fixed(800), fixed(100), 1000.0, 500.0)
    wait = rho * service / (2 * (1 - rho))
    assert_theory(
        config,
        {
            prefill_wait: wait,
            share_waiting: rho,
            mean_ttft: wait + 800 / 1000.0 + 1 / 500.0,
            reported("utilization_gpu"): rho,
        },
        relative_error=0.015,
    )


@pytest.mark.parametrize(("gpus", "rho"), [(2, 0.7), (4, 0.8)])
def test_several_gpus_with_fixed_lengths_are_m_d_c(gpus, rho):
    service = 1.0
    config = mono(rho * gpus / service, gpus, fixed(800), fixed(100), 1000.0, 500.0)
    rate = rho * gpus
    assert_theory(
        config,
        {
            prefill_wait: mdc_mean_wait_s(rate, service, gpus),
            share_waiting: mdc_probability_of_wait(rate, service, gpus),
            reported("utilization_gpu"): rho,
        },
        relative_error=0.02,
    )


@pytest.mark.parametrize("min_value", [8, 300])
def test_one_gpu_with_lognormal_lengths_is_m_g_1(min_value):
    prompt, output = (6.0, 0.9, min_value), (5.0, 0.7, 16)
    prefill, decode = 1000.0, 500.0
    prompts, outputs = lognormal_moments(*prompt), lognormal_moments(*output)
    mean = prompts.mean / prefill + outputs.mean / decode
    second = mean**2 + prompts.variance / prefill**2 + outputs.variance / decode**2
    rho = 0.6
    rate = rho / mean
    keys = ("mean", "sigma", "min_value")
    config = mono(
        rate,
        1,
        dict(zip(keys, prompt, strict=True)),
        dict(zip(keys, output, strict=True)),
        prefill,
        decode,
    )
    # Pollaczek and Khinchine
    wait = rate * second / (2 * (1 - rho))
    assert_theory(
        config,
        {
            prefill_wait: wait,
            share_waiting: rho,
            mean_ttft: wait + prompts.mean / prefill + 1 / decode,
            reported("utilization_gpu"): rho,
        },
        relative_error=0.02,
    )


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_gpu_with_exponential_lengths_is_m_m_1(phase):
    rho = 0.6
    long, short = exponential(10_000.0), fixed(1)
    if phase == "prefill":
        config = mono(rho, 1, long, short, 10_000.0, INSTANT)
    else:
        config = mono(rho, 1, short, long, INSTANT, 10_000.0)
    beyond = mmc_wait_percentile_s(90, rho, 1.0, 1)

    def tail(records: RequestRecords, config: SimConfig) -> float:
        return float((ttft_parts(counted(records, config))["prefill_wait_s"] > beyond).mean())

    assert beyond == pytest.approx(math.log(rho / 0.1) / (1 - rho))
    assert_theory(
        config,
        {
            prefill_wait: rho / (1 - rho),
            share_waiting: rho,
            tail: 0.1,
            reported("utilization_gpu"): rho,
            reported("throughput_rps"): rho,
        },
        relative_error=0.025,
    )


@pytest.mark.parametrize(("gpus", "rho"), [(2, 0.6), (4, 0.75)])
def test_several_gpus_with_exponential_lengths_are_m_m_c(gpus, rho):
    rate = rho * gpus
    config = mono(rate, gpus, exponential(10_000.0), fixed(1), 10_000.0, INSTANT)
    assert_theory(
        config,
        {
            prefill_wait: mmc_mean_wait_s(rate, 1.0, gpus),
            share_waiting: erlang_c(gpus, rate),
            reported("utilization_gpu"): rho,
        },
        relative_error=0.03,
    )


def tandem(prefill_gpus: int, decode_gpus: int, rate: float, transfer_s: float = 0.0) -> SimConfig:
    return SimConfig.from_dict(
        {
            "mode": "disagg",
            "sim_seconds": end_s(rate),
            "warmup_seconds": WARMUP_S,
            "random_seed": 7,
            "arrival": {"rate_per_s": rate},
            "prompt_tokens": exponential(10_000.0),
            "output_tokens": exponential(10_000.0),
            "cluster_disagg": {
                "prefill_gpus": prefill_gpus,
                "decode_gpus": decode_gpus,
                "prefill_tokens_per_s": 10_000.0,
                "decode_tokens_per_s": 10_000.0,
                "kv_base_latency_s": transfer_s,
            },
        }
    )


@pytest.mark.parametrize(
    ("prefill_gpus", "decode_gpus", "rate", "transfer_s"),
    [(1, 1, 0.6, 0.0), (2, 3, 1.4, 0.0), (3, 2, 1.4, 2.5)],
)
def test_disaggregated_pools_in_tandem_are_two_m_m_c(prefill_gpus, decode_gpus, rate, transfer_s):
    # Burke (1956, doi:10.1287/opre.4.6.699): what leaves an M/M/c is Poisson again, and a constant
    # transfer only shifts it
    config = tandem(prefill_gpus, decode_gpus, rate, transfer_s)
    first = mmc_mean_wait_s(rate, 1.0, prefill_gpus)
    second = mmc_mean_wait_s(rate, 1.0, decode_gpus)
    assert_theory(
        config,
        {
            prefill_wait: first,
            decode_wait: second,
            mean_ttft: first + 1.0 + transfer_s + second + 1e-4,
            reported("utilization_prefill"): rate / prefill_gpus,
            reported("utilization_decode"): rate / decode_gpus,
        },
        relative_error=0.035,
    )


def test_a_second_queue_behind_fixed_service_has_no_queue_at_all():
    # what leaves an M/D/1 is never closer together than its service: equal GPUs behind it idle
    config = tandem(1, 1, 0.7)
    changed = config.to_dict() | {"prompt_tokens": fixed(10_000), "output_tokens": fixed(10_000)}
    records = simulate(SimConfig.from_dict(changed))
    assert np.allclose(ttft_parts(records)["decode_wait_s"], 0.0, atol=1e-8)
    assert ttft_parts(records)["prefill_wait_s"].max() > 5.0


def test_the_offered_load_of_a_run_is_rho():
    rho = 0.7

    def load(records: RequestRecords, config: SimConfig) -> float:
        return offered_load(records, config)["decode"]

    assert_theory(tandem(1, 1, rho), {load: rho}, relative_error=0.01)


def test_the_check_itself_refuses_a_slightly_wrong_theory():
    config = mono(0.6, 1, fixed(800), fixed(100), 1000.0, 500.0)
    right = 0.6 / (2 * 0.4)
    assert_theory(config, {prefill_wait: right}, relative_error=0.015)
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_theory(config, {prefill_wait: right * 1.08}, relative_error=0.015)
    with pytest.raises(AssertionError, match="too wide to tell"):
        assert_theory(config, {prefill_wait: right}, relative_error=1e-4)
