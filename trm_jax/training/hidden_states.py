"""The backbone's hidden states of a batch, which a program of their own computes.

It has one shape for each length that rows are padded to, whatever is trained and however many micro-batches a batch has.
A row's states depend in their last bits on that shape, but neither on the row's place nor on the other rows. That is why
states that were kept on disk are bit for bit those that a training computes.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from trm_jax.data import Batch
from trm_jax.hardware import Groups, Programs, put_rows, split
from trm_jax.model import NUM_LEVELS, TRM, Hidden, Qwen
from trm_jax.training.step import LEVELS_ROWS_AT, ROWS_AT


@jax.jit
def hidden_states(backbone: Qwen, tokens: Int[Array, "B S"]) -> Hidden:
    """The hidden states of one micro-batch, laid out as those of several: `last` [1, B, S, D], `levels` [1, 4, B, S, D]."""
    groups = Groups()
    last, levels = groups.map(lambda tokens: backbone(tokens)[0])(groups.split(tokens))
    if groups.count > 1:  # [groups, rows, S, D] and [groups, 4, rows, S, D]
        levels = jnp.moveaxis(levels, 0, 1)
        last, levels = last.reshape(-1, *last.shape[2:]), levels.reshape(len(levels), -1, *levels.shape[3:])
    return Hidden(split(last[None], "A B S D"), split(levels[None], "A levels B S D"))


def early_states(mixed: bool, accumulation: int, cached: bool) -> int:
    """Hidden states of a token that are on the device for the next batch, while one is trained; `cached` if from disk.

    Example: `early_states(mixed=True, accumulation=1, cached=False)` is 5.
    """
    every = 1 + NUM_LEVELS
    seen = every if mixed else 1
    if cached:
        return seen
    if accumulation == 1:
        return every
    # Those of all micro-batches, once more where they are joined; of one of them also the levels that are not mixed.
    return 2 * seen + -(-(every - seen) // accumulation)


class Computed:
    """The hidden states of batches, computed by the backbone when they are asked for.

    Example: `hidden = Computed(backbone, trm).of(batch)`.
    """

    def __init__(self, backbone: Qwen, trm: TRM, say: Callable[[str], None] = lambda line: None):
        self._backbone, self._mixed = backbone, trm.mix is not None
        self.programs = Programs(hidden_states, _describe, say)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Compiles what these batches need."""
        self.programs.prepare((self._backbone, put_rows(batch.tokens[0])) for batch in batches)

    def of(self, batch: Batch) -> Hidden:
        """The hidden states of all micro-batches, on the devices; the levels only where the recursion mixes them."""
        found = [self._of(tokens) for tokens in batch.tokens]
        return found[0] if len(found) == 1 else _joined(found)

    def _of(self, tokens: Int[np.ndarray, "B S"]) -> Hidden:
        found = self.programs(self._backbone, put_rows(tokens))
        return found if self._mixed else Hidden(found.last, None)


def put_hidden(hidden: Hidden) -> Hidden:
    """Hidden states of a batch from the host's memory, `last` [A, B, S, D] and `levels` [A, 4, B, S, D], on the devices."""
    return Hidden(put_rows(hidden.last, ROWS_AT), put_rows(hidden.levels, LEVELS_ROWS_AT))


@jax.jit
def _joined(micro_batches: list[Hidden]) -> Hidden:
    """Those of several micro-batches as one, laid out as `put_hidden` lays them out."""
    last, levels = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *micro_batches)
    return Hidden(split(last, "A B S D"), None if levels is None else split(levels, "A levels B S D"))


def _describe(backbone: Qwen, tokens: np.ndarray) -> str:
    return "hidden states of {} rows of {} tokens".format(*tokens.shape)
