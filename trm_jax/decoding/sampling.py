"""From logits to tokens: the most likely one, or a draw that depends on its own row alone."""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32


def row_key(seed: int, prompt: Sequence[int], sample: int) -> UInt32[np.ndarray, "2"]:
    """The random key of one sample of a prompt; it does not depend on the place of the prompt in a list."""
    content = zlib.crc32(np.asarray(prompt, np.int32).tobytes())
    return np.random.SeedSequence([seed, content, sample]).generate_state(2)


def choose(
    logits: Float[Array, "B V"],
    keys: UInt32[Array, "B 2"],
    counts: Int[Array, " B"],
    temperature: float,
    top_p: float,
) -> Int[Array, " B"]:
    """Chooses the next token of each row, which has `counts` new ones; at temperature zero it is the most likely one.

    Otherwise it is drawn from the smallest set of tokens that holds the probability `top_p` at this temperature.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1:
        logits = jnp.where(_in_nucleus(logits, top_p), logits, -jnp.inf)

    def draw(key, count, row):
        return jax.random.categorical(jax.random.fold_in(jax.random.wrap_key_data(key), count), row)

    return jax.vmap(draw)(keys, counts, logits).astype(jnp.int32)


def _in_nucleus(logits: Float[Array, "B V"], top_p: float):
    """For each token, whether those that are more likely hold less than `top_p`: the most likely token is always in."""
    probabilities = jax.nn.softmax(logits)
    descending = -jnp.sort(-probabilities, axis=-1)
    before = jnp.cumsum(descending, axis=-1) - descending
    least = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
    return probabilities >= least
