"""What both models are made of. A layer computes in the type of its weights; statistics and angles are float32."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


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
    keys: Float[Array, "B C K H"],
    values: Float[Array, "B C K H"],
    *,
    causal: bool = False,
    key_lengths: Int[Array, " B"] | None = None,
    implementation: Literal["xla", "cudnn"] = "xla",
) -> Float[Array, "B S N H"]:
    """Scaled dot-product attention with grouped key/value heads.

    `causal`: query s sees keys 0..s (S = C). `key_lengths`: every query sees a row's first `key_lengths` keys.
    `implementation`: "cudnn" needs CUDA and bfloat16 or float16.
    """
    return jax.nn.dot_product_attention(
        queries, keys, values, is_causal=causal, key_value_seq_lengths=key_lengths, implementation=implementation
    )


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = False) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)


class Attention(nnx.Module):
    """Causal self-attention with rotary embedding; biases on q, k and v if asked, never on the output."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, *, bias: bool, rngs: nnx.Rngs):
        self.head_size = width // num_heads
        self.query = _linear(width, num_heads * self.head_size, rngs, bias=bias)
        self.key = _linear(width, num_kv_heads * self.head_size, rngs, bias=bias)
        self.value = _linear(width, num_kv_heads * self.head_size, rngs, bias=bias)
        self.output = _linear(num_heads * self.head_size, width, rngs)

    def __call__(self, h: Float[Array, "B S D"], rotation: Rotation, cache=None, layer=None):
        """Returns the attention's output[B,S,D], and the cache with the new keys and values at `layer`.

        Without a cache (None) the S tokens are the whole sequence.
        """
        queries, keys, values = (
            project(h).reshape(*h.shape[:-1], -1, self.head_size) for project in (self.query, self.key, self.value)
        )
        queries, keys = rotation(queries), rotation(keys)
        if cache is None:
            attended = attend(queries, keys, values, causal=True)
        else:
            attended, cache = cache.attend(layer, queries, keys, values)
        return self.output(attended.reshape(*h.shape[:-1], -1)), cache


class SwiGLU(nnx.Module):
    """down(silu(gate(h)) * up(h)), of inner width F, without biases."""

    def __init__(self, width: int, mlp_width: int, *, rngs: nnx.Rngs):
        self.gate = _linear(width, mlp_width, rngs)
        self.up = _linear(width, mlp_width, rngs)
        self.down = _linear(mlp_width, width, rngs)

    def __call__(self, h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return self.down(jax.nn.silu(self.gate(h)) * self.up(h))
