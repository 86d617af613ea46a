"""The training step beyond the contract: precision, compiled programs, accumulation, depth."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.models import loader, new_step, one_shape, random_tokens, tiny_model, training
from trm_jax.data.examples import Example
from trm_jax.data.loader import Loader
from trm_jax.model.weights import cast, named_weights
from trm_jax.training.step import make_eval_batch


def test_bfloat16_training_keeps_float32_masters_that_move():
    """1.0 + 1e-4 is 1.0 in bfloat16: there, masters and EMA of the original stood still."""
    model = tiny_model("residual")
    state, train_batch = training(model, jnp.bfloat16, learning_rate=1e-4)
    before = named_weights(jax.tree.map(np.asarray, state.trm))
    for number in range(2):
        state, _ = train_batch(state, cast(model.backbone, jnp.bfloat16), one_shape()[number])
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    for tree in (state.trm, state.ema):
        for name, weight in named_weights(tree).items():
            assert (weight != before[name]).any(), name


def test_a_frozen_head_and_backbone_stay_and_a_trained_head_moves():
    for frozen in (True, False):
        model = tiny_model("mathllm", frozen_head=frozen)
        state, train_batch = training(model)
        names = named_weights(state.trm).keys()
        assert ("head" in names) is not frozen
        assert not any(name.startswith("backbone") for name in names)
        state, _ = train_batch(state, model.backbone, one_shape()[0])
        if not frozen:
            assert (state.trm.head[...] != model.trm.head[...]).any()


def test_one_program_a_bucket():
    """A retrace on a warm shape would cost minutes at real sizes."""
    model = tiny_model("residual")
    (state, _), (_, train_batch), data = training(model), new_step(), loader()
    for number in range(3 * data.batches_per_epoch):
        state, _ = train_batch(state, model.backbone, data[number])
    used = {data[number].tokens.shape for number in range(3 * data.batches_per_epoch)}
    assert train_batch._cache_size() == len(used) <= len(data.buckets)


def test_the_state_is_donated():
    model = tiny_model("residual")
    state, train_batch = training(model)
    train_batch(state, model.backbone, one_shape()[0])
    assert state.trm.alpha[...].is_deleted()


def test_accumulation_equals_the_one_large_batch():
    """A mean of means over micro-batches with unequal token counts would differ.

    Adam makes of rounding, where a gradient is nearly zero, a step of any size up to the learning rate: it is small here.
    """
    model = tiny_model("residual")
    examples = [Example(random_tokens(16, seed=i), 3 + i) for i in range(8)]
    results = []
    for size, accumulation in ((8, 1), (2, 4)):
        state, train_batch = training(model, learning_rate=1e-3)
        state, metrics = train_batch(state, model.backbone, Loader(examples, size, accumulation)[0])
        results.append((metrics.loss, named_weights(state.trm)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for name, weight in results[0][1].items():
        np.testing.assert_allclose(weight, results[1][1][name], atol=1e-5, err_msg=name)


def test_any_depth_runs_in_one_program():
    """Random depth would otherwise compile N_sup programs a bucket."""
    model = tiny_model("residual")
    batch = one_shape()[0]
    (state, _), (_, train_batch) = training(model), new_step()
    _, whole = train_batch(state, model.backbone, batch)
    for depth in (1, 2, 3):
        state, _ = training(model)
        state, metrics = train_batch(state, model.backbone, batch, np.int32(depth))
        assert int(state.steps) == depth
        np.testing.assert_allclose(metrics.loss[:depth], whole.loss[:depth], rtol=1e-6)
        assert np.isnan(metrics.loss[depth:]).all()
    assert train_batch._cache_size() == 2


def test_norms_are_those_of_what_moved():
    model = tiny_model("residual", supervision_steps=1)
    state, train_batch = training(model)
    before = named_weights(jax.tree.map(np.asarray, state.trm))
    state, metrics = train_batch(state, model.backbone, one_shape()[0])
    after = named_weights(state.trm)
    update = np.sqrt(sum(np.sum((np.asarray(after[name]) - before[name]) ** 2) for name in before))
    weight = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in after.values()))
    np.testing.assert_allclose([metrics.update_norm[0], metrics.weight_norm[0]], [update, weight], rtol=1e-3)


def test_held_out_loss_is_the_loss_before_an_update():
    model = tiny_model("residual", supervision_steps=1)
    batch = one_shape()[0]
    losses, labels = make_eval_batch(jnp.float32)(model.trm, model.backbone, batch)
    state, train_batch = training(model)
    _, metrics = train_batch(state, model.backbone, batch)
    np.testing.assert_allclose(losses / labels, metrics.loss, rtol=1e-6)
