"""Numbers that go bad are found within one batch, with their place; long runs take no more memory than short ones."""

import dataclasses
import gc
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.models import new_step, one_shape, random_tokens, tiny_model, training
from trm_jax import load_model
from trm_jax.checkpoints import CheckpointError, save_model
from trm_jax.decoding.generate import decode_config, generate_each
from trm_jax.model.weights import first_bad_weight, named_weights, with_weights
from trm_jax.training.metrics import MetricsLog, NonFiniteError, TrainedBatch
from trm_jax.training.step import fault_places


def spoil(tree, name: str, value: float):
    """One number of one weight."""
    weight = named_weights(tree)[name]
    return with_weights(tree, named_weights(tree) | {name: weight.at[(0,) * weight.ndim].set(value)})


@pytest.fixture(scope="module")
def trained():
    model = tiny_model("residual", supervision_steps=2)
    return model, *training(model)


def place_of(fault, trained, tmp_path) -> str:
    """What a run says of its first batch."""
    model, state, train_batch = trained
    state = jax.tree.map(jnp.copy, state)
    log = MetricsLog(tmp_path, 0, np.zeros(2), 0, fault_places(model.trm))
    state, backbone, batch = fault(state, model.backbone, one_shape()[0])
    _, metrics = train_batch(state, backbone, batch)
    log.add(TrainedBatch(1, batch, 2, metrics, started=0.0))
    with pytest.raises(NonFiniteError) as error:
        log.flush()
    said = f"batch 1, supervision step 1, rows of {batch.tokens.shape[-1]} tokens: numbers that are not finite in "
    assert str(error.value).startswith(said)
    return str(error.value).removeprefix(said)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_in_a_weight_of_the_backbone(trained, tmp_path, value):
    """3e38 is a number still; what is computed from it overflows."""

    def fault(state, backbone, batch):
        return state, spoil(backbone, "layers.mlp.up.kernel", value), batch

    assert place_of(fault, trained, tmp_path) == "the hidden states of the backbone"


@pytest.mark.parametrize("name", ["block.mlp.up.kernel", "alpha"])
def test_in_a_weight_of_the_recursion(trained, tmp_path, name):
    def fault(state, backbone, batch):
        return dataclasses.replace(state, trm=spoil(state.trm, name, np.nan)), backbone, batch

    assert place_of(fault, trained, tmp_path) == f"the weight {name}"


def test_in_the_data(trained, tmp_path):
    """A label outside the vocabulary has no probability."""

    def fault(state, backbone, batch):
        labels = np.where(batch.labels >= 0, 10_000, batch.labels)
        return state, backbone, dataclasses.replace(batch, labels=labels)

    assert place_of(fault, trained, tmp_path) == "the loss"


def test_in_a_gradient(trained, tmp_path, monkeypatch):
    """An infinite one for a single kernel, put in where gradients are summed."""
    from trm_jax.training import step as train

    plain = train._gradient

    def fault_in_gradient(*args):
        (grads, loss, correct), states = plain(*args)
        return (spoil(grads, "block.mlp.down.kernel", np.inf), loss, correct), states

    monkeypatch.setattr(train, "_gradient", fault_in_gradient)
    model = trained[0]
    fresh = (model, training(model)[0], new_step()[1])
    assert place_of(lambda *unchanged: unchanged, fresh, tmp_path) == "the gradient of block.mlp.down.kernel"


def test_a_finite_batch_has_no_fault(trained):
    model, state, train_batch = trained
    _, metrics = train_batch(jax.tree.map(jnp.copy, state), model.backbone, one_shape()[0])
    assert metrics.fault.tolist() == [-1, -1]


def test_in_a_model_folder(tmp_path):
    """Written by another program, or spoilt before it was sealed: the weight is named before anything is generated."""
    model = tiny_model("residual")
    assert first_bad_weight(model) is None
    backbone = spoil(model.backbone, "layers.attention.key.bias", np.nan)
    save_model(tmp_path / "model", backbone.config, named_weights(backbone).items())
    with pytest.raises(CheckpointError, match=r"not finite in layers\.attention\.key\.bias"):
        load_model(tmp_path / "model")


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


SLACK = 2**23  # bytes that come and go with the allocator


def test_memory_stays_flat_over_300_batches(trained, tmp_path):
    model, state, train_batch = trained
    state, rows = jax.tree.map(jnp.copy, state), one_shape()
    log = MetricsLog(tmp_path, 0, np.zeros(600), 0, fault_places(model.trm))
    for number in range(1, 301):
        batch = rows[number % 2]
        state, metrics = train_batch(state, model.backbone, jax.device_put(batch))
        log.add(TrainedBatch(number, batch, 2, metrics, started=0.0))
        if number == 100:
            before = resident()
    assert resident() - before < SLACK


def test_memory_stays_flat_over_500_answers():
    model = tiny_model("residual")
    config = decode_config(model, eos_token_ids=[])
    prompts = [list(row) for row in random_tokens((520, 5)).tolist()]
    held = {}
    for number, answer in enumerate(generate_each(model, prompts, 4, config, batch_size=8), 1):
        assert len(answer.tokens) == 4
        if number in (150, 500):  # the last rows of all need programs of their own, after the 500th
            held[number] = resident()
    assert held[500] - held[150] < SLACK
