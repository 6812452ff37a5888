"""The catalog's numbers are sourced, right by independent checks, and give the KV capacity."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from simlib.errors import InvalidParameterError
from simlib.latency import catalog


def test_every_number_has_a_source():
    sources = catalog.number_sources()
    for name in catalog.gpu_names():
        found = catalog.gpu(name)
        for quantity in found.__dataclass_fields__:
            given = quantity != "link_gpus" or getattr(found, quantity) != 8  # the usual node
            if quantity != "name" and given and getattr(found, quantity) is not None:
                assert len(sources[name, quantity]) > 10
    for name in catalog.model_names():
        assert re.search(r"arXiv:\d{4}\.\d{5}|model card", sources[name, "*"])


@pytest.mark.parametrize("name", catalog.model_names())
def test_sizes_multiply_out_to_the_published_parameter_count(name):
    model = catalog.model(name)
    # publishers of mixtures round to billions, some count a layer that predicts ahead
    rounded = 1e-2 if model.experts else 2e-3
    assert model.parameters == pytest.approx(model.published_parameters, rel=rounded)
    assert model.heads % model.kv_heads == 0


@pytest.mark.parametrize("name", [n for n in catalog.model_names() if catalog.model(n).experts])
def test_what_a_token_uses_multiplies_out_to_the_published_active_count(name):
    """Some publishers count the embedding, too, and round to billions."""
    model = catalog.model(name)
    with_embedding = model.active_parameters + model.output_parameters
    assert (
        0.93 * model.active_parameters <= model.published_active_parameters <= with_embedding * 1.02
    )


@pytest.mark.parametrize("name", catalog.gpu_names())
def test_gpu_numbers_are_in_si_units_of_plausible_size(name):
    gpu = catalog.gpu(name)
    assert 1e14 < gpu.dense_bf16_flops < 1e16
    assert 2e11 < gpu.hbm_bytes_per_s < 1e13
    assert 2e10 < gpu.hbm_bytes < 3e11
    assert 2e10 < gpu.link_bytes_per_s < 1e12
    if gpu.dense_fp8_flops is not None:
        assert gpu.dense_fp8_flops == pytest.approx(2 * gpu.dense_bf16_flops, rel=0.02)


@pytest.mark.parametrize("name", catalog.gpu_names())
def test_memory_is_what_the_driver_reports_and_no_rounded_datasheet_number(name):
    assert catalog.gpu(name).hbm_bytes % 2**20 == 0
    source = catalog.number_sources()[name, "hbm_bytes"]
    assert "memory.total" in source or "VRAM Total" in source


def _published_configs() -> dict[str, dict[str, object]]:
    core = pytest.importorskip("aiconfigurator_core", reason="the optional package is absent")
    folder = Path(core.__file__).parent / "model_configs"
    return {
        path.name.removesuffix("_config.json").replace("--", "/"): path
        for path in folder.glob("*_config.json")
    }


NOT_IN_A_FILE = ("name", "published_parameters", "published_active_parameters", "extra_parameters")


def test_sizes_equal_the_published_configurations_where_installed():
    checked = 0
    for identifier, path in _published_configs().items():
        try:
            known = catalog.model(identifier)
        except InvalidParameterError:
            continue
        read = catalog.model_of_file(str(path))
        for size in fields(known):
            if size.name not in NOT_IN_A_FILE:
                assert getattr(read, size.name) == getattr(known, size.name), (identifier, size)
        checked += 1
    assert checked >= 15


def test_gpu_numbers_agree_with_an_independent_collection_where_installed():
    """Rates within 1 %, memory within 8 % (datasheets and drivers count it differently)."""
    core = pytest.importorskip("aiconfigurator_core", reason="the optional package is absent")
    checked = 0
    for name in catalog.gpu_names():
        path = Path(core.__file__).parent / "systems" / f"{name}.yaml"
        if not path.exists():
            continue
        system, gpu = yaml.safe_load(path.read_text()), catalog.gpu(name)
        other = system["gpu"]
        assert gpu.dense_bf16_flops == pytest.approx(other["bfloat16_tc_flops"], rel=0.01)
        assert gpu.hbm_bytes_per_s == pytest.approx(other["mem_bw"], rel=0.01)
        assert gpu.hbm_bytes == pytest.approx(other["mem_capacity"], rel=0.08)
        assert gpu.link_bytes_per_s == system["node"]["intra_node_bw"]
        if gpu.dense_fp8_flops is not None:
            assert gpu.dense_fp8_flops == pytest.approx(other["fp8_tc_flops"], rel=0.01)
        checked += 1
    assert checked >= 5


def test_models_are_found_by_any_published_name_and_case():
    names = ("llama-3.1-70b", "meta-llama/Meta-Llama-3.1-70B", "META-LLAMA/llama-3.1-70b")
    assert len({catalog.model(name) for name in names}) == 1


def test_unknown_names_are_refused_and_the_known_ones_listed():
    with pytest.raises(InvalidParameterError, match=r"model must be one of .*qwen3-8b"):
        catalog.model("gpt-5")
    with pytest.raises(InvalidParameterError, match=r"gpu must be one of .*h100_sxm"):
        catalog.gpu("tpu")
    with pytest.raises(InvalidParameterError, match="precision"):
        catalog.weight_bytes(catalog.model("qwen3-8b"), "int3")


def test_kv_bytes_per_token_is_two_vectors_per_layer_and_head():
    # 80 layers, 8 heads of 128 numbers, key and value, 2 bytes: 320 KiB
    llama = catalog.model("llama-3.1-70b")
    assert catalog.kv_bytes_per_token(llama) == 320 * 1024
    assert catalog.kv_bytes_per_token(llama, 8) == 320 * 1024
    assert catalog.kv_bytes_per_token(llama, kv_bytes=1) == 160 * 1024


def test_kv_heads_are_replicated_when_there_are_more_gpus_than_heads():
    model = replace(catalog.model("qwen3-8b"), kv_heads=4)
    assert catalog.kv_bytes_per_token(model, 8) == 2 * catalog.kv_bytes_per_token(model, 4)


def test_kv_capacity_follows_the_formula():
    model, gpu = catalog.model("llama-3.1-70b"), catalog.gpu("h100_sxm")
    room = 0.9 * gpu.hbm_bytes * 4 - catalog.weight_bytes(model) - 4 * 1e9
    expected = int(room / (320 * 1024))
    assert catalog.kv_capacity_tokens(model, gpu, 4, reserve_bytes=1e9) == expected
    fp8 = catalog.kv_capacity_tokens(model, gpu, 4, precision="fp8", reserve_bytes=1e9)
    freed = model.layer_parameters / (320 * 1024)
    assert fp8 - expected == pytest.approx(freed, abs=1)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tensor_parallel": 1}, "tensor_parallel"),  # 141 GB of weights on 80 GB
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"memory_fraction": 0.0}, "memory_fraction"),
        ({"memory_fraction": 1.5}, "memory_fraction"),
    ],
)
def test_a_deployment_without_room_for_a_token_is_refused(changes, name):
    arguments = {"tensor_parallel": 4, **changes}
    model, gpu = catalog.model("llama-3.1-70b"), catalog.gpu("h100_sxm")
    with pytest.raises(InvalidParameterError, match=name):
        catalog.kv_capacity_tokens(model, gpu, arguments.pop("tensor_parallel"), **arguments)


def test_a_gpu_without_fp8_refuses_it():
    with pytest.raises(InvalidParameterError, match="a100_sxm"):
        catalog.gpu("a100_sxm").flops("fp8")
    assert catalog.gpu("h100_sxm").flops("fp8") == 1979e12


def test_weights_of_4_bits_are_unpacked_where_a_gpu_does_not_compute_with_them():
    hopper, blackwell = catalog.gpu("h100_sxm"), catalog.gpu("b200_sxm")
    assert hopper.flops("fp4") == hopper.flops("int4") == hopper.flops("bf16")
    assert blackwell.flops("fp4") == 2 * blackwell.flops("fp8")
    assert blackwell.flops("int4") == blackwell.flops("bf16")
    with pytest.raises(
        InvalidParameterError, match="precision must be one of bf16, fp8, fp4, int4"
    ):
        hopper.flops("int3")


def test_latent_attention_caches_one_vector_per_token_and_layer_on_every_gpu():
    # 61 layers, 512 latent and 64 rotary numbers of 2 bytes (DeepSeek-V3, section 2.1.1)
    model = catalog.model("deepseek-v3")
    assert catalog.kv_bytes_per_token(model) == 61 * 576 * 2
    assert catalog.kv_bytes_per_token(model, 8) == 8 * 61 * 576 * 2
    assert catalog.kv_bytes_per_token(model, kv_bytes=1) == 61 * 576


def test_experts_may_have_fewer_bits_than_the_rest():
    model = catalog.model("gpt-oss-120b")
    mixed = catalog.weight_bytes(model, "bf16", "fp4")
    whole = catalog.weight_bytes(model)
    assert whole - mixed == pytest.approx(model.expert_parameters * (2 - 0.5625))
    assert mixed == pytest.approx(65e9, rel=0.06)  # the checkpoint, whose MXFP4 has 6% fewer bytes
    with pytest.raises(InvalidParameterError, match="expert_precision must be one of"):
        catalog.weight_bytes(model, "bf16", "int3")


def test_attention_ranks_share_the_experts_and_have_all_else():
    model, gpu = catalog.model("deepseek-v3"), catalog.gpu("h200_sxm")
    rank = catalog.weight_bytes(model, "fp8", data_parallel_size=8)
    everyone = catalog.weight_bytes(model, "fp8") - model.expert_parameters
    assert rank == pytest.approx(everyone + model.expert_parameters / 8)
    tokens = catalog.kv_capacity_tokens(model, gpu, 1, precision="fp8", data_parallel_size=8)
    assert tokens == int((0.9 * gpu.hbm_bytes - 2.5e9 - rank) / (61 * 576 * 2))
    with pytest.raises(InvalidParameterError, match=r"enough GPUs: deepseek-v3 .* GPUs of a rank"):
        catalog.kv_capacity_tokens(model, gpu, 1, precision="fp8", data_parallel_size=2)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"kv_heads": 3}, "kv_heads"),
        ({"moe_layers": 37}, "moe_layers"),
        ({"experts": 0}, "moe_layers"),
        ({"experts_per_token": 129}, "experts_per_token"),
        ({"experts_per_token": 0}, "experts_per_token"),
        ({"expert_ffn": 0}, "expert_ffn"),
        ({"sliding_window": 0}, "window_layers"),
        ({"qk_rope_head_dim": 65}, "qk_rope_head_dim"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes, name):
    with pytest.raises(InvalidParameterError, match=rf"{name} must be .*gpt-oss-120b"):
        replace(catalog.model("gpt-oss-120b"), **changes)
