"""The layers by themselves: attention's two kinds of mask, and statistics in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.layers import RMSNorm, Rotation, attend


def test_attention_with_lengths_is_attention_over_the_shorter_rows():
    """A mask off by one would see an empty slot, or miss the newest token."""
    keys = jax.random.normal(jax.random.key(0), (2, 9, 2, 8))
    values = jax.random.normal(jax.random.key(1), (2, 9, 2, 8))
    queries = jax.random.normal(jax.random.key(2), (2, 1, 4, 8))
    lengths = jnp.array([3, 7])
    found = attend(queries, keys, values, key_lengths=lengths)
    for row, length in enumerate((3, 7)):
        alone = attend(queries[row, None], keys[row, None, :length], values[row, None, :length])
        np.testing.assert_allclose(found[row], alone[0], rtol=1e-5, atol=1e-6)


def test_last_row_of_causal_attention_is_attention_over_all():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 6, 2, 8)) for i in range(3))
    np.testing.assert_allclose(attend(q, k, v, causal=True)[:, -1:], attend(q[:, -1:], k, v), rtol=1e-5, atol=1e-6)


def test_norm_statistics_are_float32_under_bfloat16():
    """Rounded once, at the end: at most 2^-8 relative. Rounded on the way, more."""
    h = jax.random.normal(jax.random.key(0), (64, 48)).astype(jnp.bfloat16)
    exact = np.asarray(h, np.float64)
    exact = exact / np.sqrt(np.mean(exact**2, axis=-1, keepdims=True) + 1e-6)
    found = np.asarray(RMSNorm(48, 1e-6)(h).astype(jnp.float32))
    np.testing.assert_allclose(found, exact, rtol=1.01 * 2.0**-8)


def test_rotation_depends_on_the_distance_alone():
    """Query at 5 with key at 2 scores as query at 103 with key at 100."""
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))

    def score(query_at, key_at):
        turn = lambda h, at: Rotation.at(jnp.array([[at]]), 16, 1e4)(h)  # noqa: E731
        return float(jnp.sum(turn(q, query_at) * turn(k, key_at)))

    np.testing.assert_allclose(score(5, 2), score(103, 100), rtol=1e-4)
    assert abs(score(5, 2) - score(5, 4)) > 1e-3
