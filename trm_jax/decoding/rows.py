"""The rows of a batch: requests are read into those that are free, while the others go on."""

import dataclasses
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.config import QwenConfig
from trm_jax.decoding.sampling import GREEDY, GenerationError, Sampling, row_key
from trm_jax.decoding.shapes import Reading, capacities, pad_prompts, padded_length, round_up
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
from trm_jax.hardware import has_mesh, put_rows, row_parts
from trm_jax.model import QwenTRM, takes_cache

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

    def __init__(
        self,
        model: QwenTRM,
        config: DecodeConfig,
        count: int,
        capacity: int,
        longest: int,
        reading: Reading | None = None,
    ):
        """`model` is one of `for_decoding`. A row has room for `capacity` tokens, of which at most `longest` are new."""
        self._model, self._config, self._reading = model, config, reading or Reading.of_batch(count, parts=row_parts())
        self._capacities = [capacity] if _reads_what_is_filled(model, capacity) else capacities(capacity)
        state = DecodeState.empty(model, config, count, self._capacities[0], longest)
        self._state = state if has_mesh() else jax.device_put(state, _device_of(model))
        self._owners: list[tuple[Hashable, int] | None] = [None] * count
        self._longest = 0  # tokens of the longest unfinished row

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def free(self) -> list[int]:
        """The numbers of the rows that hold nothing."""
        return [row for row, owner in enumerate(self._owners) if owner is None]

    @property
    def owners(self) -> set[tuple[Hashable, int]]:
        """What rows hold: what a request is called, and which sample of it."""
        return {owner for owner in self._owners if owner is not None}

    def read(self, requests: Mapping[Hashable, Request]) -> None:
        """Reads as many requests, by what they are to be called, as there are free rows for all their samples."""
        waiting = iter(requests)
        for together in self._reading.prompts.parts(len(requests)):
            self._read({name: requests[name] for name in itertools.islice(waiting, together)})

    def _read(self, requests: Mapping[Hashable, Request]) -> None:
        owners = [(name, sample) for name, request in requests.items() for sample in range(request.samples)]
        numbers = {name: number for number, name in enumerate(requests)}
        self._longest = max(self._longest, *(len(request.prompt) for request in requests.values()))
        self._fit_capacity()
        prompts = self._prefill([request.prompt for request in requests.values()])
        waiting = iter(owners)
        for together in self._reading.rows.parts(len(owners)):
            part = list(itertools.islice(waiting, together))
            rows = self.free[: len(part)]
            self._insert(prompts, rows, [numbers[name] for name, _ in part], [(requests[name], n) for name, n in part])
            for row, owner in zip(rows, part, strict=True):
                self._owners[row] = owner

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Prompts:
        """Reads prompts; on a mesh their number is a multiple of the parts that rows are split into."""
        missing = round_up(self._reading.prompts.padded(len(prompts)), row_parts()) - len(prompts)
        padded = pad_prompts([*prompts, *[prompts[0]] * missing])
        return prefill(self._model, *put_rows(padded), self._config)

    def _insert(
        self, prompts: Prompts, rows: list[int], numbers: list[int], samples: list[tuple[Request, int]]
    ) -> None:
        """Puts the prompts of these numbers into rows, one for each sample of a request."""
        missing = self._reading.rows.padded(len(rows)) - len(rows)

        def padded(values: Sequence, dtype, filling=None) -> jax.Array:
            return jnp.array([*values, *[values[0] if filling is None else filling] * missing], dtype)

        samplings = [request.sampling for request, _ in samples]
        keys = [row_key(request.sampling.seed, request.prompt, sample) for request, sample in samples]
        placement = Placement(
            rows=padded(rows, jnp.int32, len(self)),  # a row beyond the batch takes nothing
            prompts=padded(numbers, jnp.int32),
            limits=padded([request.limit for request, _ in samples], jnp.int32),
            keys=padded(keys, jnp.uint32),
            temperatures=padded([sampling.temperature for sampling in samplings], jnp.float32),
            top_ps=padded([sampling.top_p for sampling in samplings], jnp.float32),
        )
        self._state = insert(self._state, prompts, placement, self._config)

    def advance(self, finished: int, steps: int = ENDLESS) -> list[Progress]:
        """Decodes until so many rows are finished or free, one has filled its capacity, or so many steps are done.

        Returns what all rows at work have come to. Those that are finished are free afterwards.
        """
        self._fit_capacity()
        state = self._decode(finished, steps)
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

    def _decode(self, finished: int, steps: int) -> DecodeState:
        self._state = decode_until(self._model, self._state, np.int32(finished), np.int32(steps), self._config)
        return self._state

    def stop(self, owners: set[tuple[Hashable, int]]) -> None:
        """Ends these samples of requests where they are; their rows are free afterwards."""
        stopped = np.array([owner in owners for owner in self._owners])
        if stopped.any():
            self._state = stop_rows(self._state, stopped)
            self._owners = [None if stopped[row] else owner for row, owner in enumerate(self._owners)]

    def _fit_capacity(self) -> None:
        """Resizes the rows to the next of their capacities, where attention reads all of it for every token."""
        self._resize(next((one for one in self._capacities if one > self._longest), self._capacities[-1]))

    def _resize(self, capacity: int) -> None:
        if capacity != self._state.backbone.capacity:
            self._state = self._state.resize(capacity)

    def compile(self) -> None:
        """Compiles every program that later calls can need, by running it once; all rows must be free.

        There are some for each capacity and each length of a prompt: some forty for 256 tokens.
        """
        for first, second in itertools.combinations(self._capacities, 2):
            for capacity in (first, second, first):
                self._resize(capacity)
        for capacity in self._capacities:
            self._resize(capacity)
            for length in sorted({padded_length(length) for length in range(1, capacity)}):
                prompt = [0] * min(length, capacity - 1)
                for number, rows in itertools.product(self._reading.prompts.each, self._reading.rows.each):
                    prompts = self._prefill([prompt] * number)
                    self._insert(prompts, [len(self)] * rows, [0] * rows, [(Request(prompt, 1), 0)] * rows)
            self._state = stop_rows(self._state, np.zeros(len(self), bool))
            self._decode(finished=len(self), steps=1)
        self._resize(self._capacities[0])


def _reads_what_is_filled(model: QwenTRM, capacity: int) -> bool:
    """Whether a new token's attention reads the filled slots of a row alone, so that spare capacity costs no time."""
    config = model.backbone.config
    keys = jax.ShapeDtypeStruct((1, 1, config.num_kv_heads, capacity, config.head_size), model.backbone.embedding.dtype)
    return _device_of(model).platform == "gpu" and takes_cache(keys)


def _device_of(model: QwenTRM) -> jax.Device:
    """That of the weights. An array that is tied to no device would make the first call another program than the next."""
    return next(iter(model.backbone.embedding.devices()))
