"""Greedy generation: a jitted prefill, then a jitted step a token that updates its caches in place."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trm_jax.cache import KVCache
from trm_jax.model import QwenTRM
from trm_jax.qwen import Hidden, project

PROMPT_STEP = 64  # prompts are padded to a multiple of this many tokens, which bounds the number of compiled programs
CHECK_EVERY = 16  # tokens between two looks at whether every row has ended


class GenerationError(ValueError):
    """Prompts or settings that cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """What is fixed for a whole generation; a new one compiles a new program."""

    supervision_steps: int
    kv_cache: Literal["last_pass", "per_pass"]
    head: Literal["trm", "backbone"]
    end_tokens: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """A batch in the middle of generation."""

    backbone: KVCache  # one layer a backbone layer
    trm: KVCache | None  # one layer a block call, of one pass or of all; None for the backbone alone
    tokens: Int[Array, " B"]  # chosen, not yet in the caches
    finished: Bool[Array, " B"]  # an end token has been chosen


@functools.partial(jax.jit, static_argnames=("config", "capacity"))
def prefill(
    model: QwenTRM, tokens: Int[Array, "B S"], lengths: Int[Array, " B"], config: DecodeConfig, capacity: int
) -> DecodeState:
    """Reads prompts, padded on the right, into new caches of `capacity` tokens and chooses each row's first token."""
    batch = tokens.shape[0]
    cache = model.backbone.empty_cache(batch, capacity)
    trm_cache = None
    if config.head == "trm":
        passes = 1 if config.kv_cache == "last_pass" else config.supervision_steps * model.trm.config.recursions
        trm_cache = model.trm.empty_cache(model.backbone.config, passes, batch, capacity)
    features, cache, trm_cache = _features(model, tokens, cache, trm_cache, config)
    last = features[jnp.arange(batch), lengths - 1]
    return _choose(model, last, cache, trm_cache, lengths, jnp.zeros(batch, bool), config)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def decode_step(model: QwenTRM, state: DecodeState, config: DecodeConfig) -> DecodeState:
    """Writes the chosen tokens into the caches, in place, and chooses the next ones."""
    features, cache, trm_cache = _features(model, state.tokens[:, None], state.backbone, state.trm, config)
    return _choose(model, features[:, 0], cache, trm_cache, 1, state.finished, config)


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
    features: Float[Array, "B D"],
    cache: KVCache,
    trm_cache: KVCache | None,
    count,
    finished: Bool[Array, " B"],
    config: DecodeConfig,
) -> DecodeState:
    head = model.head if config.head == "trm" else model.backbone.head
    tokens = jnp.argmax(project(features, head), axis=-1).astype(jnp.int32)
    if config.end_tokens:
        finished = finished | jnp.isin(tokens, jnp.array(config.end_tokens))
    return DecodeState(
        backbone=cache.advance(count),
        trm=None if trm_cache is None else trm_cache.advance(count),
        tokens=tokens,
        finished=finished,
    )


def pad_prompts(prompts: Sequence[Sequence[int]], step: int = PROMPT_STEP) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as int32[B,S], padded on the right to a multiple of `step`, and their lengths int32[B]."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    width = -(-int(lengths.max()) // step) * step
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths


def generate(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token.

    Args:
        model: as `load_model` gives it.
        prompts: token ids, one list a row; rows may differ in length and do not influence each other.
        max_new_tokens: where a row stops that has not ended by itself.
        supervision_steps, kv_cache: None takes the model's own.
        eos_token_ids: tokens that end a row; None takes the model's own, an empty list none.
        head: "backbone" leaves the recursion out.

    Returns the new tokens of each row, the end token included. Raises GenerationError.
    """
    if not prompts:
        return []
    if any(len(prompt) == 0 for prompt in prompts):
        raise GenerationError("every prompt needs at least one token")
    if max_new_tokens < 1:
        raise GenerationError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    highest, vocab_size = max(map(max, prompts)), model.backbone.config.vocab_size
    if highest >= vocab_size or min(map(min, prompts)) < 0:
        raise GenerationError(
            f"a prompt holds a token outside the vocabulary of {vocab_size} (the highest is {highest})"
        )
    ends = model.backbone.config.end_tokens if eos_token_ids is None else eos_token_ids
    config = DecodeConfig(
        supervision_steps=supervision_steps or model.trm.config.supervision_steps,
        kv_cache=kv_cache or model.trm.config.kv_cache,
        head=head,
        end_tokens=tuple(sorted(ends)),
    )
    tokens, lengths = pad_prompts(prompts)
    state = prefill(model, tokens, lengths, config, tokens.shape[1] + max_new_tokens)
    chosen = [jnp.copy(state.tokens)]  # a copy, because the next step takes the state's buffers
    while len(chosen) < max_new_tokens:
        if len(chosen) % CHECK_EVERY == 0 and bool(state.finished.all()):
            break
        state = decode_step(model, state, config)
        chosen.append(jnp.copy(state.tokens))
    rows = np.stack(jax.device_get(chosen), axis=1)[:, :max_new_tokens]
    return [_until_end(row.tolist(), config.end_tokens) for row in rows]


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first end token, which stays."""
    first = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: first + 1]
