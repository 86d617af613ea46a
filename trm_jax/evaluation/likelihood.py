"""How likely a model finds the continuations of given texts: one pass over each text, not token by token."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trm_jax.data import NO_LABEL, Example
from trm_jax.decoding import pad_prompts, padded_length, round_up
from trm_jax.hardware import put_rows, row_parts
from trm_jax.model import TRM, Qwen, QwenTRM, most_likely, project

CHUNK = 16  # positions of each row whose logits exist at a time
ROWS = 8  # of a batch whose size is not given


class Reading(NamedTuple):
    """A text that is read once, and the tokens that are looked for behind some of its positions."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    labels: tuple[int, ...]  # behind the positions; several may be looked for behind one


class Batch(NamedTuple):
    """Readings side by side, padded on the right. In `labels` NO_LABEL stands where nothing is looked for."""

    tokens: Int[Array, "B S"]
    positions: Int[Array, "B R"]
    labels: Int[Array, "B R"]


def score_continuations(
    model: QwenTRM,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    head: Literal["trm", "backbone"] = "trm",
    supervision_steps: int | None = None,
    batch_size: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each context and continuation the log-probability of each of the continuation's tokens, and whether it is the
    most likely one.

    The logits are those after the last supervision step. A context needs at least one token. A question is read once for all
    its answers of one token. Batches have one number of rows and a few lengths, so that few programs are compiled and a
    pair's numbers do not depend on the others.

    Example: `log_probabilities, greedy = score_continuations(model, [([1, 2], [3])])[0]`.
    """
    steps = model.trm.config.supervision_steps if supervision_steps is None else supervision_steps
    sharing: dict[tuple[int, ...], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        if not context:
            raise ValueError(f"the context of pair {number} is empty")
        sharing.setdefault((*context, *continuation[:-1]), []).append(number)
    readings = []
    for tokens, numbers in sharing.items():
        numbers.sort(key=lambda number: tuple(pairs[number][1]))
        labels = [pairs[number][1] for number in numbers]
        positions = [range(len(tokens) - len(each), len(tokens)) for each in labels]
        readings.append(Reading(tokens, *(tuple(itertools.chain(*parts)) for parts in (positions, labels))))
    found = [None] * len(pairs)
    for members, batch in _batches(readings, batch_size):
        scores, greedy = jax.device_get(_score(model, batch, head, steps))
        for row, member in enumerate(members):
            start = 0
            for number in sharing[readings[member].tokens]:
                taken = row, slice(start, start := start + len(pairs[number][1]))
                found[number] = scores[taken], greedy[taken]
    return found


@functools.partial(jax.jit, static_argnames=("head", "supervision_steps"))
def _score(
    model: QwenTRM, batch: Batch, head: str, supervision_steps: int
) -> tuple[Float[Array, "B R"], Bool[Array, "B R"]]:
    hidden, _ = model.backbone(batch.tokens)
    last = _at(batch.positions, hidden.last)
    if head == "backbone":
        return _of_labels(last, model.backbone.head, batch.labels)
    trm, context = model.trm, model.trm.context(hidden)
    rotation = trm.rotation(jnp.arange(batch.tokens.shape[1])[None])

    def step(state, _):
        return trm.supervision_step(context, *state, rotation), None

    (y, _), _ = jax.lax.scan(step, trm.start(context), length=supervision_steps)
    return _of_labels(trm.features(last, _at(batch.positions, y)), model.head, batch.labels)


def score_solutions(
    backbone: Qwen, heads: Sequence[TRM], examples: Sequence[Example], batch_size: int | None = None
) -> Iterator[tuple[int, float, list[list[float]]]]:
    """The summed negative log-likelihood of each solution's tokens under the backbone alone, and under recursions on it.

    Yields the number of an example, the backbone's nats, and for each head its nats after each supervision step, in batches
    of similar lengths. The backbone runs once for all of them; prompts are given, and so is each token's past.

    Example: `for number, alone, steps in score_solutions(model.backbone, [model.trm], examples): ...`.
    """
    readings = []
    for example in examples:
        tokens = tuple(example.tokens.tolist())
        positions = range(example.prompt_length - 1, len(tokens) - 1)
        readings.append(Reading(tokens[:-1], tuple(positions), tokens[example.prompt_length :]))
    for members, batch in _batches(readings, batch_size):
        alone, steps = jax.device_get(_score_solutions(backbone, tuple(heads), batch))
        for row, number in enumerate(members):
            yield number, float(alone[row]), [head[:, row].tolist() for head in steps]


@jax.jit
def _score_solutions(
    backbone: Qwen, heads: tuple[TRM, ...], batch: Batch
) -> tuple[Float[Array, " B"], list[Float[Array, "N_sup B"]]]:
    hidden, _ = backbone(batch.tokens)

    def loss(features, output_head):
        return -jnp.sum(_of_labels(features, output_head, batch.labels)[0], axis=-1)

    last = _at(batch.positions, hidden.last)

    def of_head(trm):
        context, output_head = trm.context(hidden), backbone.head if trm.head is None else trm.head[...]
        rotation = trm.rotation(jnp.arange(batch.tokens.shape[1])[None])

        def step(state, _):
            y, z = trm.supervision_step(context, *state, rotation)
            return (y, z), loss(trm.features(last, _at(batch.positions, y)), output_head)

        return jax.lax.scan(step, trm.start(context), length=trm.config.supervision_steps)[1]

    return loss(last, backbone.head), [of_head(trm) for trm in heads]


def _batches(readings: Sequence[Reading], batch_size: int | None) -> Iterator[tuple[list[int], Batch]]:
    """The numbers of some readings of one padded length, and the readings; those with about as many labels together."""
    rows = round_up(batch_size or ROWS, row_parts())
    by_length: dict[int, list[int]] = {}
    for number in sorted(range(len(readings)), key=lambda number: (len(readings[number].labels), readings[number])):
        by_length.setdefault(padded_length(len(readings[number].tokens)), []).append(number)
    for members in by_length.values():
        most = max(CHUNK, round_up(len(readings[members[-1]].labels), CHUNK))
        for start in range(0, len(members), rows):
            batch = members[start : start + rows]
            filled = [readings[number] for number in batch + batch[:1] * (rows - len(batch))]
            tokens, _ = pad_prompts([reading.tokens for reading in filled])
            positions, labels = np.zeros((rows, most), np.int32), np.full((rows, most), NO_LABEL, np.int32)
            for row, reading in enumerate(filled):
                positions[row, : len(reading.positions)] = reading.positions
                labels[row, : len(reading.labels)] = reading.labels
            yield batch, Batch(*put_rows((tokens, positions, labels)))


def _at(positions: Int[Array, "B R"], states: Float[Array, "B S D"]) -> Float[Array, "B R D"]:
    return jnp.take_along_axis(states, positions[..., None], axis=1)


def _of_labels(
    features: Float[Array, "B R D"], output_head: Float[Array, "V D"], labels: Int[Array, "B R"]
) -> tuple[Float[Array, "B R"], Bool[Array, "B R"]]:
    """The log-probability of each label, zero where there is none, and whether it is the most likely token.

    Labels stand first in their rows. The logits of whole texts would be gigabytes, a vocabulary has 152,000 tokens, so they
    exist for a chunk at a time; the chunks behind the last label of all rows are left out.
    """

    def add_chunk(number, found):
        def taken(array):
            return jax.lax.dynamic_slice_in_dim(array, number * CHUNK, CHUNK, axis=1)

        logits, label = project(taken(features), output_head), taken(labels)
        at_label = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(label, 0)[..., None], axis=-1)[..., 0]
        new = jnp.where(label == NO_LABEL, 0, at_label), most_likely(logits) == label
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(array, chunk, number * CHUNK, axis=1)
            for array, chunk in zip(found, new, strict=True)
        )

    most = jnp.max(jnp.sum(labels != NO_LABEL, axis=1))
    nothing = jnp.zeros(labels.shape, jnp.float32), jnp.zeros(labels.shape, bool)
    return jax.lax.fori_loop(0, -(-most // CHUNK), add_chunk, nothing)
