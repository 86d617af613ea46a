"""Attention of one new token a row over its cache, as one GPU kernel, written in Pallas and compiled by Triton.

JAX means to give Pallas' Triton backend up, but the one that follows it does not compile for cards before Hopper.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

MOST_SLOTS = 64  # slots of the cache that are read together, at most
LEAST = 16  # the smallest side of a matrix product of Triton

warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)


def fits(keys: Float[Array, "layers B K C H"]) -> bool:
    """Whether the kernel takes a cache of this shape: Triton's products need powers of two, of at least 16.

    Before JAX 0.12 Triton's blocks were not clipped to the array, as the kernel needs it for groups of few heads.
    """
    capacity, size = keys.shape[3:]
    return jax.__version_info__ >= (0, 12) and capacity % LEAST == 0 and size >= LEAST and size & (size - 1) == 0


def attend_to_cache(
    queries: Float[Array, "B K G H"],
    own_keys: Float[Array, "B K H"],
    own_values: Float[Array, "B K H"],
    keys: Float[Array, "layers B K C H"],
    values: Float[Array, "layers B K C H"],
    layer: Int[Array, ""],
    lengths: Int[Array, " B"],
    interpret: bool = False,
) -> Float[Array, "B K G H"]:
    """Softmax attention over the first `lengths` slots of a layer and the token's own key and value.

    A program of the kernel has one row and key/value head, reads only the slots that are filled, and keeps the running
    maximum and sum of the softmax in float32 (arXiv 2205.14135).
    """
    batch, kv_heads, group, size = queries.shape
    capacity = keys.shape[3]
    slots = min(MOST_SLOTS, capacity & -capacity)  # the largest power of two that divides the capacity
    rows = max(LEAST, pl.next_power_of_2(group))
    whole = pl.BlockSpec(memory_space=pl.ANY)
    of_group = pl.BlockSpec((None, None, rows, size), lambda b, k: (b, k, 0, 0))
    own = pl.BlockSpec((None, None, size), lambda b, k: (b, k, 0))
    return pl.pallas_call(
        functools.partial(_kernel, slots=slots),
        out_shape=jax.ShapeDtypeStruct(queries.shape, queries.dtype),
        grid=(batch, kv_heads),
        in_specs=[whole, whole, of_group, own, own, whole, whole],
        out_specs=of_group,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="attend_to_cache",
    )(jnp.reshape(layer, 1), lengths, queries, own_keys, own_values, keys, values)


def _kernel(layer, lengths, queries, own_keys, own_values, keys, values, attended, *, slots: int):
    row, head = pl.program_id(0), pl.program_id(1)
    layer, length, queries = layer[0], lengths[row], queries[...]
    dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
    scale = queries.shape[-1] ** -0.5

    def read(block, carry):
        highest, total, summed = carry
        places = layer, row, head, pl.ds(block * slots, slots)
        filled = block * slots + jnp.arange(slots) < length
        scores = jnp.where(filled[None], dot(queries, keys[places].T) * scale, -jnp.inf)
        higher = jnp.maximum(highest, jnp.max(scores, axis=1))
        shares, kept = jnp.exp(scores - higher[:, None]), jnp.exp(highest - higher)
        summed = kept[:, None] * summed + dot(shares.astype(values.dtype), values[places])
        return higher, kept * total + jnp.sum(shares, axis=1), summed

    own_keys, own_values = (ref[...].astype(jnp.float32)[None] for ref in (own_keys, own_values))
    own_scores = jnp.sum(queries.astype(jnp.float32) * own_keys, axis=1) * scale
    start = own_scores, jnp.ones_like(own_scores), jnp.broadcast_to(own_values, queries.shape)
    _, total, summed = jax.lax.fori_loop(0, pl.cdiv(length, slots), read, start)
    attended[...] = (summed / total[:, None]).astype(attended.dtype)
