"""Joint attainment: a request counts only if it meets every part of its objective."""

from __future__ import annotations

import numpy as np
import pytest

from simlib.core.config import SimConfig
from simlib.core.records import Status, records_of
from simlib.core.sampling import sample_classes
from simlib.core.slo import Slo, attainment, within, within_parts
from simlib.errors import InvalidParameterError
from simlib.workload.requests import Requests

CONFIG = SimConfig(mode="mono", sim_seconds=100.0, warmup_seconds=10.0)


def run(ttft, tpot, tokens, status=None, arrival=None):
    """Return the records of requests with these times; all arrive at 20 s unless said."""
    n = len(ttft)
    arrival = np.full(n, 20.0) if arrival is None else np.array(arrival)
    first = arrival + ttft
    requests = Requests(arrival, np.full(n, 10, np.int64), np.array(tokens, np.int64))
    stamps = dict.fromkeys(("prefill_end_s", "transfer_start_s", "transfer_end_s"), first)
    finish = first + np.array(tpot) * (np.array(tokens) - 1)
    status = np.zeros(n, np.int8) if status is None else np.array(status, np.int8)
    return records_of(
        requests,
        {
            **stamps,
            "prefill_start_s": arrival,
            "decode_start_s": first,
            "first_token_s": first,
            "finish_s": finish,
            "status": status,
        },
    )


def test_every_part_must_be_met():
    records = run([0.5, 2.0, 0.5, 2.0], [0.01, 0.01, 0.2, 0.2], [11, 11, 11, 11])
    slo = Slo(ttft_s=1.0, tpot_s=0.1)
    assert within(records, CONFIG, slo).tolist() == [True, False, False, False]
    assert attainment(records, CONFIG, slo) == 0.25
    parts = within_parts(records, CONFIG, slo)
    assert parts["ttft_s"].tolist() == [True, False, True, False]
    assert parts["tpot_s"].tolist() == [True, True, False, False]


def test_limits_themselves_are_met_and_e2e_counts_to_the_last_token():
    records = run([1.0, 1.0], [0.125, 0.125], [9, 17])
    assert within(records, CONFIG, Slo(ttft_s=1.0)).all()
    assert within(records, CONFIG, Slo(e2e_s=2.0)).tolist() == [True, False]


def test_rejected_and_unfinished_requests_meet_nothing_but_are_counted():
    status = [Status.FINISHED, Status.REJECTED, Status.UNFINISHED]
    records = run([0.1] * 3, [0.01] * 3, [5] * 3, status)
    assert attainment(records, CONFIG, Slo(ttft_s=1.0)) == pytest.approx(1 / 3)


def test_a_single_token_has_no_gap_to_wait_for():
    records = run([0.1, 0.1], [0.0, 0.5], [1, 3])
    assert within(records, CONFIG, Slo(tpot_s=0.1)).tolist() == [True, False]


def test_only_the_window_counts():
    records = run([5.0, 0.1], [0.01, 0.01], [5, 5], arrival=[5.0, 20.0])
    assert attainment(records, CONFIG, Slo(ttft_s=1.0)) == 1.0
    assert np.isnan(attainment(records.select(np.array([True, False])), CONFIG, Slo(ttft_s=1.0)))


def test_classes_have_limits_of_their_own():
    config = SimConfig.from_dict(
        {**CONFIG.to_dict(), "request_classes": {"chat": {"share": 1}, "batch": {"share": 1}}}
    )
    records = run([2.0] * 200, [0.01] * 200, [5] * 200)
    slo = Slo(ttft_s=1.0, classes={"batch": {"e2e_s": 60.0}})
    batch = sample_classes(config, 3, records.request_id) == list(config.request_classes).index(
        "batch"
    )
    assert 60 < batch.sum() < 140
    assert (within(records, config, slo, replicate=3) == batch).all()
    with pytest.raises(InvalidParameterError, match="one of the classes"):
        Slo(classes={"other": {"ttft_s": 1.0}}).check_classes(config)


@pytest.mark.parametrize(
    ("slo", "name"),
    [
        ({"ttft_s": 1.0, "attainment": 1.5}, "attainment"),
        ({"ttft_s": 1.0, "attainment": 0.0}, "attainment"),
        ({"ttft_s": 0.0}, "ttft_s"),
        ({"attainment": 0.9}, "slo"),
        ({"ttft": 1.0}, "ttft"),
    ],
)
def test_bad_objectives_are_named(slo, name):
    with pytest.raises(InvalidParameterError) as caught:
        Slo.from_dict(slo)
    assert caught.value.name == name


@pytest.mark.parametrize("slo", [{"itl_p99_s": 0.1}, {"classes": {"chat": {"itl_p99_s": 0.1}}}])
def test_a_limit_of_single_gaps_is_refused_with_the_reason(slo):
    with pytest.raises(InvalidParameterError, match="tpot_s limits their mean") as caught:
        Slo.from_dict({"ttft_s": 1.0, **slo})
    assert caught.value.name.endswith("itl_p99_s")


def test_limits_of_every_request_and_of_classes_are_stretched_and_the_share_is_not():
    slo = Slo(ttft_s=1.0, attainment=0.9, classes={"chat": {"ttft_s": 0.5, "tpot_s": 0.02}})
    assert slo.times(0.5) == Slo(
        ttft_s=0.5, attainment=0.9, classes={"chat": {"ttft_s": 0.25, "tpot_s": 0.01}}
    )
