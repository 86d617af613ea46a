"""Schedule, decay, Muon, and the number of supervision steps of each batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.models import tiny_model
from trm_jax.config import TrainConfig
from trm_jax.model.weights import named_weights
from trm_jax.training.optimizer import make_optimizer, make_schedule, supervision_depths


def first_update(trm, grads, **changes):
    """What one optimizer step adds to the weights."""
    optimizer = make_optimizer(TrainConfig(**changes), 100)
    return named_weights(optimizer.update(grads, optimizer.init(trm), trm)[0])


def test_the_schedule_spans_all_supervision_steps():
    """Forgetting N_sup decays sixteen times too fast."""
    schedule = make_schedule(TrainConfig(learning_rate=1.0, warmup_steps=10), 1600)
    assert float(schedule(0)) == 0
    assert float(schedule(10)) == 1
    np.testing.assert_allclose([schedule(805), schedule(1600)], [0.55, 0.1], rtol=1e-5)


def test_alpha_rate_is_a_factor_on_alphas_updates_and_on_no_others():
    model = tiny_model("residual")
    grads = jax.tree.map(jnp.ones_like, model.trm)
    updates = {}
    for rate in (1.0, 15.0):
        optimizer = make_optimizer(TrainConfig(alpha_rate=rate), 100)
        updates[rate] = named_weights(optimizer.update(grads, optimizer.init(model.trm), model.trm)[0])
    for name, update in updates[1.0].items():
        np.testing.assert_allclose(updates[15.0][name], update * (15 if name == "alpha" else 1), rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decay_reaches_all_weights(optimizer):
    """With gradients of zero an update is nothing but decay."""
    trm = tiny_model("mathllm").trm
    zeros = jax.tree.map(jnp.zeros_like, trm)
    updates = first_update(trm, zeros, optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)
    for name, weight in named_weights(trm).items():
        np.testing.assert_allclose(updates[name], -0.05 * weight, atol=1e-7, err_msg=name)


def test_muon_orthogonalises_the_blocks_matrices_and_leaves_the_head_to_adam():
    trm = tiny_model("mathllm").trm
    grads = jax.tree.map(lambda weight: jax.random.normal(jax.random.key(weight.size), weight.shape), trm)
    muon, adamw = (first_update(trm, grads, optimizer=name, weight_decay=0.0) for name in ("muon", "adamw"))
    kernel = "block.attention.query.kernel"
    singular = np.linalg.svd(muon[kernel], compute_uv=False)
    assert singular[0] / singular[-1] < 2 < np.divide(*np.linalg.svd(adamw[kernel], compute_uv=False)[[0, -1]])
    for name in ("head", "norm.scale", "y_init"):
        np.testing.assert_allclose(muon[name], adamw[name], rtol=1e-4, err_msg=name)
    assert 0.1 < np.linalg.norm(muon[kernel]) / np.linalg.norm(adamw[kernel]) < 1


def test_depths_are_drawn_and_depend_on_the_seed_alone():
    assert supervision_depths(TrainConfig(), 4, 5).tolist() == [4] * 5
    drawn = supervision_depths(TrainConfig(random_depth=True, seed=1), 4, 400)
    assert set(drawn.tolist()) == {1, 2, 3, 4}
    assert abs(drawn.mean() - 2.5) < 0.2
    assert drawn.tolist() == supervision_depths(TrainConfig(random_depth=True, seed=1), 4, 400).tolist()
    assert drawn.tolist() != supervision_depths(TrainConfig(random_depth=True, seed=2), 4, 400).tolist()
