"""Generation for any number of prompts: a row that ends makes room for the next prompt while the others go on."""

import collections
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.decode import DecodeConfig, DecodeState, decode_step, decode_until, insert, prefill
from trm_jax.model import QwenTRM

PROMPT_STEP = 64  # prompts are padded to a multiple of this many tokens, which bounds the number of compiled programs
PREFILL_ROWS = 8  # prompts that are read together, at most: their caches exist twice for a moment
REFILL_SHARE = 8  # new prompts are read when one row in so many is free


class GenerationError(ValueError):
    """Prompts or settings that cannot be decoded."""


def generate(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
    batch_size: int | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token.

    Args:
        model: as `load_model` gives it.
        prompts: token ids, one list a row; rows may differ in length and do not influence each other.
        max_new_tokens: where a row stops that has not ended by itself.
        supervision_steps, kv_cache: None takes the model's own.
        eos_token_ids: tokens that end a row; None takes the model's own, an empty list none.
        head: "backbone" leaves the recursion out.
        batch_size: rows that are generated together; None: all.

    Returns the new tokens of each row, the end token included. Raises GenerationError.
    """
    config = decode_config(model, supervision_steps, kv_cache, eos_token_ids, head)
    answers = dict(generate_each(model, prompts, max_new_tokens, config, batch_size or len(prompts)))
    return [answers[index] for index in range(len(prompts))]


def decode_config(
    model: QwenTRM,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
) -> DecodeConfig:
    """The settings of `generate`, the model's own where None."""
    ends = model.backbone.config.end_tokens if eos_token_ids is None else eos_token_ids
    return DecodeConfig(
        supervision_steps=supervision_steps or model.trm.config.supervision_steps,
        kv_cache=kv_cache or model.trm.config.kv_cache,
        head=head,
        end_tokens=tuple(sorted(ends)),
    )


def generate_each(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    config: DecodeConfig,
    batch_size: int,
) -> Iterator[tuple[int, list[int]]]:
    """Each prompt's index and new tokens, as they end; at most `max_new_tokens`, of all or of each. Raises GenerationError.

    A row depends on its own prompt alone, up to the rounding of matrix products of different shapes.
    """
    if not prompts:
        return
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    _check(prompts, limits, model.backbone.config.vocab_size)
    rows, longest = min(batch_size, len(prompts)), max(limits)
    state = DecodeState.empty(model, config, rows, _padded(max(map(len, prompts))) + longest, longest)
    waiting, owners = collections.deque(range(len(prompts))), [None] * rows
    while waiting or any(owner is not None for owner in owners):
        free = [row for row, owner in enumerate(owners) if owner is None]
        while free and waiting:
            group = [waiting.popleft() for _ in range(min(PREFILL_ROWS, len(free), len(waiting)))]
            taken, free = free[: len(group)], free[len(group) :]
            state = _read(model, state, [prompts[i] for i in group], [limits[i] for i in group], taken, config)
            for row, index in zip(taken, group, strict=True):
                owners[row] = index
        # With prompts waiting, a few free rows are worth an interruption; without, the rest goes to its end.
        wanted = max(1, rows // REFILL_SHARE) if waiting else rows
        state = decode_until(model, state, np.int32(wanted), config)
        finished, counts, answers = jax.device_get((state.finished, state.counts, state.answers))
        for row in np.flatnonzero(finished):
            if owners[row] is not None:
                yield owners[row], answers[row, : counts[row]].tolist()
                owners[row] = None


def stream(model: QwenTRM, prompt: Sequence[int], max_new_tokens: int, config: DecodeConfig) -> Iterator[int]:
    """The new tokens of one prompt as they come, the end token included. Raises GenerationError."""
    _check([prompt], [max_new_tokens], model.backbone.config.vocab_size)
    state = DecodeState.empty(model, config, 1, _padded(len(prompt)) + max_new_tokens, max_new_tokens)
    state = _read(model, state, [prompt], [max_new_tokens], [0], config)
    for count in range(max_new_tokens):
        yield int(state.answers[0, count])
        if state.finished[0]:
            return
        state = decode_step(model, state, config)


def pad_prompts(prompts: Sequence[Sequence[int]], step: int = PROMPT_STEP) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as int32[B,S], padded on the right to a multiple of `step`, and their lengths int32[B]."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), _padded(int(lengths.max()), step)), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths


def _padded(length: int, step: int = PROMPT_STEP) -> int:
    return -(-length // step) * step


def _read(model: QwenTRM, state: DecodeState, prompts, limits, rows, config: DecodeConfig) -> DecodeState:
    """Puts prompts into rows; their number is padded to a power of two, for few compiled programs."""
    missing = 2 ** (len(prompts) - 1).bit_length() - len(prompts)
    tokens, lengths = pad_prompts([*prompts, *[prompts[0]] * missing])
    limits = jnp.array([*limits, *limits[:1] * missing], jnp.int32)
    rows = jnp.array([*rows, *[len(state.finished)] * missing], jnp.int32)
    return insert(state, prefill(model, tokens, lengths, limits, config), rows)


def _check(prompts: Sequence[Sequence[int]], limits: Sequence[int], vocab_size: int) -> None:
    if any(len(prompt) == 0 for prompt in prompts):
        raise GenerationError("every prompt needs at least one token")
    if min(limits) < 1:
        raise GenerationError(f"max_new_tokens is {min(limits)}; it must be at least 1")
    highest = max(map(max, prompts))
    if highest >= vocab_size or min(map(min, prompts)) < 0:
        raise GenerationError(
            f"a prompt holds a token outside the vocabulary of {vocab_size} (the highest is {highest})"
        )
