"""Norm, linear map and MLP of both models. A layer computes in the type of its weights; its statistics are float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

KEPT = "kept"  # name of the arrays that `jax.checkpoint` keeps for the backward pass
FEW_ROWS = 64  # up to so many rows, reading the kernel takes most of a product's time


def rms_normalize(h: Float[Array, "*batch D"], eps: float) -> Float[Array, "*batch D"]:
    """h divided by its root mean square over the width, computed in float32 and returned in h's type."""
    wide = h.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)).astype(h.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with a learned scale[D]."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return rms_normalize(h, self.eps) * jax.lax.broadcast_to_rank(self.scale[...], h.ndim)


@jax.custom_vjp
def multiply(h: Float[Array, "*batch I"], kernel: Float[Array, "I O"]) -> Float[Array, "*batch O"]:
    """h @ kernel, with a backward pass that needs no transposed copies.

    JAX's own rule computes the kernel's gradient transposed, for which XLA:CPU writes out transposed activations: that
    takes a third of a training batch's time (docs/log.md).
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
        """Stores the kernel transposed, as [O, I], for `multiply_transposed`."""
        self.kernel = nnx.Param(self.kernel[...].T)
        self.transposed = True

    def __call__(self, h: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        product = (multiply_transposed if self.transposed else multiply)(h, self.kernel[...])
        return product if self.bias is None else product + jax.lax.broadcast_to_rank(self.bias[...], product.ndim)


def multiply_transposed(h: Float[Array, "*batch I"], kernel: Float[Array, "O I"]) -> Float[Array, "*batch O"]:
    """h @ kernel.T; for few rows in h as (kernel @ h.T).T, for which XLA:CPU does not rearrange the kernel.

    Without the barrier XLA would recognise the two transposes and turn the product back into the slow one.
    """
    if h.size > FEW_ROWS * h.shape[-1]:
        return h @ kernel.T
    rows = h.reshape(-1, h.shape[-1]).T
    return jax.lax.optimization_barrier(kernel @ rows).T.reshape(*h.shape[:-1], -1)


class SwiGLU(nnx.Module):
    """down(silu(gate(h)) * up(h)), of inner width F, without biases."""

    def __init__(self, width: int, mlp_width: int, *, rngs: nnx.Rngs):
        self.gate = Linear(width, mlp_width, rngs=rngs)
        self.up = Linear(width, mlp_width, rngs=rngs)
        self.down = Linear(mlp_width, width, rngs=rngs)

    def __call__(self, h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        # A checkpointed backward pass computes `up` again: a twentieth more work in training, a sixth less memory.
        return keep(self.down(gated(keep(self.gate(h)), self.up(h))))


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


def keep(h: Float[Array, "*batch I"]) -> Float[Array, "*batch I"]:
    """Marks an array that a checkpointed backward pass keeps instead of computing it again."""
    return checkpoint_name(h, KEPT)
