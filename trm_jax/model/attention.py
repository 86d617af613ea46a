"""Causal self-attention with rotary embedding: for whole sequences, and for one new token a row over a cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from trm_jax.hardware import per_device
from trm_jax.model import fused as fused_attention
from trm_jax.model.decode_kernel import attend_to_cache
from trm_jax.model.kv_cache import KeysValues, Past
from trm_jax.model.layers import Linear, keep

QUERY_BLOCK = 64  # queries of causal attention that a CPU computes together


class Rotation(NamedTuple):
    """Cosines and sines of the rotary embedding."""

    cos: Float[Array, "#B S 1 1 H/2"]
    sin: Float[Array, "#B S 1 1 H/2"]

    @classmethod
    def at(cls, positions: Int[Array, "#B S"], head_size: int, theta: float) -> "Rotation":
        """The rotation of tokens at these positions, by angles of base `theta`, computed in float32."""
        frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
        angles = positions[..., None, None, None].astype(jnp.float32) * frequencies[None, None, None, None]
        return cls(jnp.cos(angles), jnp.sin(angles))

    def __call__(self, h: Float[Array, "B S N H"], rotated: int | None = None) -> Float[Array, "B S N H"]:
        """Rotates the pairs (i, i + H/2) of the first `rotated` heads, of all if None; the other heads stay as they are."""
        # The halves are swapped by a reversal: on a GPU XLA fuses it with its neighbours, which it does not do with a
        # concatenation.
        halves = h.astype(jnp.float32).reshape(*h.shape[:-1], 2, -1)
        signs = jnp.array([-1, 1], jnp.float32)[None, None, None, :, None]
        cos, sin = self.cos, signs * self.sin
        if rotated is not None:
            turns = (jnp.arange(h.shape[2]) < rotated)[None, None, :, None, None]
            cos, sin = jnp.where(turns, cos, 1), jnp.where(turns, sin, 0)
        return (halves * cos + jnp.flip(halves, axis=-2) * sin).reshape(h.shape).astype(h.dtype)


def attend(
    queries: Float[Array, "B S N H"],
    keys: Float[Array, "B S K H"],
    values: Float[Array, "B S K H"],
) -> Float[Array, "B S N H"]:
    """Causal scaled dot-product attention of whole sequences, with grouped key/value heads.

    How it is computed depends on the platform that the program is compiled for: on a CPU in blocks, on a CUDA GPU by cuDNN
    where it can, elsewhere by XLA in one piece.

    Example: `attend(queries, keys, values)`.
    """
    fused = {"cuda": fused_attention.cudnn_attention} if fused_attention.takes_sequences(queries) else {}
    return jax.lax.platform_dependent(
        queries, keys, values, cpu=_attend_in_blocks, default=fused_attention.xla_attention, **fused
    )


def _attend_in_blocks(queries, keys, values):
    """Takes a block of queries at a time, so that no time is spent on the keys after a block, which it must not see."""
    length, blocks = queries.shape[1], []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        block = queries[:, start:end], keys[:, :end], values[:, :end]
        mask = jnp.tri(end - start, end, start, dtype=bool)[None, None]
        blocks.append(jax.nn.dot_product_attention(*block, mask=mask, implementation="xla"))
    return jnp.concatenate(blocks, axis=1)


def attend_to_past(heads: Float[Array, "B 1 N+2K H"], past: Past) -> Float[Array, "B 1 N H"]:
    """Attention of one new token a row over the row's past and itself; `heads` are its queries, keys and values.

    A CUDA GPU computes it in one kernel, other platforms in several.

    Example: `attend_to_past(heads, cache.past(0))`.
    """
    fused = {"cuda": attend_to_cache} if fused_attention.takes_cache(past.keys) else {}
    attended = jax.lax.platform_dependent(heads[:, 0], *past, default=_attend_to_past, **fused)
    return attended.reshape(heads.shape[0], 1, -1, heads.shape[3])


def _attend_to_past(heads, keys, values, layer, lengths):
    """The past and the new token apart, because putting the token into its slot would copy the cache."""
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    batch, _, size = heads.shape
    kv_heads = keys.shape[2]
    keys, values = keys[layer], values[layer]
    queries = heads[:, : -2 * kv_heads].reshape(batch, kv_heads, -1, size)
    own_keys, own_values = heads[:, -2 * kv_heads : -kv_heads, None], heads[:, -kv_heads:, None]
    scale = size**-0.5
    filled = (jnp.arange(keys.shape[2])[None] < lengths[:, None])[:, None, None]
    scores = jnp.where(filled, dot("BKGH,BKCH->BKGC", queries, keys) * scale, -jnp.inf)
    own_score = dot("BKGH,BKCH->BKGC", queries, own_keys) * scale
    highest = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), own_score)
    shares, own_share = jnp.exp(scores - highest), jnp.exp(own_score - highest)
    attended = dot("BKGC,BKCH->BKGH", shares.astype(values.dtype), values) + own_share * own_values
    attended = attended / (jnp.sum(shares, axis=-1, keepdims=True) + own_share)
    return attended.astype(own_values.dtype)


def _attend_new_token(queries, new: KeysValues, rotation: Rotation, cached, layer, lengths):
    """What is computed of a new token between the two linear maps; returns also its rotated keys, and its values."""
    # In one array, because each array costs a GPU a launch, and computed once: behind the barrier XLA cannot do it again
    # where the cache is written.
    kv_heads = new.keys.shape[2]
    heads = rotation(jnp.concatenate([queries, *new], axis=2), queries.shape[2] + kv_heads)
    heads = jax.lax.optimization_barrier(heads)
    attended = attend_to_past(heads, Past(*cached, layer, lengths))
    return attended, KeysValues(heads[:, :, -2 * kv_heads : -kv_heads], heads[:, :, -kv_heads:])


def _attend_on_each_device(queries, new: KeysValues, rotation: Rotation, past: Past):
    cached = past.keys, past.values
    dims = "B S N H", "B S K H", "B S 1 1 H/2", "layers B K C H", "", "B"
    attend_new_token = per_device(_attend_new_token, *dims, out=("B S N H", "B S K H"))
    return attend_new_token(queries, new, rotation, cached, past.layer, past.lengths)


class Attention(nnx.Module):
    """Causal self-attention with rotary embedding; biases on q, k and v if asked, never on the output."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, *, bias: bool, rngs: nnx.Rngs):
        self.head_size = width // num_heads
        self.num_kv_heads = num_kv_heads
        self.query = Linear(width, num_heads * self.head_size, bias=bias, rngs=rngs)
        self.key = Linear(width, num_kv_heads * self.head_size, bias=bias, rngs=rngs)
        self.value = Linear(width, num_kv_heads * self.head_size, bias=bias, rngs=rngs)
        self.output = Linear(num_heads * self.head_size, width, rngs=rngs)

    def repeat_kv_heads(self, times: int) -> None:
        """Makes so many heads of each key/value head, all alike, for as many more devices that each hold one of them."""
        for linear in (self.key, self.value):
            linear.kernel, linear.bias = (self._repeated(weight, times) for weight in (linear.kernel, linear.bias))
        self.num_kv_heads *= times

    def _repeated(self, weight: nnx.Param | None, times: int) -> nnx.Param | None:
        if weight is None:
            return None
        heads = weight[...].reshape(*weight.shape[:-1], self.num_kv_heads, self.head_size)
        return nnx.Param(jnp.repeat(heads, times, axis=-2).reshape(*weight.shape[:-1], -1))

    def __call__(self, h: Float[Array, "B S D"], rotation: Rotation, past: Past | None = None):
        """Returns the attention's output[B,S,D], and the keys and values of these tokens.

        Without a past (None) the tokens are whole sequences from the start; with one there is one token a row.
        """
        queries, keys, values = (
            keep(project(h)).reshape(*h.shape[:-1], -1, self.head_size)
            for project in (self.query, self.key, self.value)
        )
        if past is None:
            queries, new = rotation(queries), KeysValues(rotation(keys), values)
            attended = attend(queries, *new)
        else:
            attended, new = _attend_on_each_device(queries, KeysValues(keys, values), rotation, past)
        return keep(self.output(attended.reshape(*h.shape[:-1], -1))), new
