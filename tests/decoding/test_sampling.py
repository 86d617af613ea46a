"""Draws: their distribution, the nucleus, and that they depend on their own row alone."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.models import random_tokens
from trm_jax import generate
from trm_jax.decoding import sampling
from trm_jax.decoding.generate import GenerationError, decode_config, generate_each
from trm_jax.decoding.sampling import Sampling, choose, row_key
from trm_jax.model import most_likely

PROBABILITIES = np.array([0.5, 0.3, 0.15, 0.05], np.float32)
PROMPTS = [random_tokens(length, seed=length).tolist() for length in (4, 9, 6)]


def draws(temperature: float, top_p: float, count: int = 4000) -> np.ndarray:
    """The share of each of the four tokens."""
    keys = jnp.array([row_key(0, [1, 2], sample) for sample in range(count)])
    logits = jnp.tile(jnp.log(PROBABILITIES), (count, 1))
    tokens = choose(
        logits, keys, jnp.zeros(count, jnp.int32), jnp.full(count, temperature), jnp.full(count, top_p), draws=True
    )
    return np.bincount(tokens, minlength=4) / count


def test_draws_follow_the_distribution():
    """Four standard errors of 4,000 draws are 0.03."""
    np.testing.assert_allclose(draws(1.0, 1.0), PROBABILITIES, atol=0.03)
    sharper = PROBABILITIES**2 / np.sum(PROBABILITIES**2)
    np.testing.assert_allclose(draws(0.5, 1.0), sharper, atol=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.1, 1), (0.49, 1), (0.6, 2), (0.79, 2), (0.81, 3), (0.96, 4)])
def test_top_p_keeps_the_smallest_set_that_holds_it(top_p, kept):
    expected = np.where(np.arange(4) < kept, PROBABILITIES, 0)
    np.testing.assert_allclose(draws(1.0, top_p), expected / expected.sum(), atol=0.03)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 30.0])
def test_the_nucleus_of_a_large_vocabulary(spread):
    """With ties, with probabilities of zero, and where all tokens are alike; it is the same as by sorting."""
    logits = np.random.default_rng(0).normal(size=(6, 5000)).astype(np.float32).round(2) * spread
    logits[:, ::7] = -np.inf
    top_ps = np.array([1e-30, 0.05, 0.5, 0.8, 0.999, 1.0], np.float32)
    found = np.asarray(sampling.in_nucleus(jnp.array(logits), jnp.array(top_ps)))
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    exact /= exact.sum(axis=-1, keepdims=True)
    for kept, shares, top_p in zip(found, exact, top_ps, strict=True):
        least = shares[kept].min()
        assert kept.tolist() == (shares >= least).tolist()
        if top_p < 1:
            assert shares[shares > least].sum() < top_p + 1e-5
            assert shares[kept].sum() > top_p - 1e-5


@pytest.mark.parametrize("vocab_size", [5, 384, 400])
def test_the_most_likely_token_is_the_first_of_those_that_are_equal(vocab_size):
    """Within a block of the vocabulary, from one block to the next, and where all are alike."""
    logits = np.random.default_rng(0).integers(0, 4, (200, vocab_size)).astype(np.float32)
    logits[0] = 0
    logits[1, -1] = 9
    found = jax.jit(most_likely)(logits)
    assert found.tolist() == np.argmax(logits, axis=-1).tolist()
    assert most_likely(jnp.array(logits[:6].reshape(2, 3, -1))).tolist() == np.reshape(found[:6], (2, 3)).tolist()


def test_temperature_zero_is_greedy():
    assert draws(0.0, 1.0).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1e-50), (1.0, 1e-40), (1e-38, 0.9), (1e-40, 1.0), (1e-50, 0.5)]
)
def test_settings_that_float32_does_not_hold_take_the_most_likely_token(temperature, top_p):
    """And not the first one of the vocabulary, for ever."""
    logits, one = jnp.array([[-9.0, 3.0, 2.0]]), jnp.zeros(1, jnp.int32)
    settings = np.float32([temperature]), np.float32([top_p])
    assert choose(logits, jnp.array([row_key(0, [1], 0)]), one, *settings, draws=True).tolist() == [1]


def test_a_draw_depends_on_its_prompt_seed_and_sample_alone(model):
    """Not on the order of the prompts, on who shares the batch, or on when a row was free."""
    options = dict(max_new_tokens=8, temperature=1.5, eos_token_ids=[])
    together = generate(model, PROMPTS, seed=1, **options)
    assert generate(model, PROMPTS[::-1], seed=1, batch_size=1, **options) == together[::-1]
    assert generate(model, PROMPTS, seed=2, **options) != together
    assert generate(model, PROMPTS, max_new_tokens=8, eos_token_ids=[]) != together


def test_samples_of_a_prompt_share_its_prefill(model, monkeypatch):
    """Three different answers each, one reading; the first sample is what is drawn alone."""
    read = []
    rows = importlib.import_module("trm_jax.decoding.rows")
    prefill = rows.prefill
    monkeypatch.setattr(rows, "prefill", lambda m, t, lengths, c: read.extend(lengths) or prefill(m, t, lengths, c))
    config = decode_config(model, eos_token_ids=[])
    answers = list(generate_each(model, PROMPTS[:2], [8, 5], config, 4, samples=3, sampling=Sampling(1.5, seed=1)))
    assert sorted(map(int, read)) == sorted(map(len, PROMPTS[:2]))
    assert sorted((answer.prompt, answer.sample) for answer in answers) == [(p, s) for p in (0, 1) for s in range(3)]
    assert len({tuple(answer.tokens) for answer in answers}) == 6
    alone = generate(model, PROMPTS[:1], 8, temperature=1.5, seed=1, eos_token_ids=[])
    assert [answer.tokens for answer in answers if (answer.prompt, answer.sample) == (0, 0)] == alone


def test_what_cannot_be_drawn(model):
    config = decode_config(model)
    with pytest.raises(GenerationError, match="5 samples of a prompt need as many rows; the batch has 4"):
        list(generate_each(model, PROMPTS, 4, config, 4, samples=5))
    for wrong in (dict(temperature=-1.0), dict(top_p=0.0), dict(top_p=1.5)):
        with pytest.raises(ValueError, match="not above 0 and up to 1"):
            Sampling(**wrong)
