"""Cross-entropy over a large vocabulary, without ever holding the logits of all tokens."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trm_jax.data import NO_LABEL
from trm_jax.model import most_likely, project

CHUNK = 256  # tokens whose logits exist at the same time


class TokenLoss(NamedTuple):
    """Sums over the labelled tokens; divide by their number for the mean."""

    loss: Float[Array, ""]  # nats
    correct: Float[Array, ""]  # tokens whose most likely prediction is the label


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(
    features: Float[Array, "M D"], head: Float[Array, "V D"], labels: Int[Array, " M"], train_head: bool
) -> TokenLoss:
    """The summed cross-entropy of `labels` under the logits `features @ head.T`; slots marked NO_LABEL add nothing.

    They cost nothing either, but for those in the last chunk that has a label: about a third of the slots of rows of GSM8K
    has none, because a row's solution is shorter than the longest of its length. Groups of rows on several devices, which
    `jax.vmap` computes together, take as many chunks as the one with the most labels.

    Matmuls run in the type of the features with float32 accumulation, softmax in float32. Only `loss` can be
    differentiated. It is a scalar, so its gradient is known up to a factor in the forward pass already: each chunk's
    logits are computed once, used for the loss and for the gradient, and dropped. Unless `train_head`, the head gets no
    gradient (zeros) and costs none.

    Example: `cross_entropy(features, head, labels, train_head=False).loss`.
    """
    return _scan_chunks(features, head, labels)[0]


def _scan_chunks(features, head, labels, *, differentiate: bool = False, train_head: bool = False):
    """The TokenLoss and, if asked, the gradients for the features and for the head (else None)."""
    count, width = features.shape
    size = min(CHUNK, count)
    padding = -count % size
    # The labelled slots come first, and the chunks after them are left out.
    order = jnp.argsort(labels == NO_LABEL, stable=True)
    features = jnp.pad(features[order], ((0, padding), (0, 0))).reshape(-1, size, width)
    labels = jnp.pad(labels[order], (0, padding), constant_values=NO_LABEL).reshape(-1, size)
    has_labels = jnp.arange(len(labels)) < _chunks_with_labels(labels)

    def step(carry, inputs):
        has_labels, *chunk = inputs
        return jax.lax.cond(has_labels, add, leave_out, carry, chunk)

    def leave_out(carry, chunk):
        return carry, jnp.zeros((size, width), features.dtype) if differentiate else None

    def add(carry, chunk):
        total, d_head = carry
        h, label = chunk
        logits = project(h, head)
        labelled = label != NO_LABEL
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        at_label = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=-1)[:, 0]
        correct = labelled & (most_likely(logits) == label)
        total = TokenLoss(total.loss + jnp.sum(labelled * (normalizer - at_label)), total.correct + jnp.sum(correct))
        if not differentiate:
            return (total, d_head), None
        is_label = label[:, None] == jnp.arange(logits.shape[-1])[None]
        d_logits = (jnp.exp(logits - normalizer[:, None]) - is_label) * labelled[:, None]
        d_logits = d_logits.astype(h.dtype)
        if train_head:
            d_head += jnp.einsum("MV,MD->VD", d_logits, h, preferred_element_type=jnp.float32)
        return (total, d_head), d_logits @ head

    zero = TokenLoss(jnp.float32(0), jnp.float32(0))
    d_head = jnp.zeros(head.shape, jnp.float32) if train_head else None
    (total, d_head), d_features = jax.lax.scan(step, (zero, d_head), (has_labels, features, labels))
    if differentiate:
        d_features = jnp.zeros((count, width), d_features.dtype).at[order].set(d_features.reshape(-1, width)[:count])
    return total, d_features, d_head


@jax.custom_batching.custom_vmap
def _chunks_with_labels(labels: Int[Array, "C K"]) -> Int[Array, ""]:
    """How many chunks have a label."""
    return jnp.sum(jnp.any(labels != NO_LABEL, axis=-1), axis=-1)


@_chunks_with_labels.def_vmap
def _most_chunks_with_labels(groups: int, batched: list[bool], labels: Int[Array, "G C K"]) -> tuple[Array, bool]:
    """One number for all groups: with one for each, every chunk would be computed, and its results kept or not."""
    return jnp.max(_chunks_with_labels.fun(labels)), False


def _forward(features, head, labels, train_head):
    total, d_features, d_head = _scan_chunks(features, head, labels, differentiate=True, train_head=train_head)
    return total, (d_features, d_head, head)


def _backward(train_head, residuals, cotangent):
    d_features, d_head, head = residuals
    d_head = (cotangent.loss * d_head).astype(head.dtype) if train_head else jnp.zeros_like(head)
    return (cotangent.loss * d_features).astype(d_features.dtype), d_head, None


cross_entropy.defvjp(_forward, _backward)
