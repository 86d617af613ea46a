"""Folders are opened once, and those of former versions stay readable."""

import dataclasses
import json
import shutil

import pytest

from tests.support.world import LEFT_OUT, edit_json
from trm_jax import load_tokenizer
from trm_jax.checkpoints import CheckpointError, RunConfig, SavedModel, open_folder
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


@pytest.mark.parametrize("moved", ["run", "run, behind a link", "model"])
def test_a_run_finds_its_model_after_a_move(folders, tmp_path, moved):
    """Where it was, or beside the link to the run, though another lies beside the run; or where it is said to be."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("model", "train"):
        shutil.copytree(folders[0] / name, here / name)
    edit_json(
        here / "train/config.json", model=str(tmp_path / "nowhere" if moved == "run, behind a link" else here / "model")
    )
    there.mkdir()
    run = here / "train"
    if moved != "model":
        shutil.move(run, there / "train")
        shutil.copytree(here / "model", there / "model")
        edit_json(there / "model/config.json", **({"format": 1} if moved == "run" else {"fingerprint": "0" * 64}))
        run = there / "train"
    if moved == "run, behind a link":
        (here / "train").symlink_to(run)
        run = here / "train"
    if moved != "model":
        assert SavedModel.open(run).load().trm.config.tied
        return
    shutil.move(here / "model", there / "model")
    with pytest.raises(CheckpointError, match="not there any more: move it back, or say where it is"):
        open_folder(run)
    assert load_tokenizer(run, there / "model").vocab_size
    assert SavedModel.open(run, open_folder(there / "model")).load().trm.config.tied


def test_a_run_whose_model_is_gone_from_the_cache_says_how_to_make_it_again(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(folders[0] / "train", tmp_path / "train")
    edit_json(tmp_path / "train/config.json", model=str(tmp_path / "trm_jax/backbones/gone"))
    with pytest.raises(CheckpointError, match=r"repeat the command of train.py.*, or say where it is \(--model\)"):
        open_folder(tmp_path / "train")


def test_a_checkpoint_that_a_training_has_replaced_meanwhile_is_one_line(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "all")
    saved = SavedModel.open(tmp_path / "all/train")
    shutil.rmtree(saved.checkpoint)
    with pytest.raises(CheckpointError, match="is gone: a training that goes on"):
        saved.load_trm()


def test_a_run_refuses_another_model(folders, tmp_path):
    shutil.copytree(folders[0] / "model", tmp_path / "model")
    edit_json(tmp_path / "model/config.json", fingerprint="0" * 64)
    for path in (folders[0] / "train", folders[0] / "model"):
        with pytest.raises(CheckpointError, match=f"of another backbone than the one in {tmp_path}"):
            SavedModel.open(path, open_folder(tmp_path / "model"))


def test_what_a_run_was_trained_on_is_known_from_its_start(folders, tmp_path):
    """A relative path that leads nowhere any more looks like a name on the hub; former versions did not record it."""
    shutil.copytree(folders[0] / "train", tmp_path / "train")
    path, model = tmp_path / "train/config.json", open_folder(folders[0] / "model")
    data = json.loads(path.read_text())["data"]
    edit_json(path, data=data | {"sources": ["data/mine"]}, trained_on=["a local file"])
    assert SavedModel.open(tmp_path / "train", model).trained_on == ("a local file",)
    edit_json(path, data=data | {"sources": ["rows.csv"]}, trained_on=LEFT_OUT)
    assert SavedModel.open(tmp_path / "train", model).trained_on == ("a local file",)


def test_how_a_model_is_asked_is_known_by_a_digest(folders, tmp_path):
    """Converted again with another chat format or other end tokens, the weights have the same fingerprint."""
    shutil.copytree(folders[0] / "model", tmp_path / "model")
    before, backbone = SavedModel.open(folders[0] / "model").prompt_digest, tmp_path / "model/config.json"
    assert SavedModel.open(tmp_path / "model").prompt_digest == before
    edit_json(backbone, backbone=json.loads(backbone.read_text())["backbone"] | {"end_tokens": [7]})
    ends = SavedModel.open(tmp_path / "model").prompt_digest
    tokenizer = tmp_path / "model/tokenizer/tokenizer_config.json"
    template = json.loads(tokenizer.read_text())["chat_template"]
    edit_json(tokenizer, chat_template=template.replace("<|im_start|>", "<|im_start|> "))
    assert len({before, ends, SavedModel.open(tmp_path / "model").prompt_digest}) == 3


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
