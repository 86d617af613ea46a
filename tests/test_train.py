"""Training beyond the contract: precision, compiled programs, schedule, checkpoints, resume."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import random_tokens, tiny_model
from trm_jax import checkpoint, train_loop
from trm_jax.checkpoint import CheckpointError, Checkpoints
from trm_jax.data import Example, Loader
from trm_jax.train import TrainConfig, make_optimizer, make_schedule, make_train_batch, new_state
from trm_jax.weights import cast, named_weights


def loader(batch_size: int = 4, accumulation: int = 1) -> Loader:
    examples = [Example(random_tokens(9 + 3 * (i % 8), seed=i), 4) for i in range(16)]
    return Loader(examples, batch_size, accumulation, seed=1)


def training(model, dtype=jnp.float32, **changes):
    """A fresh state and its jitted step."""
    config = dataclasses.replace(TrainConfig(learning_rate=1e-2, ema_decay=0.9), **changes)
    optimizer = make_optimizer(config, 100)
    return new_state(jax.tree.map(jnp.copy, model.trm), optimizer), make_train_batch(optimizer, 0.9, dtype)


def test_bfloat16_training_keeps_float32_masters_that_move():
    """1.0 + 1e-4 is 1.0 in bfloat16: there, masters and EMA of the original stood still."""
    model = tiny_model("residual")
    state, train_batch = training(model, jnp.bfloat16, learning_rate=1e-4)
    before = named_weights(jax.tree.map(np.asarray, state.trm))
    for number in range(2):
        state, _ = train_batch(state, cast(model.backbone, jnp.bfloat16), loader()[number])
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
        state, _ = train_batch(state, model.backbone, loader()[0])
        if not frozen:
            assert (state.trm.head[...] != model.trm.head[...]).any()


def test_one_program_a_bucket():
    """A retrace on a warm shape would cost minutes at real sizes."""
    model = tiny_model("residual")
    state, train_batch = training(model)
    data = loader()
    for number in range(3 * data.batches_per_epoch):
        state, _ = train_batch(state, model.backbone, data[number])
    used = {data[number].tokens.shape for number in range(3 * data.batches_per_epoch)}
    assert train_batch._cache_size() == len(used) <= len(data.buckets)


def test_alpha_rate_is_a_factor_on_alphas_updates_and_on_no_others():
    model = tiny_model("residual")
    grads = jax.tree.map(jnp.ones_like, model.trm)
    updates = {}
    for rate in (1.0, 15.0):
        optimizer = make_optimizer(TrainConfig(alpha_rate=rate), 100)
        updates[rate] = named_weights(optimizer.update(grads, optimizer.init(model.trm), model.trm)[0])
    for name, update in updates[1.0].items():
        np.testing.assert_allclose(updates[15.0][name], update * (15 if name == "alpha" else 1), rtol=1e-6)


def test_the_state_is_donated():
    model = tiny_model("residual")
    state, train_batch = training(model)
    train_batch(state, model.backbone, loader()[0])
    assert state.trm.alpha[...].is_deleted()


def test_accumulation_equals_the_one_large_batch():
    """A mean of means over micro-batches with unequal token counts would differ."""
    model = tiny_model("residual")
    examples = [Example(random_tokens(16, seed=i), 3 + i) for i in range(8)]
    results = []
    for size, accumulation in ((8, 1), (2, 4)):
        state, train_batch = training(model)
        state, metrics = train_batch(state, model.backbone, Loader(examples, size, accumulation)[0])
        results.append((metrics.loss, named_weights(state.trm)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for name, weight in results[0][1].items():
        np.testing.assert_allclose(weight, results[1][1][name], atol=1e-5, err_msg=name)


def test_the_schedule_spans_all_supervision_steps():
    """Forgetting N_sup decays sixteen times too fast."""
    schedule = make_schedule(TrainConfig(learning_rate=1.0, warmup_steps=10), 1600)
    assert float(schedule(0)) == 0
    assert float(schedule(10)) == 1
    np.testing.assert_allclose([schedule(805), schedule(1600)], [0.55, 0.1], rtol=1e-5)


def run_config(folder, num_batches: int, config) -> train_loop.RunConfig:
    return train_loop.RunConfig(folder, "data.jsonl", None, False, num_batches, config, TrainConfig(dtype="float32"))


def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, monkeypatch):
    model = tiny_model("residual", trained=False)
    config = run_config(tmp_path, 6, model.trm.config)
    ends = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        train_loop.open_folder(folder, config)
        fresh = lambda: jax.tree.map(jnp.copy, model.trm)  # noqa: E731
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(Loader, "__getitem__", _stop_at(5, Loader.__getitem__))
                with pytest.raises(KeyboardInterrupt):
                    train_loop.fit(folder, config, model.backbone, fresh(), loader(), save_every=2)
            with Checkpoints(folder) as checkpoints:
                assert checkpoints.latest == 4
        ends[name] = train_loop.fit(folder, config, model.backbone, fresh(), loader(), save_every=2)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["batch"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert (folder / "loss.png").stat().st_size > 0
    for name, weight in named_weights(ends["whole"]).items():
        np.testing.assert_array_equal(weight, named_weights(ends["killed"])[name], err_msg=name)


def _stop_at(number, getitem):
    def guarded(self, index):
        if index == number:
            raise KeyboardInterrupt
        return getitem(self, index)

    return guarded


def test_a_checkpoint_gives_back_raw_and_averaged_weights(tmp_path):
    model = tiny_model("mathllm")
    state, train_batch = training(model)
    state, _ = train_batch(state, model.backbone, loader()[0])
    checkpoint.save_model(tmp_path / "model", model.backbone.config, named_weights(model.backbone).items())
    train_loop.open_folder(tmp_path / "run", run_config(tmp_path / "model", 1, model.trm.config))
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        checkpoint.load_model(tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, state)
    for path in (tmp_path / "run", tmp_path / "run/checkpoints/1"):
        for use_ema, expected in ((True, state.ema), (False, state.trm)):
            found = named_weights(checkpoint.load_model(path, use_ema=use_ema).trm)
            for name, weight in named_weights(expected).items():
                np.testing.assert_array_equal(found[name], weight, err_msg=name)


def test_a_folder_of_another_run_is_refused(tmp_path):
    config = run_config(tmp_path, 6, tiny_model("residual").trm.config)
    train_loop.open_folder(tmp_path / "run", config)
    train_loop.open_folder(tmp_path / "run", config)
    with pytest.raises(CheckpointError, match="num_batches: 6 there, 7 now"):
        train_loop.open_folder(tmp_path / "run", dataclasses.replace(config, num_batches=7))
