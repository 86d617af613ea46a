"""Fused attention of a CUDA GPU, as far as a CPU can tell: the kernel interpreted, and what happens where it fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax.model import choose_attention, fused
from trm_jax.model.attention import attend_to_past
from trm_jax.model.decode_kernel import attend_to_cache, fits, write_to_cache
from trm_jax.model.kv_cache import Past, _write_to_cache

needs_kernels = pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="before JAX 0.12 the kernels are not used")


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


@needs_kernels
@pytest.mark.parametrize(
    ("heads", "kv_heads", "capacity"), [(4, 4, 64), (6, 2, 80), (7, 1, 128)], ids=["one head", "groups", "one group"]
)
def test_attention_in_one_kernel_agrees_with_plain_attention(heads, kv_heads, capacity):
    """A slot too many or too few, another layer, a head of another group, a padded row of a product: each would show."""
    lengths = jnp.array([0, 1, 15, 16, 63, capacity - 1], jnp.int32)
    token = normal(len(lengths), 1, heads + 2 * kv_heads, 16)
    keys, values = normal(2, 3, len(lengths), kv_heads, capacity, 16)
    expected = attend_to_past(token, Past(keys, values, jnp.int32(1), lengths))
    found = attend_to_cache(token[:, 0], keys, values, jnp.int32(1), lengths, interpret=True)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


@needs_kernels
def test_the_cache_is_written_as_by_a_scatter():
    """Also the first and the last slot, and nothing in a row that is full."""
    lengths = jnp.array([0, 5, 15, 16], jnp.int32)
    arrays, tokens = tuple(normal(4, 3, 4, 2, 16, 16)), normal(4, 3, 4, 2, 16)
    expected = _write_to_cache(arrays, tokens, lengths)
    found = write_to_cache(arrays, tokens, lengths, interpret=True)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not np.array_equal(found[0], arrays[0])


def test_shapes_that_triton_cannot_take_are_left_to_xla():
    def shape(capacity, size):
        return jax.ShapeDtypeStruct((1, 2, 4, capacity, size), jnp.bfloat16)

    assert not fits(shape(128, 96))
    assert not fits(shape(100, 64))
    assert not fits(shape(128, 8))
    assert fits(shape(736, 128)) == (jax.__version_info__ >= (0, 12))


@pytest.fixture
def restore():
    before = fused._wanted
    fused._work.cache_clear()
    yield
    fused._wanted = before
    fused._work.cache_clear()


def test_where_the_fused_kernels_fail_it_is_said_in_one_line(restore, monkeypatch, caplog):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # of which this machine has none: what is tried fails
    choose_attention()
    assert not fused.is_fused()
    [record] = caplog.records
    assert "--attention xla" in record.message
    assert "\n" not in record.message
    caplog.clear()
    choose_attention("xla")
    assert not fused.is_fused()
    assert not caplog.records
