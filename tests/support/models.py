"""Tiny models whose every weight is random, rows for them, and what trains them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.data import Example, Loader
from trm_jax.data.loader import Bucket
from trm_jax.model import Qwen, QwenTRM, new_trm
from trm_jax.training import make_optimizer, make_train_batch, new_state

PRESETS = ("mathllm", "residual")


def randomize(module, seed: int, scale: float = 0.1):
    """The module with noise on every weight, so that no scale is one and no bias zero."""
    leaves, structure = jax.tree.flatten(module)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def tiny_qwen_config(**changes) -> QwenConfig:
    values = dict(
        vocab_size=61,
        width=24,
        mlp_width=40,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        rope_theta=1000.0,
        norm_eps=1e-6,
        tied_head=False,
        max_length=1024,
        end_tokens=(60,),
    )
    return QwenConfig(**(values | changes))


def tiny_model(preset: str, *, trained: bool = True, **changes) -> QwenTRM:
    """A model of random weights; unless `trained`, its recursion is as a new run starts it."""
    # Copies, because a training that is given them deletes what it is done with, and where the mesh of this moment has them.
    return jax.tree.map(jnp.array, _tiny_model(preset, trained, tuple(changes.items())))


@functools.cache
def _tiny_model(preset: str, trained: bool, changes: tuple[tuple[str, Any], ...]) -> QwenTRM:
    backbone = randomize(Qwen(tiny_qwen_config(), nnx.Rngs(0)), seed=1)
    usual = dict(latent_updates=2, recursions=2, supervision_steps=3)
    if preset == "mathllm":  # as a checkpoint of the original brings it for a backbone with another one
        usual["rope_theta"] = 500.0
    config = TRMConfig.preset(preset, **(usual | dict(changes)))
    trm = new_trm(backbone, config, seed=2)
    model = QwenTRM(backbone, randomize(trm, seed=3) if trained else trm)
    return jax.tree.map(np.asarray, model)


def random_tokens(shape, seed: int = 0, high: int = 60) -> np.ndarray:
    """Token ids below the tiny model's end token."""
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int32)


def loader(batch_size: int = 4, accumulation: int = 1, buckets=None) -> Loader:
    """Sixteen rows of eight lengths."""
    examples = [Example(random_tokens(9 + 3 * (i % 8), seed=i), 4) for i in range(16)]
    return Loader(examples, batch_size, accumulation, 1, buckets)


def training(model, dtype=jnp.float32, **changes):
    """A fresh state and its jitted step, which tests with the same settings share: each would compile it anew."""
    optimizer, train_batch = shared_step(dtype, **changes)
    return new_state(jax.tree.map(jnp.copy, model.trm), optimizer), train_batch


@functools.cache
def shared_step(dtype, **changes):
    return new_step(dtype, **changes)


def new_step(dtype=jnp.float32, **changes):
    """An optimizer and a jitted step that has compiled nothing yet."""
    optimizer = make_optimizer(dataclasses.replace(TrainConfig(learning_rate=1e-2, ema_decay=0.9), **changes), 100)
    return optimizer, make_train_batch(optimizer, 0.9, dtype)


def one_shape() -> Loader:
    """The rows of `loader`, padded to one length: one program."""
    return loader(buckets=[Bucket(32, 32)])


def max_error(found, expected) -> float:
    return float(jnp.max(jnp.abs(jnp.asarray(found) - jnp.asarray(expected))))
