"""Deep supervision: one jitted call takes a batch through all supervision steps, with an optimizer step after each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from trm_jax.data import Batch
from trm_jax.loss import NO_LABEL, cross_entropy
from trm_jax.qwen import Hidden, Qwen
from trm_jax.trm import TRM
from trm_jax.weights import cast

jax.tree_util.register_dataclass(Batch, data_fields=["tokens", "positions", "labels"], meta_fields=[])


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the original's."""

    learning_rate: float = 1e-4
    alpha_rate: float = 1.0  # times the learning rate, for the residual readout's alpha
    weight_decay: float = 0.01
    warmup_steps: int = 0  # optimizer steps
    clip_norm: float = 1.0
    ema_decay: float = 0.999  # per optimizer step
    epochs: int = 1
    batch_size: int = 8
    accumulation: int = 1
    max_length: int = 1024  # tokens
    seed: int = 0
    dtype: str = "bfloat16"  # of the computation; masters, moments and EMA are float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that moves in training."""

    trm: TRM  # float32 masters
    ema: TRM  # their exponential moving average, float32
    optimizer: Any  # the state of the optax optimizer, float32
    batches: Int[Array, ""]  # batches consumed, which is the position in the data
    steps: Int[Array, ""]  # optimizer steps taken


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What one batch showed, for each supervision step."""

    loss: Float[Array, " N_sup"]  # mean over the answer tokens, nats
    accuracy: Float[Array, " N_sup"]  # share of answer tokens whose most likely prediction is right
    grad_norm: Float[Array, " N_sup"]  # before clipping


def make_schedule(config: TrainConfig, optimizer_steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine to a tenth of the rate over all optimizer steps, supervision steps counted."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(optimizer_steps, config.warmup_steps + 1),
        end_value=config.learning_rate / 10,
    )


def make_optimizer(config: TrainConfig, optimizer_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with decay on all weights; `alpha` moves `alpha_rate` times as fast."""
    schedule = make_schedule(config, optimizer_steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=config.weight_decay),
        optax.stateless(lambda updates, _: _scale_alpha(updates, config.alpha_rate)),
    )


def _scale_alpha(updates: TRM, rate: float) -> TRM:
    def scale(path, update):
        return update * rate if "alpha" in jax.tree_util.keystr(path) else update

    return jax.tree_util.tree_map_with_path(scale, updates)


def new_state(trm: TRM, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first batch."""
    ema = jax.tree.map(jnp.copy, trm)
    # Two arrays, because a donated state must not hold the same buffer twice.
    return TrainState(trm, ema, optimizer.init(trm), batches=jnp.int32(0), steps=jnp.zeros((), jnp.int32))


def make_train_batch(
    optimizer: optax.GradientTransformation, ema_decay: float, dtype
) -> Callable[[TrainState, Qwen, Batch], tuple[TrainState, Metrics]]:
    """The jitted function that trains on one batch: N_sup optimizer steps. It donates the state it is given."""

    @functools.partial(jax.jit, donate_argnames="state")
    def train_batch(state: TrainState, backbone: Qwen, batch: Batch) -> tuple[TrainState, Metrics]:
        hidden = jax.lax.map(lambda tokens: backbone(tokens)[0], batch.tokens)  # [A, ...], once for all steps
        labelled = jnp.sum(batch.labels != NO_LABEL)

        def supervision_step(carry, index):
            state, answers, latents = carry
            micro = functools.partial(_micro_batch, state.trm, backbone, index == 0, labelled, dtype)
            zeros = jax.tree.map(jnp.zeros_like, state.trm)
            (grads, loss, correct), (answers, latents) = jax.lax.scan(
                micro, (zeros, jnp.float32(0), jnp.float32(0)), (batch, hidden, answers, latents)
            )
            metrics = Metrics(loss, correct / labelled, optax.tree.norm(grads))
            return (_update(state, grads, optimizer, ema_decay), answers, latents), metrics

        # The first step puts y_init in place of these zeros.
        start = jnp.zeros(hidden.last.shape, dtype)
        steps = jnp.arange(state.trm.config.supervision_steps)
        (state, _, _), metrics = jax.lax.scan(supervision_step, (state, start, start), steps)
        return dataclasses.replace(state, batches=state.batches + 1), metrics

    return train_batch


def _micro_batch(trm: TRM, backbone: Qwen, first, labelled, dtype, sums, inputs):
    """Adds one micro-batch's gradient, loss and correct tokens to the sums; returns the refined y and z."""
    batch, hidden, y, z = inputs
    loss_and_grad = jax.value_and_grad(supervision_loss, has_aux=True)
    (loss, (correct, *states)), grads = loss_and_grad(trm, backbone, batch, hidden, y, z, first, labelled, dtype)
    return jax.tree.map(jnp.add, sums, (grads, loss, correct)), tuple(states)


def supervision_loss(trm: TRM, backbone: Qwen, batch: Batch, hidden: Hidden, y, z, first, labelled, dtype):
    """One supervision step of a micro-batch [B, S]: its share of the mean loss over `labelled` tokens.

    `first` puts the learned y_init in place of y. Returns the loss and (correct tokens, y, z).
    """
    trm = cast(trm, dtype)
    context = trm.context(hidden)
    y = jnp.where(first, trm.start(context)[0], y)
    rotation = backbone.rotation(jnp.arange(batch.tokens.shape[1])[None])
    y, z = trm.supervision_step(context, y, z, rotation)
    last_at, y_at = (jnp.take_along_axis(h, batch.positions[..., None], axis=1) for h in (hidden.last, y))
    features = trm.features(last_at, y_at).reshape(-1, y.shape[-1])
    head = backbone.head if trm.head is None else trm.head[...]
    total = cross_entropy(features, head, batch.labels.reshape(-1), trm.head is not None)
    return total.loss / labelled, (total.correct, y, z)


def _update(state: TrainState, grads: TRM, optimizer: optax.GradientTransformation, ema_decay: float) -> TrainState:
    updates, moments = optimizer.update(grads, state.optimizer, state.trm)
    trm = optax.apply_updates(state.trm, updates)
    ema = optax.incremental_update(trm, state.ema, 1 - ema_decay)
    return dataclasses.replace(state, trm=trm, ema=ema, optimizer=moments, steps=state.steps + 1)
