"""The chunked loss against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax.data.loader import NO_LABEL
from trm_jax.model import project
from trm_jax.training import loss
from trm_jax.training.loss import cross_entropy


def plain(features, head, labels):
    """The whole [M, V] array of logits, differentiated by JAX."""
    logprobs = jax.nn.log_softmax(features @ head.T)
    at_label = jnp.take_along_axis(logprobs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(labels == NO_LABEL, 0, at_label))


@pytest.fixture
def inputs(monkeypatch):
    """Thirteen tokens in chunks of four, so that the last chunk is padded; two have no label."""
    monkeypatch.setattr(loss, "CHUNK", 4)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 13)
    labels[[2, 12]] = NO_LABEL
    return jnp.array(rng.normal(size=(13, 6)), jnp.float32), jnp.array(rng.normal(size=(9, 6)), jnp.float32), labels


def test_value_and_gradients(inputs):
    features, head, labels = inputs
    expected, grads = jax.value_and_grad(plain, argnums=(0, 1))(*inputs)
    found, found_grads = jax.value_and_grad(lambda f, h: 2 * cross_entropy(f, h, labels, True).loss, argnums=(0, 1))(
        features, head
    )
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-6)
    for a, b in zip(found_grads, grads, strict=True):
        np.testing.assert_allclose(a, 2 * b, atol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_the_features_the_same(inputs):
    features, head, labels = inputs
    expected = jax.grad(plain)(features, head, labels)
    found = jax.grad(lambda f, h: cross_entropy(f, h, labels, False).loss, argnums=(0, 1))(features, head)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert not found[1].any()


def test_correct_tokens_are_counted_among_the_labelled(inputs):
    features, head, labels = inputs
    best = np.argmax(features @ head.T, axis=1)
    labels = np.where(np.arange(13) % 3 == 0, best, labels)
    expected = np.sum((best == labels) & (labels != NO_LABEL))
    assert int(cross_entropy(features, head, labels, False).correct) == expected >= 5


def test_slots_without_a_label_are_left_out(inputs):
    """Four of thirteen slots have one, as many as a chunk: whatever the others hold is never looked at."""
    features, head, labels = inputs
    labelled = np.isin(np.arange(13), [0, 3, 8, 11])
    labels = np.where(labelled, labels, NO_LABEL)
    expected = jax.grad(plain)(features, head, labels)
    unseen = jnp.where(labelled[:, None], features, jnp.nan)
    found, grad = jax.value_and_grad(lambda f: cross_entropy(f, head, labels, False).loss)(unseen)
    np.testing.assert_allclose(found, plain(features, head, labels), rtol=1e-6)
    np.testing.assert_allclose(grad, expected, atol=1e-5)


def test_groups_take_as_many_chunks_as_the_one_with_the_most_labels(inputs, monkeypatch):
    """Three groups with none, five and three labels, as on three devices: two of the four chunks of each are computed."""
    features, head, labels = inputs
    places = np.array([[], [1, 4, 5, 9, 10], [0, 3, 7]], object)
    labels = np.stack([np.where(np.isin(np.arange(13), place), labels, NO_LABEL) for place in places])
    chunks = []

    def counted(features, head):
        jax.debug.callback(lambda: chunks.append(1))
        return project(features, head)

    monkeypatch.setattr(loss, "project", counted)
    with_grad = jax.value_and_grad(lambda f, labels: cross_entropy(f, head, labels, False).loss)
    found, grads = jax.vmap(with_grad, (None, 0))(features, labels)
    jax.effects_barrier()
    assert len(chunks) == 2
    for loss_found, grad, group in zip(found, grads, labels, strict=True):
        expected, expected_grad = jax.value_and_grad(plain)(features, head, group)
        np.testing.assert_allclose(loss_found, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, atol=1e-5)
