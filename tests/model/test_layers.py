"""The layers by themselves: attention's two kinds of mask, and statistics in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trm_jax.model.attention import Rotation, attend, attend_to_past
from trm_jax.model.kv_cache import Past
from trm_jax.model.layers import Linear, RMSNorm


def test_attention_to_the_past_is_attention_over_the_shorter_rows():
    """A mask off by one would see an empty slot, or miss the newest token."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, heads, 8)) for i, heads in enumerate((4, 2, 2)))
    lengths = (3, 7)
    at = lambda array: jnp.stack([array[row, n] for row, n in enumerate(lengths)])[:, None]  # noqa: E731
    cached = (jnp.stack([array, jnp.swapaxes(of, 1, 2)]) for of in (k, v) for array in [jnp.zeros((2, 2, 9, 8))])
    past = Past(*cached, jnp.int32(1), jnp.array(lengths))
    found = attend_to_past(jnp.concatenate([at(q), at(k), at(v)], axis=2), past)
    for row, n in enumerate(lengths):
        alone = attend(*(array[row, None, : n + 1] for array in (q, k, v)))
        np.testing.assert_allclose(found[row, 0], alone[0, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 8, 100])
def test_a_transposed_kernel_gives_the_same_product(rows):
    linear = Linear(6, 10, bias=True, rngs=nnx.Rngs(0))
    h = jax.random.normal(jax.random.key(0), (2, rows, 6))
    expected = linear(h)
    linear.transpose()
    np.testing.assert_allclose(jax.jit(lambda layer, h: layer(h))(linear, h), expected, rtol=1e-5, atol=1e-6)


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


def test_only_the_first_heads_are_rotated_if_asked():
    """A token's values lie behind its queries and keys, in one array, and must not turn."""
    heads = jax.random.normal(jax.random.key(0), (1, 1, 5, 16)).astype(jnp.bfloat16)
    rotation = Rotation.at(jnp.array([[7]]), 16, 1e4)
    found = rotation(heads, 3)
    np.testing.assert_array_equal(found[:, :, :3], rotation(heads)[:, :, :3])
    np.testing.assert_array_equal(found[:, :, 3:], heads[:, :, 3:])
