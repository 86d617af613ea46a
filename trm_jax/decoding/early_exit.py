"""Early exit: a token whose prediction has settled takes no further supervision steps. The model is not trained for it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from trm_jax.model import Hidden, KeysValues, KVCache, QwenTRM, Rotation, State, most_likely, project


class _Progress(NamedTuple):
    """The state of the loop over supervision steps, for one new token a row. In halted rows nothing changes any more."""

    y: State
    z: State
    logits: Float[Array, "B V"]
    steps: Int[Array, " B"]
    halted: Bool[Array, " B"]
    new: list[KeysValues]  # by block call, of the last pass or of all passes


def refine_until_settled(
    model: QwenTRM,
    hidden: Hidden,
    rotation: Rotation,
    cache: KVCache,
    supervision_steps: int,
    recursions: int,
    threshold: float,
    halted: Bool[Array, " B"],
) -> tuple[Float[Array, "B V"], list[KeysValues], Int[Array, " B"]]:
    """Runs supervision steps for one new token a row, each row only until its prediction has settled.

    It has settled when the most likely token is that of the supervision step before and the Kullback-Leibler divergence of
    the newer distribution from the older one is below `threshold` (nats). A cache of every pass gets the keys and values of
    a row's last pass for the passes that were left out, too, as if y and z had stopped changing. The results of rows that
    are `halted` from the start mean nothing.

    Returns the logits, the keys and values as `TRM.refine` does, and how many supervision steps each row took.
    """
    trm = model.trm
    every_pass = len(cache.keys[0]) > 1
    context = trm.context(hidden)

    def take_step(now: _Progress) -> _Progress:
        step = jnp.max(now.steps)
        passes = step * recursions + jnp.arange(recursions)
        y, z, new = trm.refine(context, now.y, now.z, rotation, passes, cache, every_pass)
        logits = project(trm.features(hidden.last, y)[:, 0], model.head)
        settled = (step > 0) & (_divergence(logits, now.logits) < threshold)
        settled &= most_likely(logits) == most_likely(now.logits)

        def keep(old, new, axis=0):
            """The old values in halted rows, the new ones in others; `axis` is the axis of the rows."""
            return jnp.where(jnp.expand_dims(now.halted, [i for i in range(old.ndim) if i != axis]), old, new)

        def record(old, new):
            if every_pass:
                return jax.lax.dynamic_update_slice_in_dim(old, new, passes[0], axis=0)
            return keep(old, new, axis=1)

        return _Progress(
            y=keep(now.y, y),
            z=keep(now.z, z),
            logits=keep(now.logits, logits),
            steps=now.steps + ~now.halted,
            halted=now.halted | settled,
            new=jax.tree.map(record, now.new, new),
        )

    def goes_on(now: _Progress):
        return (jnp.max(now.steps) < supervision_steps) & ~jnp.all(now.halted)

    rows = halted.shape[0]
    nothing = [jnp.zeros((keys.shape[0], rows, 1, keys.shape[2], keys.shape[4]), keys.dtype) for keys in cache.keys]
    start = _Progress(
        *trm.start(context),
        logits=jnp.zeros((rows, model.head.shape[0]), jnp.float32),
        steps=jnp.zeros(rows, jnp.int32),
        halted=halted,
        new=[KeysValues(array, array) for array in nothing],
    )
    end = jax.lax.while_loop(goes_on, take_step, start)
    new = end.new
    if every_pass:
        last = jnp.maximum(end.steps * recursions - 1, 0)
        sources = jnp.minimum(jnp.arange(supervision_steps * recursions)[:, None], last[None])[:, :, None, None, None]
        new = jax.tree.map(lambda array: jnp.take_along_axis(array, sources, axis=0), new)
    return end.logits, new, end.steps


def _divergence(newer: Float[Array, "B V"], older: Float[Array, "B V"]) -> Float[Array, " B"]:
    newer, older = jax.nn.log_softmax(newer), jax.nn.log_softmax(older)
    return jnp.maximum(0, jnp.sum(jnp.exp(newer) * (newer - older), axis=-1))  # rounding can make it negative
