"""The scoreboard's own arithmetic: reading rows, pairs, intervals, verdicts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import aims  # noqa: E402 - lies beside the script
import measured  # noqa: E402
import scoreboard  # noqa: E402
import verdict_skill  # noqa: E402

sys.path.remove(str(BENCHMARKS))

POOL = measured.Pool(workers=1, tp=8, pp=1, attention_dp=1, moe_tp=1, moe_ep=1)


def row(**changes: Any) -> measured.Row:
    values: dict[str, Any] = {
        "engine": "trtllm",
        "version": "1.0",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "gpu": "h100_sxm",
        "precision": "bf16",
        "gemm": "",
        "moe": "",
        "mode": "agg",
        "prompt": 100,
        "output": 20,
        "concurrency": 8,
        "pools": (POOL,),
        "ttft_s": 0.1,
        "tpot_s": 0.01,
        "development": True,
    }
    return measured.Row(**values | changes)


COLUMNS = (
    "backend,backend_version,model_path,system,precision,mode,isl,osl,gemm_quant_mode,"
    "moe_quant_mode,tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,"
    "prefill_num_workers,prefill_tp_size,decode_num_workers,decode_tp_size,"
    "silicon_ttft_ms,silicon_tpot_ms,concurrency"
)


def test_rows_are_read_with_what_they_state(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        f"{COLUMNS}\n"
        "vllm,0.12.0,a/B,h100_sxm,,agg,1024,128,,,2,1,,,,,,,,154.5,18.0,8\n"
        "sglang,0.5,a/B-FP8,h200_sxm,fp8,disagg,8192,1024,fp8,fp8_block,,,,,,2,4,1,8,100,10,\n"
        "sglang,0.5,a/B,h200_sxm,fp8,disagg,8192,1024,fp8,,,,,,,,,,,100,10,64\n",
        encoding="utf-8",
    )
    first, second, third = measured.read_rows(path)
    assert first.pools == (measured.Pool(1, 2, 1, 1, 1, 1),)
    assert (first.ttft_s, first.tpot_s) == (0.1545, 0.018)
    assert (first.precision, first.concurrency, first.group[2]) == ("bf16", 8, "B")
    assert [(pool.workers, pool.tp) for pool in second.pools] == [(2, 4), (1, 8)]
    assert (second.precision, second.concurrency) == ("fp8", None)
    assert third.pools == ()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"concurrency": None}, "requests in flight"),
        ({"pools": ()}, "pools not stated"),
        ({"pools": (measured.Pool(1, 8, 2, 1, 1, 1),)}, "pipeline"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(measured.RefusedError, match=why):
        measured.plain(row(**changes))


def test_what_simlib_refuses_is_refused_with_its_reason() -> None:
    unknown = measured.plain(row(model="a/B"))
    with pytest.raises(measured.RefusedError, match=r"latency\.model must be one of"):
        measured.predict(unknown)


def test_lengths_are_spread_in_the_public_sweep_only() -> None:
    public = measured.requests_of(row(prompt=1024, output=8192))
    assert public["prompt_tokens"] == {"mode": "uniform", "low": 819, "high": 1024}
    assert public["arrival"]["requests"] == 80
    own = measured.requests_of(row())
    assert own["output_tokens"] == {"mode": "uniform", "low": 20, "high": 20}
    assert own["arrival"]["requests"] == 160


def test_an_engine_changes_what_is_predicted() -> None:
    plain = measured.predict(measured.plain(row(engine="sglang")))
    engine = measured.predict(measured.with_engine(row(engine="sglang")))
    assert engine[0] > plain[0]
    assert engine[1] > plain[1]


def test_rows_of_the_larger_set_count_once(tmp_path: Path) -> None:
    line = "vllm,0.12.0,a/B,h100_sxm,,agg,1024,128,,,2,1,,,,,,,,154.5,18.0,8\n"
    other = line.replace("154.5", "99.0")
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    small.write_text(f"{COLUMNS}\n{line}", encoding="utf-8")
    large.write_text(f"{COLUMNS}\n{other}{line}{line}", encoding="utf-8")
    rows = scoreboard.all_rows([small], large)
    assert [(one.ttft_s, one.development) for one in rows] == [
        (0.1545, True),
        (0.099, False),
        (0.1545, False),  # measured twice, and given once
    ]


def test_an_interval_is_wider_over_few_servers_than_over_rows() -> None:
    rng = np.random.default_rng(3)
    servers = np.repeat(np.arange(10), 40)
    values = rng.normal(size=10)[servers] + 0.01 * rng.normal(size=400)
    over_servers, over_rows = (
        scoreboard.interval(values, names.tolist()) for names in (servers, np.arange(400))
    )

    def width(text: str) -> float:
        low, high = text.split("(")[1].rstrip(")").split(" to ")
        return float(high) - float(low)

    assert width(over_servers) > 2 * width(over_rows)
    assert scoreboard.interval(values, ["one"] * 400) == f"{np.median(values):.1f}"


def both_ways(count: int) -> list[measured.Row]:
    found = []
    for number in range(count):
        load = 16 * (number + 1)
        found.append(row(concurrency=load, tpot_s=0.01 * 1.1**number))
        found.append(row(mode="disagg", concurrency=2 * load, pools=(POOL, POOL)))
    return found


def test_pairs_have_equal_requests_in_flight_per_gpu() -> None:
    rows = both_ways(3)
    assert verdict_skill.pairs(rows) == [(1, 0), (3, 2), (5, 4)]
    assert verdict_skill.pairs([rows[0], row(mode="disagg", pools=(POOL, POOL))]) == []
    assert verdict_skill.pairs([rows[1], row(gpu="b200_sxm", concurrency=16)]) == []


def test_a_measurement_under_two_names_is_one_pair() -> None:
    mono, disagg = both_ways(1)
    twin = row(concurrency=16, model="meta-llama/Llama-3.1-8B-Instruct")
    assert verdict_skill.pairs([mono, disagg, twin]) == [(1, 0)]
    assert len(verdict_skill.pairs([mono, disagg, row(concurrency=16, ttft_s=0.2)])) == 2


def test_sizes_that_repeat_a_measurement_of_fewer_gpus_are_doubted() -> None:
    small = [row(concurrency=load, tpot_s=0.01 * load) for load in (4, 8, 16)]
    four = replace(POOL, attention_dp=4)
    same = [replace(one, pools=(four,), tpot_s=1.01 * one.tpot_s) for one in small]
    faster = [replace(one, pools=(four,), tpot_s=0.5 * one.tpot_s) for one in small]
    assert measured.contradicted([*small, *same]) == {3, 4, 5}
    assert measured.contradicted([*small, *faster]) == set()
    # one of three may agree by chance
    assert measured.contradicted([*small, same[0], *faster[1:]]) == set()
    kinds = scoreboard.kinds([*small, *same])
    assert kinds["development, monolithic, dense"].sum() == 6
    assert kinds["development, monolithic, dense, sizes credible"].sum() == 3


def test_the_page_begins_with_aims_and_what_is_met() -> None:
    kinds = {
        "others, monolithic, dense": np.array([True, True, True, False]),
        "development, monolithic, dense": np.array([False, False, False, True]),
    }
    ratios = np.array([[1.2, 1.0], [0.1, 1.09], [np.nan, 1.0], [1.0, 1.0]])
    head, _, ttft, tpot, far, *others = aims.summary(kinds, ratios)
    assert head.index("nobody fitted") < head.index("left out")
    assert ttft == "| monolithic, dense: TTFT | 20 % | 55.0 %, missed | 0.0 %, met |"
    assert tpot == "| monolithic, dense: TPOT | 8 % | 4.5 %, met | 0.0 %, met |"
    assert far == "| rows off by over 5 times | none | 1 of 2 | 0 of 1 |"
    assert others[0] == "| monolithic, experts: TTFT | 30 % | – | – |"


def test_peers_are_asked_for_each_nth_row_that_is_simulated(tmp_path: Path) -> None:
    rows = [row(concurrency=number or None) for number in range(6)]
    asked: list[measured.Row] = []

    def peer(one: measured.Row) -> tuple[float, float]:
        asked.append(one)
        return 0.2, 0.01

    lines = scoreboard.run(rows, tmp_path / "rows.csv", {"aisimulate": peer}, 2)
    assert asked == [rows[2], rows[4]]  # the first cannot be simulated
    found = scoreboard.times(lines, "aisimulate")
    assert np.isfinite(found[:, 0]).tolist() == [False, False, True, False, True, False]
    [*_, only] = scoreboard.paired(rows, lines, {"aisimulate": "AISimulate 1"})
    assert only.split(" | ")[1:3] == ["AISimulate 1", "2"]
    assert only.split(" | ")[4] == "100.0"


def test_skill_counts_right_winners_and_the_constant_guess() -> None:
    rows = both_ways(4)
    true = np.array([[1.0, 1.0]] * 8)
    true[1::2, 0] = [2.0, 2.0, 2.0, 0.5]  # disaggregated: TTFT longer in three of four
    ours = true.copy()
    ours[7, 0] = 3.0  # the fourth is wrong
    table = verdict_skill.skill(rows, true, ours)
    assert table[0] == "Settings measured both ways: 4, of which 4 are simulated."
    assert table[4].startswith("| TTFT | 4 | 3 | 3 |")
    ours[7, 0] = np.nan
    assert "of which 3 are simulated" in verdict_skill.skill(rows, true, ours)[0]


def test_rank_correlation_is_of_ranks() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert verdict_skill.rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert verdict_skill.rank_correlation(a, -(a**3)) == pytest.approx(-1.0)
    assert np.isnan(verdict_skill.rank_correlation(a[:2], a[:2]))


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(), row(concurrency=None)]
    path = tmp_path / "rows.csv"
    first = scoreboard.run(rows, path, {})
    assert float(first[0]["engine_ttft_s"]) > 0
    assert "requests in flight" in first[1]["engine_refused"]
    monkeypatch.setattr(scoreboard, "predicted", None)  # nothing is predicted again
    again = scoreboard.run(rows, path, {})
    assert (
        scoreboard.times(again, "engine")[0].tolist()
        == scoreboard.times(first, "engine")[0].tolist()
    )
    text = scoreboard.page(rows, again, {})
    assert "development, monolithic, dense" in text
    assert "no number of requests in flight stated" in text
