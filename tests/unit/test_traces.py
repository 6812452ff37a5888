"""Reading, replaying, hashing and writing traces of requests."""

import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from simlib.errors import InvalidParameterError
from simlib.workload import azure_csv
from simlib.workload.requests import Requests
from simlib.workload.traces import (
    FORMATS,
    TraceFormat,
    load_trace,
    replay,
    trace_sha256,
    write_trace,
)

REPO = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SIMLIB_SHARED_DATA", REPO.parent / "shared" / "data"))
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = HEADER + "2023-11-16 18:17:03.9799600,4808,10\n"
OK_JSON = '{"timestamp": 10, "input_length": 5, "output_length": 6}\n'


def requests(*arrival_s, prompt=7, output=3):
    n = len(arrival_s)
    return Requests(
        np.array(arrival_s, dtype=np.float64),
        np.full(n, prompt, dtype=np.int64),
        np.full(n, output, dtype=np.int64),
    )


def saved(tmp_path, content, name="trace.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def shared(name):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {SHARED}: the public traces do not come with the repository")
    return path


# ---------------------------------------------------------------- reading well-formed traces


def test_azure_times_count_from_the_first_request_and_keep_100_ns(tmp_path):
    path = saved(
        tmp_path,
        GOOD + "2023-11-16 18:17:03.9799601,3180,8\n2023-11-17 00:00:00.0000000,1,2\n",
    )
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 1e-7, 20_576.02004]
    assert trace.prompt_tokens.tolist() == [4808, 3180, 1]
    assert trace.output_tokens.tolist() == [10, 8, 2]


def test_mooncake_times_are_milliseconds_and_other_keys_are_ignored(tmp_path):
    path = saved(
        tmp_path,
        '{"timestamp": 1500, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
        '{"output_length": 2, "input_length": 3, "timestamp": 4527.5}\n',
        "trace.jsonl",
    )
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 3.0275]
    assert trace.prompt_tokens.tolist() == [6758, 3]
    assert trace.output_tokens.tolist() == [500, 2]


@pytest.mark.parametrize(
    ("first", "second", "gap_s"),
    [
        ("2023-11-16T18:17:03", "2023-11-16T18:17:04", 1.0),
        ("2023-11-16 18:17:03.5", "2023-11-16 18:17:04.25", 0.75),
        ("2023-11-16T18:17:03Z", "2023-11-16T18:17:03.000000001Z", 1e-9),
        ("2023-11-16 18:17:03+00:00", "2023-11-16 19:17:03.5+01:00", 0.5),
        ("2023-11-16 18:17:03-0530", "2023-11-16T23:47:04Z", 1.0),
        ("2024-02-28 23:59:59.9999999", "2024-03-01 00:00:00.0000000", 86_400.0000001),
        ("2023-11-16 18:17:03+00:00", "2023-11-16 19:17:04+01:00", 1.0),
        ("2023-11-16 18:17:03", "2023-11-16T18:17:04", 1.0),
        ("1999-12-31 23:59:59", "2000-01-01 00:00:00", 1.0),
    ],
)
def test_iso_times_with_t_offset_and_any_fraction_are_read(tmp_path, first, second, gap_s):
    path = saved(tmp_path, f"{HEADER}{first},1,1\n{second},1,1\n")
    assert load_trace(path).arrival_s.tolist() == [0.0, gap_s]


def test_crlf_byte_order_mark_missing_last_line_end_and_trailing_blank_lines_change_nothing(
    tmp_path,
):
    text = GOOD + "2023-11-16 18:17:04.0319600,3180,8\n"
    plain = load_trace(saved(tmp_path, text, "plain.csv"))
    variants = {
        "crlf.csv": text.replace("\n", "\r\n"),
        "bom.csv": "\ufeff" + text,
        "open_end.csv": text.rstrip("\n"),
        "blank.csv": text + "\n",
        "blanks.csv": text.replace("\n", "\r\n") + " \r\n\r\n",
    }
    for name, variant in variants.items():
        trace = load_trace(saved(tmp_path, variant, name))
        assert trace.arrival_s.tolist() == plain.arrival_s.tolist(), name
        assert trace.output_tokens.tolist() == plain.output_tokens.tolist(), name


def test_jsonl_tolerates_crlf_byte_order_mark_and_trailing_blank_lines(tmp_path):
    path = saved(tmp_path, "\ufeff" + OK_JSON.replace("\n", "\r\n") * 2 + "\r\n \n", "t.jsonl")
    assert len(load_trace(path)) == 2


def test_content_tells_the_format_whatever_the_name_says(tmp_path):
    assert load_trace(saved(tmp_path, OK_JSON, "json.csv")).prompt_tokens.tolist() == [5]
    assert load_trace(saved(tmp_path, OK_JSON, "json")).prompt_tokens.tolist() == [5]
    assert load_trace(saved(tmp_path, GOOD, "csv.txt")).prompt_tokens.tolist() == [4808]


def test_a_path_may_be_a_string(tmp_path):
    assert len(load_trace(str(saved(tmp_path, GOOD)))) == 1


@pytest.mark.parametrize(
    ("name", "count", "span_s", "first", "last"),
    [
        ("azure2023_conv.csv", 19_366, 3501.721937, (374, 44), (197, 183)),
        ("azure2023_code.csv", 8_819, 3435.948056, (4808, 10), (549, 173)),
        ("mooncake_conversation_2500.jsonl", 2_500, 822.0, (6758, 500), (892, 24)),
    ],
)
def test_public_traces_are_read_completely(name, count, span_s, first, last):
    trace = load_trace(shared(name))
    assert len(trace) == count
    assert trace.arrival_s[0] == 0.0
    assert trace.arrival_s[-1] == span_s
    assert (trace.prompt_tokens[0], trace.output_tokens[0]) == first
    assert (trace.prompt_tokens[-1], trace.output_tokens[-1]) == last


@pytest.mark.parametrize("name", ["azure2023_conv.csv", "azure2023_code.csv"])
def test_public_azure_traces_take_the_fast_path_and_it_equals_the_slow_one(name):
    data = shared(name).read_bytes()
    fast, slow = azure_csv.parse_columns(data), azure_csv.parse_rows(data, name)
    assert fast is not None
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(fast, column), getattr(slow, column))


# ---------------------------------------------------------------- malformed traces


def csv_rows(*rows):
    return GOOD + "".join(f"{row}\n" for row in rows)


def json_lines(*lines):
    return OK_JSON + "".join(f"{line}\n" for line in lines)


STAMP = "2023-11-16 18:17:04.0000000"

MALFORMED_CSV = {
    # case: (content, line, column, what else the message holds)
    "empty file": (b"", 1, "1", ["an empty file", "at least one request"]),
    "blank file": ("\n \r\n\n", 1, "1", ["an empty file"]),
    "only a byte-order mark": ("\ufeff", 1, "1", ["an empty file"]),
    "header only": (HEADER, 2, "TIMESTAMP", ["a header only", "at least one request"]),
    "header and blank lines": (HEADER + "\n\n", 2, "TIMESTAMP", ["a header only"]),
    "no header": (GOOD.removeprefix(HEADER), 1, "1", ["18:17:03", HEADER.strip()]),
    "no header, blank first": ("\n" + GOOD, 1, "1", ["header", HEADER.strip()]),
    "misspelt column": (
        GOOD.replace("ContextTokens", "ContextToken"),
        1,
        "2",
        ["nearest to 'ContextToken' is 'ContextTokens'"],
    ),
    "lower-case header": (
        GOOD.replace("TIMESTAMP", "timestamp"),
        1,
        "1",
        ["nearest to 'timestamp' is 'TIMESTAMP'"],
    ),
    "column missing in header": (
        GOOD.replace(",GeneratedTokens", ""),
        1,
        "1",
        ["GeneratedTokens is missing"],
    ),
    "columns in another order": (
        GOOD.replace("ContextTokens,GeneratedTokens", "GeneratedTokens,ContextTokens"),
        1,
        "1",
        ["must be TIMESTAMP,ContextTokens,GeneratedTokens"],
    ),
    "semicolons": (GOOD.replace(",", ";"), 1, "1", ["TIMESTAMP;ContextTokens"]),
    "word for a number": (csv_rows(f"{STAMP},many,1"), 3, "ContextTokens", ["'many'"]),
    "word for an output": (csv_rows(f"{STAMP},1,few"), 3, "GeneratedTokens", ["'few'"]),
    "negative prompt": (csv_rows(f"{STAMP},-5,1"), 3, "ContextTokens", ["'-5'", "from 1"]),
    "negative output": (csv_rows(f"{STAMP},5,-1"), 3, "GeneratedTokens", ["'-1'"]),
    "zero prompt": (csv_rows(f"{STAMP},0,1"), 3, "ContextTokens", ["'0'", "from 1"]),
    "zero output": (csv_rows(f"{STAMP},1,0"), 3, "GeneratedTokens", ["'0'"]),
    "NaN tokens": (csv_rows(f"{STAMP},NaN,1"), 3, "ContextTokens", ["'NaN'"]),
    "infinite tokens": (csv_rows(f"{STAMP},1,inf"), 3, "GeneratedTokens", ["'inf'"]),
    "fraction of a token": (csv_rows(f"{STAMP},1.5,1"), 3, "ContextTokens", ["'1.5'"]),
    "scientific notation": (csv_rows(f"{STAMP},1e3,1"), 3, "ContextTokens", ["'1e3'"]),
    "thousands separator": (csv_rows(f"{STAMP},1_000,1"), 3, "ContextTokens", ["'1_000'"]),
    "blank in a number": (csv_rows(f"{STAMP}, 7,1"), 3, "ContextTokens", ["' 7'"]),
    "digits of another script": (csv_rows(f"{STAMP},٣,1"), 3, "ContextTokens", ["'٣'"]),
    "too many tokens": (csv_rows(f"{STAMP},1000000000,1"), 3, "ContextTokens", ["999999999"]),
    "hugely many tokens": (csv_rows(f"{STAMP},{'9' * 5000},1"), 3, "ContextTokens", ["99..."]),
    "empty number": (csv_rows(f"{STAMP},,1"), 3, "ContextTokens", ["got ''"]),
    "empty last number": (csv_rows(f"{STAMP},1,"), 3, "GeneratedTokens", ["got ''"]),
    "empty timestamp": (csv_rows(",1,1"), 3, "TIMESTAMP", ["got ''", "a time such as"]),
    "number for a timestamp": (csv_rows("1700158623,1,1"), 3, "TIMESTAMP", ["'1700158623'"]),
    "NaN timestamp": (csv_rows("NaN,1,1"), 3, "TIMESTAMP", ["'NaN'"]),
    "month 13": (csv_rows("2023-13-16 18:17:04.0000000,1,1"), 3, "TIMESTAMP", ["2023-13-16"]),
    "30 February": (csv_rows("2024-02-30 18:17:04.0000000,1,1"), 3, "TIMESTAMP", ["2024-02-30"]),
    "hour 24": (csv_rows("2023-11-16 24:17:04.0000000,1,1"), 3, "TIMESTAMP", ["24:17"]),
    "minute 60": (csv_rows("2023-11-16 19:60:04.0000000,1,1"), 3, "TIMESTAMP", ["19:60"]),
    "second 60": (csv_rows("2023-11-16 18:17:60.0000000,1,1"), 3, "TIMESTAMP", ["17:60"]),
    "year 0": (csv_rows("0000-11-16 18:17:04.0000000,1,1"), 3, "TIMESTAMP", ["0000-11"]),
    "offset of 99 hours": (HEADER + "2023-11-16 18:17:04+99:00,1,1\n", 2, "TIMESTAMP", ["+99:00"]),
    "slashes in the date": (csv_rows("2023/11/16 18:17:04,1,1"), 3, "TIMESTAMP", ["2023/11/16"]),
    "points in the time": (csv_rows("2023-11-16 18.17.04.0000000,1,1"), 3, "TIMESTAMP", ["18.17"]),
    "offset on one row only": (
        csv_rows("2023-11-16 18:17:05Z,1,1"),
        3,
        "TIMESTAMP",
        ["without a UTC offset, as in line 2", "18:17:05Z"],
    ),
    "no offset on one row": (
        HEADER + "2023-11-16 18:17:05Z,1,1\n2023-11-16 18:17:06,1,1\n",
        3,
        "TIMESTAMP",
        ["with a UTC offset, as in line 2"],
    ),
    "unsorted": (
        csv_rows(f"{STAMP},1,1", "2023-11-16 18:17:03.9999999,1,1"),
        4,
        "TIMESTAMP",
        [f"not before {STAMP}", "18:17:03.9999999"],
    ),
    "a century later": (csv_rows("2123-12-16 18:17:03,1,1"), 3, "TIMESTAMP", ["within 36525 days"]),
    "field missing": (csv_rows(f"{STAMP},1"), 3, "GeneratedTokens", ["3 fields", "not 2"]),
    "field too many": (csv_rows(f"{STAMP},1,2,3"), 3, "4", ["3 fields", "not 4", f"{STAMP},1,2,3"]),
    "fields moved between rows": (
        csv_rows(f"{STAMP},1", f"{STAMP},1,2,3"),
        3,
        "GeneratedTokens",
        ["not 2"],
    ),
    "fields moved to the row above": (
        csv_rows(f"{STAMP},1,2,3", f"{STAMP},1"),
        3,
        "4",
        ["not 4"],
    ),
    "blank line in the middle": (
        csv_rows("", f"{STAMP},1,1"),
        3,
        "TIMESTAMP",
        ["blank lines may stand at the end only", "got ''"],
    ),
    "two rows on a line": (csv_rows(f"{STAMP},1,1\r{STAMP},1,1"), 3, "4", ["not 5"]),
    "not UTF-8": (csv_rows(f"{STAMP},1,1").encode() + b"\xff\xfe,1,1\n", 4, "1", ["UTF-8", "xff"]),
    "UTF-16": (GOOD.encode("utf-16"), 1, "1", ["UTF-8"]),
    "NUL in a number": (csv_rows(f"{STAMP},1\0,1"), 3, "ContextTokens", ["1\\x00"]),
}

MALFORMED_JSON = {
    "no JSON": (json_lines("timestamp=1"), 2, "1", ["timestamp=1", "JSON"]),
    "cut off": (json_lines('{"timestamp": 11, "inp'), 2, "19", ["Unterminated string"]),
    "a list": (json_lines("[11, 5, 6]"), 2, "1", ["a JSON object", "[11, 5, 6]"]),
    "a list of objects": ("[" + OK_JSON.strip() + "]\n", 1, "1", ["a JSON object"]),
    "blank line in the middle": (json_lines("", OK_JSON), 2, "1", ["at the end only"]),
    "missing length": (
        json_lines('{"timestamp": 11, "input_length": 5}'),
        2,
        "output_length",
        ["output_length must be present"],
    ),
    "misspelt length": (
        json_lines('{"timestamp": 11, "input_lenght": 5, "output_length": 6}'),
        2,
        "input_length",
        ["nearest to 'input_lenght' is 'input_length'"],
    ),
    "negative timestamp": (OK_JSON.replace("10", "-10"), 1, "timestamp", ["ms >= 0", "-10"]),
    "NaN timestamp": (json_lines(OK_JSON.strip().replace("10", "NaN")), 2, "timestamp", ["nan"]),
    "infinite timestamp": (OK_JSON.replace("10", "1e999"), 1, "timestamp", ["inf"]),
    "enormous timestamp": (OK_JSON.replace("10", "1" * 400), 1, "timestamp", ["111..."]),
    "absurd digits": (OK_JSON.replace("10", "1" * 9000), 1, "1", ["plain numbers"]),
    "text for a timestamp": (OK_JSON.replace("10", '"10"'), 1, "timestamp", ["'10'"]),
    "null timestamp": (OK_JSON.replace("10", "null"), 1, "timestamp", ["None"]),
    "true for a length": (OK_JSON.replace("5", "true"), 1, "input_length", ["True"]),
    "text for a length": (OK_JSON.replace("5", '"5"'), 1, "input_length", ["'5'"]),
    "zero length": (OK_JSON.replace("5", "0"), 1, "input_length", ["from 1", "got 0"]),
    "negative length": (OK_JSON.replace("6", "-6"), 1, "output_length", ["got -6"]),
    "fraction of a token": (OK_JSON.replace("6", "6.5"), 1, "output_length", ["got 6.5"]),
    "NaN length": (OK_JSON.replace("6", "NaN"), 1, "output_length", ["got nan"]),
    "unsorted": (
        json_lines('{"timestamp": 9, "input_length": 5, "output_length": 6}'),
        2,
        "timestamp",
        [">= 10", "got 9"],
    ),
    "seconds then nanoseconds": (
        json_lines(OK_JSON.strip().replace("10", "1700000000000000")),
        2,
        "timestamp",
        ["within 36525 days"],
    ),
    "not UTF-8": (OK_JSON.encode() + b'{"\xe9": 1}\n', 2, "3", ["UTF-8", "xe9"]),
}


def check_error(path, line, column, parts):
    with pytest.raises(InvalidParameterError) as caught:
        load_trace(path)
    message = str(caught.value)
    assert message.endswith(f"({path}, line {line}, column {column})"), message
    for part in parts:
        assert part in message
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize("case", MALFORMED_CSV)
def test_a_malformed_csv_is_refused_with_line_column_and_value(tmp_path, case):
    content, *expected = MALFORMED_CSV[case]
    check_error(saved(tmp_path, content), *expected)


@pytest.mark.parametrize("case", MALFORMED_JSON)
def test_a_malformed_jsonl_is_refused_with_line_column_and_value(tmp_path, case):
    content, *expected = MALFORMED_JSON[case]
    check_error(saved(tmp_path, content, "trace.jsonl"), *expected)


def test_one_bad_row_is_found_among_thousands(tmp_path):
    rows = [f"2023-11-16 18:{i // 60:02d}:{i % 60:02d}.0000000,{i + 1},5\n" for i in range(3000)]
    rows[2345] = rows[2345].replace(",2346,", ",-2346,")
    check_error(saved(tmp_path, HEADER + "".join(rows)), 2347, "ContextTokens", ["'-2346'"])


@pytest.mark.parametrize("read", [load_trace, trace_sha256])
def test_a_missing_file_and_a_directory_are_named(tmp_path, read):
    with pytest.raises(InvalidParameterError, match=r"path must be .*No such file.*nothing\.csv"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(InvalidParameterError, match="it is a directory"):
        read(tmp_path)
    with pytest.raises(InvalidParameterError, match="readable trace file"):
        read("null\0byte.csv")


# ---------------------------------------------------------------- replay


def test_replay_without_arguments_is_the_trace():
    trace = requests(0.0, 0.3, 2.0)
    assert replay(trace).arrival_s.tolist() == [0.0, 0.3, 2.0]


def test_the_window_is_half_open_starts_at_zero_and_speed_divides_the_times():
    trace = Requests(
        np.array([0.0, 1.0, 1.5, 3.0, 4.0]),
        np.arange(1, 6, dtype=np.int64),
        np.arange(11, 16, dtype=np.int64),
    )
    part = replay(trace, speed=2.0, start_s=1.0, length_s=3.0)
    assert part.arrival_s.tolist() == [0.0, 0.25, 1.0]
    assert part.prompt_tokens.tolist() == [2, 3, 4]
    assert part.output_tokens.tolist() == [12, 13, 14]


def test_time_zero_is_the_windows_start_and_not_its_first_request():
    assert replay(requests(0.0, 5.0), start_s=2.0).arrival_s.tolist() == [3.0]


@pytest.mark.parametrize(
    ("start_s", "length_s", "window"),
    [(10.0, None, "[10, end)"), (1.0, 2.0, "[1, 3)"), (100.0, 5.0, "[100, 105)")],
)
def test_a_window_without_requests_tells_what_the_trace_covers(start_s, length_s, window):
    with pytest.raises(InvalidParameterError) as caught:
        replay(requests(0.0, 0.5, 7.25), start_s=start_s, length_s=length_s)
    assert window in str(caught.value)
    assert "covers [0, 7.25] s" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("speed", v) for v in (0.0, -1.0, float("nan"), float("inf"), 1e-320)),
        *(("start_s", v) for v in (-1.0, float("nan"), float("inf"))),
        *(("length_s", v) for v in (0.0, -1.0, float("nan"))),
    ],
)
def test_replay_refuses_values_out_of_range(name, value):
    with pytest.raises(InvalidParameterError, match=f"^{name} must be"):
        replay(requests(0.0, 1.0), **{name: value})


# ---------------------------------------------------------------- hash and cache


def test_the_hash_is_that_of_the_bytes(tmp_path):
    path = saved(tmp_path, GOOD)
    assert trace_sha256(path) == hashlib.sha256(GOOD.encode()).hexdigest()


def test_a_settled_file_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = saved(tmp_path, GOOD)
    os.utime(path, ns=(10**18, 10**18))
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: reads.append(p) or read_bytes(p))
    assert trace_sha256(path) == trace_sha256(path)
    assert load_trace(path) is load_trace(path)
    assert len(reads) == 2
    path.write_bytes(GOOD.replace("4808", "4809").encode())
    assert load_trace(path).prompt_tokens.tolist() == [4809]
    assert trace_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_rewritten_within_one_tick_of_the_clock_is_read_again(tmp_path):
    path = saved(tmp_path, GOOD)
    now = time.time_ns()
    for prompt in (1000, 1001, 1002):
        path.write_bytes(GOOD.replace("4808", str(prompt)).encode())
        os.utime(path, ns=(now, now))  # same size, same time: as on a coarse clock
        assert load_trace(path).prompt_tokens.tolist() == [prompt]
        assert trace_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_callers_cannot_change_each_others_trace(tmp_path):
    trace = load_trace(saved(tmp_path, GOOD))
    for column in (trace.arrival_s, trace.prompt_tokens, trace.output_tokens):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


# ---------------------------------------------------------------- writing


def test_a_trace_is_written_as_the_published_ones_are(tmp_path):
    path = tmp_path / "new" / "trace.csv"
    write_trace(requests(0.0, 59.5, 60.00000014), path, datetime(2023, 12, 31, 23, 59, 0, 500_000))
    assert path.read_text() == (
        HEADER + "2023-12-31 23:59:00.5000000,7,3\n"
        "2024-01-01 00:00:00.0000000,7,3\n2024-01-01 00:00:00.5000001,7,3\n"
    )
    assert load_trace(path).arrival_s.tolist() == [0.0, 59.5, 60.0000001]


def test_a_start_with_a_time_zone_is_written_in_utc(tmp_path):
    zone = timezone(timedelta(hours=2))
    write_trace(requests(0.0), tmp_path / "zone.csv", datetime(2024, 1, 1, 1, tzinfo=zone))
    write_trace(requests(0.0), tmp_path / "utc.csv", datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert (tmp_path / "zone.csv").read_bytes() == (tmp_path / "utc.csv").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = saved(tmp_path, GOOD)

    def full_disk(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_trace(requests(0.0), path)
    assert path.read_bytes() == GOOD.encode()
    assert os.listdir(tmp_path) == ["trace.csv"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("what", "trace"),
    [
        ("requests", requests()),
        ("prompt_tokens", requests(0.0, prompt=10**9)),
        ("output_tokens", requests(0.0, output=10**9)),
        ("arrival_s", requests(0.0, 1e15)),
        ("arrival_s", requests(float("inf"))),
    ],
)
def test_what_no_trace_file_can_hold_is_not_written(tmp_path, what, trace):
    with pytest.raises(InvalidParameterError, match=f"^{what} must be"):
        write_trace(trace, tmp_path / "trace.csv")
    assert list(tmp_path.iterdir()) == []


def test_azure_and_mooncake_spellings_of_the_same_requests_are_equal(tmp_path):
    trace = requests(0.0, 0.125, 3.0)
    write_trace(trace, tmp_path / "trace.csv")
    lines = [
        json.dumps({"timestamp": t, "input_length": 7, "output_length": 3}) for t in (0, 125, 3000)
    ]
    from_csv = load_trace(tmp_path / "trace.csv")
    from_json = load_trace(saved(tmp_path, "\n".join(lines), "trace.jsonl"))
    np.testing.assert_array_equal(from_csv.arrival_s, from_json.arrival_s)
    np.testing.assert_array_equal(from_csv.prompt_tokens, from_json.prompt_tokens)


def test_another_format_is_a_function_and_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(data: bytes, _file: str) -> Requests:
        rows = np.array([line.split(";") for line in data.decode().split()[1:]], dtype=float)
        return Requests(rows[:, 0], rows[:, 1].astype(int), rows[:, 2].astype(int))

    form = TraceFormat(lambda data, _suffix: data.startswith(b"semicolons"), parse)
    monkeypatch.setitem(FORMATS, "semicolons", form)
    file = tmp_path / "trace.csv"
    file.write_text("semicolons\n0.0;3;5\n1.5;2;7\n")
    assert load_trace(file).output_tokens.tolist() == [5, 7]
