"""Configurations as strangers may write them: sound ones, changed in one or a few hostile ways."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import yaml

from simlib.study.plan.schema import study_file_schema

METACHARACTERS = (
    "x$(touch PWNED)", "`touch PWNED`", "a; touch PWNED", "a' ; touch PWNED; '",
    'a"; touch PWNED; "',
    "a\ntouch PWNED", "a && touch PWNED", "| touch PWNED", "> PWNED", "{wildcards}", "{0}", "{{x}}",
    "..", "../../PWNED", "/tmp/PWNED", "", " ", ".", "-rf", "--help", "~", "*", "$HOME", "%s", "\\",
    "a/b", "a\\b", "\x01", "\x1b[31m", "\u202e", "\ufeff", "é" * 200,
    "$\\frac$", "$x$ and $y$", "x" * 300,
    "x" * 100_000, "<script>alert(1)</script>", "&amp;", "]]>", "NaN", "null", "1e5", "on",
    "ab" * 40,
)  # fmt: skip
"""What a shell, a path, a template, a terminal, XML or mathtext might take for its own."""

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 0.5, 1e-320, 1e-9, 1e9, 1e18, 1e308, -1e308, 10**18, 10**30, 10**400, 2**63,
    float("nan"), float("inf"), float("-inf"), True, False, "1e9", "0x10", "1_000", "\uff11",
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, [], {}, [[]], [{}], [None], {"a": 1}, {1: 2}, {None: 1}, [1, "1"])
VALUES = (*METACHARACTERS, *NUMBERS, *OTHERS)

TOKEN_RATE: dict[str, Any] = {
    "defaults": {
        "sim_seconds": 30, "warmup_seconds": 3, "random_seed": 1, "arrival": {"rate_per_s": 2.0},
        "prompt_tokens": {"mean": 5.0, "sigma": 0.5, "min_value": 8},
        "output_tokens": {"mode": "fixed", "value": 20},
        "cluster_mono": {"num_gpus": 2, "prefill_tokens_per_s": 8000, "decode_tokens_per_s": 2000},
        "cluster_disagg": {"prefill_gpus": 1, "decode_gpus": 1, "kv_bytes_per_token": 1000.0},
        "request_classes": {"fast": {"share": 1, "ttft_slo_s": 0.5}, "slow": {"share": 2}},
    },
    "replicates": 2,
    "batch_seconds": 2,
    "studies": {
        "rates": {
            "title": "Rates",
            "sweep": {
                "grid": {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2]},
                "zip": {"speed": {"labels": ["a", "b"], "cluster_mono.num_gpus": [1, 2]}},
            },
            "compare": {"factor": "mode", "baseline": "mono"},
            "crossover": {"x": "arrival.rate_per_s", "y": "speed"},
            "overrides": {"drain": False, "cluster_mono": {"decode_tokens_per_s": 1000}},
        },
        "precise": {"precision": {"metric": "mean_ttft_s", "relative": 0.5, "max_replicates": 4}},
    },
}  # fmt: skip
BATCHING: dict[str, Any] = {
    "defaults": {
        "serving": "batching", "sim_seconds": 20, "warmup_seconds": 2, "timeline": False,
        "arrival": {"kind": "closed_loop", "concurrency": 3, "requests": 2000},
        "prompt_tokens": {"mode": "exponential", "mean": 100},
        "output_tokens": {"mode": "real_mean_std", "mean": 30, "std": 10},
        "latency": {"kind": "roofline", "model": "llama-3.1-70b", "step_overhead_s": 0.001},
        "batching_mono": {"pool": {"replicas": 1, "gpu": "h100_sxm", "tensor_parallel": 4,
                                   "max_batch_tokens": 512, "max_batch_size": 64}},
        "batching_disagg": {"prefill": {"replicas": 1}, "decode": {"replicas": 1},
                            "link": {"bandwidth_bytes_per_s": 1e9, "overlap_layers": 2}},
    },
    "replicates": 1,
    "studies": {"batching": {"sweep": {"grid": {"mode": ["mono", "disagg"]}},
                             "requests_table": False}},
}  # fmt: skip
AICONFIGURATOR: dict[str, Any] = {
    "defaults": {
        "serving": "batching", "sim_seconds": 20, "warmup_seconds": 2,
        "latency": {"kind": "aiconfigurator", "model": "org/name"},
    },
    "studies": {"kernels": {}},
}  # fmt: skip
SOUND = (TOKEN_RATE, BATCHING, AICONFIGURATOR)

Path = tuple[Any, ...]


def places(data: Any, above: Path = ()) -> Iterator[Path]:
    """Yield the way to every value of a tree."""
    yield above
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from places(value, (*above, key))
        else:
            yield (*above, key)


def changed(data: Any, place: Path, value: Any) -> Any:
    """Return a tree in which another value stands in a place."""
    if not place:
        return value
    tree = copy.deepcopy(data)
    part = tree
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return tree


def mutated(rng: random.Random) -> Any:
    """Return a sound configuration with one to three hostile changes."""
    data: Any = copy.deepcopy(rng.choice(SOUND))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not isinstance(data, dict) or not data:
            break
        place = rng.choice([p for p in places(data) if p])
        change = rng.randrange(4)
        if change == 0 and isinstance(place[-1], str):  # another key
            value, data = _at(data, place), _without(data, place)
            data = changed(data, (*place[:-1], rng.choice(METACHARACTERS)), value)
        elif change == 1:
            data = _without(data, place)
        elif change == 2:
            section = place[:-1]
            if isinstance(_at(data, section), dict):
                key = rng.choice((*METACHARACTERS, "mode", "kind", "path", "labels", 5, None, True))
                data = changed(data, (*section, key), rng.choice(VALUES))
        else:
            data = changed(data, place, rng.choice(VALUES))
    return data


def _at(data: Any, place: Path) -> Any:
    for key in place:
        data = data[key]
    return data


def _without(data: Any, place: Path) -> Any:
    tree = copy.deepcopy(data)
    del _at(tree, place[:-1])[place[-1]]
    return tree


_SNIPPETS = (
    "studies: {}\n", "defaults: {mode: mono, mode: disagg}\n", "__use_yte__: true\n",
    "__definitions__:\n- import os\n", "a: &a [*a]\n", "<<: *x\n", "when: 2026-01-01\n",
    "b: !!binary aGk=\n", "s: !!set {a, b}\n", "o: !!python/object:os.system {}\n",
    "t: !!python/tuple [1, 2]\n", "\tx: 1\n", "? [a, b]\n: 1\n", "x: " + "[" * 5000 + "\n",
    "n: " + "9" * 5000 + "\n", "y: .nan\n", 'c: "\\x01"\n', "%YAML 9.9\n", "--- \n...\n--- {}\n",
    "\x00\n", "\ufeff", '{"a": 1, "a": 2}', "x: |\n", "- 1\n", "60:60: 1:30\n",
    "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(7)
    ),
)  # fmt: skip


def as_text(rng: random.Random) -> bytes:
    """Return a hostile configuration as the bytes of a file."""
    text = yaml.safe_dump(mutated(rng), allow_unicode=True, sort_keys=False)
    change = rng.randrange(6)
    if change == 0:
        lines = text.splitlines(keepends=True)
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_SNIPPETS))
        text = "".join(lines)
    elif change == 1:
        text = text[: rng.randrange(len(text) + 1)]
    content = text.encode("utf-8", "surrogatepass")
    if change == 2 and content:
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        content = bytes(damaged)
    return content


def text_settings() -> list[tuple[str, Path]]:
    """Return every key of a configuration that takes a text, from the schema itself.

    Returns
    -------
    list of (name, place)
        The place is one in a study file of one study, ``s``.
    """
    schema = study_file_schema()
    definitions = schema["$defs"]
    found: dict[Path, None] = {}

    def takes(part: dict[str, Any], kind: str) -> bool:
        options = part.get("anyOf", [part])
        known = ("type", "$ref", "anyOf", "enum", "properties")
        return any(one.get("type") == kind or not set(known) & set(one) for one in options)

    def walk(part: dict[str, Any], place: Path, depth: int) -> None:
        if depth > 14:
            return
        for option in part.get("anyOf", [part]):
            if "$ref" in option:
                walk(definitions[option["$ref"].rpartition("/")[2]], place, depth + 1)
        if takes(part, "string"):
            found[place] = None
        for key, inner in part.get("properties", {}).items():
            walk(inner, (*place, key), depth + 1)
        more = part.get("additionalProperties")
        if isinstance(more, dict):
            walk(more, (*place, "s" if place == ("studies",) else "any"), depth + 1)
        if isinstance(part.get("items"), dict):
            walk(part["items"], (*place, 0), depth + 1)

    walk(schema, (), 0)
    return [(".".join(map(str, place)), place) for place in found]
