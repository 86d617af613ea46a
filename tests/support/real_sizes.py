"""A training batch at the dimensions of a published model, as shapes: counted and compiled, never run.

Both presets have the original's loop counts here, at which the limits for memory, kernels and speed were set.
"""

import functools

import jax
import jax.numpy as jnp

from trm_jax.benchmark.sizes import SIZES
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.data import Batch
from trm_jax.model import QwenTRM, abstract_qwen, abstract_trm, cast
from trm_jax.training import make_optimizer, make_train_batch, new_state

ROWS, LENGTH, ANSWER = 8, 512, 256
LOOPS = dict(latent_updates=6, recursions=3, supervision_steps=16)


def trm_config(preset, **changes) -> TRMConfig:
    """The preset at the original's loop counts."""
    return TRMConfig.preset(preset, **(LOOPS | changes))


def abstract_model(size, preset, dtype=jnp.bfloat16, **changes) -> QwenTRM:
    """A model of these dimensions, all of its weights in one type."""
    backbone = jax.eval_shape(functools.partial(cast, dtype=dtype), abstract_qwen(SIZES[size]))
    trm = abstract_trm(backbone, trm_config(preset, **changes))
    return QwenTRM(backbone, jax.eval_shape(functools.partial(cast, dtype=dtype), trm))


def train_batch(size, preset, dtype=jnp.bfloat16, answer=ANSWER):
    """The function that trains on a batch, and the shapes of its arguments."""
    backbone = jax.eval_shape(functools.partial(cast, dtype=dtype), abstract_qwen(SIZES[size]))
    optimizer = make_optimizer(TrainConfig(), 100)
    trm = abstract_trm(backbone, trm_config(preset))
    state = jax.eval_shape(functools.partial(new_state, optimizer=optimizer), trm)
    shapes = [(1, ROWS, LENGTH), (1, ROWS, answer), (1, ROWS, answer)]
    batch = Batch(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes))
    return make_train_batch(optimizer, 0.999, dtype), state, backbone, batch
