"""Generation for any number of prompts: a row that ends makes room for the next prompt while the others go on."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.config import QwenConfig
from trm_jax.decoding.room import PREFILL_ROWS, Room
from trm_jax.decoding.sampling import row_key
from trm_jax.decoding.shapes import CAPACITY_STEP, coarse_capacity, pad_prompts, padded_length, power_of_two, round_up
from trm_jax.decoding.step import (
    DecodeConfig,
    DecodeState,
    GenerationError,
    Placement,
    Prompts,
    decode_until,
    insert,
    prefill,
)
from trm_jax.hardware import put_rows, row_parts, tensor_parts
from trm_jax.model import QwenTRM, for_decoding

REFILL_SHARE = 8  # new prompts are read once one row in so many is free


@dataclasses.dataclass(frozen=True)
class Completion:
    """The tokens generated for one sample of a prompt."""

    prompt: int  # index of the prompt
    sample: int  # number of the sample of this prompt, from 0
    tokens: list[int]  # the end token included
    steps: list[int]  # supervision steps that each token took; zeros for the backbone alone


def generate(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
    batch_size: int | None = None,
    early_exit: float | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """Generates a completion of each prompt.

    Args:
        model: from `load_model`; for several calls, pass it through `for_decoding` once, or every call does that again.
        prompts: token ids, one list a row; rows may differ in length and do not influence each other.
        max_new_tokens: the most tokens that a completion may have.
        supervision_steps, kv_cache: None takes the model's own.
        eos_token_ids: tokens that end a completion; None takes the model's own, and with an empty list no token does.
        head: "backbone" leaves the recursion out.
        batch_size: rows that are generated together; None: as many as fit into the memory, at most 64.
        early_exit: stop a token's supervision steps when its distribution changes by less than this (nats).
        temperature: 0 takes the most likely token.
        top_p: draw from the smallest set of tokens that holds this share of the probability.
        seed: seed of the draws; a prompt with the same seed gets the same completion, whatever other prompts there are.

    Returns the new tokens of each row, the end token included. Raises GenerationError.

    Example: `generate(model, [[1, 2, 3], [4, 5]], max_new_tokens=64)`.
    """
    config = decode_config(model, supervision_steps, kv_cache, eos_token_ids, head, early_exit, temperature, top_p)
    answers = generate_each(model, prompts, max_new_tokens, config, batch_size, seed=seed)
    return [answer.tokens for answer in sorted(answers, key=lambda answer: answer.prompt)]


def decode_config(
    model: QwenTRM,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
    early_exit: float | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    recursions: int | None = None,
) -> DecodeConfig:
    """The settings of `generate`, and T (`recursions`), as a DecodeConfig; None takes the model's own.

    Example: `decode_config(model, supervision_steps=4, head="trm")`.
    """
    ends = model.backbone.config.end_tokens if eos_token_ids is None else eos_token_ids
    return DecodeConfig(
        supervision_steps=model.trm.config.supervision_steps if supervision_steps is None else supervision_steps,
        recursions=model.trm.config.recursions if recursions is None else recursions,
        kv_cache=kv_cache or model.trm.config.kv_cache,
        head=head,
        end_tokens=tuple(sorted(ends)),
        early_exit=early_exit,
        temperature=temperature,
        top_p=top_p,
    )


def generate_each(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    config: DecodeConfig,
    batch_size: int | None = None,
    samples: int = 1,
    seed: int = 0,
) -> Iterator[Completion]:
    """Yields completions as they end, `samples` for each prompt; `max_new_tokens` is one limit, or one for each prompt.

    A completion depends only on its prompt, the seed and the number of its sample, up to the rounding of matrix products of
    different shapes. Every prompt is read once: its samples start together. The longest prompts come first. Without a
    `batch_size` there are as many rows as fit into the device's memory, at most 64; their memory is logged. Raises
    GenerationError, and NoRoomError if the rows that are asked for, or even one, do not fit.

    Example: `for completion in generate_each(model, prompts, 512, config, batch_size=8): ...`.
    """
    if not prompts:
        return iter(())
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    _check(prompts, limits, model.backbone.config)
    if batch_size is not None and batch_size < samples:
        raise GenerationError(f"{samples} samples of a prompt need as many rows; the batch has {batch_size}")
    model = for_decoding(model)
    longest = max(map(len, prompts))
    capacity = round_up(longest + max(limits), CAPACITY_STEP)
    room = Room(model, config, capacity, padded_length(longest), row_parts(), tensor_parts())
    rows = room.choose_rows(batch_size, len(prompts) * samples, samples)
    return _Batch(model, prompts, limits, config, rows, capacity, samples, seed).run()


class _Batch:
    """The rows of a batch, and the prompt and sample whose completion each of them holds."""

    def __init__(self, model, prompts, limits, config: DecodeConfig, rows: int, capacity: int, samples: int, seed: int):
        self._model, self._config, self._samples, self._seed = model, config, samples, seed
        self._prompts, self._limits = prompts, limits
        self._final_capacity = capacity
        first = min(coarse_capacity(1), self._final_capacity)
        self._state = DecodeState.empty(model, config, rows, first, max(limits))
        self._owners: list[tuple[int, int] | None] = [None] * rows  # prompt and sample of each row; None: free
        self._longest = 0  # tokens of the longest unfinished row
        # The longest first: rows of like length share a capacity, and short ones are left for the end.
        self.waiting = collections.deque(sorted(range(len(prompts)), key=lambda prompt: -len(prompts[prompt])))

    @property
    def busy(self) -> bool:
        return any(owner is not None for owner in self._owners)

    def run(self) -> Iterator[Completion]:
        while self.waiting or self.busy:
            self.refill()
            yield from self.advance()

    def refill(self) -> None:
        """Reads prompts into the free rows."""
        free = [row for row, owner in enumerate(self._owners) if owner is None]
        while self.waiting and len(free) >= self._samples:
            count = min(round_up(PREFILL_ROWS, row_parts()), len(free) // self._samples, len(self.waiting))
            group = [self.waiting.popleft() for _ in range(count)]
            pairs = [(prompt, sample) for prompt in group for sample in range(self._samples)]
            rows, free = free[: len(pairs)], free[len(pairs) :]
            texts = [self._prompts[prompt] for prompt in group]
            self._longest = max(self._longest, *map(len, texts))
            self._fit_capacity()
            placement = _place(
                rows=rows,
                prompts=[group.index(prompt) for prompt, _ in pairs],
                limits=[self._limits[prompt] for prompt, _ in pairs],
                keys=[row_key(self._seed, self._prompts[prompt], sample) for prompt, sample in pairs],
                nowhere=len(self._owners),
            )
            self._state = insert(self._state, _read(self._model, texts, self._config), placement, self._config)
            for row, owner in zip(rows, pairs, strict=True):
                self._owners[row] = owner

    def advance(self) -> Iterator[Completion]:
        """Decodes until enough rows are finished or the longest needs more room, and yields the finished completions."""
        # While prompts wait, decoding stops for a few free rows; without any, it runs until all rows are finished.
        rows = len(self._owners)
        wanted = max(self._samples, rows // REFILL_SHARE) if self.waiting else rows
        self._fit_capacity()
        state = self._state = decode_until(self._model, self._state, np.int32(wanted), self._config)
        found = jax.device_get((state.finished, state.counts, state.backbone.lengths, state.tokens, state.steps))
        finished, counts, lengths, answers, steps = found
        self._longest = int(np.max(np.where(finished, 0, lengths)))
        for row in np.flatnonzero(finished):
            if self._owners[row] is not None:
                taken = slice(0, counts[row])
                yield Completion(*self._owners[row], answers[row, taken].tolist(), steps[row, taken].tolist())
                self._owners[row] = None

    def _fit_capacity(self) -> None:
        """Resizes the rows to the next capacity of a coarse scale, because attention reads all of it for every token."""
        capacity = min(coarse_capacity(self._longest + 1), self._final_capacity)
        if capacity != self._state.backbone.capacity:
            self._state = self._state.resize(capacity)


def _read(model: QwenTRM, prompts: Sequence[Sequence[int]], config: DecodeConfig) -> Prompts:
    """Prefills the prompts; their number is padded to a power of two, so that few programs are compiled.

    On a mesh it is padded to a multiple of the parts that rows are split into, too.
    """
    missing = round_up(power_of_two(len(prompts)), row_parts()) - len(prompts)
    return prefill(model, *put_rows(pad_prompts([*prompts, *[prompts[0]] * missing])), config)


def _place(rows, prompts, limits, keys, nowhere: int) -> Placement:
    """A placement, padded to a power of two with the row number `nowhere`, which lies beyond the batch."""
    missing = power_of_two(len(rows)) - len(rows)
    return Placement(
        rows=jnp.array([*rows, *[nowhere] * missing], jnp.int32),
        prompts=jnp.array([*prompts, *prompts[:1] * missing], jnp.int32),
        limits=jnp.array([*limits, *limits[:1] * missing], jnp.int32),
        keys=jnp.array([*keys, *keys[:1] * missing], jnp.uint32),
    )


def _check(prompts: Sequence[Sequence[int]], limits: Sequence[int], config: QwenConfig) -> None:
    if any(len(prompt) == 0 for prompt in prompts):
        raise GenerationError("every prompt needs at least one token")
    if min(limits) < 1:
        raise GenerationError(f"max_new_tokens is {min(limits)}; it must be at least 1")
    longest, most = max(map(len, prompts)), max(limits)
    if longest + most > config.max_length:
        raise GenerationError(
            f"a prompt of {longest:,} tokens and {most:,} new ones are more than the {config.max_length:,} of the backbone: "
            "give shorter prompts, or fewer new tokens (--max-new-tokens)"
        )
    highest, vocab_size = max(map(max, prompts)), config.vocab_size
    if highest >= vocab_size or min(map(min, prompts)) < 0:
        raise GenerationError(
            f"a prompt holds a token outside the vocabulary of {vocab_size} (the highest is {highest})"
        )
