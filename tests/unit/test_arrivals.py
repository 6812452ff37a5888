"""Kinds of arrival: rates, burstiness, common random numbers, identity, and what each reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simlib.core.config import ArrivalConfig, SimConfig
from simlib.core.sampling import sample_requests
from simlib.study.plan.identity import point_id
from simlib.workload.arrivals import ARRIVALS


def config(**arrival: Any) -> SimConfig:
    return SimConfig.from_dict({"sim_seconds": 20_000, "arrival": {"kind": "gamma", **arrival}})


@pytest.mark.parametrize("cv", [0.25, 1.0, 3.0])
def test_gamma_arrivals_have_the_rate_and_the_burstiness_asked_for(cv: float) -> None:
    gaps = np.diff(sample_requests(config(rate_per_s=5, cv=cv)).arrival_s)
    error = cv / np.sqrt(len(gaps))
    assert gaps.mean() * 5 == pytest.approx(1.0, abs=5 * error)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_every_rate_sees_the_same_requests() -> None:
    slow, fast = (sample_requests(config(rate_per_s=rate)) for rate in (2, 4))
    n = len(slow)
    np.testing.assert_allclose(fast.arrival_s[:n] * 2, slow.arrival_s, rtol=1e-12)
    np.testing.assert_array_equal(fast.prompt_tokens[:n], slow.prompt_tokens)


def test_a_point_is_what_its_kind_reads() -> None:
    assert point_id(config(cv=2)) != point_id(config(cv=3))
    ids = {point_id(SimConfig.from_dict({"arrival": {"cv": cv}})) for cv in (2, 3)}
    assert len(ids) == 1, "Poisson arrivals have no cv to choose"


@pytest.mark.parametrize("name", ARRIVALS)
def test_a_kind_reads_keys_that_there_are(name: str) -> None:
    assert set(ARRIVALS[name].keys) <= set(ArrivalConfig.model_fields)
