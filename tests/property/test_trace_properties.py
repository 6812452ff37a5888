"""Properties of traces that hold for every input."""

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simlib.errors import InvalidParameterError
from simlib.workload import azure_csv, mooncake_jsonl
from simlib.workload.requests import Requests
from simlib.workload.trace_generator import generate_trace
from simlib.workload.traces import load_trace, replay, write_trace

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
VALID = HEADER + b"".join(
    b"2023-11-16 18:17:%02d.9799600,%d,%d\n" % (i, 10**i, 7 * i + 1) for i in range(8)
)
tokens = st.integers(1, azure_csv.MAX_TOKENS)


def same(a, b):
    return all(
        np.array_equal(getattr(a, column), getattr(b, column))
        for column in ("arrival_s", "prompt_tokens", "output_tokens")
    )


def outcome(parse, data, name="t"):
    """Return the requests, or None if they are refused with a place."""
    try:
        return parse(data, name)
    except InvalidParameterError as error:
        message = str(error)
    assert f"({name}, line " in message
    assert ", column " in message
    return None


@st.composite
def traces(draw):
    """Requests whose times are whole multiples of 100 ns, the first at 0."""
    rows = draw(
        st.lists(st.tuples(st.integers(0, 10**11), tokens, tokens), min_size=1, max_size=30)
    )
    gaps, prompts, outputs = np.array(rows, dtype=np.int64).T
    ticks = np.cumsum(gaps) - gaps[0]
    return Requests(ticks * 100 / 1e9, prompts.copy(), outputs.copy())


@given(traces(), st.datetimes(datetime(1, 1, 1), datetime(9900, 1, 1)))
def test_a_written_trace_reads_back_bit_by_bit(trace, start):
    data = azure_csv.to_csv(trace, start)
    assert same(azure_csv.parse(data, "t"), trace)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv"
        write_trace(trace, path, start)
        assert path.read_bytes() == data
        assert same(load_trace(path), trace)


@given(
    st.lists(
        st.tuples(st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)), tokens, tokens),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(" T"),
    st.integers(0, 9),
    st.sampled_from(["", "Z", "+00:00", "-0530", "+14:00"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_rows_that_are_spelt_alike_are_parsed_at_once_and_as_row_by_row(
    rows, separator, digits, suffix, end
):
    rows = sorted((at.replace(microsecond=0), at.microsecond, p, o) for at, p, o in rows)
    text = HEADER.decode().strip() + end
    stamps = []
    for at, microsecond, prompt, output in rows:
        # 6 digits of the fraction and any 3 more, cut to the number of digits
        fraction = f"{microsecond:06d}{microsecond % 1000:03d}"[:digits]
        stamps.append((at, int(fraction or 0)))
        stamp = at.isoformat(separator) + (f".{fraction}" if digits else "") + suffix
        text += f"{stamp},{prompt},{output}{end}"
    fast = azure_csv.parse_columns(text.encode())
    assert fast is not None
    assert same(fast, azure_csv.parse_rows(text.encode(), "t"))
    since = [
        (at - stamps[0][0]).total_seconds() + (fraction - stamps[0][1]) / 10**digits
        for at, fraction in stamps
    ]
    np.testing.assert_allclose(fast.arrival_s, since, rtol=0, atol=1e-6)


@given(
    st.integers(0, len(VALID)),
    st.integers(0, 12),
    st.one_of(
        st.binary(max_size=3),
        st.text("0123456789-:.,TZ+ \r\n", max_size=12).map(str.encode),
        st.sampled_from([b"\n", b",", b"0", b"-", b"\r", b"24", b"\n\n", b"\xef\xbb\xbf"]),
    ),
)
@example(len(VALID), 0, b"\n\n")
@example(len(HEADER), len(VALID), b"")
def test_damage_anywhere_is_refused_with_its_place_or_read_alike_by_both_parsers(at, cut, put):
    data = VALID[:at] + put + VALID[at + cut :]
    fast = azure_csv.parse_columns(data)
    slow = outcome(azure_csv.parse_rows, data)
    if fast is not None:
        assert slow is not None
        assert same(fast, slow)


@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.jsonl"]), st.booleans())
def test_any_bytes_end_in_requests_or_in_the_one_error(data, name, with_header):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(HEADER + data if with_header else data)
        trace = outcome(lambda *_: load_trace(path), None, name=str(path))
        assert trace is None or len(trace) >= 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('a1é"', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*mooncake_jsonl.KEYS, "hash_ids"]), json_values))
def test_any_json_object_ends_in_a_request_or_in_an_error_with_its_place(entry):
    trace = outcome(mooncake_jsonl.parse, json.dumps(entry).encode())
    if trace is not None:
        assert trace.arrival_s.tolist() == [0.0]
        assert trace.prompt_tokens.tolist() == [entry["input_length"]]
        assert trace.output_tokens.tolist() == [entry["output_length"]]


@given(traces(), st.lists(st.integers(1, 80_000), min_size=1, max_size=4))
def test_windows_side_by_side_hold_every_request_once(trace, cuts):
    edges = [0.0, *(np.cumsum(cuts) / 8).tolist()]  # eighths: exact in floating point
    prompts = []
    for start_s, end_s in [*pairwise(edges), (edges[-1], None)]:
        length_s = None if end_s is None else end_s - start_s
        inside = (trace.arrival_s >= start_s) & (trace.arrival_s < (end_s or np.inf))
        if not inside.any():
            with pytest.raises(InvalidParameterError, match="trace covers"):
                replay(trace, start_s=start_s, length_s=length_s)
            continue
        part = replay(trace, start_s=start_s, length_s=length_s)
        assert part.arrival_s[0] >= 0
        assert length_s is None or part.arrival_s[-1] <= length_s
        prompts += part.prompt_tokens.tolist()
    assert prompts == trace.prompt_tokens.tolist()


@given(traces(), st.floats(0.01, 100.0))
def test_speed_divides_every_time_and_leaves_lengths_alone(trace, speed):
    fast = replay(trace, speed=speed)
    np.testing.assert_array_equal(fast.arrival_s, trace.arrival_s / speed)
    np.testing.assert_array_equal(fast.prompt_tokens, trace.prompt_tokens)


@given(
    st.integers(0, 2**32),
    st.floats(0.1, 500.0),
    st.floats(0.01, 5.0),
    st.floats(0.5, 5.0),
    st.floats(0.0, 0.45),
)
def test_a_generated_trace_is_in_range_and_survives_a_file(seed, duration_s, rate, cv, load_cv):
    def generate():
        return generate_trace(
            seed=seed,
            duration_s=duration_s,
            mean_rate_per_s=rate,
            interarrival_cv=cv,
            load_cv=load_cv,
        )

    trace = generate()
    assert same(trace, generate())
    assert trace.arrival_s[0] == 0.0
    assert trace.arrival_s[-1] < duration_s
    assert same(azure_csv.parse(azure_csv.to_csv(trace, datetime(2024, 1, 1)), "t"), trace)
