"""How likely a model finds given texts: one pass over each of them, not token by token."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trm_jax.decoding import pad_prompts, padded_length, round_up
from trm_jax.hardware import put_rows, row_parts
from trm_jax.model import QwenTRM, project

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

    def of_chunk(chunk):
        features, following = chunk
        logits = project(features, output_head)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), following[..., None], axis=-1)[..., 0]
        return chosen, jnp.argmax(logits, axis=-1) == following

    # The logits of whole texts would be gigabytes: a vocabulary has 152,000 tokens.
    chunks = jax.tree.map(_in_chunks, (features, jnp.roll(tokens, -1, axis=1)))
    return jax.tree.map(_joined, jax.lax.map(of_chunk, chunks))


def _in_chunks(array):
    rows, length = array.shape[:2]
    return jnp.moveaxis(array.reshape(rows, length // CHUNK, CHUNK, *array.shape[2:]), 1, 0)


def _joined(array):
    return jnp.moveaxis(array, 0, 1).reshape(array.shape[1], -1)
