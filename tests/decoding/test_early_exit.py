"""Early exit: exact when nothing settles, a halted row stands still whoever shares the batch, steps are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.models import PRESETS, random_tokens, tiny_model
from trm_jax import supervision_logits
from trm_jax.decoding.early_exit import refine_until_settled
from trm_jax.decoding.generate import decode_config, generate_each
from trm_jax.decoding.shapes import pad_prompts
from trm_jax.decoding.step import prefill
from trm_jax.model.qwen import project

PROMPTS = [random_tokens(length, seed=length).tolist() for length in (4, 9, 6, 11)]
# Nats, by readout and cache: where some of these tokens settle at the second step and others do not.
THRESHOLDS = {
    ("replace", "last_pass"): 5e-4,
    ("replace", "per_pass"): 0.3,
    ("residual", "last_pass"): 2e-3,
    ("residual", "per_pass"): 2e-3,
}
POLICIES = pytest.mark.parametrize("kv_cache", ["last_pass", "per_pass"])


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    """With as many updates as elsewhere: at the thresholds below some of its tokens settle, and others do not."""
    return tiny_model(request.param)


def answers(model, prompts=PROMPTS, batch_size=4, **options) -> list:
    config = decode_config(model, eos_token_ids=[], **options)
    return sorted(generate_each(model, prompts, 8, config, batch_size), key=lambda answer: answer.prompt)


@POLICIES
def test_a_threshold_that_nothing_meets_changes_nothing(model, kv_cache):
    """No divergence is below zero: all steps, all passes in the cache, the same tokens."""
    assert answers(model, kv_cache=kv_cache, early_exit=0.0) == answers(model, kv_cache=kv_cache)
    assert {step for answer in answers(model, kv_cache=kv_cache) for step in answer.steps} == {3}


@POLICIES
def test_a_row_does_not_depend_on_when_others_halt(model, kv_cache):
    """A halted row that went on moving, or that wrote other keys and values, would change its later tokens."""
    threshold = THRESHOLDS[model.trm.config.readout, kv_cache]
    together = answers(model, kv_cache=kv_cache, early_exit=threshold)
    taken = [step for answer in together for step in answer.steps[1:]]
    assert set(taken) == {2, 3}, "the threshold must let some tokens go and hold others"
    for prompt, answer in zip(PROMPTS, together, strict=True):
        (alone,) = answers(model, [prompt], kv_cache=kv_cache, early_exit=threshold)
        assert (alone.tokens, alone.steps) == (answer.tokens, answer.steps)


def test_two_steps_are_enough_where_everything_has_settled(model):
    """An untrained residual readout never moves: the second step shows it. The prompt is read with all steps."""
    (answer,) = answers(model, PROMPTS[:1], early_exit=1e9)
    assert answer.steps[0] == 3
    assert set(answer.steps[1:]) <= {2, 3}
    assert 2 in answer.steps


def test_the_tokens_are_those_of_fewer_supervision_steps(model):
    """With a threshold that any stable token meets, the first new token after the prompt is the second step's choice."""
    (answer,) = answers(model, PROMPTS[:1], kv_cache="per_pass", early_exit=1e9)
    logits = supervision_logits(model, [PROMPTS[0] + answer.tokens[:1]])[:, 0, -1]
    assert answer.tokens[1] == int(logits[answer.steps[1] - 1].argmax())


@POLICIES
def test_keys_and_values_of_a_halted_row_are_those_of_its_last_pass(model, kv_cache):
    """Each row's are what the same number of supervision steps gives; the passes it left out repeat its last one."""
    config = decode_config(model, kv_cache=kv_cache)
    prompts, rows = prefill(model, *pad_prompts(PROMPTS), config), jnp.arange(len(PROMPTS))
    empty = config.empty_caches(model, len(PROMPTS), 80)
    backbone, cache = (to.insert(of, rows, rows) for to, of in zip(empty, prompts[:2], strict=True))
    rotation = model.trm.rotation(backbone.positions(1))
    hidden, _ = model.backbone(jnp.ones((len(PROMPTS), 1), jnp.int32), backbone)
    threshold = 2 * THRESHOLDS[model.trm.config.readout, kv_cache]
    nobody = jnp.zeros(len(PROMPTS), bool)
    logits, new, steps = refine_until_settled(model, hidden, rotation, cache, 3, 2, threshold, nobody)
    context = model.trm.context(hidden)
    for row, count in enumerate(steps.tolist()):
        passes = jnp.arange(2 * count)
        every_pass = kv_cache == "per_pass"
        y, _, own = model.trm.refine(context, *model.trm.start(context), rotation, passes, cache, every_pass)
        expected = project(model.trm.features(hidden.last, y)[row, 0], model.head)
        np.testing.assert_allclose(logits[row], expected, atol=1e-4)
        for found, kept in zip(jax.tree.leaves(new), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(found[: len(kept), row], kept[:, row], atol=1e-5)
            for repeated in found[len(kept) :, row]:
                np.testing.assert_allclose(repeated, kept[-1, row], atol=1e-5)
    assert 2 in steps, "the threshold must let a row go"
