"""Every latency model keeps the promises of the protocol, and the formulas it states."""

import math
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.errors import InvalidParameterError
from simlib.latency import catalog, roofline
from simlib.latency.affine import AffineCoefficients, AffineLatency, affine_coefficients
from simlib.latency.models import latency_model
from simlib.latency.protocol import LatencyModel
from simlib.latency.roofline import (
    RooflineCalibration,
    RooflineLatency,
    roofline_calibration,
)
from simlib.latency.steps import StepTableLatency
from simlib.latency.table import TableLatency
from tests.serving import decode_run_s, rooflines, small_steps, small_table

COEFFICIENTS = {
    "prefill_floor_s": 0.02,
    "prefill_base_s": -0.001,
    "prefill_token_s": 6e-5,
    "prefill_token2_s": 4e-10,
    "decode_base_s": 0.015,
    "decode_sequence_s": 3e-5,
    "decode_context_s": 3e-8,
}


OVERHEADS = {"step_overhead_s": 1e-3, "sequence_overhead_s": 1e-5}
MODELS: dict[str, LatencyModel] = {
    "roofline": RooflineLatency.from_catalog(
        "llama-3.1-70b", "h100_sxm", 4, step_overhead_s=1e-3, sequence_overhead_s=1e-5
    ),
    **{f"roofline-{name}": latency for name, latency in rooflines().items()},
    "roofline-default": RooflineLatency.from_catalog("qwen3-8b", "h20", 1),
    "affine": AffineLatency.from_mapping(
        COEFFICIENTS, 1e5, step_overhead_s=1e-3, sequence_overhead_s=1e-5
    ),
    "table": TableLatency(small_table(), step_overhead_s=1e-3, sequence_overhead_s=1e-5),
    "steps": StepTableLatency(small_steps(), 1e3, **OVERHEADS),
}
every_model = pytest.mark.parametrize("latency", MODELS.values(), ids=MODELS.keys())
batches = st.integers(1, 300)
contexts = st.integers(0, 2000)


@every_model
@given(batch=batches, mean_context=contexts, steps=st.integers(0, 300))
def test_a_run_of_decode_steps_is_the_sum_of_its_steps(latency, batch, mean_context, steps):
    context = batch * mean_context + batch // 2
    each = [latency.iteration_s([], batch, context + k * batch) for k in range(steps)]
    assert decode_run_s(latency, batch, context, steps) == pytest.approx(math.fsum(each), rel=1e-12)


@every_model
@given(
    prefill=st.lists(st.tuples(st.integers(1, 600), st.integers(0, 3000)), max_size=3),
    batch=st.integers(0, 64),
    mean_context=contexts,
)
def test_times_are_positive_finite_and_grow_with_context(latency, prefill, batch, mean_context):
    if not prefill and not batch:
        return
    context = batch * mean_context
    seconds = latency.iteration_s(prefill, batch, context)
    assert 0 < seconds < math.inf
    assert latency.iteration_s(prefill, batch, context + batch) >= seconds
    more = [(new, before + 100) for new, before in prefill]
    assert latency.iteration_s(more, batch, context) >= seconds


@every_model
def test_a_decoding_batch_costs_less_together_with_a_prompt_than_apart(latency):
    chunk, batch, context = [(300, 0)], 20, 20 * 500
    apart = latency.iteration_s(chunk, 0, 0) + latency.iteration_s([], batch, context)
    together = latency.iteration_s(chunk, batch, context)
    assert latency.iteration_s(chunk, 0, 0) < together < apart


@pytest.mark.parametrize("name", ["roofline", "affine", "table", "steps"])
def test_the_engine_overhead_adds_per_step_and_per_sequence(name):
    latency = MODELS[name]
    bare = {
        "roofline": lambda: RooflineLatency.from_catalog("llama-3.1-70b", "h100_sxm", 4),
        "affine": lambda: AffineLatency.from_mapping(COEFFICIENTS, 1e5),
        "table": lambda: TableLatency(small_table()),
        "steps": lambda: StepTableLatency(small_steps(), 1e3),
    }[name]()
    for prefill, batch in (([], 7), ([(40, 0), (9, 5)], 7), ([(64, 0)], 0)):
        added = latency.iteration_s(prefill, batch, 7000) - bare.iteration_s(prefill, batch, 7000)
        assert added == pytest.approx(1e-3 + 1e-5 * (batch + len(prefill)), rel=1e-9)


def test_the_roofline_is_its_formula():
    model, gpu = catalog.model("llama-3.1-8b"), catalog.gpu("h100_sxm")
    c = RooflineCalibration(0.8, 0.9, 0.6, 0.7, 1e-6, 0.5, 0.6, 0.7, 2e-6, 4e-5, 3e-5, 20.0)
    latency = RooflineLatency(model, gpu, 2, c, step_overhead_s=1e-3)
    new, before, batch, context = 500, 1000, 10, 20000
    tokens, sequences = new + batch, batch + 1
    rate, bandwidth = 2 * 989e12, 2 * 3.35e12
    compute = 2 * (model.layer_parameters * tokens + model.output_parameters * sequences)
    weights = 2 * (model.layer_parameters + model.output_parameters) / (bandwidth * 0.9)
    kv = 2 * 32 * 8 * 128 * 2 / (bandwidth * 0.7)
    expected = 1e-3 + 2 * 32 * 1e-6 + 32 * 4e-5 + 32 * 3e-5
    expected += math.hypot(compute / (rate * 0.8), weights)
    expected += 4 * 32 * 32 * 128 * new * (before + (new + 1) / 2) / (rate * 0.6)
    expected += kv * context + 2e-6 * sequences
    hidden = 4096 * 2
    expected += tokens * 2 * 32 * (2 * 1 / 2) * hidden / (450e9 * 0.5)
    expected += tokens * 20 * 32 * hidden / 3.35e12
    assert latency.iteration_s([(new, before)], batch, context) == pytest.approx(expected)
    assert latency.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2


def test_a_chunked_prompt_computes_the_same_attention_as_a_whole_one():
    # with fixed costs removed, chunks of one prompt add up (large chunks: compute bound)
    model, gpu = catalog.model("llama-3.1-8b"), catalog.gpu("h100_sxm")
    c = RooflineCalibration(1, 1e6, 0.5, 1, 0, 1, 1, 1, 0, 0, 0, 0)
    latency = RooflineLatency(model, gpu, 1, c)
    output = latency.iteration_s([], 1, 0) - 2 * model.layer_parameters / 989e12
    whole = latency.iteration_s([(8192, 0)], 0, 0)
    parts = sum(latency.iteration_s([(2048, 2048 * k)], 0, 0) - output for k in range(4))
    assert parts + output == pytest.approx(whole, rel=1e-6)


def test_fp8_weights_are_faster_and_attention_stays_16_bit():
    bf16 = RooflineLatency.from_catalog("llama-3.1-70b", "h100_sxm", 4)
    fp8 = RooflineLatency.from_catalog("llama-3.1-70b", "h100_sxm", 4, precision="fp8")
    assert fp8.iteration_s([], 1, 0) < 0.75 * bf16.iteration_s([], 1, 0)
    assert fp8.kv_bytes_per_token == bf16.kv_bytes_per_token


def test_gpus_without_a_fit_use_the_default_efficiencies():
    assert roofline_calibration("h100_sxm") != roofline_calibration("default")
    assert roofline_calibration("h20") == roofline_calibration("default")


@pytest.mark.parametrize(
    ("model", "gpu", "tensor_parallel", "precision", "match"),
    [
        ("llama-3.1-8b", "h100_sxm", 3, "bf16", "tensor_parallel"),
        ("llama-3.1-8b", "h100_sxm", 0, "bf16", "tensor_parallel"),
        ("llama-3.1-8b", "a100_sxm", 1, "fp8", "precision"),
        ("llama-3.1-8b", "h100_sxm", 1, "int3", "precision"),
        ("llama-9", "h100_sxm", 1, "bf16", "model"),
    ],
)
def test_the_roofline_refuses_what_cannot_run(model, gpu, tensor_parallel, precision, match):
    with pytest.raises(InvalidParameterError, match=match):
        RooflineLatency.from_catalog(model, gpu, tensor_parallel, precision=precision)


def test_the_affine_model_is_its_formula():
    latency = AffineLatency.from_mapping(COEFFICIENTS, 1e5)
    assert latency.iteration_s([], 10, 1000) == pytest.approx(0.015 + 10 * 3e-5 + 1000 * 3e-8)
    assert latency.iteration_s([(100, 0)], 0, 0) == 0.02  # the floor
    assert latency.iteration_s([(100, 0)], 10, 1000) == pytest.approx(0.02 + 3e-4 + 3e-5)
    long = -0.001 + 4000 * 6e-5 + 4e-10 * 4000**2
    assert latency.iteration_s([(4000, 0)], 0, 0) == pytest.approx(long)
    assert latency.iteration_s([(4000, 0)], 10, 1000) == pytest.approx(long + 6e-4 + 3e-5)


def test_affine_chunks_of_one_prompt_sum_to_its_square():
    latency = AffineLatency.from_mapping({**COEFFICIENTS, "prefill_base_s": 0.0}, 1e5)
    parts = sum(latency.iteration_s([(1000, 1000 * k)], 0, 0) for k in range(4))
    assert parts == pytest.approx(latency.iteration_s([(4000, 0)], 0, 0))


def test_affine_catalog_fits_are_found_by_any_name_and_missing_ones_refused():
    fit = affine_coefficients("meta-llama/Meta-Llama-3.1-70B", "h100_sxm", 4)
    assert AffineLatency.from_catalog("llama-3.1-70b", "h100_sxm", 4).coefficients == fit
    with pytest.raises(InvalidParameterError, match=r"fitted coefficients \(TP 2 bf16"):
        affine_coefficients("llama-3.1-70b", "h100_sxm", 16)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"decode_base_s": 0.0}, "decode_base_s must be > 0"),
        ({"prefill_floor_s": -1.0}, "prefill_floor_s"),
        ({"decode_context_s": -1e-9}, "decode_context_s must be >= 0"),
        ({"prefill_token_s": math.nan}, "prefill_token_s must be a finite number"),
        ({"prefill_token_s": "1e-5"}, "prefill_token_s must be a finite number"),
        ({"extra": 1.0}, "coefficients must be exactly"),
    ],
)
def test_affine_refuses_coefficients_that_make_no_time(changes, match):
    with pytest.raises(InvalidParameterError, match=match):
        AffineLatency.from_mapping({**COEFFICIENTS, **changes}, 1e5)


def test_the_factory_returns_each_kind_and_refuses_others(tmp_path):
    small_table().write(tmp_path / "table.json")
    where = {"model": "llama-3.1-8b", "gpu": "h100_sxm", "tensor_parallel": 1}
    assert isinstance(latency_model("roofline", **where), RooflineLatency)
    assert isinstance(latency_model("affine", **where), AffineLatency)
    given = latency_model("affine", coefficients=COEFFICIENTS, kv_bytes_per_token=7.0)
    assert given.kv_bytes_per_token == 7.0
    named = latency_model("affine", coefficients=COEFFICIENTS, model="llama-3.1-8b")
    assert named.kv_bytes_per_token == 128 * 1024
    read = latency_model("aiconfigurator", table=tmp_path / "table.json")
    assert isinstance(read, TableLatency)
    with pytest.raises(InvalidParameterError, match="table"):
        latency_model("aiconfigurator")
    with pytest.raises(InvalidParameterError, match="latency must be one of roofline"):
        latency_model("oracle")
    with pytest.raises(InvalidParameterError, match="step_overhead_s"):
        latency_model("roofline", **where, step_overhead_s=-1.0)


def test_all_coefficient_names_carry_their_unit():
    assert all(name.endswith("_s") for name in asdict(AffineCoefficients(**COEFFICIENTS)))


def test_importing_and_using_a_latency_model_stays_light():
    code = (
        "import sys\n"
        "from simlib.latency.models import latency_model\n"
        "latency_model('roofline', model='qwen3-8b', gpu='h100_sxm').iteration_s([], 1, 1)\n"
        "heavy = {'numpy', 'scipy', 'pandas', 'pydantic', 'yaml', 'aiconfigurator_core'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(
    chunks=st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 100_000)), max_size=4),
    batch=st.integers(0, 300),
    mean=st.integers(1, 20_000),
)
def test_a_dense_model_takes_what_the_whole_formula_says_to_the_bit(chunks, batch, mean):
    if not chunks and not batch:
        return
    dense = RooflineLatency.from_catalog("llama-3.1-70b", "h100_sxm", 4, step_overhead_s=0.001)
    whole = RooflineLatency.from_catalog("llama-3.1-70b", "h100_sxm", 4, step_overhead_s=0.001)
    assert dense.formula is roofline.DENSE
    whole.formula = roofline.FORMULA
    assert dense.iteration_s(chunks, batch, batch * mean) == whole.iteration_s(
        chunks, batch, batch * mean
    )
    if batch:
        steps = (dense.formula.decode, whole.formula.decode)
        assert len({step(dense.parameters, batch, batch * mean) for step in steps}) == 1


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("gpt-oss-20b", {}),
        ("deepseek-v3", {"tensor_parallel": 8, "precision": "fp8"}),
        ("qwen3-30b-a3b", {"data_parallel_size": 2}),
    ],
)
def test_only_plain_models_take_the_short_formula(model, settings):
    latency = RooflineLatency.from_catalog(model, "h100_sxm", **settings)
    assert latency.formula is roofline.FORMULA
