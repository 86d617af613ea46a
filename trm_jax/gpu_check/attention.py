"""Attention by itself: what a program for this device uses, against XLA's, both measured against float32."""

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from trm_jax.benchmark import SIZES, prepare_device, seconds
from trm_jax.gpu_check.runner import Finding
from trm_jax.model import KeysValues, KVCache, attend, attend_to_past, choose_attention

ROWS, REPEATS = 8, 20
MOST_TIMES = 2  # the error that is allowed, in errors of XLA's attention in bfloat16


def against_xla(sizes: Sequence[str], length: int) -> Iterator[Finding]:
    """With the heads of these backbones, errors and times of attention over sequences and over a cache."""
    prepare_device()
    for name in sizes:
        config = SIZES[name]
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_size
        counts = {"queries": heads, "keys": kv_heads, "values": kv_heads, "cotangent": heads}
        arrays = {part: _normal(number, ROWS, length, n, size) for number, (part, n) in enumerate(counts.items())}
        yield from _compare(f"{name}, {length} tokens, forward", attend, *list(arrays.values())[:3])
        yield from _compare(f"{name}, {length} tokens, forward and backward", _gradients, *arrays.values())
        cache = _half_full_cache(length, kv_heads, size)
        token = _normal(9, ROWS, 1, heads + 2 * kv_heads, size)
        yield from _compare(f"{name}, a token over {length} slots", _attend_to_cache, token, cache)
        yield _writing(name, token[:, :, -2 * kv_heads :], cache)


def _compare(what: str, attention: Callable, *args: Any) -> Iterator[Finding]:
    wide = jax.tree.map(lambda array: array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array, args)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(attention)(*wide)
    errors, times = {}, {}
    for kind in ("auto", "xla"):
        choose_attention(kind)
        compiled = jax.jit(functools.partial(attention)).lower(*args).compile()
        errors[kind] = max(map(_error, jax.tree.leaves(compiled(*args)), jax.tree.leaves(exact)))
        run = lambda compiled=compiled: jax.block_until_ready(compiled(*args))  # noqa: E731
        times[kind] = statistics.median(seconds(run) for _ in range(REPEATS))
    found = f"error {errors['auto']:.2g}, XLA's {errors['xla']:.2g}"
    yield Finding(what, found, errors["auto"] <= MOST_TIMES * errors["xla"])
    yield Finding(what, f"{1e3 * times['auto']:.3g} ms, XLA's {1e3 * times['xla']:.3g} ms")


def _writing(name: str, token: jax.Array, cache: KVCache) -> Finding:
    new, ones = KeysValues(*(part[None] for part in jnp.split(token, 2, axis=2))), jnp.ones(ROWS, jnp.int32)
    found = []
    for kind in ("auto", "xla"):
        choose_attention(kind)
        found.append(jax.jit(lambda cache: cache.append([new], ones))(cache))
    same = all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), *found)))
    return Finding(f"{name}, a token written into the cache", "as by XLA" if same else "not as by XLA", same)


def _gradients(queries, keys, values, cotangent):
    return jax.vjp(attend, queries, keys, values)[1](cotangent)


def _attend_to_cache(heads, cache: KVCache):
    return attend_to_past(heads, cache.past(0))


def _half_full_cache(capacity: int, kv_heads: int, size: int) -> KVCache:
    """Rows that are filled up to all lengths."""
    keys, values = (_normal(number, 1, ROWS, kv_heads, capacity, size) for number in (7, 8))
    lengths = jnp.linspace(0, capacity - 1, ROWS).astype(jnp.int32)
    return KVCache((keys,), (values,), lengths)


def _normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


def _error(found: jax.Array, exact: jax.Array) -> float:
    """The root mean square of the differences, relative to that of the exact values."""
    return float(jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact))
