"""A model from the ``config.json`` of a Hugging Face repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from simlib.errors import InvalidParameterError
from simlib.files import read_json
from simlib.latency.catalog.models import Model

_NOT_GATED: Final = ("opt", "gpt_neox", "falcon", "phi", "starcoder2", "nemotron", "bloom")
"""Model types whose feed-forward blocks have two matrices."""
_OTHERWISE: Final = (
    "linear_attn_config",
    "linear_num_value_heads",
    "hybrid_override_pattern",
    "hybrid_layer_pattern",
    "ssm_state_size",
    "mamba_d_state",
    "compress_ratios",
)
"""Keys of models whose layers do not attend to all tokens, or to so many: linear, state space.
Their seconds and caches follow other rules."""
_WHOLE: Final = ("full_attention", "chunked_attention", "attention")
"""Layers that count as attending to everything; chunks are longer than most contexts."""


def is_model_file(name: str) -> bool:
    """Return whether a model's name is the path of a ``config.json`` (or of its folder)."""
    return name.endswith(".json") or (name.endswith("/") or name in (".", ".."))


def model_path(name: str) -> Path:
    """Return the file that a path names: of a folder its ``config.json``."""
    return Path(name) if name.endswith(".json") else Path(name) / "config.json"


def model_of_file(name: str) -> Model:
    """Return the model that a ``config.json`` describes.

    Known are dense models and mixtures of experts, grouped and latent attention, and sliding
    windows, by the keys of Llama, Qwen, Mistral, Mixtral, DeepSeek, Kimi, GLM, MiniMax, gpt-oss
    and their kin. Sparse attention (``index_topk``) counts as a window of the tokens that its
    indexer selects, which costs the same; the indexer's own time is left out, as a vision encoder
    is. Embeddings count as not tied where the file does not say so.

    Raises
    ------
    InvalidParameterError
        If the file cannot be read, lacks a size, or its model computes attention otherwise.
    """
    path = model_path(name)
    data = read_json(path, "model")
    inner = data.get("text_config")
    config = _Sizes({**data, **inner} if isinstance(inner, dict) else data, str(path))
    for key in _OTHERWISE:
        if config.data.get(key):
            allowed = "a model whose layers attend to all tokens or to a window"
            raise InvalidParameterError("model", key, allowed, str(path))
    layers, heads, hidden = (
        config.size("num_hidden_layers"),
        config.size("num_attention_heads"),
        config.size("hidden_size"),
    )
    rank = config.optional("kv_lora_rank")
    rope = config.optional("qk_rope_head_dim") if rank else 0
    if rank:
        head_dim = config.size("qk_nope_head_dim") + rope
    else:
        head_dim = config.optional("head_dim") or hidden // heads
    kind = str(config.data.get("model_type", ""))
    experts = config.optional("n_routed_experts", "num_local_experts", "num_experts")
    expert_ffn = config.optional("moe_intermediate_size", "intermediate_size") if experts else 0
    shared = config.optional("shared_expert_intermediate_size", "shared_intermediate_size")
    shared = shared or config.optional("n_shared_experts", "num_shared_experts") * expert_ffn
    if kind.startswith("llama4"):
        shared = expert_ffn  # always one, which the file does not mention
    window_layers = _window_layers(config, layers)
    return Model(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=config.optional("num_key_value_heads") or heads,
        head_dim=head_dim,
        ffn=config.size("intermediate_size_mlp", "intermediate_size", "ffn_dim"),
        gated_ffn=kind not in _NOT_GATED,
        vocab=config.size("vocab_size"),
        tied_embedding=config.data.get("tie_word_embeddings") is True,
        extra_parameters=0,
        published_parameters=0.0,
        moe_layers=_moe_layers(config, layers) if experts else 0,
        experts=experts,
        experts_per_token=config.size("num_experts_per_tok", "num_experts_per_token")
        if experts
        else 0,
        expert_ffn=expert_ffn,
        shared_ffn=shared if experts else 0,
        kv_lora_rank=rank,
        q_lora_rank=config.optional("q_lora_rank") if rank else 0,
        qk_rope_head_dim=rope,
        v_head_dim=config.size("v_head_dim") if rank else 0,
        sliding_window=config.size("index_topk", "sliding_window") if window_layers else 0,
        window_layers=window_layers,
    )


class _Sizes:
    """Whole numbers of a configuration, by the first key that has one."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def optional(self, *keys: str) -> int:
        """Return a number, 0 if no key has one."""
        for key in keys:
            value = self.data.get(key)
            if value is None:
                continue
            if type(value) is not int or not 0 <= value < 10**9:
                raise InvalidParameterError(f"model: {key}", value, "a whole number", self.where)
            return value
        return 0

    def size(self, *keys: str) -> int:
        """Return a number of at least 1."""
        value = self.optional(*keys)
        if value < 1:
            got = next((self.data[key] for key in keys if key in self.data), None)
            raise InvalidParameterError(f"model: {keys[-1]}", got, "a number >= 1", self.where)
        return value


def _moe_layers(config: _Sizes, layers: int) -> int:
    """Return how many layers have experts."""
    step = config.optional("interleave_moe_layer_step", "decoder_sparse_step") or 1
    dense = config.data.get("mlp_only_layers") or []
    first = config.optional("first_k_dense_replace")
    return sum(
        1 for layer in range(first, layers) if (layer + 1) % step == 0 and layer not in dense
    )


def _window_layers(config: _Sizes, layers: int) -> int:
    """Return how many layers see a sliding window, or a selection of tokens, only."""
    if config.optional("index_topk"):
        return layers
    window = config.data.get("sliding_window")
    kinds = config.data.get("layer_types")
    if isinstance(kinds, list):
        for kind in kinds:
            if kind not in (*_WHOLE, "sliding_attention"):
                allowed = "full_attention or sliding_attention"
                raise InvalidParameterError("model: layer_types", kind, allowed, config.where)
        return kinds[:layers].count("sliding_attention") if window else 0
    return layers if window and config.data.get("use_sliding_window", True) else 0
