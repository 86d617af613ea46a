"""Runs in their folders: exact resume, checkpoints, clean ends, bad numbers."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.models import one_shape, tiny_model, training
from trm_jax import load_model
from trm_jax.checkpoints import CheckpointError, Checkpoints, RunConfig, read_config, save_model
from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data import NO_LABEL, Loader
from trm_jax.errors import UserError
from trm_jax.model import named_weights
from trm_jax.training import hold_run, loop, run
from trm_jax.training.loop import Inputs, fit, held_out_loss
from trm_jax.training.metrics import NonFiniteError, read_metrics
from trm_jax.training.optimizer import make_schedule, supervision_depths
from trm_jax.training.step import make_eval_batch

BATCHES = 6  # of every run: the schedule, and so the program, depends on it


def run_config(num_batches: int, config, backbone: str = "") -> RunConfig:
    train = TrainConfig(dtype="float32", random_depth=True)
    return RunConfig(backbone, DataConfig(("data.jsonl",)), "", 0, num_batches, config, train)


def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, monkeypatch):
    model = tiny_model("residual", trained=False)
    config = run_config(BATCHES, model.trm.config)
    ends = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        fresh = lambda: jax.tree.map(jnp.copy, model.trm)  # noqa: E731
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(Loader, "__getitem__", _stop_at(5, Loader.__getitem__))
                with pytest.raises(KeyboardInterrupt), hold_run(folder, config, tmp_path):
                    fit(folder, config, model.backbone, fresh(), one_shape(), save_every=2)
            with Checkpoints(folder) as checkpoints:
                assert checkpoints.latest == 4
        with hold_run(folder, config, tmp_path):
            outcome, ends[name] = fit(folder, config, model.backbone, fresh(), one_shape(), save_every=2)
        assert outcome.finished
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["batch"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert (folder / "loss.png").stat().st_size > 0
    for name, weight in named_weights(ends["whole"]).items():
        np.testing.assert_array_equal(weight, named_weights(ends["killed"])[name], err_msg=name)


@pytest.mark.parametrize("linked", [False, True])
def test_a_run_that_ends_before_its_first_batch_leaves_nothing(tmp_path, linked):
    """And its own error is the one that is seen, where the folder is a link, too."""
    folder = tmp_path / "run"
    if linked:
        (tmp_path / "disk").mkdir()
        folder.symlink_to(tmp_path / "disk")
    config = run_config(BATCHES, tiny_model("residual").trm.config)
    with pytest.raises(UserError, match="the reason"), hold_run(folder, config, tmp_path):
        raise UserError("the reason")
    assert folder.exists() == folder.is_symlink() == linked
    assert not linked or not list(folder.iterdir())


def _stop_at(number, getitem):
    def guarded(self, index):
        if index == number:
            raise KeyboardInterrupt
        return getitem(self, index)

    return guarded


def test_a_checkpoint_gives_back_raw_and_averaged_weights(tmp_path):
    model = tiny_model("mathllm")
    state, train_batch = training(model)
    state, _ = train_batch(state, model.backbone, one_shape()[0])
    save_model(tmp_path / "model", model.backbone.config, named_weights(model.backbone).items())
    fingerprint = read_config(tmp_path / "model")["fingerprint"]
    with hold_run(tmp_path / "run", run_config(1, model.trm.config, fingerprint), tmp_path / "model"):
        pass
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load_model(tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, state)
    for path in (tmp_path / "run", tmp_path / "run/checkpoints/1"):
        for use_ema, expected in ((True, state.ema), (False, state.trm)):
            found = named_weights(load_model(path, use_ema=use_ema).trm)
            for name, weight in named_weights(expected).items():
                np.testing.assert_array_equal(found[name], weight, err_msg=name)


def fit_tiny(folder, held_out=None, spoil=lambda trm: trm, **options):
    """A short run of a tiny model in a new folder."""
    model = tiny_model("residual", trained=False)
    config = run_config(BATCHES, model.trm.config)
    with hold_run(folder, config, folder.parent):
        return fit(folder, config, model.backbone, spoil(model.trm), one_shape(), held_out, **options)


def test_the_best_checkpoint_stays_beside_the_last_two(tmp_path, monkeypatch):
    """Made-up held-out losses stand in for real ones."""
    losses = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0]
    coming = iter(losses)
    monkeypatch.setattr(loop, "held_out_loss", lambda *_: {"held_out_loss": [9.0, next(coming)]})
    outcome, _ = fit_tiny(tmp_path / "run", held_out=one_shape(), save_every=1)
    assert outcome.best == 2
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["2", "5", "6"]
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [record["held_out_loss"][-1] for record in records] == losses


@pytest.mark.parametrize(("kept", "computed"), [(loop.KEPT_BYTES, 1), (0, 2)])
def test_held_out_rows_pass_the_backbone_once_if_there_is_room(monkeypatch, kept, computed):
    model, asked = tiny_model("residual"), []
    of = loop.Computed.of
    monkeypatch.setattr(loop.Computed, "of", lambda self, batch: asked.append(batch) or of(self, batch))
    monkeypatch.setattr(loop, "KEPT_BYTES", kept)
    inputs, eval_batch = Inputs(model.backbone, model.trm, None), make_eval_batch(jnp.float32)
    first, second = (held_out_loss(eval_batch, model.trm, inputs, one_shape()) for _ in range(2))
    assert first == second
    assert len(asked) == computed * one_shape().batches_per_epoch


def test_the_held_out_loss_is_that_of_the_averaged_weights(tmp_path):
    _, state = fit_tiny(tmp_path / "run", held_out=one_shape())
    model = tiny_model("residual", trained=False)
    eval_batch = make_eval_batch(jnp.float32)
    inputs = Inputs(model.backbone, model.trm, None)
    expected = held_out_loss(eval_batch, state.ema, inputs, one_shape())
    *_, record = read_metrics(tmp_path / "run/metrics.jsonl")
    np.testing.assert_allclose(record["held_out_loss"], expected["held_out_loss"], rtol=1e-6)
    assert expected != held_out_loss(eval_batch, state.trm, inputs, one_shape())


def test_a_loss_that_is_no_number_stops_the_run_and_saves_nothing(tmp_path, monkeypatch):
    """The third batch's labels are put outside the vocabulary, where the loss has no value."""
    original = Loader.__getitem__

    def poisoned(self, index):
        batch = original(self, index)
        if index == 2:
            batch.labels[batch.labels != NO_LABEL] = 10_000
        return batch

    monkeypatch.setattr(Loader, "__getitem__", poisoned)
    with pytest.raises(NonFiniteError, match=r"batch 3, supervision step 1, rows .* in the loss; .*checkpoints/2"):
        fit_tiny(tmp_path / "run", save_every=1)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["1", "2"]


def test_sigterm_saves_and_ends_and_the_same_command_goes_on(tmp_path, monkeypatch):
    _, whole = fit_tiny(tmp_path / "whole")
    original = Loader.__getitem__

    def terminated(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "__getitem__", terminated)
        stopped, _ = fit_tiny(tmp_path / "run")
    assert (stopped.batches, stopped.finished) == (3, False)
    resumed, state = fit_tiny(tmp_path / "run")
    assert resumed.finished
    for name, weight in named_weights(state).items():
        np.testing.assert_array_equal(weight, named_weights(whole)[name], err_msg=name)


def test_metrics_and_learning_rate_follow_the_depth(tmp_path):
    fit_tiny(tmp_path / "run")
    model = tiny_model("residual", trained=False)
    config = run_config(BATCHES, model.trm.config)
    depths = supervision_depths(config.train, config.trm.supervision_steps, BATCHES)
    trained = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [len(record["loss"]) for record in trained] == depths.tolist()
    schedule = make_schedule(config.train, int(depths.sum()))
    assert trained[-1]["learning_rate"] == float(schedule(int(depths.sum()) - 1))
    assert all(0 <= record["padding"] < 1 for record in trained)
    timings = read_metrics(tmp_path / "run/timings.jsonl")
    assert [record["batch"] for record in timings] == list(range(1, BATCHES + 1))
    assert all(record["peak_memory"] > 0 and record["seconds"] > 0 for record in timings)


def test_a_folder_of_another_run_is_refused(tmp_path):
    config = run_config(6, tiny_model("residual").trm.config)
    other = dataclasses.replace(config, num_batches=7)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.config.json.partial").write_text("{")  # killed in the middle of its first file
    for _ in range(2):
        with hold_run(tmp_path / "run", config, tmp_path):
            pass
    with (
        pytest.raises(CheckpointError, match="num_batches 6 there, 7 now"),
        hold_run(tmp_path / "run", other, tmp_path),
    ):
        pass


def test_a_folder_of_other_things_is_refused_and_stays_as_it_is(tmp_path):
    """As one that holds the log which the shell has just made there; ending in an error would remove it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.txt").write_text("mine")
    config = run_config(6, tiny_model("residual").trm.config)
    with (
        pytest.raises(CheckpointError, match=r"something else than a run \(log.txt\): give another --output"),
        hold_run(tmp_path / "run", config, tmp_path),
    ):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.txt"]


def test_a_run_goes_on_after_a_move_and_learns_where_its_model_is(tmp_path):
    config, other = run_config(6, tiny_model("residual").trm.config), tmp_path / "disk/run"
    with hold_run(tmp_path / "run", config, tmp_path / "model", init_from="another"):
        before = read_config(tmp_path / "run")
    other.parent.mkdir()
    shutil.move(tmp_path / "run", other)
    with (
        pytest.raises(CheckpointError, match="num_batches"),
        hold_run(other, dataclasses.replace(config, num_batches=7), tmp_path / "model"),
    ):
        pass
    assert read_config(other) == before
    for model, relative in ((tmp_path / "model", "../../model"), (tmp_path / "moved", "../../moved")):
        with hold_run(other, config, model):
            assert read_config(other) == before | {"model": str(model), "model_relative": relative}


def test_a_folder_that_process_0_does_not_see_is_refused(tmp_path, monkeypatch):
    config = run_config(1, tiny_model("residual").trm.config)
    monkeypatch.setattr(run, "APPEARS", 0.1)
    monkeypatch.setattr(run, "first_says", lambda value: "of another file")
    with (
        pytest.raises(
            CheckpointError, match=r"config.json is not the file that process 0 sees there: .* all hosts share"
        ),
        hold_run(tmp_path / "run", config, tmp_path),
    ):
        pass
    assert not (tmp_path / "run").exists()
