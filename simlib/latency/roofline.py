"""Roofline latency: iteration seconds from peak rates, model sizes and per-GPU efficiencies."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.experts import (
    EXPERT_IMBALANCE,
    ExpertCalibration,
    check_ranks,
    exchange_s,
    expert_calibration,
)
from simlib.latency.protocol import MAX_STEPS, Formula, LatencyModel, check_seconds

_FILE: Final = Path(__file__).parent / "calibration" / "roofline.csv"
_ACTIVATION_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class RooflineCalibration:
    """Efficiencies of one kind of GPU, fitted to measured kernels."""

    mfu: float
    """Share of the peak operations that matrix products reach, (0, 1]."""
    weight_bandwidth: float
    """Share of the memory bandwidth at which weights are read, (0, 1]."""
    attention_mfu: float
    """Share of the peak operations that prefill attention reaches, (0, 1]."""
    kv_bandwidth: float
    """Share of the memory bandwidth at which decode attention reads the KV cache, (0, 1]."""
    allreduce_latency_s: float
    """Seconds of one all-reduce of nothing."""
    link_bandwidth_2: float
    """Share of the link bandwidth that a ring all-reduce of 2 GPUs reaches."""
    link_bandwidth_4: float
    """The same for 3 or 4 GPUs; above 1 where the switch reduces (NVLink SHARP)."""
    link_bandwidth_8: float
    """The same for 5 GPUs or more."""
    sequence_s: float
    """Seconds per sequence in the batch (sampling, attention set-up)."""
    layer_s: float
    """Seconds per layer whatever the batch (launches, norms of few tokens)."""
    chunk_layer_s: float
    """Seconds per layer and prefill chunk (launch of its attention)."""
    activation_passes: float
    """Times the hidden state of a token goes through memory, per layer."""

    def link_bandwidth(self, tensor_parallel: int) -> float:
        """Return the share of the link bandwidth that an all-reduce of so many GPUs reaches."""
        if tensor_parallel <= 2:
            return self.link_bandwidth_2
        return self.link_bandwidth_4 if tensor_parallel <= 4 else self.link_bandwidth_8


@cache
def _calibrations() -> dict[tuple[str, str], RooflineCalibration]:
    names = [field.name for field in fields(RooflineCalibration)]
    with _FILE.open(newline="", encoding="utf-8") as text:
        return {
            (row["gpu"], row["precision"]): RooflineCalibration(
                **{name: float(row[name]) for name in names}
            )
            for row in csv.DictReader(text)
        }


def roofline_calibration(gpu: str, precision: str = "bf16") -> RooflineCalibration:
    """Return the fitted efficiencies of a GPU; those of ``default`` if none were fitted for it.

    Products in FP4 take those of FP8.
    The fit error of each row stands beside it in ``calibration/roofline.csv``.
    """
    known = _calibrations()
    kind = {"fp4": "fp8", "int4": "bf16"}.get(precision, precision)
    return known.get((gpu, kind)) or known["default", kind]


def is_calibrated(gpu: str, precision: str = "bf16") -> bool:
    """Return whether efficiencies were fitted for this GPU and precision."""
    return (gpu, precision) in _calibrations()


(
    STEP, TOKEN, OUTPUT, MOVE, SEQUENCE, KV, PAIR, CHUNK, WEIGHTS, CONTEXT, RANKS,
    EXPERT, EXPERTS, MISS, EXCHANGE, WINDOW, WINDOW_KV, WINDOW_PAIR, WINDOW_CONTEXT, LAUNCH,
) = range(20)  # fmt: skip
"""Places of the formula's parameters; seconds of the busiest GPU, unless said otherwise.

- ``STEP`` of every iteration; ``SEQUENCE`` of a sequence in it; ``CHUNK`` of a prompt's chunk;
- ``TOKEN`` to compute a token's products, ``OUTPUT`` a sequence's output, ``MOVE`` to exchange and
  reread a token's activations; ``WEIGHTS``: squared seconds to read the weights of all of that;
- ``KV`` to read a cached token for a chunk, ``PAIR`` to compute a pair of a new token and one
  before it, ``CONTEXT`` to attend to a cached token when decoding;
- ``RANKS``: attention ranks; each has the sequences, tokens and context that come to it;
- ``EXPERT`` to compute a token's routed experts, ``EXPERTS`` to read all of them, ``MISS`` the
  probability that a token goes past an expert, ``EXCHANGE`` to send a token of a rank to its
  experts and back;
- ``WINDOW``: tokens that sliding layers look back, 0 without any; ``WINDOW_KV``, ``WINDOW_PAIR``
  and ``WINDOW_CONTEXT`` are as above for these layers, and the others' are without them;
- ``LAUNCH``: until the engine has launched the kernels of an iteration that prefills.
"""


def chunk(p: Sequence[float], new: int, before: int) -> float:
    """Return the seconds of a chunk's attention: launch, and computing it or reading the cache."""
    seconds = p[CHUNK] + max(p[PAIR] * new * (before + 0.5 * new + 0.5), p[KV] * (before + new))
    window = p[WINDOW]
    if window > 0:
        growing = min(max(window - before, 0.0), new)  # tokens with less than a window before them
        pairs = growing * (before + 0.5 * growing + 0.5) + (new - growing) * window
        seconds += max(p[WINDOW_PAIR] * pairs, p[WINDOW_KV] * (min(before, window) + new))
    return seconds


def layers_s(p: Sequence[float], tokens: float, sequences: float) -> float:
    """Return the seconds of all but attention and routed experts, for one rank's tokens."""
    compute_s = tokens * p[TOKEN] + sequences * p[OUTPUT]
    matrices_s = math.sqrt(compute_s * compute_s + p[WEIGHTS])
    return p[STEP] + matrices_s + tokens * p[MOVE] + sequences * p[SEQUENCE]


def experts_s(p: Sequence[float], tokens: int, rank_tokens: float) -> float:
    """Return the seconds of routed experts: computing them or reading those that are needed."""
    if p[EXPERTS] == 0.0:
        return 0.0
    compute_s = tokens * p[EXPERT]
    read_s = p[EXPERTS] * (1.0 - p[MISS] ** tokens)
    return math.sqrt(compute_s * compute_s + read_s * read_s) + rank_tokens * p[EXCHANGE]


def busiest(p: Sequence[float], number: int) -> float:
    """Return how many of a number of sequences, or chunks, the rank with the most of them has."""
    return math.ceil(number / p[RANKS]) if p[RANKS] > 1.0 else float(number)


def decode_attention(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of decode attention, its growth in a step, and for how many it holds."""
    sequences, own = float(batch), float(context)
    if p[RANKS] > 1.0:
        sequences = busiest(p, batch)
        own *= sequences / batch
    seconds, growth_s, steps = p[CONTEXT] * own, p[CONTEXT] * sequences, MAX_STEPS
    window = p[WINDOW]
    if window > 0.0:
        mean = context / batch
        seconds += p[WINDOW_CONTEXT] * sequences * min(mean, window)
        if mean < window:
            growth_s += p[WINDOW_CONTEXT] * sequences
            steps = int(window - mean) + 1
    return seconds, growth_s, steps


def iteration(
    p: Sequence[float], work: float, tokens: int, chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    prompts, decoding = busiest(p, chunks), busiest(p, batch)
    share = prompts / chunks  # of the prompts, on the rank that has the most of them
    rank_tokens = tokens * share + decoding
    seconds = layers_s(p, rank_tokens, decoding + prompts)
    seconds += experts_s(p, tokens + batch, rank_tokens)
    attention_s = decode_attention(p, batch, context)[0] if batch > 0 else 0.0
    seconds += attention_s + work * share
    return max(seconds, p[LAUNCH])


def decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, by how much the next is longer, and how long so."""
    sequences = busiest(p, batch)
    seconds = layers_s(p, sequences, sequences) + experts_s(p, batch, sequences)
    attention_s, growth_s, steps = decode_attention(p, batch, context)
    return seconds + attention_s, growth_s, steps


def dense_chunk(p: Sequence[float], new: int, before: int) -> float:
    """Return the seconds of a chunk's attention: launch, and computing it or reading the cache."""
    return p[CHUNK] + max(p[PAIR] * new * (before + 0.5 * new + 0.5), p[KV] * (before + new))


def dense_iteration(
    p: Sequence[float], work: float, tokens: int, chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    layers = layers_s(p, float(tokens + batch), float(batch + chunks))
    return layers + (p[CONTEXT] * context + work)


def dense_decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, by how much the next is longer, and how long so."""
    seconds = layers_s(p, float(batch), float(batch)) + p[CONTEXT] * context
    return seconds, p[CONTEXT] * batch, MAX_STEPS


FORMULA = Formula(chunk, iteration, decode)
DENSE = Formula(dense_chunk, dense_iteration, dense_decode)
"""The same for models without experts, attention ranks, windows and launches that wait: those terms
are left out, the others are the same numbers."""


class RooflineLatency(LatencyModel):
    r"""Seconds of an iteration by what it computes, reads and exchanges.

    With T tokens (new prompt tokens plus decoding sequences), S sequences, chunks of :math:`n_i`
    tokens after :math:`p_i` tokens of context, and decode context C, a dense model takes

    .. math::

       t = t_0 + \sqrt{c^2 + w^2}
           + \sum_i \left[L \gamma + \max\left(
             \frac{4 L h_q d\, n_i (p_i + (n_i + 1)/2)}{TP\,F\,m_a},
             \kappa_s (p_i + n_i)\right)\right]
           + \kappa_s C + r T + s S

    where :math:`c = 2 (P T + V S) / (TP\,F\,m)` computes the matrix products (P parameters in the
    layers, V in the output matrix), :math:`w = (\text{weight bytes}) / (TP\,B\,\eta_w)` reads
    them, :math:`\kappa_s = \kappa / (TP\,B\,\eta_{kv})` reads a token of KV cache,
    :math:`r = 2L \cdot 2 (TP-1)/TP \cdot 2 h / (B_{link}\,\eta) + a L\,2 h / B` exchanges and
    rereads a token's activations, :math:`\gamma` is `chunk_layer_s`, and
    :math:`t_0 = 2 L \alpha + L \delta + \text{overhead}` (:math:`\alpha = 0` if TP = 1). The
    root of squares stands for a maximum with the partial overlap that kernels reach near the ridge.

    In a mixture of experts P and the weights above are those that every token uses, and

    .. math::

       t_{experts} = \sqrt{\left(\frac{2 k\,P_e T \beta}{G F_e m_e}\right)^2 +
         \left(\frac{E\,b\,P_e}{G B \eta_e} \left(1 - (1 - k/E)^T\right)\right)^2} + x\,T_r

    is added: k of E experts of :math:`P_e` parameters (over all layers) and b bytes each compute T
    tokens on all G GPUs, of which with expert parallelism the busiest has :math:`\beta` times the
    mean; the expected number of different experts that T tokens need is read, and a token's
    exchange takes x (`simlib.latency.experts.exchange_s`). With attention ranks
    (`data_parallel_size`), tokens, sequences and context of all other terms are those of the
    busiest rank: :math:`\lceil B / R \rceil` of B sequences, and so with chunks.

    An iteration that prefills takes at least :math:`L_e \lambda_e + L_{latent} \lambda_a`, its
    launches (`expert_launch_s` and `latent_launch_s`, of :math:`L_e` layers of experts and
    :math:`L_{latent}` of latent attention): they are made one by one, ahead of the GPUs.

    Latent attention (MLA) reads :math:`r_{kv} + d_{rope}` numbers per cached token and layer on
    each GPU, or computes with them, :math:`2 h_q (2 r_{kv} + d_{rope})` operations, whichever takes
    longer; in layers with a sliding window, context beyond it costs nothing.

    Parameters
    ----------
    model, gpu, tensor_parallel
        What runs on how many of what GPU.
    calibration
        Efficiencies of the GPU.
    precision
        Of the layers' weights and products, a key of `catalog.BYTES_PER_PARAMETER`; attention
        stays 16-bit.
    kv_bytes
        Bytes of one stored key or value number.
    step_overhead_s, sequence_overhead_s
        Engine overhead per iteration, and per sequence in it.
    expert_precision
        Of the routed experts; by default as all else.
    data_parallel_size
        Attention ranks, `tensor_parallel` GPUs each, that share the experts and go in step.
    enable_expert_parallel
        Whether the GPUs have whole experts; else each has a part of every expert.
    expert_imbalance
        Tokens of the busiest GPU's experts over the mean, at least 1, with expert parallelism.
    experts
        Efficiencies of routed experts; by default those fitted for the GPU.
    expert_launch_s, latent_launch_s
        Seconds in which the engine launches a layer of experts, and one of latent attention, in an
        iteration that prefills; 0 for layers that a model lacks.
    latent_step_s
        Seconds of each layer of latent attention in every iteration, beside its kernels.

    Notes
    -----
    The roofline is that of Williams, Waterman and Patterson (2009), doi:10.1145/1498765.1498785;
    the counts of operations follow Kaplan et al. (2020), arXiv:2001.08361, the all-reduces
    Shoeybi et al. (2019), arXiv:1909.08053, and latent attention and shared experts DeepSeek-V2
    (2024), arXiv:2405.04434.
    """

    __slots__ = ()

    def __init__(
        self,
        model: catalog.Model,
        gpu: catalog.Gpu,
        tensor_parallel: int,
        calibration: RooflineCalibration,
        *,
        precision: str = "bf16",
        kv_bytes: float = 2.0,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
        expert_precision: str | None = None,
        data_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        expert_imbalance: float = EXPERT_IMBALANCE,
        experts: ExpertCalibration | None = None,
        expert_launch_s: float = 0.0,
        latent_launch_s: float = 0.0,
        latent_step_s: float = 0.0,
    ) -> None:
        check_seconds(
            step_overhead_s=step_overhead_s,
            sequence_overhead_s=sequence_overhead_s,
            expert_launch_s=expert_launch_s,
            latent_launch_s=latent_launch_s,
            latent_step_s=latent_step_s,
        )
        if tensor_parallel < 1 or model.heads % tensor_parallel:
            allowed = f"a divisor of the {model.heads} attention heads of {model.name}"
            raise InvalidParameterError("tensor_parallel", tensor_parallel, allowed)
        check_ranks(model, tensor_parallel, data_parallel_size, enable_expert_parallel)
        tp, bandwidth = tensor_parallel, gpu.hbm_bytes_per_s
        kv_total = catalog.kv_bytes_per_token(model, tp, kv_bytes)
        matrix_rate = tp * gpu.flops(precision) * calibration.mfu
        output_rate = tp * gpu.flops("bf16") * calibration.mfu
        read = catalog.BYTES_PER_PARAMETER[precision] * model.everyone_parameters
        read += 2 * model.output_parameters
        weights_s = read / (tp * bandwidth * calibration.weight_bandwidth)
        activation = _ACTIVATION_BYTES * model.hidden
        # with several ranks, results of experts come back by their exchange
        sums = 2 * model.layers - (model.moe_layers if data_parallel_size > 1 else 0)
        exchanged = sums * 2 * (tp - 1) / tp * activation
        reread = calibration.activation_passes * model.layers * activation
        link_rate = gpu.link_bytes_per_s * calibration.link_bandwidth(tp)
        collectives = sums if tp > 1 else 0
        if data_parallel_size > 1:
            collectives += 2 * model.moe_layers
        step_s = (
            step_overhead_s
            + collectives * calibration.allreduce_latency_s
            + model.layers * calibration.layer_s
            + model.latent_layers * latent_step_s
        )
        kv_s = kv_total / (tp * bandwidth * calibration.kv_bandwidth)
        attention_rate = tp * gpu.flops("bf16") * calibration.attention_mfu
        pair = 2.0 * model.layers * model.heads * (model.head_dim + model.value_dim)
        pair_s = pair / attention_rate
        context_s = kv_s
        if model.kv_lora_rank:
            latent = 2 * model.kv_lora_rank + model.qk_rope_head_dim
            context_s = max(kv_s, 2.0 * model.layers * model.heads * latent / attention_rate)
        near = model.window_layers / model.layers
        moe = _Experts(0.0, 0.0, 0.0, 0.0, 0.0)
        if model.experts:
            moe = _experts(
                model,
                gpu,
                tp,
                expert_precision or precision,
                data_parallel_size,
                expert_imbalance if enable_expert_parallel else 1.0,
                experts,
                whole=enable_expert_parallel,
            )
        launch_s = model.moe_layers * expert_launch_s + model.latent_layers * latent_launch_s
        plain = not (model.experts or model.window_layers or launch_s) and data_parallel_size == 1
        super().__init__(
            DENSE if plain else FORMULA,
            (
                step_s + moe.step_s,
                2.0 * model.everyone_parameters / matrix_rate,
                2.0 * model.output_parameters / output_rate,
                exchanged / link_rate + reread / bandwidth,
                calibration.sequence_s + sequence_overhead_s,
                kv_s * (1.0 - near),
                pair_s * (1.0 - near),
                model.layers * calibration.chunk_layer_s,
                weights_s**2,
                context_s * (1.0 - near),
                data_parallel_size,
                moe.token_s,
                moe.read_s,
                moe.miss,
                moe.exchange_s,
                model.sliding_window if model.window_layers else 0,
                kv_s * near,
                pair_s * near,
                context_s * near,
                launch_s,
            ),
            kv_total,
        )

    @classmethod
    def from_catalog(
        cls,
        model: str | catalog.Model,
        gpu: str | catalog.Gpu,
        tensor_parallel: int = 1,
        *,
        precision: str = "bf16",
        kv_bytes: float = 2.0,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
        expert_precision: str | None = None,
        data_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        expert_imbalance: float = EXPERT_IMBALANCE,
        expert_launch_s: float = 0.0,
        latent_launch_s: float = 0.0,
        latent_step_s: float = 0.0,
    ) -> RooflineLatency:
        """Return the roofline of a model on a GPU, by name or own, with its fitted efficiencies.

        Raises
        ------
        InvalidParameterError
            If the catalog lacks the model or GPU, the GPU the precision, or the model does not
            split over so many GPUs.
        """
        found = catalog.gpu(gpu) if isinstance(gpu, str) else gpu
        return cls(
            catalog.model(model) if isinstance(model, str) else model,
            found,
            tensor_parallel,
            roofline_calibration(found.name, found.computed_in(precision)),
            precision=precision,
            kv_bytes=kv_bytes,
            step_overhead_s=step_overhead_s,
            sequence_overhead_s=sequence_overhead_s,
            expert_precision=expert_precision,
            data_parallel_size=data_parallel_size,
            enable_expert_parallel=enable_expert_parallel,
            expert_imbalance=expert_imbalance,
            expert_launch_s=expert_launch_s,
            latent_launch_s=latent_launch_s,
            latent_step_s=latent_step_s,
        )


class _Experts(NamedTuple):
    """Parameters of routed experts."""

    step_s: float
    token_s: float
    read_s: float
    miss: float
    exchange_s: float


def _experts(
    model: catalog.Model,
    gpu: catalog.Gpu,
    tensor_parallel: int,
    precision: str,
    data_parallel_size: int,
    imbalance: float,
    calibration: ExpertCalibration | None,
    *,
    whole: bool,
) -> _Experts:
    """Return the parameters of routed experts; with `whole` ones the busiest GPU counts."""
    if not 1.0 <= imbalance < math.inf:
        raise InvalidParameterError("expert_imbalance", imbalance, ">= 1")
    catalog.check_precision(precision, "expert_precision")
    fit = calibration or expert_calibration(gpu, precision)
    gpus = tensor_parallel * data_parallel_size
    used = model.experts_per_token / model.experts
    share = math.ceil(model.experts / gpus) / model.experts if whole else 1.0 / gpus
    held_bytes = catalog.BYTES_PER_PARAMETER[precision] * model.expert_parameters * share
    computed = 2.0 * model.expert_parameters * used * imbalance
    return _Experts(
        step_s=model.moe_layers * fit.layer_s,
        token_s=computed / (gpus * gpu.flops(precision) * fit.mfu),
        read_s=held_bytes / (gpu.hbm_bytes_per_s * fit.weight_bandwidth),
        miss=1.0 - used,
        exchange_s=exchange_s(
            model,
            gpu,
            tensor_parallel,
            data_parallel_size,
            enable_expert_parallel=whole,
            dispatch_bytes=1.0 if precision == "fp8" else 2.0,
            imbalance=imbalance,
        ),
    )
