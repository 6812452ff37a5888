"""Named scenarios: loads and deployments worth looking at, applied to any configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from simlib.core.config import SimConfig
from simlib.core.overrides import overridden


class Scenario:
    """A named change of a configuration.

    Subclasses fill in `name`, `description` and `changes`. A scenario has no state: its class and
    its instances serve alike.
    """

    name: ClassVar[str] = ""
    """What the command line calls it."""
    description: ClassVar[str] = ""
    changes: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Settings by key of `SimConfig`. Load and lengths are replaced as a whole, a cluster field
    by field; whatever is left out (length of the run, seed, engine, …) stays."""

    @classmethod
    def apply(cls, cfg: SimConfig) -> SimConfig:
        """Return a new configuration: `cfg` with this scenario's changes."""
        return SimConfig.from_dict(overridden(cfg.to_dict(), cls.changes))


def _poisson(rate_per_s: float) -> dict[str, Any]:
    return {"kind": "poisson", "rate_per_s": rate_per_s}


def _lognormal(mean: float, sigma: float, min_value: int) -> dict[str, Any]:
    return {"mode": "log", "mean": mean, "sigma": sigma, "min_value": min_value}


def _prompts(mean: float, sigma: float) -> dict[str, Any]:
    return _lognormal(mean, sigma, 8)


def _outputs(mean: float, sigma: float) -> dict[str, Any]:
    return _lognormal(mean, sigma, 16)


_TWO_AND_TWO = {"prefill_gpus": 2, "decode_gpus": 2}


class LightLoadDisagg(Scenario):
    """Little load and short answers on 2 + 2 GPUs."""

    name = "light_load_disagg"
    description = "disagg 2+2, 1 req/s, short outputs"
    changes = MappingProxyType(
        {
            "mode": "disagg",
            "arrival": _poisson(1.0),
            "prompt_tokens": _prompts(6.0, 0.8),
            "output_tokens": _outputs(5.0, 1.0),
            "cluster_disagg": _TWO_AND_TWO,
        }
    )


class HeavyLoadMono(Scenario):
    """High load and long requests on 4 monolithic GPUs."""

    name = "heavy_load_mono"
    description = "mono 4, 4 req/s, long prompts and outputs"
    changes = MappingProxyType(
        {
            "mode": "mono",
            "arrival": _poisson(4.0),
            "prompt_tokens": _prompts(6.5, 0.9),
            "output_tokens": _outputs(6.5, 1.1),
            "cluster_mono": {"num_gpus": 4},
        }
    )


class LowLoad(Scenario):
    """Hardly any queue."""

    name = "low_load"
    description = "disagg, 0.5 req/s"
    changes = MappingProxyType({"mode": "disagg", "arrival": _poisson(0.5)})


class MediumLoad(Scenario):
    """Some queue."""

    name = "medium_load"
    description = "disagg, 2 req/s"
    changes = MappingProxyType({"mode": "disagg", "arrival": _poisson(2.0)})


class HighLoad(Scenario):
    """Near or beyond what the decode pool can carry."""

    name = "high_load"
    description = "disagg, 4 req/s"
    changes = MappingProxyType({"mode": "disagg", "arrival": _poisson(4.0)})


class SlowPrefill(Scenario):
    """The queue builds up before the prefill pool."""

    name = "slow_prefill"
    description = "disagg, 1 prefill GPU at 4,000 tok/s, long prompts"
    changes = MappingProxyType(
        {
            "mode": "disagg",
            "prompt_tokens": _prompts(6.5, 0.9),
            "cluster_disagg": {"prefill_gpus": 1, "prefill_tokens_per_s": 4000.0},
        }
    )


class SlowDecode(Scenario):
    """The queue builds up before the decode pool."""

    name = "slow_decode"
    description = "disagg, 1 decode GPU at 1,000 tok/s"
    changes = MappingProxyType(
        {
            "mode": "disagg",
            "output_tokens": _outputs(6.0, 1.1),
            "cluster_disagg": {"decode_gpus": 1, "decode_tokens_per_s": 1000.0},
        }
    )


class Balanced(Scenario):
    """Both pools process tokens at the same rate."""

    name = "balanced"
    description = "disagg, prefill and decode at 4,000 tok/s"
    changes = MappingProxyType(
        {
            "mode": "disagg",
            "cluster_disagg": {"prefill_tokens_per_s": 4000.0, "decode_tokens_per_s": 4000.0},
        }
    )


class Monolithic(Scenario):
    """The baseline: one pool of 4 GPUs."""

    name = "monolithic"
    description = "mono 4, 2 req/s"
    changes = MappingProxyType(
        {
            "mode": "mono",
            "arrival": _poisson(2.0),
            "cluster_mono": {"num_gpus": 4},
        }
    )


class Saturation(Scenario):
    """More load than the default deployment can carry."""

    name = "saturation"
    description = "disagg, 6 req/s"
    changes = MappingProxyType({"mode": "disagg", "arrival": _poisson(6.0)})


class VariableLoad(Scenario):
    """Lengths that vary more than usual."""

    name = "variable_load"
    description = "disagg, 3 req/s, both sigmas 1.2"
    changes = MappingProxyType(
        {
            "mode": "disagg",
            "arrival": _poisson(3.0),
            "prompt_tokens": _prompts(6.0, 1.2),
            "output_tokens": _outputs(6.0, 1.2),
        }
    )


QUEUE_IMPACT: tuple[type[Scenario], ...] = (
    LowLoad,
    MediumLoad,
    HighLoad,
    SlowPrefill,
    SlowDecode,
    Balanced,
    Monolithic,
    Saturation,
    VariableLoad,
)
"""The set that shows where queues form."""

SCENARIOS: dict[str, type[Scenario]] = {
    "light_load_disagg": LightLoadDisagg,
    "heavy_load_mono": HeavyLoadMono,
    "low_load": LowLoad,
    "medium_load": MediumLoad,
    "high_load": HighLoad,
    "slow_prefill": SlowPrefill,
    "slow_decode": SlowDecode,
    "balanced": Balanced,
    "monolithic": Monolithic,
    "saturation": Saturation,
    "variable_load": VariableLoad,
}
"""All scenarios by name."""
