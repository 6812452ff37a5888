"""Latency tables: exact at grid points, refused when broken, and equal to their source."""

import json

import pytest

from simlib.errors import InvalidParameterError
from simlib.latency.aiconfigurator import build_latency_table
from simlib.latency.table import LatencyTable, TableLatency, shared_s


def table(**changes: object) -> LatencyTable:
    content = {
        "model": "m",
        "gpu": "g",
        "tensor_parallel": 1,
        "precision": "bf16",
        "backend": "b",
        "source": "made up",
        "kv_bytes_per_token": 1000.0,
        "kv_capacity_tokens": 5000,
        "tokens": [1.0, 8.0, 64.0],
        "shared_s": [0.010, 0.011, 0.020],
        "chunk": [1.0, 32.0],
        "before": [0.0, 128.0],
        "prefill_attention_s": [[0.001, 0.002], [0.003, 0.008]],
        "batch": [1.0, 4.0],
        "context": [16.0, 100.0],
        "decode_attention_s": [[0.001, 0.003], [0.002, 0.008]],
    }
    return LatencyTable(**{**content, **changes})


def test_grid_points_are_returned_as_they_are():
    latency = TableLatency(table())
    assert latency.iteration_s([(8, 0)], 0, 0) == pytest.approx(0.011 + 0.001 + 7 / 31 * 0.002)
    assert latency.iteration_s([], 1, 16) == pytest.approx(0.011)
    assert latency.iteration_s([], 1, 100) == pytest.approx(0.013)
    assert latency.iteration_s([(1, 128)], 1, 16) == pytest.approx(0.010 + 1 / 7e3 + 0.002 + 0.001)


def test_between_points_it_is_linear_and_outside_it_goes_on_or_stays():
    latency = TableLatency(table())
    base = latency.iteration_s([], 1, 16)
    assert latency.iteration_s([], 1, 58) == pytest.approx(base + 0.001)
    assert latency.iteration_s([], 1, 184) == pytest.approx(base + 0.004)
    assert latency.iteration_s([], 1, 0) == pytest.approx(base)
    assert latency.iteration_s([(120, 0)], 0, 0) > 0.020 + 0.009


def test_a_prompt_with_several_chunks_adds_their_attention():
    latency = TableLatency(table())
    one = latency.iteration_s([(32, 0)], 0, 0) - shared_s(latency.parameters, 32)
    both = latency.iteration_s([(32, 0), (32, 0)], 0, 0) - shared_s(latency.parameters, 64)
    assert both == pytest.approx(2 * one)


def test_a_written_table_reads_back_equal_and_writes_the_same_bytes(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    table().write(first)
    LatencyTable.read(first).write(second)
    assert LatencyTable.read(second) == table()
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tokens": [1.0, 1.0, 64.0]}, "tokens must be a grid"),
        ({"tokens": [1.0], "shared_s": [0.01]}, "tokens must be a grid"),
        ({"shared_s": [0.01, 0.02]}, "shared_s must be 1 rows of 3"),
        ({"shared_s": [0.0, 0.01, 0.02]}, "shared_s must be > 0"),
        ({"decode_attention_s": [[0.1, 0.2]]}, "decode_attention_s must be 2 rows of 2"),
        ({"decode_attention_s": [[0.2, 0.1], [0.2, 0.3]]}, "not falling with context"),
        ({"prefill_attention_s": [[0.1, -0.2], [0.1, 0.2]]}, "finite and >= 0"),
        ({"prefill_attention_s": [[0.1, float("nan")], [0.1, 0.2]]}, "finite and >= 0"),
    ],
)
def test_broken_tables_are_refused(changes, match):
    with pytest.raises(InvalidParameterError, match=match):
        table(**changes)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "a": 2}'])
def test_files_that_are_no_table_are_refused_by_name(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(InvalidParameterError, match=r"wrong\.json"):
        LatencyTable.read(path)


def test_without_the_optional_package_building_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "aiconfigurator_core.sdk.engine", None)
    with pytest.raises(InvalidParameterError, match="aiconfigurator-core"):
        build_latency_table("Qwen/Qwen3-8B", "h100_sxm", 1, tmp_path / "t.json")


@pytest.mark.slow
def test_a_built_table_gives_the_latencies_of_its_source(tmp_path):
    """Within 1 % on the mean and 6 % each, and with the KV bytes of the catalog."""
    pytest.importorskip("aiconfigurator_core", reason="the optional package is absent")
    from aiconfigurator_core.sdk.engine import EngineHandle

    path = tmp_path / "table.json"
    built = build_latency_table("Qwen/Qwen3-8B", "h100_sxm", 1, path)
    assert built.kv_bytes_per_token == 2 * 36 * 8 * 128 * 2
    assert json.loads(path.read_text())["model"] == "Qwen/Qwen3-8B"
    latency = TableLatency.read(path)
    engine = EngineHandle.compile("Qwen/Qwen3-8B", "h100_sxm", "vllm", tp_size=1)
    errors = []
    for n in (100, 300, 1000, 3000, 9000, 20000):
        expected = engine.predict_prefill_latency(1, n, 0) / 1e3
        errors.append(latency.iteration_s([(n, 0)], 0, 0) / expected - 1)
        expected = engine.predict_prefill_latency(1, n + 5000, 5000) / 1e3
        errors.append(latency.iteration_s([(n, 5000)], 0, 0) / expected - 1)
    for batch, context in ((1, 700), (10, 1300), (50, 333), (200, 900)):
        expected = engine.decode_step_latency(batch, context - 1, 2) / 1e3
        errors.append(latency.iteration_s([], batch, batch * context) / expected - 1)
    for n, batch in ((512, 30), (2000, 100)):
        expected = engine.mixed_step_latency(n, batch, n, 2) / 1e3
        errors.append(latency.iteration_s([(n, 0)], batch, batch * (n + 1)) / expected - 1)
    assert max(map(abs, errors)) < 0.06
    assert sum(map(abs, errors)) / len(errors) < 0.015


def test_a_combination_without_data_is_refused(tmp_path):
    pytest.importorskip("aiconfigurator_core", reason="the optional package is absent")
    with pytest.raises(InvalidParameterError, match="aiconfigurator must be a combination"):
        build_latency_table("no/such-model", "h100_sxm", 1, tmp_path / "t.json")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel must be >= 1"),
        ({"tensor_parallel": 4, "expert_parallel": 3}, "expert_parallel must be a divisor"),
        ({"expert_parallel": 0}, "expert_parallel must be a divisor"),
    ],
)
def test_parallelism_that_does_not_divide_is_refused(tmp_path, changes, match):
    arguments = {"tensor_parallel": 1, **changes}
    with pytest.raises(InvalidParameterError, match=match):
        build_latency_table("Qwen/Qwen3-8B", "h100_sxm", path=tmp_path / "t.json", **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["trtllm", "sglang"])
def test_latent_attention_has_tables_of_other_engines_too(tmp_path, backend):
    """DeepSeek's, whose decode steps grow with context: within 3 % of the package's."""
    pytest.importorskip("aiconfigurator_core", reason="the optional package is absent")
    from aiconfigurator_core.sdk.engine import EngineHandle

    name = "deepseek-ai/DeepSeek-R1"
    built = build_latency_table(name, "h200_sxm", 8, tmp_path / "t.json", backend=backend)
    assert built.kv_bytes_per_token == 8 * 61 * 576 * 2 / 2  # FP8, as the checkpoint says
    engine = EngineHandle.compile(
        name,
        "h200_sxm",
        backend,
        tp_size=8,
        moe_tp_size=8,
        moe_ep_size=1,
        fmha_quant_mode="bfloat16",
    )
    latency = TableLatency(built)
    for batch, context in ((1, 1500), (16, 6000), (64, 20000), (20, 700)):
        expected = engine.decode_step_latency(batch, context - 1, 2) / 1e3
        assert latency.iteration_s([], batch, batch * context) == pytest.approx(expected, rel=0.03)
    for n, before in ((300, 0), (4096, 0), (2048, 5000)):
        expected = engine.predict_prefill_latency(1, n + before, before) / 1e3
        assert latency.iteration_s([(n, before)], 0, 0) == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_mixtures_of_experts_have_tables_too(tmp_path):
    """A mixture that computes 3 of its 30 billion parameters beats the dense model of its size."""
    pytest.importorskip("aiconfigurator_core", reason="the optional package is absent")
    mixture = build_latency_table("Qwen/Qwen3-30B-A3B", "h100_sxm", 2, tmp_path / "a.json")
    dense = build_latency_table("Qwen/Qwen3-32B", "h100_sxm", 2, tmp_path / "b.json")
    assert mixture.kv_bytes_per_token == 2 * 48 * 4 * 128 * 2
    chunk = [(4096, 0)]
    fast, slow = TableLatency(mixture), TableLatency(dense)
    assert fast.iteration_s(chunk, 0, 0) < 0.5 * slow.iteration_s(chunk, 0, 0)
