"""What a model and a training are: frozen, hashable dataclasses, read from and written to JSON strictly."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin

from trm_jax.errors import UserError

# Above those of any model there is: a folder that asks for more would only exhaust the memory.
LARGEST_DIMENSION, MOST_LAYERS, MOST_CALLS = 2**24, 1024, 4096


class ConfigError(UserError):
    """A configuration that this package cannot honour; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class _Config:
    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from a JSON object that has exactly its fields. Raises ConfigError."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is {values!r:.80}; it must be an object")
        names = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(names - values.keys()), sorted(values.keys() - names)
        if missing or unknown:
            raise ConfigError(f"{cls.__name__}: missing fields {missing}, unknown fields {unknown}")
        return cls(**values)

    def _require_positive(self, *names: str) -> None:
        bad = {name: getattr(self, name) for name in names if not getattr(self, name) > 0}
        if bad:
            raise ConfigError(f"{type(self).__name__}: must be above zero: {bad}")

    def _require_share(self, *names: str) -> None:
        bad = {name: getattr(self, name) for name in names if not 0 <= getattr(self, name) <= 1}
        if bad:
            raise ConfigError(f"{type(self).__name__}: must be between 0 and 1: {bad}")

    def _require_at_most(self, most: int, *names: str) -> None:
        bad = {name: getattr(self, name) for name in names if getattr(self, name) > most}
        if bad:
            raise ConfigError(f"{type(self).__name__}: above {most:,}: {bad}")

    def _require_types(self) -> None:
        """Every field holds what it is annotated as; numbers are finite, a Literal is one of its values."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _is_of(value, field.type):
                kind = field.type.__name__ if isinstance(field.type, type) else str(field.type).removeprefix("typing.")
                raise ConfigError(f"{type(self).__name__}.{field.name} is {value!r:.80}; it must be {kind}")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type."""
    if isinstance(kind, types.UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(one, get_args(kind)[0]) for one in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return value is None if kind is types.NoneType else type(value) is kind


@dataclasses.dataclass(frozen=True)
class QwenConfig(_Config):
    """The dimensions of a Qwen2/Qwen2.5 backbone."""

    vocab_size: int  # V
    width: int  # D
    mlp_width: int  # F
    num_layers: int  # L
    num_heads: int  # N
    num_kv_heads: int  # K
    rope_theta: float
    norm_eps: float
    tied_head: bool
    max_length: int  # longest sequence the backbone was trained for, tokens
    end_tokens: tuple[int, ...]  # any of these ends an answer

    def __post_init__(self):
        if isinstance(self.end_tokens, list):  # where they come from JSON
            object.__setattr__(self, "end_tokens", tuple(self.end_tokens))
        self._require_types()
        object.__setattr__(self, "end_tokens", tuple(sorted(set(self.end_tokens))))
        sizes = ("vocab_size", "width", "mlp_width", "num_heads", "num_kv_heads", "max_length")
        self._require_positive(*sizes, "num_layers", "rope_theta", "norm_eps")
        self._require_at_most(LARGEST_DIMENSION, *sizes)
        self._require_at_most(MOST_LAYERS, "num_layers")
        if not all(0 <= token < self.vocab_size for token in self.end_tokens):
            raise ConfigError(f"end tokens {self.end_tokens} outside the vocabulary of {self.vocab_size} tokens")
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads or self.head_size % 2:
            raise ConfigError(
                f"width {self.width}, {self.num_heads} query heads and {self.num_kv_heads} key/value heads do not fit: "
                "the heads must divide the width into even sizes, the key/value heads must divide the query heads"
            )

    @property
    def head_size(self) -> int:  # H
        return self.width // self.num_heads

    @classmethod
    def from_hugging_face(cls, values: Mapping[str, Any]) -> Self:
        """Reads the `config.json` of a Qwen2/Qwen2.5 causal model, as transformers 4 or 5 writes it.

        Raises ConfigError for another architecture and for features the backbone does not compute.
        """
        if values.get("model_type") != "qwen2":
            raise ConfigError(f"model_type is {values.get('model_type')!r}; only Qwen2 and Qwen2.5 ('qwen2') convert")
        if values.get("hidden_act", "silu") != "silu":
            raise ConfigError(f"hidden_act is {values['hidden_act']!r}; the backbone computes 'silu'")
        kinds = values.get("layer_types") or ["full_attention"]
        if (
            values.get("use_sliding_window")
            or not isinstance(kinds, list)
            or set(map(str, kinds)) != {"full_attention"}
        ):
            raise ConfigError("some layers use a sliding window; the backbone computes full attention only")
        if "quantization_config" in values:
            raise ConfigError("the weights are quantised (quantization_config); take the model that was not quantised")
        needed = {
            "vocab_size": "vocab_size",
            "hidden_size": "width",
            "intermediate_size": "mlp_width",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "num_key_value_heads": "num_kv_heads",
            "rms_norm_eps": "norm_eps",
            "max_position_embeddings": "max_length",
        }
        missing = sorted(needed.keys() - values.keys())
        if missing:
            raise ConfigError(f"config.json lacks {missing}")
        ends = values.get("eos_token_id")
        return cls(
            **{field: values[name] for name, field in needed.items()},
            end_tokens=ends if isinstance(ends, list) else [] if ends is None else [ends],
            rope_theta=_rope_theta(values),
            tied_head=bool(values.get("tie_word_embeddings", False)),
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """The `config.json` that transformers and `from_hugging_face` read back."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.norm_eps,
            "max_position_embeddings": self.max_length,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied_head,
            "use_sliding_window": False,
            "eos_token_id": list(self.end_tokens),
        }


def _rope_theta(values: Mapping[str, Any]) -> float:
    """The rotary base: `rope_theta` (transformers 4) or `rope_parameters.rope_theta` (transformers 5), one required."""
    parameters = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"rope_parameters is {parameters!r:.80}; it must be an object")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise ConfigError(f"rotary embedding of type {kind!r} is not supported, only 'default'")
    found = [theta for theta in (values.get("rope_theta"), parameters.get("rope_theta")) if theta is not None]
    if not found or any(theta != found[0] for theta in found):
        raise ConfigError(
            f"config.json must give one rotary base, rope_theta or rope_parameters.rope_theta; found {found!r:.80}"
        )
    return found[0]


@dataclasses.dataclass(frozen=True)
class TRMConfig(_Config):
    """The recursion: its loop counts, and what the presets differ in."""

    latent_updates: int = 6  # n: updates of z in a pass, before the one update of y
    recursions: int = 3  # T: passes in a supervision step; the last one gets the gradient
    supervision_steps: int = 16  # N_sup
    block: Literal["plain", "post_norm"] = "plain"
    context: Literal["last", "mix"] = "last"
    readout: Literal["replace", "residual"] = "replace"
    frozen_head: bool = False
    num_kv_heads: int | None = None  # key/value heads of the block; None: as many as query heads, as the original
    tied: bool = True  # one block for all calls of a pass, or one for each
    kv_cache: Literal["last_pass", "per_pass"] = "last_pass"

    def __post_init__(self):
        self._require_types()
        counts = ("latent_updates", "recursions", "supervision_steps")
        self._require_positive(*counts)
        self._require_at_most(MOST_CALLS, *counts)
        if self.num_kv_heads is not None:
            self._require_positive("num_kv_heads")

    def kv_heads(self, backbone: QwenConfig) -> int:
        """K, the key/value heads of the block. Raises ConfigError if they do not divide the query heads."""
        if self.num_kv_heads is None:
            return backbone.num_heads
        if backbone.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_kv_heads} key/value heads of the recursion do not divide its {backbone.num_heads} query heads"
            )
        return self.num_kv_heads

    @property
    def calls(self) -> int:
        """U, the block calls of one pass."""
        return self.latent_updates + 1

    @property
    def passes(self) -> int:
        """P, the passes of all supervision steps."""
        return self.supervision_steps * self.recursions

    @classmethod
    def mathllm(cls, **changes) -> Self:
        """The original MathLLM in everything."""
        return cls(**changes)

    @classmethod
    def residual(cls, **changes) -> Self:
        """Post-norm block, mixed context, residual readout over the backbone's own frozen head, exact cache."""
        own = dict(block="post_norm", context="mix", readout="residual", frozen_head=True, kv_cache="per_pass")
        return cls(**(own | changes))

    @classmethod
    def single(cls, **changes) -> Self:
        """A control: `residual` without the recursion, one update of z and one of y, whatever the loop counts."""
        return dataclasses.replace(cls.residual(**changes), latent_updates=1, recursions=1, supervision_steps=1)

    @classmethod
    def layers(cls, **changes) -> Self:
        """A control: `residual` with a block of its own for each block call of a token, all run once."""
        shape = cls.residual(**changes)
        updates = shape.passes * shape.calls - 1
        return dataclasses.replace(shape, tied=False, latent_updates=updates, recursions=1, supervision_steps=1)

    @classmethod
    def preset(cls, name: str, **changes) -> Self:
        presets = {"mathllm": cls.mathllm, "residual": cls.residual, "single": cls.single, "layers": cls.layers}
        if name not in presets:
            raise ConfigError(f"unknown preset {name!r}, one of {sorted(presets)}")
        return presets[name](**changes)


@dataclasses.dataclass(frozen=True)
class TrainConfig(_Config):
    """How to train. The defaults are the original's."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4  # the peak
    alpha_rate: float = 1.0  # times the learning rate, for the residual readout's alpha
    weight_decay: float = 0.01
    decay: Literal["all", "matrices"] = "all"  # which weights decay
    warmup_steps: int = 0  # optimizer steps
    clip_norm: float = 1.0
    ema_decay: float = 0.999  # per optimizer step
    random_depth: bool = False  # supervision steps drawn for each batch, uniformly up to N_sup
    depth_warmup: float = 0.0  # share of the batches in which the supervision steps grow from one to N_sup
    epochs: int = 1
    batch_size: int = 8
    accumulation: int = 1
    max_length: int = 1024  # tokens
    seed: int = 0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of the computation; masters, moments and EMA are float32

    def __post_init__(self):
        self._require_types()
        self._require_positive(
            "learning_rate", "alpha_rate", "clip_norm", "epochs", "batch_size", "accumulation", "max_length"
        )
        self._require_share("ema_decay", "depth_warmup")
        if self.weight_decay < 0 or self.warmup_steps < 0 or self.seed < 0:
            raise ConfigError("TrainConfig: weight_decay, warmup_steps and seed cannot be negative")
