"""A preallocated key/value cache: read while a token is computed, written in place once afterwards.

    slot s of a row holds the token at position s; rows are filled from the left:

    lengths = [5, 3]      row 0  | a b c d e . . . |   the next token goes to slot 5
                          row 1  | a b c . . . . . |   the next token goes to slot 3

A backbone layer has one cache layer. In the recursion every block call of a pass has one, which all passes share
(last_pass), or one for each pass (per_pass).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trm_jax.hardware import per_device, split
from trm_jax.model.decode_kernel import write_to_cache
from trm_jax.model.fused import takes_cache

CACHE = "layers B K C H"  # the dimensions of its arrays


class KeysValues(NamedTuple):
    """Keys and values of new tokens, as attention computes them; those of several layers are stacked on a first axis."""

    keys: Float[Array, "*layers B S K H"]
    values: Float[Array, "*layers B S K H"]


class PromptCache(NamedTuple):
    """The keys and values of prompts padded on the right, as they were computed: `KVCache.insert` arranges them."""

    new: Sequence[KeysValues]  # for each array of the cache, with its layers first
    lengths: Int[Array, " B"]


class Past(NamedTuple):
    """The cached keys and values of one layer. A head's slots are adjacent, so that attention reads them without a copy."""

    keys: Float[Array, "layers B K C H"]
    values: Float[Array, "layers B K C H"]
    layer: Int[Array, ""]  # which of the layers
    lengths: Int[Array, " B"]  # slots that are filled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens seen so far.

    Layers that a loop runs over share one array, other layers have one each: taking a layer out of an array copies it.
    """

    keys: tuple[Float[Array, "layers B K C H"], ...]
    values: tuple[Float[Array, "layers B K C H"], ...]
    lengths: Int[Array, " B"]  # tokens held in each row, which is also the position of the next one

    @classmethod
    def empty(cls, places: int, layers: int, batch: int, capacity: int, heads: int, head_size: int, dtype) -> Self:
        """An empty cache of `places` arrays, each for `layers` layers; on a mesh each array is split before the next."""
        shape = (layers, batch, heads, capacity, head_size)
        keys, values = (tuple(split(jnp.zeros(shape, dtype), CACHE) for _ in range(places)) for _ in range(2))
        return cls(keys, values, split(jnp.zeros(batch, jnp.int32), "B"))

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.keys[0].shape[3]

    def positions(self, length: int) -> Int[Array, "B S"]:
        """The positions of the next `length` tokens of each row."""
        return self.lengths[:, None] + jnp.arange(length)[None]

    def past(self, place: int, layer: Int[Array, ""] | int = 0) -> Past:
        return Past(self.keys[place], self.values[place], jnp.asarray(layer, jnp.int32), self.lengths)

    def append(self, new: Sequence[KeysValues], written: Int[Array, " B"]) -> Self:
        """Writes one token a row behind those that it holds; where `written` is 0, the row's length stays as it is."""
        keys, values = zip(*new, strict=True)
        tokens = jnp.stack([array[:, :, 0] for array in (*keys, *values)])
        write = per_device(_write, CACHE, "arrays layers B K H", "B", out=CACHE)
        arrays = write((*self.keys, *self.values), tokens, self.lengths)
        half = len(self.keys)
        return KVCache(tuple(arrays[:half]), tuple(arrays[half:]), self.lengths + written)

    def insert(self, prompts: PromptCache, sources: Int[Array, " G"], rows: Int[Array, " G"]) -> Self:
        """Replaces `rows` by the prompts `sources`; a row beyond the batch is skipped. Slots that do not fit are padding."""
        put = per_device(_put_prompts, CACHE, "layers G S K H", "", "", "B", out=CACHE)
        numbers = jnp.arange(len(self.lengths))
        keys, values = (
            tuple(put(kept, array, sources, rows, numbers) for kept, array in zip(arrays, new, strict=True))
            for arrays, new in zip((self.keys, self.values), zip(*prompts.new, strict=True), strict=True)
        )
        return KVCache(
            keys=keys,
            values=values,
            lengths=self.lengths.at[rows].set(prompts.lengths[sources], mode="drop"),
        )

    def resize(self, capacity: int) -> Self:
        """The same tokens in rows of another capacity.

        Each array is freed once it is copied, to save memory: this cache cannot be used afterwards.
        """
        keys, values = ([_resize(array, capacity) for array in arrays] for arrays in (self.keys, self.values))
        return KVCache(tuple(keys), tuple(values), self.lengths)


def _put_prompts(kept, new, sources, rows, numbers):
    """Puts prompts into those of the rows that are here, whose numbers are `numbers`."""
    slots = slice(0, min(kept.shape[3], new.shape[2]))
    here = (rows >= numbers[0]) & (rows <= numbers[-1])
    places = jnp.where(here, rows - numbers[0], len(numbers))
    return kept.at[:, places, :, slots].set(jnp.swapaxes(new[:, sources, slots], 2, 3), mode="drop")


def _write(arrays, tokens, lengths):
    fused = {"cuda": write_to_cache} if takes_cache(arrays[0]) else {}
    return jax.lax.platform_dependent(arrays, tokens, lengths, default=_write_to_cache, **fused)


def _write_to_cache(arrays, tokens, lengths):
    rows = jnp.arange(lengths.shape[0])
    return tuple(
        array.at[:, rows, :, lengths].set(jnp.swapaxes(token, 0, 1))
        for array, token in zip(arrays, tokens, strict=True)
    )


def _resize(array: jax.Array, capacity: int) -> jax.Array:
    resized = _copy_slots(array, capacity)
    array.delete()
    return resized


@functools.partial(jax.jit, static_argnames="capacity")
def _copy_slots(array, capacity: int):
    missing = max(0, capacity - array.shape[3])
    return split(jnp.pad(array[:, :, :, :capacity], [(0, 0)] * 3 + [(0, missing), (0, 0)]), CACHE)
