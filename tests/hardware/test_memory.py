"""Temporaries of training at the dimensions of 1.5B, 8 rows of 512 tokens, compiled from shapes.

In float32, because XLA:CPU makes float32 copies of bfloat16 weights, which a GPU does not.
"""

import jax
import jax.numpy as jnp

from tests.support.real_sizes import ANSWER, LENGTH, ROWS, train_batch
from trm_jax.benchmark.sizes import SIZES
from trm_jax.model.qwen import project
from trm_jax.model.trm import TRM
from trm_jax.training import step as train
from trm_jax.training.loss import TokenLoss, cross_entropy

SIZE = "qwen2.5-math-1.5b"


def naive_cross_entropy(features, head, labels, train_head) -> TokenLoss:
    """All logits at once, differentiated by JAX."""
    log_probabilities = jax.nn.log_softmax(project(features, head))
    at_label = jnp.take_along_axis(log_probabilities, jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
    correct = jnp.argmax(log_probabilities, axis=-1) == labels
    return TokenLoss(-jnp.sum(at_label * (labels >= 0)), jnp.sum(correct.astype(jnp.float32)))


def temporaries(function, *args) -> int:
    return function.lower(*args).compile().memory_analysis().temp_size_in_bytes


def loss_temporaries(loss, tokens: int) -> int:
    config = SIZES[SIZE]
    shape = jax.ShapeDtypeStruct
    arguments = ((tokens, config.width), (config.vocab_size, config.width))
    gradient = jax.jit(jax.grad(lambda features, head, labels: loss(features, head, labels, False).loss))
    return temporaries(gradient, *(shape(s, jnp.float32) for s in arguments), shape((tokens,), jnp.int32))


def test_the_loss_needs_a_fraction_of_the_naive_ones_temporaries():
    """Ours at the answer's slots, a chunk of logits at a time; the naive one at every position."""
    ours = loss_temporaries(cross_entropy, ROWS * ANSWER)
    assert 4 * ours < loss_temporaries(naive_cross_entropy, ROWS * LENGTH)


def test_a_batch_needs_a_quarter_of_the_temporaries_of_plain_autodiff(monkeypatch):
    """Logits of all tokens, or every activation of seven block calls kept: either would show."""
    ours = temporaries(*train_batch(SIZE, "residual", jnp.float32))
    monkeypatch.setattr(train, "cross_entropy", naive_cross_entropy)
    monkeypatch.setattr(TRM, "_run_differentiated_pass", lambda self, *args: self.run_pass(*args, self._whole)[:2])
    assert 4 * ours < temporaries(*train_batch(SIZE, "residual", jnp.float32, answer=LENGTH))
