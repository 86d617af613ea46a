"""Folders are opened once, and those of former versions stay readable."""

import dataclasses
import json

import pytest

from trm_jax.checkpoints import RunConfig, SavedModel
from trm_jax.checkpoints import folders as folders_room
from trm_jax.config import ConfigError, DataConfig, TrainConfig, TRMConfig
from trm_jax.decoding import decode_config
from trm_jax.evaluation import settings_of

CONFIG = RunConfig("f", DataConfig(("a.jsonl", "b.jsonl"), weights=(1.0, 2.0)), "r", 8, 9, TRMConfig(), TrainConfig())


def test_a_run_is_read_back_as_it_was_written():
    values = json.loads(json.dumps(CONFIG.to_json()))
    assert RunConfig.from_json(values) == CONFIG
    assert CONFIG.changes(values) == []
    other = dataclasses.replace(CONFIG, num_batches=10)
    assert other.changes(values) == ["num_batches 9 there, 10 now"]


def test_a_run_of_before_two_settings_were_retired():
    """It goes on where it was trained as this version trains; where not, going on would be another training."""
    values = CONFIG.to_json()
    values["train"] |= {"decay": "all", "depth_warmup": 0.0}
    assert RunConfig.from_json(values) == CONFIG
    assert CONFIG.changes(values) == []
    values["train"]["decay"] = "matrices"
    assert RunConfig.from_json(values) == CONFIG  # it can still be evaluated
    assert CONFIG.changes(values) == ["train.decay 'matrices' there, 'all' now"]


@pytest.mark.parametrize("change", [{"train": 3}, {"trm": {}}, {"data": []}])
def test_a_run_that_is_none(change):
    with pytest.raises(ConfigError):
        RunConfig.from_json(CONFIG.to_json() | change)


def test_a_run_is_opened_through_a_link(folders, tmp_path):
    """As of a run on a larger disk: the model that lies beside it there does not lie beside the link."""
    (tmp_path / "link").symlink_to(folders[0] / "train")
    assert SavedModel.open(tmp_path / "link").load("float32").trm.config.tied


def test_an_evaluation_reads_each_config_once(folders, monkeypatch):
    """A config.json was read fifteen times in one evaluation."""
    root, read, original = folders[0], [], folders_room.read_object
    monkeypatch.setattr(
        folders_room, "read_object", lambda path, error: read.append(path.parent.name) or original(path, error)
    )
    saved = SavedModel.open(root / "train")
    model = saved.load()
    config = decode_config(model)
    settings = settings_of(saved, model, config, "demo", 48, "float32", "ema")
    assert saved.trained_on == ("demo",)
    assert settings["checkpoint"] == saved.label == "3"
    assert saved.tokenizer is saved.tokenizer
    assert read == ["train", "model"]
