"""A preallocated key/value cache that is appended in place.

    slot s of a row holds the token at position s; rows are filled from the left:

    lengths = [5, 3]      row 0  | a b c d e . . . |   the next token goes to slot 5
                          row 1  | a b c . . . . . |   the next token goes to slot 3

A backbone layer owns one cache layer. In the recursion every block call is a virtual layer of its own.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trm_jax.layers import attend


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens seen so far."""

    keys: Float[Array, "layers B C K H"]
    values: Float[Array, "layers B C K H"]
    lengths: Int[Array, " B"]  # tokens held in each row, which is also the position of the next one

    @classmethod
    def empty(cls, layers: int, batch: int, capacity: int, heads: int, head_size: int, dtype) -> Self:
        shape = (layers, batch, capacity, heads, head_size)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(batch, jnp.int32))

    @property
    def layers(self) -> int:
        return self.keys.shape[0]

    def positions(self, length: int) -> Int[Array, "B S"]:
        """The positions of the next `length` tokens of each row."""
        return self.lengths[:, None] + jnp.arange(length)

    def attend(
        self,
        layer: Int[Array, ""],
        queries: Float[Array, "B S N H"],
        keys: Float[Array, "B S K H"],
        values: Float[Array, "B S K H"],
    ) -> tuple[Float[Array, "B S N H"], Self]:
        """Writes the new tokens into a layer and lets them attend to themselves and to that layer's past.

        One token a row (S = 1) goes behind the row's past. More than one is a prompt and starts an empty cache.
        `lengths` stays: all layers write at the same place, and `advance` moves on once they have.
        """
        length = queries.shape[1]
        if length == 1:
            rows = jnp.arange(queries.shape[0])
            cache = dataclasses.replace(
                self,
                keys=self.keys.at[layer, rows, self.lengths].set(keys[:, 0]),
                values=self.values.at[layer, rows, self.lengths].set(values[:, 0]),
            )
            return attend(queries, cache.keys[layer], cache.values[layer], key_lengths=self.lengths + 1), cache
        cache = dataclasses.replace(
            self, keys=self.keys.at[layer, :, :length].set(keys), values=self.values.at[layer, :, :length].set(values)
        )
        return attend(queries, keys, values, causal=True), cache

    def advance(self, count: Int[Array, " B"] | int) -> Self:
        """Counts `count` more tokens in each row."""
        return dataclasses.replace(self, lengths=self.lengths + count)
