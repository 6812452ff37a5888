"""Prompt and output lengths: as drawn, as read from a file, and their moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from simlib.errors import InvalidParameterError
from simlib.workload.lengths import (
    exponential,
    lognormal,
    lognormal_moments,
    read_lengths,
    resample,
    uniform,
    uniform_moments,
    whole_tokens,
)

PARAMETERS = [
    (6.0, 0.9, 8),  # the default prompts
    (6.0, 1.1, 16),  # the default outputs
    (6.0, 0.5, 400),  # the clip is near the median
    (2.0, 0.3, 1),  # so short that rounding matters
    (0.0, 1.0, 1),  # half of all draws are clipped
    (6.0, 0.1, 5000),  # all are
]


@pytest.mark.parametrize(("mean", "sigma", "low"), PARAMETERS)
def test_moments_agree_with_a_million_draws(mean, sigma, low):
    draws = lognormal(1_000_000, mean, sigma, low, np.random.default_rng(1)).astype(float)
    moments = lognormal_moments(mean, sigma, low)
    for k, expected in ((1, moments.mean), (2, moments.second)):
        powers = draws**k
        error = powers.std() / math.sqrt(len(powers))
        assert abs(powers.mean() - expected) <= 4.5 * error + 1e-9 * expected
        assert error < 0.02 * expected  # so narrow that a wrong formula would be seen


@pytest.mark.parametrize(("mean", "sigma"), [(6.0, 0.9), (6.0, 1.1), (8.0, 0.4)])
def test_moments_are_the_textbook_ones_where_rounding_and_clipping_do_not_matter(mean, sigma):
    moments = lognormal_moments(mean, sigma, 1)
    # rounding adds 1/12 to the variance of a smooth density and nothing to its mean
    assert moments.mean == pytest.approx(math.exp(mean + sigma**2 / 2), rel=1e-5)
    second = math.exp(2 * mean + 2 * sigma**2) + 1 / 12
    assert moments.second == pytest.approx(second, rel=1e-5)
    assert moments.variance == pytest.approx(second - moments.mean**2, rel=1e-4)


@pytest.mark.parametrize(("mean", "sigma", "low"), [(6.0, 0.9, 300), (6.0, 0.5, 600)])
def test_moments_agree_with_numerical_integration_over_the_clipped_lognormal(mean, sigma, low):
    law = stats.lognorm(s=sigma, scale=math.exp(mean))
    moments = lognormal_moments(mean, sigma, low)
    for k, ours in ((1, moments.mean), (2, moments.second)):
        above, _ = integrate.quad(
            lambda x, k=k: math.exp(k * x) * stats.norm.pdf(x, mean, sigma),
            math.log(low),
            mean + 12 * sigma,
        )
        # the continuous law differs from the rounded one by the half token at the clip
        assert ours == pytest.approx(low**k * law.cdf(low) + above, rel=2e-3 / k)


def test_moments_of_a_heavy_tail_beyond_the_summed_range():
    mean, sigma = 8.0, 2.0
    assert lognormal_moments(mean, sigma, 1).second == pytest.approx(
        math.exp(2 * mean + 2 * sigma**2), rel=1e-3
    )


def test_moments_without_spread():
    moments = lognormal_moments(math.log(100.4), 0.0, 1)
    assert (moments.mean, moments.second, moments.variance) == (100.0, 10_000.0, 0.0)
    assert lognormal_moments(math.log(100.4), 0.0, 128).mean == 128.0


def test_clipping_raises_the_mean():
    means = [lognormal_moments(6.0, 1.0, low).mean for low in (1, 100, 400, 2000)]
    assert means == sorted(means)
    assert means[-1] > means[0] * 2


def test_lengths_are_rounded_to_the_nearest_and_clipped_from_below():
    lengths = whole_tokens(np.array([0.2, 2.4, 2.6, 7.9, 1e6]), 2)
    assert lengths.tolist() == [2, 2, 3, 8, 1_000_000]
    assert lengths.dtype == np.int64


def test_lognormal_draws_respect_the_minimum_and_reach_it():
    draws = lognormal(10_000, 3.0, 1.0, 16, np.random.default_rng(0))
    share = (draws == 16).mean()
    expected = stats.norm.cdf((math.log(16.5) - 3.0) / 1.0)
    assert draws.min() == 16
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / len(draws))


def test_exponential_draws_have_mean_and_deviation_equal():
    draws = exponential(200_000, 500.0, 1, np.random.default_rng(0)).astype(float)
    assert draws.min() == 1
    assert abs(draws.mean() - 500.0) < 4 * 500.0 / math.sqrt(len(draws))
    # the standard error of an exponential's deviation is deviation * sqrt(2 / n)
    assert abs(draws.std() - 500.0) < 4 * 500.0 * math.sqrt(2 / len(draws))


def test_uniform_draws_every_length_from_low_to_high_equally_often():
    draws = uniform(60_000, 8, 13, np.random.default_rng(0))
    counts = np.bincount(draws, minlength=14)
    assert counts[:8].sum() == 0
    assert np.abs(counts[8:] - 10_000).max() < 5 * math.sqrt(60_000 * 5 / 36)
    moments = uniform_moments(8, 13)
    assert moments.mean == np.arange(8, 14).mean()
    assert moments.variance == pytest.approx(np.arange(8, 14).var(), rel=1e-12)


def test_resampling_draws_every_observed_length_equally_often():
    values = np.array([5, 7, 100], dtype=np.int64)
    draws = resample(30_000, values, np.random.default_rng(0))
    counts = np.array([(draws == value).sum() for value in values])
    assert counts.sum() == 30_000
    assert np.abs(counts - 10_000).max() < 5 * math.sqrt(30_000 * 2 / 9)


@pytest.mark.parametrize("text", ["5\n7\n", "tokens\n5\n7\n", "\ufeff5\n7", "5\r\n7\r\n"])
def test_lengths_are_read_with_and_without_a_header(tmp_path, text):
    path = tmp_path / "lengths.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_lengths(path).tolist() == [5, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "5\nx\n",
            "length must be a whole number >= 1 and <= 1000000000, got 'x' ({path}, line 2)",
        ),
        (
            "tokens\n5\n0\n",
            "length must be a whole number >= 1 and <= 1000000000, got '0' ({path}, line 3)",
        ),
        ("-5\n", "length must be a whole number >= 1 and <= 1000000000, got '-5' ({path}, line 1)"),
        (
            "5\n6.5\n",
            "length must be a whole number >= 1 and <= 1000000000, got '6.5' ({path}, line 2)",
        ),
        (
            "5\n²\n",
            "length must be a whole number >= 1 and <= 1000000000, got '²' ({path}, line 2)",
        ),
        (
            "5\n\n7\n",
            "length must be a whole number >= 1 and <= 1000000000, got '' ({path}, line 2)",
        ),
        ("", "lengths must be at least one number, got 'no values' ({path})"),
        ("tokens\n", "lengths must be at least one number, got 'no values' ({path})"),
    ],
)
def test_bad_lengths_are_located(tmp_path, text, message):
    path = tmp_path / "lengths.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidParameterError) as caught:
        read_lengths(path)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize("line", ["1.5", "1e3", "", "9" * 30])
def test_a_first_line_that_is_a_bad_number_is_no_header(tmp_path, line):
    path = tmp_path / "lengths.txt"
    path.write_text(f"{line}\n7\n", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match="line 1"):
        read_lengths(path)


def test_a_missing_file_of_lengths_is_named(tmp_path):
    with pytest.raises(InvalidParameterError, match=r"path must be a readable file .*none"):
        read_lengths(tmp_path / "none.txt")
