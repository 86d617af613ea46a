"""Decoding on the device: prompts are read and put into rows of a batch, which are continued token by token, in place."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from trm_jax.decoding import sampling
from trm_jax.decoding.early_exit import refine_until_settled
from trm_jax.decoding.sampling import GenerationError
from trm_jax.hardware import split
from trm_jax.model import CACHE, KVCache, PromptCache, QwenTRM, project


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """The settings that are fixed for a whole generation. Each different config compiles new programs."""

    supervision_steps: int
    recursions: int
    kv_cache: Literal["last_pass", "per_pass"]
    head: Literal["trm", "backbone"]
    end_tokens: tuple[int, ...]
    early_exit: float | None = None  # nats, see `refine_until_settled`; None: every token takes all supervision steps
    draws: bool = False  # whether rows may have a temperature above zero

    def __post_init__(self):
        for name in ("supervision_steps", "recursions"):
            if getattr(self, name) < 1:
                raise GenerationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.early_exit is not None and (not self.early_exit >= 0 or self.head == "backbone"):
            raise GenerationError(
                f"early exit at {self.early_exit}: below 0, or the backbone alone has no steps to exit from"
            )

    @property
    def passes(self) -> Int[np.ndarray, " P"]:
        """The numbers of all passes of a token."""
        return np.arange(self.supervision_steps * self.recursions, dtype=np.int32)

    @property
    def kept_passes(self) -> int:
        """How many passes of the recursion have keys and values of their own in the cache."""
        if self.head == "backbone":
            return 0
        return 1 if self.kv_cache == "last_pass" else self.supervision_steps * self.recursions

    def empty_caches(self, model: QwenTRM, batch: int, capacity: int) -> tuple[KVCache, KVCache | None]:
        """The cache of the backbone, and that of the recursion, for one pass or for all; None if it is not used."""
        trm = None
        if self.head == "trm":
            trm = model.trm.empty_cache(model.backbone.config, self.kept_passes, batch, capacity)
        return model.backbone.empty_cache(batch, capacity), trm


class Prompts(NamedTuple):
    """The result of `prefill`: the prompts' keys and values, and the logits of the next token."""

    backbone: PromptCache
    trm: PromptCache | None
    logits: Float[Array, "B V"]


class Placement(NamedTuple):
    """Which prompt goes to which row; several rows may take the same one."""

    rows: Int[Array, " G"]  # one beyond the batch is skipped
    prompts: Int[Array, " G"]
    limits: Int[Array, " G"]  # new tokens, at most
    keys: UInt32[Array, "G 2"]  # random keys, from `sampling.row_key`
    temperatures: Float[Array, " G"]
    top_ps: Float[Array, " G"]

    @classmethod
    def of_prompts(cls, count: int, limit: int) -> "Placement":
        """Each prompt in the row of its number, completed greedily by at most `limit` tokens."""
        numbers, ones = np.arange(count, dtype=np.int32), np.ones(count, np.float32)
        return cls(numbers, numbers, np.full(count, limit, np.int32), np.zeros((count, 2), np.uint32), 0 * ones, ones)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """The rows of a batch in the middle of generation. A finished row does not change any more and may be replaced."""

    backbone: KVCache
    trm: KVCache | None  # None for the backbone alone
    tokens: Int[Array, "B T"]  # the tokens chosen so far
    steps: Int[Array, "B T"]  # the supervision steps that each of them took
    counts: Int[Array, " B"]  # how many tokens were chosen; the last one is not yet in the caches
    limits: Int[Array, " B"]  # how many tokens may be chosen, at most T
    keys: UInt32[Array, "B 2"]
    temperatures: Float[Array, " B"]
    top_ps: Float[Array, " B"]
    finished: Bool[Array, " B"]  # the last token is an end token, or the limit is reached

    @classmethod
    def empty(cls, model: QwenTRM, config: DecodeConfig, batch: int, capacity: int, longest: int) -> "DecodeState":
        """A state of finished rows with room for `capacity` tokens each, of which at most `longest` are new."""
        backbone, trm = config.empty_caches(model, batch, capacity)
        return cls(
            backbone=backbone,
            trm=trm,
            tokens=jnp.zeros((batch, longest), jnp.int32),
            steps=jnp.zeros((batch, longest), jnp.int32),
            counts=jnp.zeros(batch, jnp.int32),
            limits=jnp.zeros(batch, jnp.int32),
            keys=jnp.zeros((batch, 2), jnp.uint32),
            temperatures=jnp.zeros(batch, jnp.float32),
            top_ps=jnp.ones(batch, jnp.float32),
            finished=jnp.ones(batch, bool),
        )._laid_out()

    def resize(self, capacity: int) -> "DecodeState":
        """The same rows with room for `capacity` tokens each; this state cannot be used afterwards."""
        trm = None if self.trm is None else self.trm.resize(capacity)
        return dataclasses.replace(self, backbone=self.backbone.resize(capacity), trm=trm)

    @property
    def dims(self) -> "DecodeState":
        """What is split over a mesh: the names of each array's first dimensions, see `split`."""
        return jax.tree.map(lambda array: CACHE if array.ndim == 5 else "B", self)

    def _laid_out(self) -> "DecodeState":
        """The state as it always lies on a mesh, so that each program is compiled once."""
        return jax.tree.map(split, self, self.dims)


@functools.partial(jax.jit, static_argnames="config")
def prefill(model: QwenTRM, tokens: Int[Array, "B S"], lengths: Int[Array, " B"], config: DecodeConfig) -> Prompts:
    """Reads prompts, padded on the right, always with all supervision steps.

    Example: `prefill(model, *pad_prompts(prompts), config).logits`.
    """
    rotation = model.trm.rotation(jnp.arange(tokens.shape[1])[None])
    hidden, new = model.backbone(tokens)
    features, head, trm = hidden.last, model.backbone.head, None
    if config.head == "trm":
        context, every_pass = model.trm.context(hidden), config.kv_cache == "per_pass"
        start, passes = model.trm.start(context), config.passes
        y, _, trm_new = model.trm.refine(context, *start, rotation, passes, cache=None, every_pass=every_pass)
        features, head = model.trm.features(hidden.last, y), model.head
        trm = PromptCache(trm_new, lengths)
    last = features[jnp.arange(tokens.shape[0]), lengths - 1]
    return Prompts(PromptCache(new, lengths), trm, project(last, head))


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def insert(state: DecodeState, prompts: Prompts, placement: Placement, config: DecodeConfig) -> DecodeState:
    """Puts prompts in the place of finished rows, while the others stay, and chooses their first tokens.

    Example: `state = insert(state, prefill(model, tokens, lengths, config), placement, config)`.
    """
    rows, sources, limits, keys, temperatures, top_ps = placement
    counts = jnp.zeros_like(rows)
    tokens = sampling.choose(prompts.logits[sources], keys, counts, temperatures, top_ps, config.draws)

    def put(array, new, *places):
        return array.at[rows, *places].set(new, mode="drop")

    return DecodeState(
        backbone=state.backbone.insert(prompts.backbone, sources, rows),
        trm=None if state.trm is None else state.trm.insert(prompts.trm, sources, rows),
        tokens=put(state.tokens, tokens, 0),
        steps=put(state.steps, _all_steps(config), 0),
        counts=put(state.counts, counts + 1),
        limits=put(state.limits, limits),
        keys=put(state.keys, keys),
        temperatures=put(state.temperatures, temperatures),
        top_ps=put(state.top_ps, top_ps),
        finished=put(state.finished, _ends(tokens, counts + 1, limits, config)),
    )._laid_out()


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def decode_step(model: QwenTRM, state: DecodeState, config: DecodeConfig) -> DecodeState:
    """Writes the newest tokens into the caches, in place, and chooses the next ones.

    Example: `state = decode_step(model, state, config)`.
    """
    return _step(model, state, config)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def decode_until(
    model: QwenTRM, state: DecodeState, finished: Int[Array, ""], steps: Int[Array, ""], config: DecodeConfig
) -> DecodeState:
    """Decodes, without returning to the host, until at least `finished` rows are finished or one has filled its capacity,
    or for so many steps.

    Example: `state = decode_until(model, state, np.int32(rows), np.int32(16), config)`.
    """

    def goes_on(carry):
        state, left = carry
        longest = jnp.max(jnp.where(state.finished, 0, state.backbone.lengths))
        return (jnp.sum(state.finished) < finished) & (longest < state.backbone.capacity) & (left > 0)

    def step(carry):
        state, left = carry
        return _step(model, state, config), left - 1

    return jax.lax.while_loop(goes_on, step, (state, steps))[0]


@functools.partial(jax.jit, donate_argnames="state")
def stop_rows(state: DecodeState, rows: Bool[Array, " B"]) -> DecodeState:
    """Ends these rows where they are, so that others may take their place. Example: `state = stop_rows(state, rows)`."""
    return dataclasses.replace(state, finished=state.finished | rows)._laid_out()


def _step(model: QwenTRM, state: DecodeState, config: DecodeConfig) -> DecodeState:
    newest = jnp.take_along_axis(state.tokens, jnp.maximum(state.counts - 1, 0)[:, None], axis=1)
    rotation = model.trm.rotation(state.backbone.positions(1))
    hidden, new = model.backbone(newest, state.backbone)
    steps, trm_new = _all_steps(config), None
    if config.head == "backbone":
        logits = project(hidden.last[:, 0], model.backbone.head)
    elif config.early_exit is None:
        context, every_pass = model.trm.context(hidden), config.kv_cache == "per_pass"
        start, passes = model.trm.start(context), config.passes
        y, _, trm_new = model.trm.refine(context, *start, rotation, passes, state.trm, every_pass)
        logits = project(model.trm.features(hidden.last, y)[:, 0], model.head)
    else:
        settings = config.supervision_steps, config.recursions, config.early_exit, state.finished
        logits, trm_new, steps = refine_until_settled(model, hidden, rotation, state.trm, *settings)

    going = ~state.finished
    temperatures = jnp.where(going, state.temperatures, 0)
    tokens = sampling.choose(logits, state.keys, state.counts, temperatures, state.top_ps, config.draws)
    counts = state.counts + going
    places = jnp.where(going, state.counts, state.tokens.shape[1])  # of finished rows: beyond the last, hence dropped
    # Row by row, for which no device needs the rows of another.
    put = jax.vmap(lambda row, place, value: row.at[place].set(value, mode="drop"))
    return dataclasses.replace(
        state,
        backbone=state.backbone.append(new, going),
        trm=None if trm_new is None else state.trm.append(trm_new, going),
        tokens=put(state.tokens, places, tokens),
        steps=put(state.steps, places, jnp.broadcast_to(steps, len(tokens))),
        counts=counts,
        finished=state.finished | _ends(tokens, counts, state.limits, config),
    )._laid_out()


def _all_steps(config: DecodeConfig) -> int:
    return 0 if config.head == "backbone" else config.supervision_steps


def _ends(tokens, counts, limits, config: DecodeConfig) -> Bool[Array, " B"]:
    return jnp.isin(tokens, jnp.array(config.end_tokens, jnp.int32)) | (counts >= limits)
