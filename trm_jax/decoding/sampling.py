"""From logits to tokens: the most likely one, or a draw that depends on its own row alone."""

import dataclasses
import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from trm_jax.errors import UserError
from trm_jax.model import most_likely


class GenerationError(UserError):
    """Prompts or settings that cannot be decoded."""


@dataclasses.dataclass(frozen=True, order=True)
class Sampling:
    """How a token is drawn. Each row of a batch has settings of its own.

    Example: `Sampling(temperature=0.7, top_p=0.9)`.
    """

    temperature: float = 0.0  # zero: the most likely token
    top_p: float = 1.0  # of the probability, which the smallest set of tokens that is drawn from must hold
    seed: int = 0  # a prompt with the same seed gets the same completion, whatever other prompts there are

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise GenerationError(
                f"temperature {self.temperature} below 0, or top_p {self.top_p} not above 0 and up to 1"
            )


GREEDY = Sampling()
LEAST = 1e-30  # of temperature and top_p in float32: without it no token would be in the nucleus, or logits be infinite


def row_key(seed: int, prompt: Sequence[int], sample: int) -> UInt32[np.ndarray, "2"]:
    """The random key of one sample of a prompt; it does not depend on the place of the prompt in a list."""
    content = zlib.crc32(np.asarray(prompt, np.int32).tobytes())
    return np.random.SeedSequence([seed, content, sample]).generate_state(2)


def choose(
    logits: Float[Array, "B V"],
    keys: UInt32[Array, "B 2"],
    counts: Int[Array, " B"],
    temperatures: Float[Array, " B"],
    top_ps: Float[Array, " B"],
    draws: bool,
) -> Int[Array, " B"]:
    """Chooses the next token of each row, which has `counts` new ones; at temperature zero it is the most likely one.

    Otherwise it is drawn from the smallest set of tokens that holds the probability of `top_ps` at this temperature. Unless
    `draws`, all temperatures are zero, and the program has no draws in it.
    """
    likeliest = most_likely(logits)
    if not draws:
        return likeliest
    is_drawn = temperatures > 0

    def some_drawn():
        scaled = logits / jnp.where(is_drawn, jnp.maximum(temperatures, LEAST), 1)[:, None]
        tokens = _draw(_narrowed(scaled, jnp.where(is_drawn, top_ps, 1)), keys, counts)
        return jnp.where(is_drawn, tokens, likeliest)

    # Noise and nucleus take longer than the most likely token, so they are left out where no row asks for them.
    return jax.lax.cond(jnp.any(is_drawn), some_drawn, lambda: likeliest)


@jax.vmap
def _draw(logits, key, count):
    """A token by its probability; the draws of a key are told apart by their count."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key), count)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _narrowed(logits, top_ps):
    """The logits, with those outside of a row's nucleus at -inf."""

    def narrow():
        return jnp.where(in_nucleus(logits, jnp.maximum(top_ps, LEAST)), logits, -jnp.inf)

    return jax.lax.cond(jnp.any(top_ps < 1), narrow, lambda: logits)


def in_nucleus(logits: Float[Array, "B V"], top_ps: Float[Array, " B"]):
    """For each token, whether those that are more likely hold less than `top_ps`: the most likely token is always in.

    The least probability in the nucleus is found by bisection, which takes an eighth of the time of a sort (docs/log.md). Of
    numbers from 0 to 1 the bits, read as integers, are in the same order, so that all of them are told apart in 30 halvings.
    """
    probabilities = jax.nn.softmax(logits)
    ordered = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_, bounds):
        below, least = bounds
        middle = (below + least) // 2
        more_likely = jnp.sum(jnp.where(ordered > middle[:, None], probabilities, 0), axis=-1)
        is_in = more_likely < top_ps
        return jnp.where(is_in, below, middle), jnp.where(is_in, middle, least)

    one = jnp.full_like(top_ps, 1).view(jnp.int32)
    _, least = jax.lax.fori_loop(0, 30, halve, (jnp.full_like(one, -1), one))
    return (ordered >= least[:, None]) | (top_ps == 1)[:, None]
