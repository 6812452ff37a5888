"""Models by name, read from ``models.csv``: one row per model, with the source of its sizes."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from simlib.errors import InvalidParameterError

_FILE: Final = Path(__file__).parent / "models.csv"
_FLAGS: Final = ("gated_ffn", "tied_embedding")
_PUBLISHED: Final = ("published_parameters", "published_active_parameters")


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only transformer, by the sizes of its published configuration.

    Without experts it is dense. With `kv_lora_rank` its attention is latent (MLA, DeepSeek-V2,
    arXiv:2405.04434): keys and values of all heads are one vector per token.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    """Numbers of a query and a key; with latent attention the rotary ones included."""
    ffn: int
    """Width of the feed-forward block of a layer without experts."""
    gated_ffn: bool
    """True if the feed-forward block has three matrices (SwiGLU), False if two."""
    vocab: int
    tied_embedding: bool
    extra_parameters: int
    """Parameters outside the matrices that count, such as learned positions, or eyes."""
    published_parameters: float
    """Size the publisher states; only a check on the numbers above."""
    moe_layers: int = 0
    """Layers that have experts instead of a feed-forward block of width `ffn`."""
    experts: int = 0
    """Routed experts of such a layer."""
    experts_per_token: int = 0
    """Routed experts that a token goes through."""
    expert_ffn: int = 0
    """Width of one routed expert."""
    shared_ffn: int = 0
    """Width of the experts that every token goes through, all of a layer together."""
    kv_lora_rank: int = 0
    """Latent attention: numbers that keys and values of a token are compressed to."""
    q_lora_rank: int = 0
    """Latent attention: numbers that queries are compressed to; 0 if they are not."""
    qk_rope_head_dim: int = 0
    """Latent attention: rotary numbers of a key, shared by all heads, cached beside the latent."""
    v_head_dim: int = 0
    """Numbers of a value; 0: as many as of a key."""
    sliding_window: int = 0
    """Tokens that the layers of `window_layers` look back; 0 if all layers see everything."""
    window_layers: int = 0
    """Layers that see the window only."""
    published_active_parameters: float = 0.0
    """Parameters that a token uses, as the publisher states it; 0 for dense models."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together.

        Raises
        ------
        InvalidParameterError
            Naming the first.
        """
        allowed = {
            "kv_heads": (self.heads % self.kv_heads == 0, f"a divisor of {self.heads} heads"),
            "moe_layers": (
                self.moe_layers <= self.layers and (self.moe_layers > 0) == (self.experts > 0),
                f"at most {self.layers} layers, above 0 with experts and only so",
            ),
            "experts_per_token": (
                self.experts_per_token <= self.experts
                and (self.experts_per_token > 0) == (self.experts > 0),
                f"at most {self.experts} experts, above 0 with experts",
            ),
            "expert_ffn": (self.expert_ffn > 0 or self.experts == 0, "> 0 with experts"),
            "qk_rope_head_dim": (self.qk_rope_head_dim <= self.head_dim, f"<= {self.head_dim}"),
            "window_layers": (
                self.window_layers <= self.layers
                and (self.window_layers > 0) == (self.sliding_window > 0),
                f"at most {self.layers} layers, above 0 with sliding_window and only so",
            ),
        }
        for name, (holds, wanted) in allowed.items():
            if not holds:
                raise InvalidParameterError(name, getattr(self, name), wanted, self.name)

    @property
    def value_dim(self) -> int:
        """Numbers of a value."""
        return self.v_head_dim or self.head_dim

    @property
    def latent_layers(self) -> int:
        """Layers of latent attention: all or none."""
        return self.layers if self.kv_lora_rank else 0

    @property
    def attention_parameters(self) -> int:
        """Parameters in the attention matrices of all layers."""
        if not self.kv_lora_rank:
            return self.layers * self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        rope, value, rank = self.qk_rope_head_dim, self.value_dim, self.kv_lora_rank
        query = (self.q_lora_rank or self.hidden) * self.heads * self.head_dim
        query += self.hidden * self.q_lora_rank
        latent = self.hidden * (rank + rope)
        latent += rank * self.heads * (self.head_dim - rope + value)
        return self.layers * (query + latent + self.heads * value * self.hidden)

    @property
    def expert_parameters(self) -> int:
        """Parameters of all routed experts."""
        return self.moe_layers * self.experts * self._block(self.expert_ffn)

    @property
    def everyone_parameters(self) -> int:
        """Parameters in the layers that every token uses: all but the routed experts."""
        dense = (self.layers - self.moe_layers) * self._block(self.ffn)
        shared = self.moe_layers * (self._block(self.shared_ffn) + self.hidden * self.experts)
        return self.attention_parameters + dense + shared

    @property
    def layer_parameters(self) -> int:
        """Parameters in the matrices of all layers."""
        return self.everyone_parameters + self.expert_parameters

    @property
    def output_parameters(self) -> int:
        """Parameters of the output matrix, used once per sequence and iteration."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """All parameters (biases and norms, well below 0.1 %, are left out)."""
        embeddings = self.output_parameters * (1 if self.tied_embedding else 2)
        return self.layer_parameters + embeddings + self.extra_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters in the matrices that one token goes through, the output matrix included."""
        used = self.everyone_parameters + self.output_parameters
        if self.experts:
            used += self.expert_parameters * self.experts_per_token // self.experts
        return used

    def _block(self, width: int) -> int:
        """Return the parameters of one feed-forward block."""
        return (3 if self.gated_ffn else 2) * self.hidden * width


def _rows() -> list[dict[str, str]]:
    with _FILE.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def _read(row: dict[str, str]) -> Model:
    values: dict[str, str | int | float | bool] = {"name": row["model"]}
    for field in fields(Model)[1:]:
        text = row[field.name] or "0"
        if field.name in _FLAGS:
            values[field.name] = text == "1"
        else:
            values[field.name] = float(text) if field.name in _PUBLISHED else int(text)
    return Model(**values)  # type: ignore[arg-type]


@cache
def _models() -> tuple[dict[str, Model], dict[str, str]]:
    """Return the models by name, and every name (lower case) a model is known by."""
    models: dict[str, Model] = {}
    names: dict[str, str] = {}
    for row in _rows():
        name = row["model"]
        models[name] = _read(row)
        for known_as in (name, *row["huggingface_ids"].split(";")):
            names[known_as.lower()] = name
    return models, names


def model_names() -> list[str]:
    """Return the names of the catalog's models."""
    return list(_models()[0])


def model(name: str) -> Model:
    """Return a model by its catalog name or its Hugging Face identifier (any case).

    Raises
    ------
    InvalidParameterError
        If the catalog has no such model.
    """
    models, names = _models()
    try:
        return models[names[name.lower()]]
    except KeyError:
        allowed = "one of " + ", ".join(models)
        raise InvalidParameterError("model", name, allowed) from None


def huggingface_id(name: str) -> str:
    """Return the first Hugging Face identifier of a model; one that is such already stays.

    Raises
    ------
    InvalidParameterError
        If the catalog has no such model.
    """
    if "/" in name:
        return name
    known = model(name).name
    return next(row["huggingface_ids"].split(";")[0] for row in _rows() if row["model"] == known)


def model_sources() -> dict[tuple[str, str], str]:
    """Return where the sizes of each model come from, by (model, "*")."""
    return {(row["model"], "*"): row["source"] for row in _rows()}
