"""The configs of a model, a data set and a training: frozen dataclasses, checked by pydantic, to and from JSON."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import pydantic
from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from trm_jax.errors import UserError

# The limits are above the sizes of any existing model: a config that asks for more would only exhaust the memory.
Dimension = Annotated[int, Field(gt=0, le=2**24)]
Layers = Annotated[int, Field(gt=0, le=1024)]
LoopCount = Annotated[int, Field(gt=0, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
TokenIds = Annotated[tuple[int, ...], Field(strict=False), AfterValidator(lambda ids: tuple(sorted(set(ids))))]

Config = TypeVar("Config", bound=type)


class ConfigError(UserError):
    """A configuration that this package cannot honour; the message says what to change."""


class _Json:
    """Converts a config to a JSON object and back."""

    ADDED: ClassVar[tuple[str, ...]] = ()  # fields that former versions did not write: they computed the defaults

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from a JSON object that has exactly its fields, or all but some of ADDED. Raises ConfigError."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is {values!r:.80}; it must be an object")
        names = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(names - values.keys() - {*cls.ADDED}), sorted(values.keys() - names)
        if missing or unknown:
            raise ConfigError(f"{cls.__name__}: missing fields {missing}, unknown fields {unknown}")
        return cls(**values)


def _checked(config: Config) -> Config:
    """Makes a class a frozen dataclass, which raises ConfigError if a value does not fit the annotation of its field."""
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    config = pydantic.dataclasses.dataclass(frozen=True, config=strict)(config)
    check = config.__init__

    @functools.wraps(check)
    def check_in_words(self, *args, **values):
        try:
            check(self, *args, **values)
        except pydantic.ValidationError as error:
            raise ConfigError("; ".join(_in_words(config.__name__, one) for one in error.errors())) from None

    config.__init__ = check_in_words
    return config


def _in_words(config: str, error: Mapping[str, Any]) -> str:
    """One of pydantic's errors, as a sentence for the user."""
    if error["type"] == "value_error":  # from a __post_init__ below, which names the fields itself
        return str(error["ctx"]["error"])
    limits = {"greater_than": "must be above zero", "less_than_equal": "is above {le:,}"}
    fault = limits.get(error["type"], error["msg"].removeprefix("Input ")).format(**error.get("ctx", {}))
    return f"{config}.{'.'.join(map(str, error['loc']))} is {error['input']!r:.80}; it {fault}"


@_checked
class QwenConfig(_Json):
    """The dimensions of a Qwen2/Qwen2.5 backbone.

    Example: `trm_jax.load_model("runs/model").backbone.config.width`.
    """

    vocab_size: Dimension
    """V, the size of the vocabulary in tokens."""
    width: Dimension
    """D, the width of the hidden states."""
    mlp_width: Dimension
    """F, the inner width of the MLP."""
    num_layers: Layers
    """L, the number of layers."""
    num_heads: Dimension
    """N, query heads."""
    num_kv_heads: Dimension
    """K, key/value heads."""
    rope_theta: PositiveFloat
    """Base of the rotary embedding."""
    norm_eps: PositiveFloat
    """Epsilon that the norms add to the mean square."""
    tied_head: bool
    """Whether the output head is the input embedding."""
    max_length: Dimension
    """The longest sequence that the backbone was trained for, tokens."""
    end_tokens: TokenIds
    """Any of these ends a completion."""

    def __post_init__(self):
        if not all(0 <= token < self.vocab_size for token in self.end_tokens):
            raise ConfigError(f"end tokens {self.end_tokens} outside the vocabulary of {self.vocab_size} tokens")
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads or self.head_size % 2:
            raise ConfigError(
                f"width {self.width}, {self.num_heads} query heads and {self.num_kv_heads} key/value heads do not fit: "
                "the heads must divide the width into even sizes, the key/value heads must divide the query heads"
            )

    @property
    def head_size(self) -> int:
        """H, the width of one head."""
        return self.width // self.num_heads


@_checked
class TRMConfig(_Json):
    """The recursion: its loop counts, and the other choices in which the presets differ. The defaults are the original's.

    Example: `TRMConfig.residual(supervision_steps=4)`.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("rope_theta",)

    latent_updates: LoopCount = 6
    """n, updates of z in a pass, before the one update of y."""
    recursions: LoopCount = 3
    """T, passes in a supervision step; the last one gets the gradient."""
    supervision_steps: LoopCount = 16
    """N_sup, supervision steps on each batch, an optimizer step after each."""
    block: Literal["plain", "post_norm"] = "plain"
    """plain has no residuals, as the original; post_norm has residuals, each with a norm after it."""
    context: Literal["last", "mix"] = "last"
    """What the recursion sees: last is the backbone's last hidden state, mix adds four levels of its residual stream."""
    readout: Literal["replace", "residual"] = "replace"
    """What the head reads: replace is norm(y), residual is the backbone's last hidden state plus alpha * norm(y)."""
    frozen_head: bool = False
    """Use the backbone's own output head, untrained."""
    num_kv_heads: PositiveInt | None = None
    """Key/value heads of the block: fewer make the cache smaller; as many as query heads if not given, as the original."""
    tied: bool = True
    """Use one block for all calls of a pass; otherwise each call has its own."""
    kv_cache: Literal["last_pass", "per_pass"] = "last_pass"
    """Keys and values of the recursion that decoding keeps: those of each pass, or of the last pass only."""
    rope_theta: PositiveFloat | None = None
    """Base of the block's rotary embedding, as a checkpoint of the original brings it; the backbone's if not given."""

    def kv_heads(self, backbone_config: QwenConfig) -> int:
        """K, the key/value heads of the block. Raises ConfigError if they do not divide the query heads."""
        if self.num_kv_heads is None:
            return backbone_config.num_heads
        if backbone_config.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_kv_heads} key/value heads of the recursion do not divide its "
                f"{backbone_config.num_heads} query heads"
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
        """The preset that computes what the original MathLLM computes."""
        return cls(**changes)

    @classmethod
    def residual(cls, **changes) -> Self:
        """Post-norm block, mixed context, residual readout over the backbone's own frozen head, exact cache, few passes.

        Two supervision steps of one pass, four block calls a token; docs/does-recursion-help.md has what more of them cost.
        """
        own = dict(block="post_norm", context="mix", readout="residual", frozen_head=True, kv_cache="per_pass")
        own |= dict(latent_updates=1, recursions=1, supervision_steps=2)
        return cls(**(own | changes))

    @classmethod
    def single(cls, **changes) -> Self:
        """A control: `residual` without the recursion, one update of z and one of y, whatever the loop counts."""
        return dataclasses.replace(cls.residual(**changes), latent_updates=1, recursions=1, supervision_steps=1)

    @classmethod
    def layers(cls, **changes) -> Self:
        """A control: `residual` unrolled, with a separate block for each of its block calls, each run once."""
        shape = cls.residual(**changes)
        updates = shape.passes * shape.calls - 1
        return dataclasses.replace(shape, tied=False, latent_updates=updates, recursions=1, supervision_steps=1)

    @classmethod
    def preset_fields(cls) -> dict[str, str]:
        """The fields in which the presets `residual` and `mathllm` differ, each with what both say, for a person."""
        ours, original = cls.residual().to_json(), cls.mathllm().to_json()
        differing = [name for name in ours if ours[name] != original[name]]
        return {name: f"residual {ours[name]}, mathllm {original[name]}" for name in differing}

    @classmethod
    def preset(cls, name: str, **changes) -> Self:
        """The preset of that name, with some fields changed. Raises ConfigError."""
        presets = {"mathllm": cls.mathllm, "residual": cls.residual, "single": cls.single, "layers": cls.layers}
        if name not in presets:
            raise ConfigError(f"unknown preset {name!r}, one of {sorted(presets)}")
        return presets[name](**changes)


@_checked
class TrainConfig(_Json):
    """How to train. The defaults are the original's, but for alpha's rate: it has no alpha."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the block's matrices and adamw for the rest."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate; 1e-3 is the better one for residual, as far as we tried (docs/training.md)."""
    alpha_rate: PositiveFloat = 10.0
    """Factor on the learning rate for alpha, the weight of the residual readout: with 1 it stays near zero for long."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps of linear warm-up."""
    clip_norm: PositiveFloat = 1.0
    """Largest global norm of a gradient."""
    ema_decay: Share = 0.999
    """Decay of the weights' moving average, per optimizer step."""
    random_depth: bool = False
    """Draw the number of supervision steps of each batch, up to N_sup, so that fewer steps work at test time."""
    epochs: PositiveInt = 1
    """Times through the training set."""
    batch_size: PositiveInt = 8
    """Rows in a micro-batch."""
    accumulation: PositiveInt = 1
    """Micro-batches in a batch, whose gradients are summed."""
    max_length: PositiveInt = 1024
    """Longer examples are dropped and counted, tokens."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights and of the order of the data."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type to compute in; master weights, moments and moving average are float32."""


@_checked
class DataConfig(_Json):
    """Which rows to train on."""

    sources: Annotated[tuple[str, ...], Field(strict=False)] = ("demo",)
    """Training set: gsm8k, demo, a hub id (id:configuration), or a file or folder of rows; several make a mixture."""
    weights: Annotated[tuple[Annotated[float, Field(allow_inf_nan=True)], ...], Field(strict=False)] = ()
    """Shares of the sets in a mixture; equal if not given."""
    question_column: str | None = None
    """Column of the question, where its name is not recognised."""
    answer_column: str | None = None
    """Column of the worked solution, where its name is not recognised."""
    num_samples: int | None = None
    """Use only the first so many rows of the training set; of a mixture so many of all sets together."""
    keep_annotations: bool = False
    """Keep GSM8K's calculator marks, <<48/2=24>>, in the solutions."""
    streaming: bool = False
    """Never hold the whole set in memory; needs --max-batches."""

    def __post_init__(self):
        if not self.sources:
            raise ConfigError("no data set: --data names at least one")
        if self.num_samples is not None and self.num_samples < 1:
            raise ConfigError(f"--num-samples is {self.num_samples}; it must be at least 1")
        if self.weights and (len(self.weights) != len(self.sources) or not all(0 < w < math.inf for w in self.weights)):
            raise ConfigError(
                f"--data-weights needs one share above zero for each of the {len(self.sources)} sets in --data"
            )
        if (self.question_column is None) != (self.answer_column is None):
            raise ConfigError("--question-column and --answer-column go together")

    @property
    def columns(self) -> tuple[str, str] | None:
        """The columns of question and answer, where they are given."""
        return (self.question_column, self.answer_column) if self.question_column and self.answer_column else None
