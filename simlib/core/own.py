"""Models and GPUs of one's own, beside those of the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from simlib.core.validation import ConfigModel, NonNegativeInt, PositiveFloat, PositiveInt
from simlib.errors import InvalidParameterError
from simlib.latency import catalog


class OwnModel(ConfigModel):
    """The sizes of a decoder-only transformer, as its configuration has them."""

    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    """Numbers of a query and a key; with latent attention the rotary ones included."""
    ffn: PositiveInt
    """Width of the feed-forward block of a layer without experts."""
    vocab: PositiveInt
    gated_ffn: bool = True
    """Three matrices in a feed-forward block (SwiGLU), not two."""
    tied_embedding: bool = False
    extra_parameters: NonNegativeInt = 0
    """Parameters that take memory and no time, such as those of a vision encoder."""
    moe_layers: NonNegativeInt = 0
    """Layers of experts; 0 in a dense model."""
    experts: NonNegativeInt = 0
    """Routed experts of such a layer."""
    experts_per_token: NonNegativeInt = 0
    expert_ffn: NonNegativeInt = 0
    """Width of one routed expert."""
    shared_ffn: NonNegativeInt = 0
    """Width of the experts that every token goes through, all of a layer together."""
    kv_lora_rank: NonNegativeInt = 0
    """Latent attention (MLA): numbers that keys and values are compressed to."""
    q_lora_rank: NonNegativeInt = 0
    qk_rope_head_dim: NonNegativeInt = 0
    v_head_dim: NonNegativeInt = 0
    """Numbers of a value; 0: as many as of a key."""
    sliding_window: NonNegativeInt = 0
    """Tokens that the layers of ``window_layers`` look back."""
    window_layers: NonNegativeInt = 0

    def named(self, name: str) -> catalog.Model:
        """Return it as a model of the catalog."""
        return catalog.Model(name=name, published_parameters=0.0, **self.to_dict())


class OwnGpu(ConfigModel):
    """Peak rates without sparsity, in SI units, as a datasheet has them."""

    dense_bf16_flops: PositiveFloat
    """16-bit tensor operations per second."""
    hbm_bytes_per_s: PositiveFloat
    hbm_bytes: PositiveFloat
    """Memory an application can see."""
    link_bytes_per_s: PositiveFloat
    """To the other GPUs of its node, one direction."""
    dense_fp8_flops: PositiveFloat | None = None
    dense_fp4_flops: PositiveFloat | None = None
    network_bytes_per_s: PositiveFloat | None = None
    board_power_w: PositiveFloat | None = None
    link_gpus: PositiveInt = 8
    """GPUs that the link joins: those of a node, or of a rack."""

    def named(self, name: str) -> catalog.Gpu:
        """Return it as a GPU of the catalog."""
        return catalog.Gpu(name=name, **self.to_dict())


class Own(ConfigModel):
    """What a configuration adds to the catalog."""

    models: dict[str, OwnModel] = Field(default_factory=dict)
    gpus: dict[str, OwnGpu] = Field(default_factory=dict)

    def model(self, name: str) -> catalog.Model:
        """Return the model of a name: one's own, of a ``config.json``, or of the catalog.

        Raises
        ------
        InvalidParameterError
            If there is none, or the file describes none that is known.
        """
        if name in self.models:
            return self.models[name].named(name)
        if catalog.is_model_file(name):
            return catalog.model_of_file(name)
        try:
            return catalog.model(name)
        except InvalidParameterError as error:
            raise _with_own(error, self.models) from None

    def gpu(self, name: str) -> catalog.Gpu:
        """Return the GPU of a name: one's own, or of the catalog.

        Raises
        ------
        InvalidParameterError
            If there is none.
        """
        if name in self.gpus:
            return self.gpus[name].named(name)
        try:
            return catalog.gpu(name)
        except InvalidParameterError as error:
            raise _with_own(error, self.gpus) from None

    def used(self, model: str, gpus: list[str]) -> dict[str, Any]:
        """Return the entries that a deployment uses, as plain data by section; empty ones not."""
        entries = {
            "models": {model: self.models[model].to_dict()} if model in self.models else {},
            "gpus": {name: self.gpus[name].to_dict() for name in gpus if name in self.gpus},
        }
        return {section: found for section, found in entries.items() if found}


def check_own(section: str, own: Mapping[str, Any], known: list[str]) -> None:
    """Refuse names that the catalog has, and those of files."""
    for name in own:
        if name.lower() in known or not name.strip() or name.endswith(".json"):
            allowed = "a name that the catalog does not have, and no file"
            raise InvalidParameterError(f"{section}.{name}", name, allowed)


def _with_own(error: InvalidParameterError, own: Mapping[str, Any]) -> InvalidParameterError:
    allowed = ", ".join([str(error.allowed), *own])
    return InvalidParameterError(error.name, error.got, allowed, error.where)
