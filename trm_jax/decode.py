"""Greedy decoding on the device: prompts are read into rows of a batch, and rows go on token by token, in place."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from trm_jax.cache import KVCache
from trm_jax.model import QwenTRM
from trm_jax.qwen import Hidden, project


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """What is fixed for a whole generation; a new one compiles a new program."""

    supervision_steps: int
    kv_cache: Literal["last_pass", "per_pass"]
    head: Literal["trm", "backbone"]
    end_tokens: tuple[int, ...]

    def trm_passes(self, model: QwenTRM) -> int:
        """The passes whose keys and values the recursion's cache holds."""
        if self.head == "backbone":
            return 0
        return 1 if self.kv_cache == "last_pass" else self.supervision_steps * model.trm.config.recursions


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """The rows of a batch in the middle of generation. A finished row stands still and may be replaced."""

    backbone: KVCache  # one layer a backbone layer
    trm: KVCache | None  # one layer a block call, of one pass or of all; None for the backbone alone
    answers: Int[Array, "B T"]  # the tokens chosen so far
    counts: Int[Array, " B"]  # how many these are; the last one is not yet in the caches
    limits: Int[Array, " B"]  # how many there may be, at most T
    finished: Bool[Array, " B"]  # the last one is an end token, or the limit is reached

    @classmethod
    def empty(cls, model: QwenTRM, config: DecodeConfig, batch: int, capacity: int, longest: int) -> "DecodeState":
        """Finished rows for `capacity` tokens each, of which at most `longest` are new."""
        passes, zeros = config.trm_passes(model), jnp.zeros(batch, jnp.int32)
        return cls(
            backbone=model.backbone.empty_cache(batch, capacity),
            trm=model.trm.empty_cache(model.backbone.config, passes, batch, capacity) if passes else None,
            answers=jnp.zeros((batch, longest), jnp.int32),
            counts=zeros,
            limits=jnp.copy(zeros),  # a donated state must not hold the same buffer twice
            finished=jnp.ones(batch, bool),
        )


@functools.partial(jax.jit, static_argnames="config")
def prefill(
    model: QwenTRM, tokens: Int[Array, "B S"], lengths: Int[Array, " B"], limits: Int[Array, " B"], config: DecodeConfig
) -> DecodeState:
    """Reads prompts, padded on the right, and chooses each row's first token. The caches hold the prompts and no more."""
    state = DecodeState.empty(model, config, *tokens.shape, longest=1)
    features, cache, trm_cache = _features(model, tokens, state.backbone, state.trm, config)
    last = features[jnp.arange(tokens.shape[0]), lengths - 1]
    state = dataclasses.replace(state, limits=limits, finished=jnp.zeros_like(state.finished))
    return _choose(model, state, last, cache, trm_cache, lengths, config)


@functools.partial(jax.jit, donate_argnames="state")
def insert(state: DecodeState, prefilled: DecodeState, rows: Int[Array, " G"]) -> DecodeState:
    """Puts prefilled prompts in the place of the given rows, while the others stay; a row beyond the batch is left out."""

    def put(kept, new):
        return kept.at[rows].set(new, mode="drop")

    def put_cache(kept: KVCache, new: KVCache) -> KVCache:
        slots = slice(0, new.keys.shape[2])
        return KVCache(
            keys=kept.keys.at[:, rows, slots].set(new.keys, mode="drop"),
            values=kept.values.at[:, rows, slots].set(new.values, mode="drop"),
            lengths=put(kept.lengths, new.lengths),
        )

    return DecodeState(
        backbone=put_cache(state.backbone, prefilled.backbone),
        trm=None if state.trm is None else put_cache(state.trm, prefilled.trm),
        answers=state.answers.at[rows, 0].set(prefilled.answers[:, 0], mode="drop"),
        counts=put(state.counts, prefilled.counts),
        limits=put(state.limits, prefilled.limits),
        finished=put(state.finished, prefilled.finished),
    )


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def decode_step(model: QwenTRM, state: DecodeState, config: DecodeConfig) -> DecodeState:
    """Writes the newest tokens into the caches, in place, and chooses the next ones."""
    return _step(model, state, config)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def decode_until(model: QwenTRM, state: DecodeState, finished: Int[Array, ""], config: DecodeConfig) -> DecodeState:
    """Goes on, without a look from the host, until at least so many rows are finished."""
    return jax.lax.while_loop(
        lambda state: jnp.sum(state.finished) < finished, lambda state: _step(model, state, config), state
    )


def _step(model: QwenTRM, state: DecodeState, config: DecodeConfig) -> DecodeState:
    newest = jnp.take_along_axis(state.answers, jnp.maximum(state.counts - 1, 0)[:, None], axis=1)
    features, cache, trm_cache = _features(model, newest, state.backbone, state.trm, config)
    return _choose(model, state, features[:, 0], cache, trm_cache, jnp.where(state.finished, 0, 1), config)


def _features(model: QwenTRM, tokens, cache: KVCache, trm_cache: KVCache | None, config: DecodeConfig):
    """What the output head reads, for each new token, and the caches with these written."""
    rotation = model.backbone.rotation(cache.positions(tokens.shape[1]))
    hidden: Hidden
    hidden, cache = model.backbone(tokens, cache)
    if trm_cache is None:
        return hidden.last, cache, None
    context = model.trm.context(hidden)
    y, trm_cache = model.trm.refine(context, rotation, trm_cache, config.supervision_steps)
    return model.trm.features(hidden.last, y), cache, trm_cache


def _choose(
    model: QwenTRM,
    state: DecodeState,
    features: Float[Array, "B D"],
    cache: KVCache,
    trm_cache: KVCache | None,
    written: Int[Array, " B"],
    config: DecodeConfig,
) -> DecodeState:
    """The state with the caches `written` tokens longer and, in rows that are not finished, the next token chosen."""
    head = model.head if config.head == "trm" else model.backbone.head
    tokens = jnp.argmax(project(features, head), axis=-1).astype(jnp.int32)
    rows, longest = jnp.arange(tokens.shape[0]), state.answers.shape[1]
    places = jnp.where(state.finished, longest, state.counts)  # behind the end: dropped
    counts = state.counts + ~state.finished
    ends = jnp.isin(tokens, jnp.array(config.end_tokens, jnp.int32)) | (counts >= state.limits)
    return DecodeState(
        backbone=cache.advance(written),
        trm=None if trm_cache is None else trm_cache.advance(written),
        answers=state.answers.at[rows, places].set(tokens, mode="drop"),
        counts=counts,
        limits=state.limits,
        finished=state.finished | ends,
    )
