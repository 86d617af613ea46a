"""Fused attention of a CUDA GPU, as far as a CPU can tell: the kernel interpreted, and what happens where it fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax.model import choose_attention, fused
from trm_jax.model.attention import attend_to_past
from trm_jax.model.decode_kernel import attend_to_cache, fits
from trm_jax.model.kv_cache import KeysValues, Past


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="before JAX 0.12 the kernel is not used")
@pytest.mark.parametrize(
    ("heads", "kv_heads", "capacity"), [(4, 4, 64), (6, 2, 80), (7, 1, 128)], ids=["one head", "groups", "one group"]
)
def test_the_kernel_agrees_with_plain_attention(heads, kv_heads, capacity):
    """A slot too many or too few, another layer, a head of another group, a padded row of a product: each would show."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    lengths = jnp.array([0, 1, 15, 16, 63, capacity - 1], jnp.int32)
    batch, size = len(lengths), 16
    queries, new = normal(batch, 1, heads, size), KeysValues(*(normal(batch, 1, kv_heads, size) for _ in range(2)))
    keys, values = (normal(3, batch, kv_heads, capacity, size) for _ in range(2))
    expected = attend_to_past(queries, new, Past(keys, values, jnp.int32(1), lengths))
    grouped = queries.reshape(batch, kv_heads, heads // kv_heads, size)
    own = (array[:, 0] for array in new)
    found = attend_to_cache(grouped, *own, keys, values, jnp.int32(1), lengths, interpret=True)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


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
    yield
    fused._wanted = before


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
