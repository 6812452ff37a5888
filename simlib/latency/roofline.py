"""Roofline latency: iteration seconds from peak rates, model sizes and per-GPU efficiencies."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.latency.protocol import MAX_STEPS, Formula, LatencyModel, check_overheads

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

    The fit error of each row stands beside it in ``calibration/roofline.csv``.
    """
    known = _calibrations()
    return known.get((gpu, precision)) or known["default", precision]


def is_calibrated(gpu: str, precision: str = "bf16") -> bool:
    """Return whether efficiencies were fitted for this GPU and precision."""
    return (gpu, precision) in _calibrations()


def chunk(p: Sequence[float], new: int, before: int) -> float:
    """Return the seconds of a chunk's attention: launch, and computing it or reading the cache."""
    return p[7] + max(p[6] * new * (before + 0.5 * new + 0.5), p[5] * (before + new))


def iteration(
    p: Sequence[float], work: float, tokens: int, chunks: int, batch: int, context: int
) -> float:
    """Return the seconds of an iteration that prefills."""
    tokens += batch
    sequences = batch + chunks
    compute_s = tokens * p[1] + sequences * p[2]
    matrices_s = p[0] + math.sqrt(compute_s * compute_s + p[8]) + tokens * p[3] + sequences * p[4]
    return matrices_s + (p[5] * context + work)


def decode(p: Sequence[float], batch: int, context: int) -> tuple[float, float, int]:
    """Return the seconds of a decode step, and by how much the next is longer."""
    compute_s = batch * p[1] + batch * p[2]
    base_s = p[0] + math.sqrt(compute_s * compute_s + p[8]) + batch * p[3] + batch * p[4]
    return base_s + p[5] * context, p[5] * batch, MAX_STEPS


class RooflineLatency(LatencyModel):
    r"""Seconds of an iteration by what it computes, reads and exchanges.

    With T tokens (new prompt tokens plus decoding sequences), S sequences, chunks of :math:`n_i`
    tokens after :math:`p_i` tokens of context, and decode context C:

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

    Parameters
    ----------
    model, gpu, tensor_parallel
        What runs on how many of what GPU.
    calibration
        Efficiencies of the GPU.
    precision
        Of the layers' weights and products, ``bf16`` or ``fp8``; attention stays 16-bit.
    kv_bytes
        Bytes of one stored key or value number.
    step_overhead_s, sequence_overhead_s
        Engine overhead per iteration, and per sequence in it.

    Notes
    -----
    The roofline is that of Williams, Waterman and Patterson (2009), doi:10.1145/1498765.1498785;
    the counts of operations follow Kaplan et al. (2020), arXiv:2001.08361, and the all-reduces
    Shoeybi et al. (2019), arXiv:1909.08053.
    """

    __slots__ = ()

    formula = Formula(chunk, iteration, decode)

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
    ) -> None:
        check_overheads(step_overhead_s, sequence_overhead_s)
        if tensor_parallel < 1 or model.heads % tensor_parallel:
            allowed = f"a divisor of the {model.heads} attention heads of {model.name}"
            raise InvalidParameterError("tensor_parallel", tensor_parallel, allowed)
        tp, bandwidth = tensor_parallel, gpu.hbm_bytes_per_s
        kv_total = catalog.kv_bytes_per_token(model, tp, kv_bytes)
        matrix_rate = tp * gpu.flops(precision) * calibration.mfu
        output_rate = tp * gpu.flops("bf16") * calibration.mfu
        read = catalog.BYTES_PER_PARAMETER[precision] * model.layer_parameters
        read += 2 * model.output_parameters
        weights_s = read / (tp * bandwidth * calibration.weight_bandwidth)
        activation = _ACTIVATION_BYTES * model.hidden
        exchanged = 2 * model.layers * 2 * (tp - 1) / tp * activation
        reread = calibration.activation_passes * model.layers * activation
        link_rate = gpu.link_bytes_per_s * calibration.link_bandwidth(tp)
        allreduces = 2 * model.layers if tp > 1 else 0
        super().__init__(
            (
                step_overhead_s
                + allreduces * calibration.allreduce_latency_s
                + model.layers * calibration.layer_s,
                2.0 * model.layer_parameters / matrix_rate,  # computing a token
                2.0 * model.output_parameters / output_rate,  # computing a sequence's output
                exchanged / link_rate + reread / bandwidth,  # a token's activations
                calibration.sequence_s + sequence_overhead_s,
                kv_total / (tp * bandwidth * calibration.kv_bandwidth),  # reading a cached token
                (4.0 * model.layers * model.heads * model.head_dim)
                / (tp * gpu.flops("bf16") * calibration.attention_mfu),  # a pair of tokens
                model.layers * calibration.chunk_layer_s,
                weights_s**2,
            ),
            kv_total,
        )

    @classmethod
    def from_catalog(
        cls,
        model: str,
        gpu: str,
        tensor_parallel: int = 1,
        *,
        precision: str = "bf16",
        kv_bytes: float = 2.0,
        step_overhead_s: float = 0.0,
        sequence_overhead_s: float = 0.0,
    ) -> RooflineLatency:
        """Return the roofline of a catalog model on a catalog GPU, with its fitted efficiencies.

        Raises
        ------
        InvalidParameterError
            If the catalog lacks the model or GPU, the GPU the precision, or the model does not
            split over so many GPUs.
        """
        found = catalog.gpu(gpu)
        found.flops(precision)  # refuses a precision the GPU lacks
        return cls(
            catalog.model(model),
            found,
            tensor_parallel,
            roofline_calibration(found.name, precision),
            precision=precision,
            kv_bytes=kv_bytes,
            step_overhead_s=step_overhead_s,
            sequence_overhead_s=sequence_overhead_s,
        )
