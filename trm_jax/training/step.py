"""Deep supervision: one jitted call takes a batch through all supervision steps, with an optimizer step after each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from trm_jax.data import NO_LABEL, Batch
from trm_jax.hardware import Groups, gathered, laid_out
from trm_jax.model import TRM, Hidden, Qwen, cast, named_weights
from trm_jax.training.loss import cross_entropy

NO_FAULT = -1
ROWS_AT = 1  # the dimension of a batch's arrays that holds the rows of a micro-batch
LEVELS_ROWS_AT = 2  # that of hidden states' levels

jax.tree_util.register_dataclass(Batch, data_fields=["tokens", "positions", "labels"], meta_fields=[])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training."""

    trm: TRM  # float32 masters
    ema: TRM  # their exponential moving average, float32
    optimizer: Any  # the state of the optax optimizer, float32
    batches: Int[Array, ""]  # batches consumed, which is the position in the data
    steps: Int[Array, ""]  # optimizer steps taken


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """The figures of one batch for each supervision step; NaN, and no fault, for the steps that it did not take."""

    loss: Float[Array, " N_sup"]  # mean over the solutions' tokens, nats
    accuracy: Float[Array, " N_sup"]  # share of the solutions' tokens whose most likely prediction is right
    grad_norm: Float[Array, " N_sup"]  # before clipping
    weight_norm: Float[Array, " N_sup"]  # of the trained weights, after the step
    update_norm: Float[Array, " N_sup"]  # of what the step added to them
    fault: Int[Array, " N_sup"]  # -1, or the index in `fault_places` of the first numbers that are not finite


def fault_places(trm: TRM) -> list[str]:
    """Where numbers can go bad in a supervision step, in the order in which they are computed."""
    names = list(named_weights(trm))
    return [
        "the hidden states of the backbone",
        *(f"the weight {name}" for name in names),
        "the loss",
        *(f"the gradient of {name}" for name in names),
        *(f"the update of {name}" for name in names),
    ]


def new_state(trm: TRM, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first batch.

    Example: `state = new_state(new_trm(backbone, config), make_optimizer(train, steps))`.
    """
    # A donated state must not hold one buffer twice: so the average is a copy, and each counter has a zero of its own.
    ema, zeros = jax.tree.map(jnp.copy, trm), [jnp.zeros((), jnp.int32) for _ in range(2)]
    return TrainState(trm, ema, optimizer.init(trm), *zeros)


def _hidden(groups: Groups, backbone: Qwen, batch: Batch, hidden: Hidden | None) -> Hidden:
    """Hidden states of micro-batches in groups, computed here if they are not given as [A, B, S, D] and [A, 4, B, S, D]."""
    if hidden is None:
        return jax.lax.map(groups.map(lambda tokens: backbone(tokens)[0]), batch.tokens)
    levels = groups.split(hidden.levels, LEVELS_ROWS_AT)
    if groups.count > 1:
        levels = jax.tree.map(lambda array: jnp.moveaxis(array, LEVELS_ROWS_AT, 1), levels)
    return Hidden(groups.split(hidden.last, ROWS_AT), levels)


def make_train_batch(
    optimizer: optax.GradientTransformation, ema_decay: float, dtype
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted function that trains on one batch, with an optimizer step after each supervision step.

    It takes the state, which it donates, the backbone, the batch and, optionally, how many supervision steps to take: an
    int32 scalar up to N_sup, without which it takes N_sup. One compiled program serves all such numbers. Where it gets the
    batch's hidden states too, the backbone needs no layers.

    On a mesh the rows of a micro-batch are split into a group for each device that has rows of its own. A group's gradient
    stays on its device until all micro-batches are added; then the groups' gradients are summed, once a supervision step.

    Example: `state, metrics = make_train_batch(optimizer, 0.999, jnp.bfloat16)(state, backbone, batch)`.
    """

    @functools.partial(jax.jit, donate_argnames="state")
    def train_batch(
        state: TrainState,
        backbone: Qwen,
        batch: Batch,
        depth: Int[Array, ""] | None = None,
        hidden: Hidden | None = None,
    ):
        groups = Groups()
        batch = groups.split(batch, ROWS_AT)
        hidden = _hidden(groups, backbone, batch, hidden)  # [A, ...], once for all steps
        labelled = jnp.sum(batch.labels != NO_LABEL)
        # Checked once, before all steps: what a step does to the weights is checked as its gradients and updates.
        given = [_all_finite(hidden), *map(_all_finite, jax.tree.leaves(state.trm))]
        most = state.trm.config.supervision_steps

        def supervision_step(index, carry):
            state, answers, latents, metrics = carry
            gradient = functools.partial(_gradient, state.trm, backbone, index == 0, labelled, dtype)

            def micro_batch(sums, inputs):
                found, states = groups.map(gradient)(inputs)
                return jax.tree.map(jnp.add, sums, found), states

            zeros = jax.tree.map(jnp.zeros_like, state.trm), jnp.float32(0), jnp.float32(0)
            sums, (answers, latents) = jax.lax.scan(micro_batch, groups.each(zeros), (batch, hidden, answers, latents))
            grads, loss, correct = groups.sum(sums)
            state, updates = _update(state, grads, optimizer, ema_decay)
            # Without the barrier XLA sums the squares in the kernel that updates the state, which then cannot be in place.
            state, updates = jax.lax.optimization_barrier((state, updates))
            slopes, weights, moves = map(_squares, (grads, state.trm, updates))
            fault = _first_fault([*given, *map(jnp.isfinite, (loss, *slopes, *moves))])
            norms = (jnp.sqrt(sum(squares)) for squares in (slopes, weights, moves))
            found = Metrics(loss, correct / labelled, *norms, fault)
            metrics = jax.tree.map(lambda values, value: values.at[index].set(value), metrics, found)
            return state, answers, latents, metrics

        # The first step puts y_init in place of these zeros.
        start = jnp.zeros(hidden.last.shape, dtype)
        numbers = [jnp.full(most, jnp.nan, jnp.float32)] * (len(dataclasses.fields(Metrics)) - 1)
        unseen = Metrics(*numbers, fault=jnp.full(most, NO_FAULT, jnp.int32))
        # JAX compiles this to a scan if the depth is fixed, and to a while loop if it is known only at run time.
        carry = (state, start, start, unseen)
        state, _, _, metrics = jax.lax.fori_loop(0, most if depth is None else depth, supervision_step, carry)
        # Laid out in another way it would need another program for the next batch.
        return laid_out(dataclasses.replace(state, batches=state.batches + 1)), metrics

    return train_batch


def make_eval_batch(dtype) -> Callable[..., tuple[Float[Array, " N_sup"], Int[Array, ""]]]:
    """The jitted function that gives a batch's summed loss after each supervision step, nats, and its number of labels.

    It takes the recursion, the backbone, a batch and, optionally, the hidden states of one that is a single micro-batch.
    """

    @jax.jit
    def eval_batch(trm: TRM, backbone: Qwen, batch: Batch, hidden: Hidden | None = None):
        groups = Groups()
        batch = groups.split(jax.tree.map(lambda array: array.reshape(1, -1, array.shape[-1]), batch), ROWS_AT)
        hidden = _hidden(groups, backbone, batch, hidden)
        batch, hidden = jax.tree.map(lambda array: array[0], (batch, hidden))

        def supervision_step(states, index):
            def of_group(inputs):
                batch, hidden, states = inputs
                loss, (_, *states) = supervision_loss(trm, backbone, batch, hidden, *states, index == 0, 1, dtype)
                return tuple(states), loss

            states, loss = groups.map(of_group)((batch, hidden, states))
            return states, groups.sum(loss)

        start = jnp.zeros(hidden.last.shape, dtype)
        _, losses = jax.lax.scan(supervision_step, (start, start), jnp.arange(trm.config.supervision_steps))
        return losses, jnp.sum(batch.labels != NO_LABEL)

    return eval_batch


def _all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _squares(tree: Any) -> list[Float[Array, ""]]:
    """The sum of squares of each leaf: the norm is made from them, and a sum is finite only if all of its numbers are."""
    return [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]


def _first_fault(finite: list[Bool[Array, ""]]) -> Int[Array, ""]:
    """The index of the first of these that is False, or NO_FAULT."""
    bad = ~jnp.stack(finite)
    return jnp.where(bad.any(), jnp.argmax(bad), NO_FAULT).astype(jnp.int32)


def _gradient(trm: TRM, backbone: Qwen, first, labelled, dtype, inputs):
    """A micro-batch's gradient, loss and correct tokens; and its refined y and z."""
    batch, hidden, y, z = inputs
    loss_and_grad = jax.value_and_grad(supervision_loss, has_aux=True)
    (loss, (correct, *states)), grads = loss_and_grad(trm, backbone, batch, hidden, y, z, first, labelled, dtype)
    return (grads, loss, correct), tuple(states)


def supervision_loss(trm: TRM, backbone: Qwen, batch: Batch, hidden: Hidden, y, z, first, labelled, dtype):
    """One supervision step of a micro-batch [B, S]: its share of the mean loss over `labelled` tokens.

    `first` puts the learned y_init in place of y. Returns the loss and (correct tokens, y, z).
    """
    trm = gathered(cast(trm, dtype))
    context = trm.context(hidden)
    y = jnp.where(first, trm.start(context)[0], y)
    rotation = trm.rotation(jnp.arange(batch.tokens.shape[1])[None])
    y, z = trm.supervision_step(context, y, z, rotation)
    last_at, y_at = (jnp.take_along_axis(h, batch.positions[..., None], axis=1) for h in (hidden.last, y))
    features = trm.features(last_at, y_at).reshape(-1, y.shape[-1])
    head = gathered({"head": backbone.head})["head"] if trm.head is None else trm.head[...]
    total = cross_entropy(features, head, batch.labels.reshape(-1), trm.head is not None)
    return total.loss / labelled, (total.correct, y, z)


def _update(state: TrainState, grads: TRM, optimizer: optax.GradientTransformation, ema_decay: float):
    """The state after one optimizer step, and what was added to the weights."""
    updates, moments = optimizer.update(grads, state.optimizer, state.trm)
    trm = optax.apply_updates(state.trm, updates)
    ema = optax.incremental_update(trm, state.ema, 1 - ema_decay)
    return dataclasses.replace(state, trm=trm, ema=ema, optimizer=moments, steps=state.steps + 1), updates
