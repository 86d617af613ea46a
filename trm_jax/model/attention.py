"""Causal self-attention with rotary embedding: for whole sequences, and for one new token a row over a cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.model.kv_cache import KeysValues, Past
from trm_jax.model.layers import Linear, keep

QUERY_BLOCK = 64  # queries of causal attention that are computed together


class Rotation(NamedTuple):
    """Cosines and sines of the rotary embedding."""

    cos: Float[Array, "#B S 1 H/2"]
    sin: Float[Array, "#B S 1 H/2"]

    @classmethod
    def at(cls, positions: Int[Array, "#B S"], head_size: int, theta: float) -> "Rotation":
        """The rotation of tokens at these positions, by angles of base `theta`, computed in float32."""
        frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
        angles = positions[..., None, None].astype(jnp.float32) * frequencies[None, None, None]
        return cls(jnp.cos(angles), jnp.sin(angles))

    def __call__(self, h: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        """Rotates the pairs (i, i + H/2) of each head."""
        first, second = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return jnp.concatenate(turned, axis=-1).astype(h.dtype)


def attend(
    queries: Float[Array, "B S N H"],
    keys: Float[Array, "B S K H"],
    values: Float[Array, "B S K H"],
) -> Float[Array, "B S N H"]:
    """Causal scaled dot-product attention of whole sequences, with grouped key/value heads.

    Queries are taken a block at a time, so that no time is spent on the keys after a block, which it must not see.
    """
    length, blocks = queries.shape[1], []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        block = queries[:, start:end], keys[:, :end], values[:, :end]
        mask = jnp.tri(end - start, end, start, dtype=bool)[None, None]
        blocks.append(jax.nn.dot_product_attention(*block, mask=mask, implementation="xla"))
    return jnp.concatenate(blocks, axis=1)


def attend_to_past(queries: Float[Array, "B 1 N H"], new: KeysValues, past: Past) -> Float[Array, "B 1 N H"]:
    """Attention of one new token a row over the row's past and itself."""
    batch, _, heads, size = queries.shape
    kv_heads, capacity = past.keys.shape[1:3]
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    queries = queries.reshape(batch, kv_heads, heads // kv_heads, size)
    own_keys, own_values = (array[:, 0, :, None] for array in new)  # [B, K, 1, H]

    filled = (jnp.arange(capacity)[None] < past.lengths[:, None])[:, None, None]
    scores = jnp.where(filled, dot("BKGH,BKCH->BKGC", queries, past.keys) * size**-0.5, -jnp.inf)
    own_score = dot("BKGH,BKCH->BKGC", queries, own_keys) * size**-0.5
    highest = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), own_score)
    shares, own_share = jnp.exp(scores - highest), jnp.exp(own_score - highest)
    attended = dot("BKGC,BKCH->BKGH", shares.astype(past.values.dtype), past.values) + own_share * own_values
    attended = attended / (jnp.sum(shares, axis=-1, keepdims=True) + own_share)
    return attended.reshape(batch, 1, heads, size).astype(own_values.dtype)


class Attention(nnx.Module):
    """Causal self-attention with rotary embedding; biases on q, k and v if asked, never on the output."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, *, bias: bool, rngs: nnx.Rngs):
        self.head_size = width // num_heads
        self.query = Linear(width, num_heads * self.head_size, bias=bias, rngs=rngs)
        self.key = Linear(width, num_kv_heads * self.head_size, bias=bias, rngs=rngs)
        self.value = Linear(width, num_kv_heads * self.head_size, bias=bias, rngs=rngs)
        self.output = Linear(num_heads * self.head_size, width, rngs=rngs)

    def __call__(self, h: Float[Array, "B S D"], rotation: Rotation, past: Past | None = None):
        """Returns the attention's output[B,S,D], and the keys and values of these tokens.

        Without a past (None) the tokens are whole sequences from the start; with one there is one token a row.
        """
        queries, keys, values = (
            keep(project(h)).reshape(*h.shape[:-1], -1, self.head_size)
            for project in (self.query, self.key, self.value)
        )
        queries, new = rotation(queries), KeysValues(rotation(keys), values)
        attended = attend(queries, *new) if past is None else attend_to_past(queries, new, past)
        return keep(self.output(attended.reshape(*h.shape[:-1], -1))), new
