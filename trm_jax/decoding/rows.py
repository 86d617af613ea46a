"""The rows of a batch: requests are read into those that are free, while the others go on."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.config import QwenConfig
from trm_jax.decoding.room import PREFILL_ROWS
from trm_jax.decoding.sampling import GREEDY, GenerationError, Sampling, row_key
from trm_jax.decoding.shapes import coarse_capacity, pad_prompts, power_of_two, round_up
from trm_jax.decoding.step import (
    DecodeConfig,
    DecodeState,
    Placement,
    Prompts,
    decode_until,
    insert,
    prefill,
    stop_rows,
)
from trm_jax.hardware import put_rows, row_parts
from trm_jax.model import QwenTRM

ENDLESS = 2**30  # steps


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt that is to be completed, and how."""

    prompt: Sequence[int]
    limit: int  # tokens of a completion, at most
    sampling: Sampling = GREEDY
    samples: int = 1  # completions; the prompt is read once for all of them


def require_prompts(prompts: Sequence[Sequence[int]], limits: Sequence[int], config: QwenConfig) -> None:
    """Raises GenerationError unless these prompts, each with at most `limits` new tokens, can be read into one batch.

    Example: `require_prompts([[1, 2, 3]], [64], model.backbone.config)`.
    """
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


class Progress(NamedTuple):
    """One sample of a request, as far as it has come."""

    request: Hashable  # as `Rows.read` was given it
    sample: int
    tokens: np.ndarray  # int32, the end token included
    steps: np.ndarray  # the supervision steps that each token took; zeros for the backbone alone
    finished: bool


class Rows:
    """A batch in the middle of its work. Each row is free, or holds a sample of a request.

    A completion depends on its own request alone, up to the rounding of matrix products of different shapes.

    Example: `rows = Rows(model, config, count=8, capacity=256, longest=128)`.
    """

    def __init__(self, model: QwenTRM, config: DecodeConfig, count: int, capacity: int, longest: int):
        """`model` is one of `for_decoding`. A row has room for `capacity` tokens, of which at most `longest` are new."""
        self._model, self._config, self._most = model, config, capacity
        self._state = DecodeState.empty(model, config, count, min(coarse_capacity(1), capacity), longest)
        self._owners: list[tuple[Hashable, int] | None] = [None] * count
        self._longest = 0  # tokens of the longest unfinished row

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def free(self) -> list[int]:
        """The numbers of the rows that hold nothing."""
        return [row for row, owner in enumerate(self._owners) if owner is None]

    @property
    def requests(self) -> set[Hashable]:
        """What the requests that rows hold are called."""
        return {owner[0] for owner in self._owners if owner is not None}

    def read(self, requests: Mapping[Hashable, Request]) -> None:
        """Reads as many requests, by what they are to be called, as there are free rows for all their samples."""
        waiting, together = list(requests), round_up(PREFILL_ROWS, row_parts())
        for start in range(0, len(waiting), together):
            self._read({name: requests[name] for name in waiting[start : start + together]})

    def _read(self, requests: Mapping[Hashable, Request]) -> None:
        names = [(name, sample) for name, request in requests.items() for sample in range(request.samples)]
        rows, numbers = self.free[: len(names)], {name: number for number, name in enumerate(requests)}
        self._longest = max(self._longest, *(len(request.prompt) for request in requests.values()))
        self._fit_capacity()
        every = [(requests[name], sample) for name, sample in names]
        placement = Placement(
            rows=_padded(rows, jnp.int32, len(self)),  # a row beyond the batch takes nothing
            prompts=_padded([numbers[name] for name, _ in names], jnp.int32),
            limits=_padded([request.limit for request, _ in every], jnp.int32),
            keys=_padded(
                [row_key(request.sampling.seed, request.prompt, sample) for request, sample in every], jnp.uint32
            ),
            temperatures=_padded([request.sampling.temperature for request, _ in every], jnp.float32),
            top_ps=_padded([request.sampling.top_p for request, _ in every], jnp.float32),
        )
        prompts = self._prefill([request.prompt for request in requests.values()])
        self._state = insert(self._state, prompts, placement, self._config)
        for row, owner in zip(rows, names, strict=True):
            self._owners[row] = owner

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Prompts:
        """Reads prompts; their number is padded to a power of two, so that few programs are compiled.

        On a mesh it is padded to a multiple of the parts that rows are split into, too.
        """
        missing = round_up(power_of_two(len(prompts)), row_parts()) - len(prompts)
        return prefill(self._model, *put_rows(pad_prompts([*prompts, *[prompts[0]] * missing])), self._config)

    def advance(self, finished: int, steps: int = ENDLESS) -> list[Progress]:
        """Decodes until so many rows are finished or free, one has filled its capacity, or so many steps are done.

        Returns what all rows at work have come to. Those that are finished are free afterwards.
        """
        self._fit_capacity()
        state = decode_until(self._model, self._state, np.int32(finished), np.int32(steps), self._config)
        self._state = state
        found = jax.device_get((state.finished, state.counts, state.backbone.lengths, state.tokens, state.steps))
        ended, counts, lengths, tokens, taken = found
        self._longest = int(np.max(np.where(ended, 0, lengths)))
        progress = [
            Progress(*owner, tokens[row, : counts[row]], taken[row, : counts[row]], bool(ended[row]))
            for row, owner in enumerate(self._owners)
            if owner is not None
        ]
        self._owners = [None if ended[row] else owner for row, owner in enumerate(self._owners)]
        return progress

    def stop(self, requests: set[Hashable]) -> None:
        """Ends the completions of these requests where they are; their rows are free afterwards."""
        stopped = np.array([owner is not None and owner[0] in requests for owner in self._owners])
        if stopped.any():
            self._state = stop_rows(self._state, stopped)
            self._owners = [None if stopped[row] else owner for row, owner in enumerate(self._owners)]

    def _fit_capacity(self) -> None:
        """Resizes the rows to the next capacity of a coarse scale, because attention reads all of it for every token."""
        capacity = min(coarse_capacity(self._longest + 1), self._most)
        if capacity != self._state.backbone.capacity:
            self._state = self._state.resize(capacity)


def _padded(values: Sequence, dtype, filling=None) -> jax.Array:
    """The values, and then the first of them, or `filling`, up to a number that is a power of two."""
    filling = values[0] if filling is None else filling
    return jnp.array([*values, *[filling] * (power_of_two(len(values)) - len(values))], dtype)
