"""KV transfer: base latency plus bytes by bandwidth, and its fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.errors import InvalidParameterError
from tests.analytic.transfer_fit import TransferModel, fit_transfer


def test_a_transfer_takes_base_latency_and_bytes_by_bandwidth():
    assert TransferModel(0.002, 1e9).seconds(1000, 2e6) == pytest.approx(2.002)


@given(base=st.floats(0, 0.1), rate=st.floats(1e6, 1e12))
def test_the_fit_finds_the_model_that_made_the_times(base, rate):
    sizes = [1e6, 5e6, 2e7, 3e9]
    fitted = fit_transfer(sizes, [base + size / rate for size in sizes])
    assert [fitted.base_latency_s + s / fitted.bytes_per_s for s in sizes] == pytest.approx(
        [base + s / rate for s in sizes], rel=1e-6
    )


def test_a_negative_base_latency_is_never_fitted():
    assert fit_transfer([1.0, 2.0], [0.5, 2.0]).base_latency_s == 0.0


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [2.0, 0.0])]
)
def test_too_little_or_impossible_data_is_refused(sizes, seconds):
    with pytest.raises(InvalidParameterError):
        fit_transfer(sizes, seconds)


@pytest.mark.parametrize(("base", "rate"), [(-1.0, 1.0), (float("inf"), 1.0), (0.0, 0.0)])
def test_impossible_links_are_refused(base, rate):
    with pytest.raises(InvalidParameterError):
        TransferModel(base, rate)
