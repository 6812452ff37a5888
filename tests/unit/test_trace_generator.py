"""The synthetic trace: its process, its lengths, the file that comes with the repository."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from simlib.cli.trace import describe_trace, trace
from simlib.errors import InvalidParameterError
from simlib.workload.requests import Requests
from simlib.workload.trace_generator import DEFAULT_MIX, LengthClass, generate_trace
from simlib.workload.traces import load_trace, replay, write_trace

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "generated_trace.csv"


def mean_and_error(values):
    values = np.asarray(values)
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))


def interarrival_cv(arrival_s):
    gaps = np.diff(arrival_s)
    return gaps.std() / gaps.mean()


# ---------------------------------------------------------------- the process


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_without_modulation_gaps_are_gamma_with_the_asked_moments(cv):
    gaps = np.diff(
        generate_trace(
            seed=7, duration_s=20_000, mean_rate_per_s=5, interarrival_cv=cv, load_cv=0
        ).arrival_s
    )
    shape = 1 / cv**2
    # moments of gamma(shape, mean 1/5): k-th raw moment scale^k Γ(shape + k)/Γ(shape)
    for k in (1, 2, 3):
        expected = (1 / (5 * shape)) ** k * math.gamma(shape + k) / math.gamma(shape)
        mean, error = mean_and_error(gaps**k)
        assert abs(mean - expected) < 4.5 * error + 1e-7


def test_modulated_gaps_have_the_asked_coefficient_of_variation():
    cvs = [
        interarrival_cv(generate_trace(seed=seed, duration_s=20_000).arrival_s)
        for seed in range(25)
    ]
    mean, error = mean_and_error(cvs)
    # the estimate from n gaps is biased by O(1/n), and the load is not infinitely slow: 1%
    assert abs(mean - 2.0) < 4 * error + 0.02
    assert error < 0.02


def test_the_mean_rate_is_the_asked_one():
    mean, error = mean_and_error([len(generate_trace(seed=s)) / 1800 for s in range(40)])
    # the first request stands at 0 and not at a random phase, which adds (c² + 1)/2 requests
    assert abs(mean - 3.0) < 4 * error + 2.5 / 1800
    assert error < 0.03


def test_the_load_varies_slowly_and_as_asked():
    """Var N(w) of a modulated process: counts a minute apart, independent at constant rate,
    are correlated by exp(-60/120) times the load's share of the variance.
    """

    def neighbours(load_cv):
        found = []
        for seed in range(8):
            arrival_s = generate_trace(
                seed=seed, duration_s=24_000, mean_rate_per_s=5, load_cv=load_cv
            ).arrival_s
            counts = np.histogram(arrival_s, np.arange(0, 24_001, 60))[0]
            found.append(np.corrcoef(counts[:-1], counts[1:])[0, 1])
        return mean_and_error(found)

    steady, steady_error = neighbours(0.0)
    assert abs(steady) < 4 * steady_error + 0.01
    varying, varying_error = neighbours(0.4)
    # theory: load 0.16 against renewal noise c_b²/(5 · 60) = 3.31/300; averaged over a minute
    load, noise = 0.16, 3.31 / 300
    x = 60 / 120
    inside = 2 * (x - 1 + math.exp(-x)) / x**2
    across = (math.exp(-x) - 1) ** 2 / x**2
    expected = load * across / (load * inside + noise)
    # the lognormal's autocovariance falls somewhat faster than the Gaussian's exp(-t/τ)
    assert abs(varying - expected) < 4 * varying_error + 0.04
    assert varying > steady + 0.4


def test_the_first_request_arrives_at_zero_and_times_are_multiples_of_100_ns():
    arrival_s = generate_trace(seed=3).arrival_s
    assert arrival_s[0] == 0.0
    np.testing.assert_array_equal(np.rint(arrival_s * 1e7) * 100 / 1e9, arrival_s)


def test_seeds_differ_and_a_seed_repeats():
    one, again, other = (generate_trace(seed=seed, duration_s=60) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.arrival_s, again.arrival_s)
    np.testing.assert_array_equal(one.prompt_tokens, again.prompt_tokens)
    assert one.arrival_s.tolist() != other.arrival_s.tolist()


def test_arrivals_and_lengths_come_from_streams_of_their_own():
    plain = generate_trace(seed=1, duration_s=300)
    other_mix = generate_trace(seed=1, duration_s=300, mix=DEFAULT_MIX[:1])
    np.testing.assert_array_equal(plain.arrival_s, other_mix.arrival_s)
    faster = generate_trace(seed=1, duration_s=300, mean_rate_per_s=9)
    assert len(faster) > 2 * len(plain)


# ---------------------------------------------------------------- lengths


def test_a_single_class_has_its_median_and_sigma():
    kind = LengthClass("one", 3.0, 500.0, 0.5, 200.0, 0.3)
    drawn = generate_trace(seed=5, duration_s=20_000, load_cv=0, mix=[kind])
    for lengths, median, sigma in (
        (drawn.prompt_tokens, 500.0, 0.5),
        (drawn.output_tokens, 200.0, 0.3),
    ):
        logs = np.log(lengths)
        assert abs(logs.mean() - math.log(median)) < 4 * sigma / math.sqrt(len(logs)) + 1e-4
        assert abs(logs.std() - sigma) < 4 * sigma / math.sqrt(2 * len(logs)) + 1e-4


def test_the_mixture_has_the_mean_of_its_classes():
    drawn = generate_trace(seed=6, duration_s=20_000)
    weights = sum(kind.weight for kind in DEFAULT_MIX)
    for lengths, side in ((drawn.prompt_tokens, "prompt"), (drawn.output_tokens, "output")):
        expected = sum(
            kind.weight
            / weights
            * getattr(kind, f"{side}_median")
            * math.exp(getattr(kind, f"{side}_sigma") ** 2 / 2)
            for kind in DEFAULT_MIX
        )
        mean, error = mean_and_error(lengths)
        # clipping at the longest length takes less than 0.5% off
        assert abs(mean - expected) < 4 * error + 0.005 * expected


def test_prompt_and_output_of_a_class_are_drawn_together():
    """Code completion: the requests with short outputs have the long prompts."""
    kinds = (
        LengthClass("a", 0.75, 100.0, 0.0, 900.0, 0.0),
        LengthClass("b", 0.25, 4000.0, 0.0, 10.0, 0.0),
    )
    drawn = generate_trace(seed=8, duration_s=3000, mix=kinds)
    pairs = set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True))
    assert pairs == {(100, 900), (4000, 10)}
    share, n = (drawn.prompt_tokens == 4000).mean(), len(drawn)
    assert abs(share - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / n)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", v) for v in (-1, 1.5, True, "1")),
        *(("duration_s", v) for v in (0.0, -1.0, math.nan, math.inf)),
        *(("mean_rate_per_s", v) for v in (0.0, -1.0, math.nan, math.inf)),
        ("duration_s * mean_rate_per_s", None),
        *(("interarrival_cv", v) for v in (0.0, 0.4, math.nan, 1e6)),
        *(("load_cv", v) for v in (-0.1, math.nan)),
        *(("load_correlation_s", v) for v in (0.0, -1.0, math.nan)),
        ("mix", ()),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(name, value):
    given = {"duration_s": 1e7, "mean_rate_per_s": 1e7} if value is None else {name: value}
    with pytest.raises(InvalidParameterError) as caught:
        generate_trace(**given)
    assert caught.value.name == name


@pytest.mark.parametrize("field", ["weight", "prompt_median", "output_sigma"])
def test_a_length_class_names_itself_in_errors(field):
    good = {
        "name": "odd",
        "weight": 1.0,
        "prompt_median": 5.0,
        "prompt_sigma": 1.0,
        "output_median": 5.0,
        "output_sigma": 1.0,
    }
    with pytest.raises(InvalidParameterError, match=rf"{field} must be .*length class 'odd'"):
        LengthClass(**{**good, field: -1.0})


# ---------------------------------------------------------------- the file of the repository


def test_the_shipped_trace_is_what_the_generator_writes(tmp_path):
    path = tmp_path / "again.csv"
    write_trace(generate_trace(), path)
    assert path.read_bytes() == SHIPPED.read_bytes()
    assert len(path.read_bytes()) < 200_000


def test_the_shipped_trace_has_the_documented_size_burstiness_and_lengths():
    shipped = load_trace(SHIPPED)
    described = describe_trace(shipped)
    assert described["requests"] == 5145
    assert described["span_s"] == pytest.approx(1799.96, abs=0.01)
    assert described["mean_rate_per_s"] == pytest.approx(2.86, abs=0.005)
    assert described["interarrival_cv"] == pytest.approx(1.91, abs=0.005)
    per_minute = np.histogram(shipped.arrival_s, np.arange(0, 1801, 60))[0] / 60
    assert per_minute.min() == pytest.approx(1.4, abs=0.05)
    assert per_minute.max() == pytest.approx(5.1, abs=0.05)
    prompt, output = described["prompt_tokens"], described["output_tokens"]
    assert (prompt["p50"], round(prompt["mean"]), round(prompt["p90"])) == (991, 1469, 3308)
    assert (output["p50"], round(output["mean"]), round(output["p90"])) == (159, 221, 504)
    assert (prompt["max"], output["max"]) == (16_384, 2_048)


def test_the_shipped_trace_is_burstier_than_poisson_at_every_replay_speed():
    for speed in (0.5, 1.0, 2.5):
        assert interarrival_cv(replay(load_trace(SHIPPED), speed=speed).arrival_s) > 1.5


# ---------------------------------------------------------------- command line


def test_the_command_without_options_writes_the_shipped_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(trace, ["generate"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "data" / "generated_trace.csv").read_bytes() == SHIPPED.read_bytes()
    assert json.loads(result.output)["requests"] == 5145


def test_generate_obeys_its_options_and_describe_prints_the_same(tmp_path):
    path = tmp_path / "t.csv"
    options = ["--seed", "3", "--duration-s", "120", "--rate", "1.5", "--cv", "1.5"]
    made = CliRunner().invoke(trace, ["generate", *options, "--output", str(path)])
    assert made.exit_code == 0, made.output
    expected = generate_trace(seed=3, duration_s=120, mean_rate_per_s=1.5, interarrival_cv=1.5)
    np.testing.assert_array_equal(load_trace(path).arrival_s, expected.arrival_s)
    described = CliRunner().invoke(trace, ["describe", str(path)])
    assert described.output == made.output
    assert json.loads(described.output)["span_s"] == expected.arrival_s[-1]


def test_describe_computes_rate_and_burstiness_from_gaps():
    columns = np.array([0.0, 1.0, 4.0]), np.array([1, 2, 3]), np.array([4, 4, 4])
    described = describe_trace(Requests(*columns))
    assert described["mean_rate_per_s"] == 0.5
    assert described["interarrival_cv"] == 0.5  # gaps 1 and 3: mean 2, deviation 1
    assert described["prompt_tokens"]["p50"] == 2.0
    assert described["output_tokens"]["mean"] == 4.0


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.0]])
def test_describe_leaves_out_what_gaps_do_not_define(times):
    ones = np.ones(len(times), dtype=np.int64)
    described = describe_trace(Requests(np.array(times), ones, ones))
    assert described["mean_rate_per_s"] is None
    assert described["interarrival_cv"] is None


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["describe", "nothing.csv"], "nothing.csv"),
        (["generate", "--rate", "-1"], "mean_rate_per_s must be"),
        (["generate", "--duration-s", "nan"], "duration_s must be"),
        (["generate", "--cv", "0.1"], "interarrival_cv must be"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(trace, arguments)
    assert result.exit_code == 2
    assert part in result.output
    assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
