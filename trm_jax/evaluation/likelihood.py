"""How likely a model finds given texts: one pass over each of them, not token by token."""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trm_jax.data import NO_LABEL, Bucket, Example, pad_batch
from trm_jax.decoding import pad_prompts, padded_length, round_up
from trm_jax.hardware import put_rows, row_parts
from trm_jax.model import TRM, Qwen, QwenTRM, most_likely, project

CHUNK = 16  # positions whose logits exist at a time; every padded length is a multiple of it
ROWS = 8  # of a batch whose size is not given


def score_tokens(
    model: QwenTRM,
    texts: Sequence[Sequence[int]],
    head: Literal["trm", "backbone"] = "trm",
    supervision_steps: int | None = None,
    batch_size: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each text the log-probability of each of its tokens but the first, and whether it is the most likely one.

    The logits are those after the last supervision step. Batches have one number of rows and a few lengths, so that few
    programs are compiled and a text's numbers do not depend on the others.

    Example: `log_probabilities, greedy = score_tokens(model, [[1, 2, 3]])[0]`.
    """
    steps = model.trm.config.supervision_steps if supervision_steps is None else supervision_steps
    rows = round_up(batch_size or ROWS, row_parts())
    by_length: dict[int, list[int]] = {}
    for index in sorted(range(len(texts)), key=lambda index: tuple(texts[index])):
        by_length.setdefault(padded_length(len(texts[index])), []).append(index)
    found = [None] * len(texts)
    for members in by_length.values():
        for start in range(0, len(members), rows):
            batch = members[start : start + rows]
            filled = batch + batch[:1] * (rows - len(batch))
            tokens, _ = pad_prompts([texts[index] for index in filled])
            scores, greedy = jax.device_get(_score(model, put_rows(tokens), head, steps))
            for row, index in enumerate(batch):
                found[index] = (scores[row, : len(texts[index]) - 1], greedy[row, : len(texts[index]) - 1])
    return found


@functools.partial(jax.jit, static_argnames=("head", "supervision_steps"))
def _score(
    model: QwenTRM, tokens: Int[Array, "B S"], head: str, supervision_steps: int
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """Of the token after each position, its log-probability and whether it is the most likely one; the last is of none."""
    hidden, _ = model.backbone(tokens)
    features, output_head = hidden.last, model.backbone.head
    if head == "trm":
        trm, context = model.trm, model.trm.context(hidden)
        rotation = model.backbone.rotation(jnp.arange(tokens.shape[1])[None])

        def step(state, _):
            return trm.supervision_step(context, *state, rotation), None

        (y, _), _ = jax.lax.scan(step, trm.start(context), length=supervision_steps)
        features, output_head = trm.features(hidden.last, y), model.head
    return _of_tokens(features, output_head, jnp.roll(tokens, -1, axis=1))


def score_solutions(
    backbone: Qwen, heads: Sequence[TRM], examples: Sequence[Example], batch_size: int | None = None
) -> Iterator[tuple[int, float, list[list[float]]]]:
    """The summed negative log-likelihood of each solution's tokens under the backbone alone, and under recursions on it.

    Yields the number of an example, the backbone's nats, and for each head its nats after each supervision step, in batches
    of similar lengths. The backbone runs once for all of them; prompts are given, and so is each token's past.

    Example: `for number, alone, steps in score_solutions(model.backbone, [model.trm], examples): ...`.
    """
    rows = round_up(batch_size or ROWS, row_parts())
    by_length: dict[int, list[int]] = {}
    for number in sorted(range(len(examples)), key=lambda number: len(examples[number].tokens)):
        by_length.setdefault(padded_length(len(examples[number].tokens)), []).append(number)
    for length, members in by_length.items():
        longest = round_up(max(examples[number].solution_length for number in members), CHUNK)
        for start in range(0, len(members), rows):
            batch = members[start : start + rows]
            padded = pad_batch([examples[number] for number in batch], Bucket(length, longest), (1, rows))
            arrays = (padded.tokens[0], padded.positions[0], padded.labels[0])
            alone, steps = jax.device_get(_score_solutions(backbone, tuple(heads), *put_rows(arrays)))
            for row, number in enumerate(batch):
                yield number, float(alone[row]), [head[:, row].tolist() for head in steps]


@jax.jit
def _score_solutions(
    backbone: Qwen,
    heads: tuple[TRM, ...],
    tokens: Int[Array, "B S"],
    positions: Int[Array, "B R"],
    labels: Int[Array, "B R"],
) -> tuple[Float[Array, " B"], list[Float[Array, "N_sup B"]]]:
    hidden, _ = backbone(tokens)
    rotation = backbone.rotation(jnp.arange(tokens.shape[1])[None])

    def at_positions(states):
        return jnp.take_along_axis(states, positions[..., None], axis=1)

    def loss(features, output_head):
        chosen, _ = _of_tokens(features, output_head, jnp.maximum(labels, 0))
        return -jnp.sum(jnp.where(labels == NO_LABEL, 0, chosen), axis=-1)

    last = at_positions(hidden.last)

    def of_head(trm):
        context, output_head = trm.context(hidden), backbone.head if trm.head is None else trm.head[...]

        def step(state, _):
            y, z = trm.supervision_step(context, *state, rotation)
            return (y, z), loss(trm.features(last, at_positions(y)), output_head)

        return jax.lax.scan(step, trm.start(context), length=trm.config.supervision_steps)[1]

    return loss(last, backbone.head), [of_head(trm) for trm in heads]


def _of_tokens(
    features: Float[Array, "B S D"], output_head: Float[Array, "V D"], following: Int[Array, "B S"]
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """Of the token that follows each position, its log-probability and whether it is the most likely one."""

    def of_chunk(chunk):
        features, following = chunk
        logits = project(features, output_head)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), following[..., None], axis=-1)[..., 0]
        return chosen, most_likely(logits) == following

    # The logits of whole texts would be gigabytes: a vocabulary has 152,000 tokens.
    return jax.tree.map(_joined, jax.lax.map(of_chunk, jax.tree.map(_in_chunks, (features, following))))


def _in_chunks(array):
    rows, length = array.shape[:2]
    return jnp.moveaxis(array.reshape(rows, length // CHUNK, CHUNK, *array.shape[2:]), 1, 0)


def _joined(array):
    return jnp.moveaxis(array, 0, 1).reshape(array.shape[1], -1)
