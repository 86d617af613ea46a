"""Training on four devices: the numbers of one device, rows of its own on each, and gradients that meet once a step."""

import contextlib
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.models import loader, tiny_model
from trm_jax.checkpoints import Checkpoints
from trm_jax.config import TrainConfig
from trm_jax.data import TrainingSet
from trm_jax.data.loader import Bucket
from trm_jax.hardware import Hlo, Programs, make_mesh, put_rows, put_weights
from trm_jax.model import named_weights
from trm_jax.training import HiddenCache, make_optimizer, make_train_batch, new_state
from trm_jax.training.loop import Inputs
from trm_jax.training.step import ROWS_AT, make_eval_batch

BATCHES = loader(batch_size=4, accumulation=2, buckets=[Bucket(32, 32)])
ROW_TOKENS, VOCABULARY, STEPS, MICRO_BATCHES = 32, 61, 3, 2
RATE = 100.0  # the step of plain gradient descent is then large against the rounding of the weights
PLAIN = optax.sgd(RATE)
ADAMW, MUON = (make_optimizer(TrainConfig(optimizer=name, learning_rate=1e-2), 100) for name in ("adamw", "muon"))


def on(mesh: str | None):
    """The context in which weights and rows are put on this mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(make_mesh(mesh))


def start(preset, optimizer, **changes):
    """State and backbone on the mesh that is set, if one is."""
    model = tiny_model(preset, **changes)
    return put_weights(new_state(model.trm, optimizer)), put_weights(model.backbone)


def batch(number: int):
    return put_rows(BATCHES[number], ROWS_AT)


@functools.cache
def program(preset, optimizer, mesh: str | None, *depth, **changes) -> jax.stages.Compiled:
    """Compiled once for all tests."""
    with on(mesh):
        train_batch = make_train_batch(optimizer, 0.9, jnp.float32)
        return train_batch.lower(*start(preset, optimizer, **changes), batch(0), *depth).compile()


def one_batch(preset, optimizer, mesh: str | None, *depth, **changes):
    """Its metrics, and what it took from the weights."""
    with on(mesh):
        state, backbone = start(preset, optimizer, **changes)
        before = jax.device_get(named_weights(state.trm))
        state, metrics = program(preset, optimizer, mesh, *depth, **changes)(state, backbone, batch(0), *depth)
        after = jax.device_get(named_weights(state.trm))
        return metrics, {name: before[name] - after[name] for name in before}


@pytest.mark.parametrize(
    ("preset", "mesh", "recursions"),
    [
        # Each pass amplifies rounding: with two of them one device alone is 1.2e-5 away from what it computes in float64.
        ("residual", "data=4", 1),
        ("residual", "tensor=4", 1),
        ("residual", "data=2,fsdp=2", 1),
        ("mathllm", "fsdp=4", 2),
        ("mathllm", "data=2,tensor=2", 2),
        ("mathllm", "fsdp=2,tensor=2", 2),
    ],
)
def test_loss_and_gradient_are_those_of_one_device(preset, mesh, recursions):
    loops = dict(supervision_steps=1, recursions=recursions)
    whole, expected = one_batch(preset, PLAIN, None, **loops)
    metrics, found = one_batch(preset, PLAIN, mesh, **loops)
    norm, error = (
        np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))
        for gradients in (expected.values(), (found[name] - expected[name] for name in expected))
    )
    assert norm == pytest.approx(RATE * float(whole.grad_norm[0]), rel=1e-4)
    assert error < 1e-5 * norm
    np.testing.assert_allclose(metrics.loss, whole.loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "mesh", "depth"),
    [(ADAMW, "fsdp=4", ()), (MUON, "fsdp=2,tensor=2", ()), (ADAMW, "data=2,tensor=2", (np.int32(2),))],
    ids=["adamw", "muon", "drawn depth"],
)
def test_optimizers_and_drawn_depths_are_those_of_one_device(optimizer, mesh, depth):
    """Adam divides by gradients that may be next to nothing, so only the first step is the same to rounding."""
    expected, _ = one_batch("residual", optimizer, None, *depth)
    found, _ = one_batch("residual", optimizer, mesh, *depth)
    np.testing.assert_allclose(found.loss[0], expected.loss[0], rtol=1e-5)
    np.testing.assert_allclose(found.grad_norm[0], expected.grad_norm[0], rtol=1e-5)
    np.testing.assert_allclose(found.loss[1:], expected.loss[1:], rtol=1e-3)
    assert (
        np.isnan(found.loss).tolist() == np.isnan(expected.loss).tolist() == [bool(depth and n == 2) for n in range(3)]
    )


@pytest.mark.parametrize("mesh", ["data=4", "fsdp=4"])
def test_one_program_serves_all_batches_of_a_shape(mesh):
    """A compiled program refuses a state that does not lie as the one that it was compiled for."""
    with on(mesh):
        state, backbone = start("residual", ADAMW)
        for number in range(3):
            state, _ = program("residual", ADAMW, mesh)(state, backbone, batch(number))
        assert int(state.batches) == 3


def test_the_held_out_loss_is_that_of_one_device():
    eval_batch = make_eval_batch(jnp.float32)
    model = tiny_model("residual")
    expected, labels = eval_batch(model.trm, model.backbone, BATCHES[0])
    for mesh in ("data=4", "data=2,tensor=2"):
        with jax.set_mesh(make_mesh(mesh)):
            weights = put_weights(model.trm), put_weights(model.backbone)
            found, count = eval_batch(*weights, put_rows(BATCHES[0], ROWS_AT))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert count == labels


@pytest.mark.parametrize("mesh", ["data=4", "data=2,fsdp=2", "fsdp=2,tensor=2"])
def test_hidden_states_from_disk_train_as_those_computed_do(mesh, tmp_path, monkeypatch):
    """The same program gets them, laid out in the same way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = types.SimpleNamespace(backbone_fingerprint="", backbone_config=tiny_model("residual").backbone.config)
    with jax.set_mesh(make_mesh(mesh)):
        train = TrainConfig(dtype="float32", batch_size=4, accumulation=2)
        backbone = put_weights(tiny_model("residual").backbone)
        trm = tiny_model("residual").trm
        cache = HiddenCache.of(folder, trm.config, train, TrainingSet(BATCHES, None, BATCHES.examples, 0), 2)
        cache.fill(backbone)
        train_batch, found = Programs(make_train_batch(ADAMW, 0.9, jnp.float32)), []
        for hidden in (None, cache):
            inputs = Inputs(backbone, trm, hidden)
            state = put_weights(new_state(jax.tree.map(jnp.copy, trm), ADAMW))
            for number in range(2):
                readout, rows, states = inputs.of(BATCHES, number, BATCHES[number])
                state, metrics = train_batch(state, readout, rows, None, states)
            found.append((jax.device_get(named_weights(state)), metrics.loss))
    assert len(train_batch) == 1
    (computed, loss), (read, same_loss) = found
    np.testing.assert_array_equal(loss, same_loss)
    for name, weight in computed.items():
        np.testing.assert_array_equal(read[name], weight, err_msg=name)


def text(mesh: str) -> Hlo:
    return Hlo(program("residual", ADAMW, mesh).as_text())


def test_with_rows_split_the_gradients_meet_once_a_step():
    found = [one for one in text("data=4").collectives if one.bytes > 64]
    assert [(one.path, one.kind) for one in found] == [((STEPS,), "all-reduce")]
    weights = named_weights(tiny_model("residual").trm)
    # That of y_init is nothing: only the last pass is differentiated.
    trained = 4 * sum(weight.size for name, weight in weights.items() if name != "y_init")
    assert trained <= found[0].bytes <= trained + 64


def test_with_weights_split_they_are_gathered_and_nothing_else_moves_within_a_step():
    """Those of the recursion once a step, those of the backbone a layer at a time; but for single numbers."""
    found = [one for one in text("fsdp=4").collectives if len(one.path) > 1 and one.bytes > 64]
    assert {(one.path, one.kind) for one in found} == {((MICRO_BATCHES, 3), "all-gather")}  # the loop over three layers
    layers = named_weights(tiny_model("residual").backbone.layers)
    assert max(one.bytes for one in found) <= max(4 * weight[0].size for weight in layers.values())


@pytest.mark.parametrize("mesh", ["data=4", "fsdp=4"])
def test_no_device_computes_the_logits_of_anothers_rows(mesh):
    products = [
        np.prod([int(size) for size in dims.split(",")]) // VOCABULARY
        for computation in text(mesh).computations.values()
        for one in computation
        if one.opcode == "dot"
        for _, dims in one.arrays
        if str(VOCABULARY) in dims.split(",")
    ]
    assert products
    assert max(products) <= BATCHES[0].tokens.shape[1] // 4 * ROW_TOKENS


def test_a_checkpoint_goes_on_on_any_mesh(tmp_path):
    """On the same mesh bit for bit."""

    def saved_on(mesh):
        """Trains a batch and saves; the loss of the next."""
        with on(mesh):
            state, backbone = start("residual", ADAMW)
            state, _ = program("residual", ADAMW, mesh)(state, backbone, batch(0))
            with Checkpoints(tmp_path / str(mesh)) as checkpoints:
                checkpoints.save(1, state)
                checkpoints.wait()
            _, metrics = program("residual", ADAMW, mesh)(state, backbone, batch(1))
            return metrics.loss[:1]

    def resumed_on(mesh, saved):
        with on(mesh):
            state, backbone = start("residual", ADAMW)
            with Checkpoints(tmp_path / str(saved)) as checkpoints:
                state = checkpoints.restore(state)
            _, metrics = program("residual", ADAMW, mesh)(state, backbone, batch(1))
            return metrics.loss[:1]

    for saved, others in (("data=4", (None, "fsdp=4")), (None, ("data=4", "fsdp=4")), ("fsdp=4", ("data=2,tensor=2",))):
        loss = saved_on(saved)
        assert resumed_on(saved, saved) == loss
        for mesh in others:
            np.testing.assert_allclose(resumed_on(mesh, saved), loss, rtol=1e-5)
