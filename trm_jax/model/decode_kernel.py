"""One new token a row and its cache, on a GPU: attention over the cache in one kernel, and writing into it in another.

The kernels are written in Pallas and compiled by Triton.

JAX means to give Pallas' Triton backend up, but the one that follows it does not compile for cards before Hopper.
"""

import functools
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

MOST_SLOTS = 64  # slots of the cache that are read together, at most
LEAST = 16  # the smallest side of a matrix product of Triton

warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)


def fits(keys: Float[Array, "layers B K C H"]) -> bool:
    """Whether the kernels take a cache of this shape: Triton's products need powers of two, of at least 16.

    Before JAX 0.12 Triton's blocks were not clipped to the array, as attention needs it for groups of few heads.
    """
    capacity, size = keys.shape[3:]
    return jax.__version_info__ >= (0, 12) and capacity % LEAST == 0 and size >= LEAST and size & (size - 1) == 0


def attend_to_cache(
    heads: Float[Array, "B N+2K H"],
    keys: Float[Array, "layers B K C H"],
    values: Float[Array, "layers B K C H"],
    layer: Int[Array, ""],
    lengths: Int[Array, " B"],
    interpret: bool = False,
) -> Float[Array, "B K G H"]:
    """Softmax attention of a token's queries over the first `lengths` slots of a layer and its own key and value.

    `heads` holds the token's queries, keys and values one after the other. A program of the kernel has one row and key/value
    head, reads only the slots that are filled, and keeps the running maximum and sum of the softmax in float32 (arXiv
    2205.14135).
    """
    batch, count, size = heads.shape
    kv_heads, capacity = keys.shape[2:4]
    group = count // kv_heads - 2
    slots = min(MOST_SLOTS, capacity & -capacity)  # the largest power of two that divides the capacity
    rows = max(LEAST, pl.next_power_of_2(group))
    whole = pl.BlockSpec(memory_space=pl.ANY)
    return pl.pallas_call(
        functools.partial(_attend, slots=slots, group=group, rows=rows),
        out_shape=jax.ShapeDtypeStruct((batch, kv_heads, group, size), heads.dtype),
        grid=(batch, kv_heads),
        in_specs=[whole] * 5,
        out_specs=pl.BlockSpec((None, None, rows, size), lambda row, head: (row, head, 0, 0)),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="attend_to_cache",
    )(jnp.reshape(layer, 1), lengths, heads, keys, values)


def _attend(layer, lengths, heads, keys, values, attended, *, slots: int, group: int, rows: int):
    row, head = pl.program_id(0), pl.program_id(1)
    layer, length = layer[0], lengths[row]
    kv_heads, size = keys.shape[2], keys.shape[4]
    dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
    scale = size**-0.5
    of_group = (jnp.arange(rows) < group)[:, None]
    queries = triton.load(heads.at[row, pl.ds(head * group, rows)], mask=of_group, other=0.0)

    def read(block, carry):
        highest, total, summed = carry
        places = layer, row, head, pl.ds(block * slots, slots)
        filled = block * slots + jnp.arange(slots) < length
        scores = jnp.where(filled[None], dot(queries, keys[places].T) * scale, -jnp.inf)
        higher = jnp.maximum(highest, jnp.max(scores, axis=1))
        shares, kept = jnp.exp(scores - higher[:, None]), jnp.exp(highest - higher)
        summed = kept[:, None] * summed + dot(shares.astype(values.dtype), values[places])
        return higher, kept * total + jnp.sum(shares, axis=1), summed

    first = kv_heads * group + head
    own_key, own_value = (heads[row, index].astype(jnp.float32)[None] for index in (first, first + kv_heads))
    own_scores = jnp.sum(queries.astype(jnp.float32) * own_key, axis=1) * scale
    start = own_scores, jnp.ones_like(own_scores), jnp.broadcast_to(own_value, queries.shape)
    _, total, summed = jax.lax.fori_loop(0, pl.cdiv(length, slots), read, start)
    attended[...] = (summed / total[:, None]).astype(attended.dtype)


def write_to_cache(
    arrays: Sequence[Float[Array, "layers B K C H"]],
    tokens: Float[Array, "arrays layers B K H"],
    lengths: Int[Array, " B"],
    interpret: bool = False,
) -> tuple[Float[Array, "layers B K C H"], ...]:
    """Writes a token of each row into slot `lengths` of all arrays, in place; where a row is full, nothing is written."""
    layers, batch, kv_heads = arrays[0].shape[:3]
    whole = pl.BlockSpec(memory_space=pl.ANY)
    return pl.pallas_call(
        _write,
        out_shape=tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays),
        grid=(layers, batch, kv_heads),
        in_specs=[whole] * (2 + len(arrays)),
        out_specs=(whole,) * len(arrays),
        input_output_aliases={2 + place: place for place in range(len(arrays))},
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="write_to_cache",
    )(lengths, tokens, *arrays)


def _write(lengths, tokens, *arrays):
    layer, row, head = (pl.program_id(axis) for axis in range(3))
    slot = lengths[row]

    @pl.when(slot < arrays[0].shape[3])
    def _():
        for place, array in enumerate(arrays[len(arrays) // 2 :]):  # the first half are the same arrays as they were
            array[layer, row, head, slot] = tokens[place, layer, row, head]
