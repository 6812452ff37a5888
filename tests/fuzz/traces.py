"""Traces as strangers may write them: sound ones with a few bytes, fields or lines changed."""

from __future__ import annotations

import json
import random

_CSV = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{second:02d}.9799600,{100 + second},{10 + second}\n" for second in range(20)
)
_JSON = "".join(
    json.dumps({"timestamp": 1000 * k, "input_length": 100 + k, "output_length": 10 + k}) + "\n"
    for k in range(20)
)
_FIELDS = (
    "", "0", "-1", "1e9", "9" * 5000, "NaN", "null", "1.5", "\uff12", "\x00", "$(touch PWNED)", '"',
    "[" * 5000, "2023-99-16 18:17:03", "0001-01-01 00:00:00", "9999-12-31 23:59:59",
    '{"a": 1, "a": 2}', "x" * 100_000,
)  # fmt: skip


def trace_bytes(rng: random.Random) -> tuple[str, bytes]:
    """Return a file's name and its content."""
    name, text = rng.choice((("trace.csv", _CSV), ("trace.jsonl", _JSON)))
    lines = text.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    change = rng.randrange(5)
    if change == 0:
        fields = lines[number].rstrip("\n").split(",")
        fields[rng.randrange(len(fields))] = rng.choice(_FIELDS)
        lines[number] = ",".join(fields) + "\n"
    elif change == 1:
        lines[number] = rng.choice(_FIELDS) + "\n"
    elif change == 2:
        lines.insert(number, rng.choice(lines))
    elif change == 3:
        del lines[number]
    content = bytearray("".join(lines).encode())
    if change == 4:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return name, bytes(content)
