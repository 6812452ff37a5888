"""Models, GPUs and step latencies of one's own: read, used, part of a point's identity."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from simlib.core.config import SimConfig
from simlib.core.overrides import overridden
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.steps import StepTable, StepTableLatency
from simlib.serving.assemble import deployment_of
from simlib.study.jobs.described import located
from simlib.study.jobs.simulate import simulate
from simlib.study.plan.grid import resolve
from simlib.study.plan.identity import point_id, run_settings
from tests.serving import small_steps

OWN_MODEL = {
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "ffn": 14336,
    "vocab": 128256,
}
OWN_GPU = {
    "dense_bf16_flops": 989e12,
    "hbm_bytes_per_s": 3.35e12,
    "hbm_bytes": 85520809984,
    "link_bytes_per_s": 450e9,
}
FIXED = {"mode": "fixed", "value": 100}
SHORT = {
    "sim_seconds": 20,
    "warmup_seconds": 1,
    "serving": "batching",
    "mode": "mono",
    "prompt_tokens": FIXED,
    "output_tokens": FIXED,
}


def config(**sections: object) -> SimConfig:
    pool = {"tensor_parallel": 1, **sections.pop("pool", {})}
    return SimConfig.from_dict({**SHORT, "batching_mono": {"pool": pool}, **sections})


def entry(read: SimConfig):
    return deployment_of(read.batching, read.latency, read.own).entry


# ------------------------------------------------------------------ models and GPUs


def test_an_own_model_of_the_same_sizes_serves_as_the_catalogs_does():
    own = config(models={"mine": OWN_MODEL}, latency={"model": "mine"})
    known = config(latency={"model": "llama-3.1-8b"})
    assert entry(own).latency.parameters == entry(known).latency.parameters
    assert entry(own).capacity_blocks == entry(known).capacity_blocks


def test_an_own_gpu_has_its_own_numbers_and_the_default_efficiencies():
    own = config(gpus={"chip": OWN_GPU}, pool={"gpu": "chip"}, latency={"model": "llama-3.1-8b"})
    other = config(
        gpus={"chip": {**OWN_GPU, "hbm_bytes": 2 * OWN_GPU["hbm_bytes"]}},
        pool={"gpu": "chip"},
        latency={"model": "llama-3.1-8b"},
    )
    assert entry(other).capacity_blocks > 2 * entry(own).capacity_blocks
    default = config(pool={"gpu": "h20"}, latency={"model": "llama-3.1-8b"})
    assert entry(own).latency.parameters != entry(default).latency.parameters


def test_what_a_point_uses_is_part_of_its_identity_and_nothing_else():
    base = {"models": {"mine": OWN_MODEL}, "gpus": {"chip": OWN_GPU}, "latency": {"model": "mine"}}
    ids = {
        "as it is": point_id(config(**base)),
        "another size": point_id(config(**{**base, "models": {"mine": {**OWN_MODEL, "ffn": 1}}})),
        "own gpu": point_id(config(**base, pool={"gpu": "chip"})),
    }
    assert len(set(ids.values())) == 3
    more = {**base, "models": {"mine": OWN_MODEL, "other": OWN_MODEL}}
    assert point_id(config(**more)) == ids["as it is"]
    assert point_id(config(gpus={"chip": OWN_GPU})) == point_id(config())
    assert run_settings(config(**more)) == run_settings(config(**base))
    assert "gpus" not in run_settings(config(**base))


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"models": {"mine": {**OWN_MODEL, "kv_heads": 5}}}, r"models.mine.kv_heads must be a div"),
        ({"models": {"mine": {**OWN_MODEL, "layer": 5}}}, r"models.mine.layer must be a known key"),
        ({"models": {"Llama-3.1-8B": OWN_MODEL}}, "models.Llama-3.1-8B must be a name that the"),
        ({"gpus": {"h100_sxm": OWN_GPU}}, "gpus.h100_sxm must be a name that the catalog"),
        ({"gpus": {"chip": {**OWN_GPU, "hbm_bytes": 0}}}, "gpus.chip.hbm_bytes must be > 0"),
    ],
)
def test_bad_entries_are_refused_by_their_key(sections, match):
    with pytest.raises(InvalidParameterError, match=match):
        config(**sections)


def test_unknown_names_list_ones_own_too():
    with pytest.raises(InvalidParameterError, match=r"latency.model must be .*mine, got 'nobody'"):
        entry(config(models={"mine": OWN_MODEL}, latency={"model": "nobody"}))
    with pytest.raises(InvalidParameterError, match=r"pool.gpu must be .*chip, got 'nothing'"):
        entry(config(gpus={"chip": OWN_GPU}, pool={"gpu": "nothing"}))


# ------------------------------------------------------------------ config.json

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "hidden_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "vocab_size": 201088,
}
MAVERICK = {
    "text_config": {
        "model_type": "llama4_text",
        "num_hidden_layers": 48,
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_local_experts": 128,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "vocab_size": 202048,
    }
}


def written(folder: Path, content: dict[str, object]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (LLAMA, "llama-3.1-8b"),
        (DEEPSEEK, "deepseek-v3"),
        (GPT_OSS, "gpt-oss-20b"),
        (MAVERICK, "llama-4-maverick"),
    ],
)
def test_a_published_configuration_is_the_catalogs_model(tmp_path, content, name):
    read, known = catalog.model_of_file(str(written(tmp_path, content))), catalog.model(name)
    assert read.parameters == known.parameters - known.extra_parameters
    assert read.active_parameters == known.active_parameters
    assert catalog.kv_bytes_per_token(read, 4) == catalog.kv_bytes_per_token(known, 4)
    assert (read.sliding_window, read.window_layers) == (known.sliding_window, known.window_layers)


def test_sparse_attention_costs_what_a_window_of_the_selected_tokens_does(tmp_path):
    read = catalog.model_of_file(str(written(tmp_path, {**DEEPSEEK, "index_topk": 2048})))
    assert (read.sliding_window, read.window_layers) == (2048, read.layers)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": None}, "latency.model: hidden_size must be a number >= 1, got None"),
        ({"hidden_size": "big"}, "latency.model: hidden_size must be a whole number, got 'big'"),
        ({"num_key_value_heads": 5}, "kv_heads must be a divisor of 32 heads"),
        ({"ssm_state_size": 128}, "latency.model must be a model whose layers attend to all"),
        ({"layer_types": ["mamba"] * 32}, "latency.model: layer_types must be full_attention"),
    ],
)
def test_what_a_file_lacks_or_this_roofline_does_not_know_is_told(tmp_path, changes, match):
    path = written(tmp_path, {**LLAMA, **changes})
    with pytest.raises(InvalidParameterError, match=match):
        entry(config(latency={"model": str(path)}))


def test_a_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(InvalidParameterError, match=r"latency.model must be"):
        entry(config(latency={"model": str(tmp_path / "none.json")}))


def test_the_bytes_of_a_file_decide_and_not_its_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, same = written(tmp_path / "a", LLAMA), written(tmp_path / "b", LLAMA)
    before = point_id(config(latency={"model": str(one)}))
    assert point_id(config(latency={"model": str(same)})) == before
    assert point_id(config(latency={"model": f"{tmp_path / 'a'}/"})) == before
    written(tmp_path / "a", {**LLAMA, "vocab_size": 1000})
    assert point_id(config(latency={"model": str(one)})) != before


def test_a_file_beside_the_study_is_found_and_named_as_written(tmp_path, monkeypatch):
    study, work = tmp_path / "study", tmp_path / "work"
    study.mkdir()
    work.mkdir()
    written(study, LLAMA)
    monkeypatch.chdir(work)
    pool = {"tensor_parallel": 1}
    defaults = {**SHORT, "batching_mono": {"pool": pool}, "latency": {"model": "config.json"}}
    (found,) = resolve({"defaults": defaults, "studies": {"one": {}}}, source=study)
    (row,) = found.rows
    point = row.point()
    assert point["config"]["latency"]["model"] == "config.json"
    assert point["files"] == {"latency.model": str(study / "config.json")}
    assert located(point)["latency"]["model"] == str(study / "config.json")


# ------------------------------------------------------------------ step latencies


def csv_of(table: StepTable, path: Path) -> Path:
    lines = ["phase,tokens,context,seconds"]
    for phase, rows, columns, seconds in (
        ("prefill", table.tokens, table.before, table.prefill_s),
        ("decode", table.batch, table.context, table.decode_s),
    ):
        for row, values in zip(rows, seconds, strict=True):
            lines += [
                f"{phase},{row:g},{column:g},{value!r}"
                for column, value in zip(columns, values, strict=True)
            ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


SMALL_BATCH = {"max_batch_size": 64, "max_batch_tokens": 1024}


def test_a_table_says_what_was_measured_and_lines_between(tmp_path):
    table = StepTable.read(csv_of(small_steps(), tmp_path / "steps.csv"))
    assert table == small_steps()
    latency = StepTableLatency(table, 1e3)
    assert latency.iteration_s([(128, 0)], 0, 0) == 0.020
    assert latency.iteration_s([(128, 64)], 0, 0) == pytest.approx(0.022)
    assert latency.iteration_s([(72, 0)], 0, 0) == pytest.approx((0.011 + 0.020) / 2)
    assert latency.iteration_s([], 8, 800) == pytest.approx(0.011)
    assert latency.iteration_s([], 8, 8 * 550) == pytest.approx((0.011 + 0.014) / 2)
    assert latency.iteration_s([], 8, 8) == pytest.approx(0.0102)  # below the least context
    # 120 prompt tokens and 8 sequences: 128 tokens, and what context adds to the 8
    mixed = latency.iteration_s([(120, 0)], 8, 800)
    assert mixed == pytest.approx(0.020 + 0.011 - 0.0102)


def test_a_study_serves_with_a_table(tmp_path):
    path = csv_of(small_steps(), tmp_path / "steps.csv")
    read = config(
        latency={"kind": "table", "path": str(path), "model": "llama-3.1-8b"}, pool=SMALL_BATCH
    )
    records = simulate(read)
    alone = np.nanmin(records.prefill_end_s - records.prefill_start_s)
    assert alone == pytest.approx(0.011 + 0.009 * (100 - 16) / 112)
    again = path.read_text(encoding="utf-8").replace("0.02,", "0.021,")
    before = point_id(read)
    path.write_text(again + "\n", encoding="utf-8")
    assert point_id(read) != before


@pytest.mark.parametrize(
    ("pool", "lengths", "match"),
    [
        ({"max_batch_size": 65}, FIXED, "batching_mono.pool.max_batch_size must be <= 64"),
        ({"max_batch_tokens": 2000}, FIXED, "batching_mono.pool.max_batch_tokens must be <= 1024"),
        ({}, {"mode": "fixed", "value": 600}, "longest request, tokens must be <= 1000"),
    ],
)
def test_beyond_the_table_is_refused(tmp_path, pool, lengths, match):
    path = csv_of(small_steps(), tmp_path / "steps.csv")
    read = config(
        latency={"kind": "table", "path": str(path), "model": "llama-3.1-8b"},
        pool={**SMALL_BATCH, **pool},
        prompt_tokens=lengths,
        output_tokens=lengths,
    )
    with pytest.raises(InvalidParameterError, match=match):
        simulate(read)


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        ("phase,tokens", "kind,tokens", "path must be a CSV file with the columns phase, tokens"),
        ("decode,1,16,0.01\n", "", "decode must be a whole grid, got 'no line for tokens 1,"),
        ("decode,1,16,0.01\n", "decode,1,16,0\n", "seconds must be > 0"),
        ("decode,1,16,0.01\n", "decode,1,16,x\n", "seconds must be a number >= 0, got 'x' .*line"),
        ("decode,1,16,0.01\n", "decode,1,16,9\n", "decode, tokens 1 must be not falling"),
        ("decode,1,16,0.01\n", "wait,1,16,9\n", "phase must be prefill or decode"),
        ("decode,1,16,0.01\n", "decode,1,16,0.01\n" * 2, "must be given once for each phase"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path, before, after, match):
    path = csv_of(small_steps(), tmp_path / "steps.csv")
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(InvalidParameterError, match=match):
        StepTable.read(path)


def test_a_table_without_a_file_is_refused():
    with pytest.raises(InvalidParameterError, match=r"latency.path must be a CSV file"):
        config(latency={"kind": "table"})


# ------------------------------------------------------------------ the page

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_lists_the_catalog():
    for name in catalog.model_names():
        model = catalog.model(name)
        sizes = f"{model.parameters / 1e9:.4g} | {model.active_parameters / 1e9:.3g}"
        kib = catalog.kv_bytes_per_token(model) / 1024
        assert f"| `{name}` | {sizes} | {kib:.4g} |" in PAGE
    for name in catalog.gpu_names():
        gpu = catalog.gpu(name)
        assert (
            f"| `{name}` | {gpu.hbm_bytes / 1e9:.4g} | {gpu.hbm_bytes_per_s / 1e12:.4g} |" in PAGE
        )


def test_the_settings_of_the_page_are_valid_and_its_table_is_one(tmp_path, monkeypatch):
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    csv = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    Path("steps.csv").write_text(csv[0], encoding="utf-8")
    for block in blocks:
        settings = yaml.safe_load(block.replace("e12", "e+12").replace("e9", "e+9"))
        settings = settings.get("defaults", settings)
        read = SimConfig.from_dict(overridden({"serving": "batching"}, settings))
        assert read.latency.path in (None, "steps.csv")
    assert StepTable.read("steps.csv").batch == [1.0, 256.0]
