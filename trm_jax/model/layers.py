"""What both models are made of. A layer computes in the type of its weights; statistics and angles are float32."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from trm_jax.model.kv_cache import KeysValues, Past

KEPT = "kept"  # the name of what a checkpointed backward pass keeps of a layer
FEW_ROWS = 64  # up to which a product is bound by reading its kernel
QUERY_BLOCK = 64  # queries of causal attention that are computed together


def rms_normalize(h: Float[Array, "*batch D"], eps: float) -> Float[Array, "*batch D"]:
    """h divided by its root mean square over the width, computed in float32, in h's type."""
    wide = h.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)).astype(h.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with a learned scale[D]."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return rms_normalize(h, self.eps) * self.scale[...]


class Rotation(NamedTuple):
    """Cosines and sines of the rotary embedding."""

    cos: Float[Array, "#B S 1 H/2"]
    sin: Float[Array, "#B S 1 H/2"]

    @classmethod
    def at(cls, positions: Int[Array, "#B S"], head_size: int, theta: float) -> "Rotation":
        frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
        angles = positions[..., None, None].astype(jnp.float32) * frequencies
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
    *,
    implementation: Literal["xla", "cudnn"] = "xla",
) -> Float[Array, "B S N H"]:
    """Causal scaled dot-product attention of whole sequences, with grouped key/value heads.

    `implementation`: "cudnn" needs CUDA and bfloat16 or float16.
    """
    attention = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
    if implementation == "xla":
        return _attend_in_blocks(attention, queries, keys, values)
    return attention(queries, keys, values, is_causal=True)


def attend_to_past(queries: Float[Array, "B 1 N H"], new: KeysValues, past: Past) -> Float[Array, "B 1 N H"]:
    """Attention of one new token a row over the row's past and itself."""
    batch, _, heads, size = queries.shape
    kv_heads, capacity = past.keys.shape[1:3]
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    queries = queries.reshape(batch, kv_heads, heads // kv_heads, size)
    own_keys, own_values = (array[:, 0, :, None] for array in new)  # [B, K, 1, H]

    filled = (jnp.arange(capacity) < past.lengths[:, None])[:, None, None]
    scores = jnp.where(filled, dot("BKGH,BKCH->BKGC", queries, past.keys) * size**-0.5, -jnp.inf)
    own_score = dot("BKGH,BKCH->BKGC", queries, own_keys) * size**-0.5
    highest = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), own_score)
    shares, own_share = jnp.exp(scores - highest), jnp.exp(own_score - highest)
    attended = dot("BKGC,BKCH->BKGH", shares.astype(past.values.dtype), past.values) + own_share * own_values
    attended = attended / (jnp.sum(shares, axis=-1, keepdims=True) + own_share)
    return attended.reshape(batch, 1, heads, size).astype(own_values.dtype)


def _attend_in_blocks(attention, queries, keys, values):
    """Causal attention, a block of queries at a time, so that the keys behind a block cost nothing."""
    length, blocks = queries.shape[1], []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        mask = jnp.tri(end - start, end, start, dtype=bool)
        blocks.append(attention(queries[:, start:end], keys[:, :end], values[:, :end], mask=mask[None, None]))
    return jnp.concatenate(blocks, axis=1)


@jax.custom_vjp
def multiply(h: Float[Array, "*batch I"], kernel: Float[Array, "I O"]) -> Float[Array, "*batch O"]:
    """h @ kernel. Its backward pass contracts both gradients as they lie in memory.

    JAX's own rule asks for the transposed gradient of the kernel, for which XLA:CPU writes out transposed activations: a
    third of a training batch's time (docs/log.md).
    """
    return h @ kernel


def _multiply_forward(h, kernel):
    return multiply(h, kernel), (h, kernel)


def _multiply_backward(residuals, cotangent):
    h, kernel = residuals
    rows = [array.reshape(-1, array.shape[-1]) for array in (h, cotangent)]
    return cotangent @ kernel.T, jax.lax.dot_general(*rows, (((0,), (0,)), ((), ())))


multiply.defvjp(_multiply_forward, _multiply_backward)


class Linear(nnx.Module):
    """h @ kernel[I, O], plus bias[O] if asked; the kernel starts Xavier-uniform."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs):
        init = nnx.initializers.xavier_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.transposed = False

    def transpose(self) -> None:
        """Keeps the kernel as [O, I], for `multiply_transposed`."""
        self.kernel = nnx.Param(self.kernel[...].T)
        self.transposed = True

    def __call__(self, h: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        product = (multiply_transposed if self.transposed else multiply)(h, self.kernel[...])
        return product if self.bias is None else product + self.bias[...]


def multiply_transposed(h: Float[Array, "*batch I"], kernel: Float[Array, "O I"]) -> Float[Array, "*batch O"]:
    """h @ kernel.T as (kernel @ h.T).T, in which XLA:CPU does not rearrange the kernel: for few rows in h.

    It would turn the product around again without the barrier.
    """
    if h.size > FEW_ROWS * h.shape[-1]:
        return h @ kernel.T
    rows = h.reshape(-1, h.shape[-1]).T
    return jax.lax.optimization_barrier(kernel @ rows).T.reshape(*h.shape[:-1], -1)


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
            _keep(project(h)).reshape(*h.shape[:-1], -1, self.head_size)
            for project in (self.query, self.key, self.value)
        )
        queries, new = rotation(queries), KeysValues(rotation(keys), values)
        attended = attend(queries, *new) if past is None else attend_to_past(queries, new, past)
        return _keep(self.output(attended.reshape(*h.shape[:-1], -1))), new


class SwiGLU(nnx.Module):
    """down(silu(gate(h)) * up(h)), of inner width F, without biases."""

    def __init__(self, width: int, mlp_width: int, *, rngs: nnx.Rngs):
        self.gate = Linear(width, mlp_width, rngs=rngs)
        self.up = Linear(width, mlp_width, rngs=rngs)
        self.down = Linear(mlp_width, width, rngs=rngs)

    def __call__(self, h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        # A checkpointed backward pass computes `up` again: a twentieth more work in training, a sixth less memory.
        return _keep(self.down(gated(_keep(self.gate(h)), self.up(h))))


@jax.custom_vjp
def gated(gate: Float[Array, "*batch F"], up: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """silu(gate) * up, with a backward pass that needs nothing but these two."""
    return jax.nn.silu(gate) * up


def _gated_forward(gate, up):
    return gated(gate, up), (gate, up)


def _gated_backward(residuals, cotangent):
    gate, up = residuals
    share = jax.nn.sigmoid(gate)
    passed = gate * share
    return cotangent * up * (share + passed * (1 - share)), cotangent * passed


gated.defvjp(_gated_forward, _gated_backward)


def _keep(h):
    return checkpoint_name(h, KEPT)
