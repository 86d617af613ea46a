"""Fused attention for CUDA GPUs, cuDNN's for sequences and our own kernel for single tokens; and whether to use it."""

import functools
import logging
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trm_jax.model.decode_kernel import attend_to_cache, fits, write_to_cache

TYPES = (jnp.bfloat16, jnp.float16)
LARGEST_HEAD = 128  # of cuDNN's attention on all cards from Ampere on
TOLERANCE = 0.03  # between the fused and XLA's attention of numbers of order one in bfloat16

_log = logging.getLogger(__name__)
_wanted: bool | None = None  # None until it is chosen, or first needed


def choose_attention(name: Literal["auto", "xla"] = "auto") -> None:
    """Chooses the attention of all programs for a CUDA GPU that are made from now on; other platforms are not affected.

    `auto` tries the fused kernels once if there is a GPU. Where they fail, on a card before Ampere, or where cuDNN does not
    load, it says so in one line and goes on with XLA's attention. `xla` does without them.

    Example: `choose_attention("xla")`.
    """
    global _wanted
    before, _wanted = _wanted, name == "auto" and _work()
    if before not in (None, _wanted):
        jax.clear_caches()  # what was traced before has the other attention


def is_fused() -> bool:
    """Whether programs for a CUDA GPU use fused attention where it takes their shapes. Example: `is_fused()`."""
    if _wanted is None:
        with jax.ensure_compile_time_eval():  # the first need may arise while a program is traced
            choose_attention()
    return bool(_wanted)


def takes_sequences(queries: Float[Array, "B S N H"]) -> bool:
    """Whether cuDNN's attention takes queries of this type and shape."""
    size = queries.shape[-1]
    return queries.dtype in TYPES and size % 8 == 0 and size <= LARGEST_HEAD and is_fused()


def takes_cache(keys: Float[Array, "layers B K C H"]) -> bool:
    """Whether the kernels for single tokens take a cache of this type and shape; then they read its filled slots alone.

    Example: `takes_cache(jax.ShapeDtypeStruct((1, 1, 2, 128, 64), jnp.bfloat16))`.
    """
    return keys.dtype in TYPES and fits(keys) and is_fused()


def cudnn_attention(queries, keys, values):
    """Causal attention of whole sequences by cuDNN; the padding on the right needs no mask."""
    return jax.nn.dot_product_attention(queries, keys, values, is_causal=True, implementation="cudnn")


def xla_attention(queries, keys, values):
    """Causal attention of whole sequences by XLA, in one piece."""
    return jax.nn.dot_product_attention(queries, keys, values, is_causal=True, implementation="xla")


@functools.cache
def _work() -> bool:
    """Tries the fused kernels on the GPU; where there is none, whether programs with them can be made."""
    shape = jax.ShapeDtypeStruct((2, 64, 4, 64), jnp.bfloat16)
    try:
        if jax.default_backend() != "gpu":
            jax.eval_shape(cudnn_attention, shape, shape, shape)
            return True
        _try_on_gpu(shape)
    except Exception as error:  # whatever a library or a driver raises
        if jax.default_backend() == "gpu":
            reason = str(error).strip().partition("\n")[0]
            _log.warning(
                "fused attention does not work here, XLA's is used (--attention xla: do not try): %.200s", reason
            )
        return False
    return True


def _try_on_gpu(shape: jax.ShapeDtypeStruct) -> None:
    """Compares output and gradient of both kernels with XLA's. Raises an error of any type if they fail or differ."""
    array = jnp.sin(jnp.arange(shape.size, dtype=jnp.float32)).reshape(shape.shape).astype(shape.dtype)

    def outcome(attention):
        return jax.jit(jax.value_and_grad(lambda h: jnp.sum(attention(h, h, h).astype(jnp.float32) ** 2)))(array)

    pairs = list(
        zip(*(jax.tree.leaves(outcome(attention)) for attention in (cudnn_attention, xla_attention)), strict=True)
    )
    by_head = jnp.swapaxes(array, 1, 2)[None]  # [1, B, K, C, H], which as a cache is all past but the last slot
    if fits(by_head):
        lengths = jnp.full(len(array), array.shape[1] - 1, jnp.int32)
        token = by_head[:, :, :, -1]
        found = jax.jit(attend_to_cache)(jnp.tile(token[0], (1, 3, 1)), by_head, by_head, jnp.int32(0), lengths)
        pairs.append((found[:, :, 0], xla_attention(array, array, array)[:, -1]))
        without = by_head.at[:, :, :, -1].set(0)
        pairs.append((jax.jit(write_to_cache)([without], token[None], lengths)[0], by_head))
    for found, expected in pairs:
        difference = jnp.abs(found.astype(jnp.float32) - expected.astype(jnp.float32)) / (1 + jnp.abs(expected))
        if not jnp.max(difference) < TOLERANCE:
            raise ValueError(f"its result differs from XLA's by {float(jnp.max(difference)):.3g}")
