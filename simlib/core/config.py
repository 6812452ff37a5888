"""The configuration of one simulation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from simlib.core.batching import BatchingDisagg, BatchingMono, LatencyConfig
from simlib.core.classes import SORTED_BY, RequestClass, check_sorted_by, in_order
from simlib.core.engine_defaults import with_engine_defaults
from simlib.core.own import Own, OwnGpu, OwnModel, check_own
from simlib.core.reading import read_yaml
from simlib.core.records import TtftDefinition
from simlib.core.validation import (
    ConfigModel,
    FiniteFloat,
    GpuCount,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from simlib.errors import InvalidParameterError
from simlib.latency import catalog
from simlib.workload.arrivals import ARRIVALS, ArrivalKind, ArrivalName
from simlib.workload.length_kinds import LENGTHS, LengthKind, LengthName
from simlib.workload.lengths import MAX_TOKENS
from simlib.workload.lognormal import p50_p90_to_log as _p50_p90_to_log_params
from simlib.workload.lognormal import real_mean_std_to_log as _real_mean_std_to_log_params

DEFAULT_RANDOM_SEED = 42
DEFAULT_SIM_SECONDS = 600.0
DEFAULT_WARMUP_SECONDS = 60.0
MAX_REQUESTS = 10**9
"""Most requests that a run may be expected to draw: 24 GB of columns."""
MAX_CONCURRENCY = 10**6
"""Most requests in flight of a closed loop."""

Mode = Literal["mono", "disagg"]
Engine = Literal["fast", "simpy"]
Serving = Literal["token_rate", "batching"]
REAL_SPACE = {
    "real_mean_std": (("mean", "std"), _real_mean_std_to_log_params),
    "p50_p90": (("p50", "p90"), _p50_p90_to_log_params),
}
"""Modes that input may have for ``log``: their keys in tokens, and what turns their values."""
TOKEN_MODES = tuple(dict.fromkeys(("log", *REAL_SPACE, *LENGTHS)))


class ArrivalConfig(ConfigModel):
    """When requests arrive: drawn at a rate, a trace replayed, or a closed loop."""

    kind: ArrivalName = "poisson"
    """``poisson`` and ``gamma`` (burstier) draw arrivals; ``trace`` replays the times and lengths
    of a file; ``closed_loop`` keeps a number of requests in flight, as serving benchmarks do (with
    ``serving: batching`` only)."""
    rate_per_s: PositiveFloat = 2.0
    """Mean arrival rate of ``poisson`` and ``gamma``, requests per second."""
    cv: PositiveFloat = Field(default=2.0, ge=0.01, le=100.0)
    """``gamma``: coefficient of variation of the gaps between requests; 1 is Poisson's."""
    path: str | None = None
    """Trace file (Azure CSV or Mooncake JSONL), relative to the working directory."""
    speed: PositiveFloat = 1.0
    """Replay speed: 2.0 halves every gap, doubling the rate."""
    start_s: NonNegativeFloat = 0.0
    """Start of the replayed window, seconds of the trace's own clock."""
    length_s: PositiveFloat | None = None
    """Length of the replayed window, seconds of the trace's own clock; default: to its end."""

    concurrency: PositiveInt = Field(default=16, le=MAX_CONCURRENCY)
    """``closed_loop``: requests in flight; each that ends lets the next one arrive."""
    requests: PositiveInt = Field(default=10_000, le=MAX_REQUESTS)
    """``closed_loop``: requests at hand; they must last until sim_seconds."""

    @property
    def process(self) -> ArrivalKind:
        """What the kind is."""
        return ARRIVALS[self.kind]

    @model_validator(mode="after")
    def _trace_needs_path(self) -> Self:
        if self.process.replayed and not self.path:
            raise InvalidParameterError("path", self.path, "the path of a trace (kind: trace)")
        return self


class TokenDistribution(ConfigModel):
    """A distribution of lengths in tokens.

    ``mean`` and ``sigma`` are in log space, as in NumPy's ``lognormal``. Input may also say
    ``mode: real_mean_std`` (mean, std in tokens) or ``mode: p50_p90`` (p50, p90 in tokens); both
    become ``log``.
    """

    mode: LengthName = "log"
    mean: FiniteFloat = 6.0
    """``log``: mean of the logarithm; ``exponential``: mean in tokens."""
    sigma: NonNegativeFloat = 0.9
    """``log``: standard deviation of the logarithm."""
    min_value: PositiveInt = 1
    """Shorter draws become this long, tokens."""
    value: PositiveInt | None = None
    """``fixed``: the length in tokens."""
    low: PositiveInt | None = None
    """``uniform``: the shortest length, tokens."""
    high: PositiveInt | None = None
    """``uniform``: the longest length, tokens."""
    path: str | None = None
    """``empirical``: a file of one length a line, drawn from with replacement."""

    @model_validator(mode="before")
    @classmethod
    def _from_real_space(cls, data: Any) -> Any:
        return _to_log_space(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> Self:
        for name in ("min_value", "value", "low", "high"):
            if (getattr(self, name) or 0) > MAX_TOKENS:
                raise InvalidParameterError(name, getattr(self, name), f"<= {MAX_TOKENS} tokens")
        self.kind.check(self)
        return self

    @property
    def kind(self) -> LengthKind:
        """What the mode is."""
        return LENGTHS[self.mode]

    def essential(self) -> dict[str, Any]:
        """Return only what the mode uses: two equal distributions give equal dicts."""
        return {"mode": self.mode, **{key: getattr(self, key) for key in self.kind.keys}}


class PromptConfig(TokenDistribution):
    """Prompt lengths; by default lognormal(6.0, 0.9), at least 8 tokens."""

    min_value: PositiveInt = 8


class OutputConfig(TokenDistribution):
    """Output lengths; by default lognormal(6.0, 1.1), at least 16 tokens."""

    sigma: NonNegativeFloat = 1.1
    min_value: PositiveInt = 16


class ClusterMonolithic(ConfigModel):
    """One pool: each GPU prefills and decodes the request that it holds."""

    num_gpus: GpuCount = 4
    prefill_tokens_per_s: PositiveFloat = 8000.0
    """Prefill rate of one GPU."""
    decode_tokens_per_s: PositiveFloat = 2000.0
    """Decode rate of one GPU."""

    @property
    def total_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.num_gpus

    @property
    def gpus_by_pool(self) -> dict[str, int]:
        """GPUs of each pool."""
        return {"gpu": self.num_gpus}


class ClusterDisagg(ConfigModel):
    """Two pools, and the KV transfer between them."""

    prefill_gpus: GpuCount = 2
    decode_gpus: GpuCount = 2
    prefill_tokens_per_s: PositiveFloat = 8000.0
    """Prefill rate of one prefill GPU."""
    decode_tokens_per_s: PositiveFloat = 2000.0
    """Decode rate of one decode GPU."""
    kv_base_latency_s: NonNegativeFloat = 0.0
    """Latency of a KV transfer before its first byte, seconds."""
    kv_bytes_per_token: NonNegativeFloat = 0.0
    """KV cache size per prompt token, bytes."""
    kv_bandwidth_bytes_per_s: PositiveFloat = 25e9
    """Bandwidth of a KV transfer; transfers do not slow each other in this model."""

    @property
    def total_gpus(self) -> int:
        """GPUs of the whole deployment."""
        return self.prefill_gpus + self.decode_gpus

    @property
    def gpus_by_pool(self) -> dict[str, int]:
        """GPUs of each pool."""
        return {"prefill": self.prefill_gpus, "decode": self.decode_gpus}

    @property
    def transfer_s_per_token(self) -> float:
        """Seconds of KV transfer per prompt token."""
        return self.kv_bytes_per_token / self.kv_bandwidth_bytes_per_s


class SimConfig(ConfigModel):
    """Everything one simulation depends on."""

    mode: Mode = "disagg"
    """``mono``: one pool for both phases; ``disagg``: separate prefill and decode pools."""
    sim_seconds: PositiveFloat = DEFAULT_SIM_SECONDS
    """Requests arrive in [0, sim_seconds)."""
    warmup_seconds: NonNegativeFloat = DEFAULT_WARMUP_SECONDS
    """Requests that arrive earlier do not count."""
    random_seed: Seed = DEFAULT_RANDOM_SEED
    arrival: ArrivalConfig = Field(default_factory=ArrivalConfig)
    prompt_tokens: PromptConfig = Field(default_factory=PromptConfig)
    output_tokens: OutputConfig = Field(default_factory=OutputConfig)
    request_classes: dict[str, RequestClass] = Field(default_factory=dict)
    """Classes of requests by name, each with its share, TTFT SLO and priority."""
    serving: Serving = "token_rate"
    """``token_rate``: a GPU serves one request at constant rates (``cluster_…``);
    ``batching``: continuous batching on replicas with a KV cache (``batching_…``, ``latency``)."""
    cluster_mono: ClusterMonolithic = Field(default_factory=ClusterMonolithic)
    cluster_disagg: ClusterDisagg = Field(default_factory=ClusterDisagg)
    latency: LatencyConfig = Field(default_factory=LatencyConfig)
    models: dict[str, OwnModel] = Field(default_factory=dict)
    """Models of one's own by name, for ``latency.model``."""
    gpus: dict[str, OwnGpu] = Field(default_factory=dict)
    """GPUs of one's own by name, for the ``gpu`` of pools."""
    batching_mono: BatchingMono = Field(default_factory=BatchingMono)
    batching_disagg: BatchingDisagg = Field(default_factory=BatchingDisagg)
    engine: Engine = "fast"
    """``fast``: exact, by recursion or jumps; ``simpy``: the readable event-by-event twin."""
    timeline: bool = False
    """Also keep what replicas do over time: batches, KV cache, gaps between tokens (with
    ``serving: batching`` and the fast engine)."""
    drain: bool = True
    """After sim_seconds, serve every request to its end, so that no slow one is left out."""
    ttft_definition: TtftDefinition = "first_decode_step"
    """What TTFT means in every table; see `simlib.core.records.ttft_s`."""

    @model_validator(mode="before")
    @classmethod
    def _engine_fills_in(cls, data: Any) -> Any:
        return with_engine_defaults(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> Self:
        if self.warmup_seconds >= self.sim_seconds:
            raise InvalidParameterError(
                "warmup_seconds", self.warmup_seconds, f"< sim_seconds ({self.sim_seconds:g})"
            )
        return self

    def __hash__(self) -> int:
        """Return a hash of the value: mappings, such as the classes, have none."""
        mappings = ("request_classes", "models", "gpus")
        fields = self.__dict__ | {name: tuple(getattr(self, name).items()) for name in mappings}
        return hash(tuple(fields.values()))

    @field_validator("request_classes")
    @classmethod
    def _classes_in_order(cls, classes: dict[str, RequestClass]) -> dict[str, RequestClass]:
        return in_order(classes)

    @field_validator("models")
    @classmethod
    def _models_fit_together(cls, models: dict[str, OwnModel]) -> dict[str, OwnModel]:
        check_own("models", models, catalog.model_names())
        for name, one in models.items():
            try:
                one.named(name)
            except InvalidParameterError as error:
                key = f"models.{name}.{error.name}"
                raise InvalidParameterError(key, error.got, error.allowed) from None
        return models

    @field_validator("gpus")
    @classmethod
    def _gpus_have_names(cls, gpus: dict[str, OwnGpu]) -> dict[str, OwnGpu]:
        check_own("gpus", gpus, catalog.gpu_names())
        return gpus

    @model_validator(mode="after")
    def _disciplines_have_classes(self) -> Self:
        if self.serving == "batching":
            check_sorted_by(self.request_classes, self.batching.discipline)
        return self

    @model_validator(mode="after")
    def _timelines_are_kept_by_the_batching_engine(self) -> Self:
        if self.timeline and self.serving != "batching":
            raise InvalidParameterError("serving", self.serving, "batching (timeline: true)")
        if self.timeline and self.engine != "fast":
            raise InvalidParameterError("engine", self.engine, "fast (timeline: true)")
        return self

    @model_validator(mode="after")
    def _closed_loops_batch(self) -> Self:
        if self.arrival.process.closed and self.serving != "batching":
            raise InvalidParameterError(
                "serving", self.serving, f"batching (arrival.kind: {self.arrival.kind})"
            )
        return self

    @model_validator(mode="after")
    def _requests_fit_in_memory(self) -> Self:
        rate = self.arrival.rate_per_s
        if self.arrival.process.at_rate and rate * self.sim_seconds > MAX_REQUESTS:
            raise InvalidParameterError(
                "arrival.rate_per_s",
                rate,
                f"<= {MAX_REQUESTS / self.sim_seconds:g} (at most {MAX_REQUESTS} requests a run)",
            )
        return self

    @property
    def cluster(self) -> ClusterMonolithic | ClusterDisagg:
        """The token-rate deployment that `mode` selects."""
        return self.cluster_mono if self.mode == "mono" else self.cluster_disagg

    @property
    def batching(self) -> BatchingMono | BatchingDisagg:
        """The batching deployment that `mode` selects."""
        return self.batching_mono if self.mode == "mono" else self.batching_disagg

    @property
    def deployment(self) -> ClusterMonolithic | ClusterDisagg | BatchingMono | BatchingDisagg:
        """The deployment that `serving` and `mode` select."""
        return self.cluster if self.serving == "token_rate" else self.batching

    @property
    def own(self) -> Own:
        """Models and GPUs beside those of the catalog."""
        return Own.model_construct(models=self.models, gpus=self.gpus)

    @property
    def class_key(self) -> str | None:
        """What of its class decides when a request is served; None if classes decide nothing."""
        return SORTED_BY.get(self.batching.discipline) if self.serving == "batching" else None


def load_config(path: str | Path) -> SimConfig:
    """Read the configuration of one simulation from a YAML file.

    A study file (one with ``defaults`` and ``studies``) is accepted: its defaults are read.

    Raises
    ------
    InvalidParameterError
        If the file cannot be read, is not YAML, or holds an unknown key or a bad value.
    """
    data = read_yaml(path)
    if "studies" in data or "defaults" in data:
        data = data.get("defaults") or {}
    try:
        return SimConfig.from_dict(data)
    except InvalidParameterError as error:
        raise error.at(str(path)) from None


def _parse_token_dist(
    raw: Mapping[str, Any] | None, kind: type[TokenDistribution] = PromptConfig
) -> TokenDistribution:
    """Return the distribution that a mapping describes, in any of the seven modes.

    Modes: log, real_mean_std, p50_p90, fixed, uniform, exponential, empirical.
    """
    return kind.from_dict(dict(raw or {}))


def _to_log_space(data: dict[str, Any]) -> dict[str, Any]:
    mode = data.get("mode", "log")
    if mode not in TOKEN_MODES:
        raise InvalidParameterError("mode", mode, "one of " + ", ".join(TOKEN_MODES))
    if mode not in REAL_SPACE:
        return data
    names, convert = REAL_SPACE[mode]
    rest = {key: value for key, value in data.items() if key not in (*names, "mode")}
    for key in rest:
        if key != "min_value":
            raise InvalidParameterError(
                key, data[key], f"left out: mode {mode} takes {', '.join((*names, 'min_value'))}"
            )
    values = [_number(data, name, mode) for name in names]
    mu, sigma = convert(*values)
    return {"mode": "log", "mean": mu, "sigma": sigma, **rest}


def _number(data: dict[str, Any], name: str, mode: str) -> float:
    try:
        if isinstance(data[name], bool):
            raise ValueError
        return float(data[name])
    except (KeyError, OverflowError, TypeError, ValueError):
        raise InvalidParameterError(
            name, data.get(name), f"a number of tokens (mode: {mode})"
        ) from None
