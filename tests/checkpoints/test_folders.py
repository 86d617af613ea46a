"""Folders are opened once, and those of former versions stay readable."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import pytest

from tests.support.world import LEFT_OUT, edit_json
from trm_jax.checkpoints import CheckpointError, RunConfig, SavedModel, open_folder, read_config, replacing
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
        edit_json(there / "model/config.json", fingerprint="0" * 64)
        run = there / "train"
    if moved == "run, behind a link":
        (here / "train").symlink_to(run)
        run = here / "train"
    if moved != "model":
        assert SavedModel.open(run).load().trm.config.tied
        return
    shutil.move(here / "model", there / "model")
    with pytest.raises(CheckpointError, match="not there any more: say where it is"):
        open_folder(run)
    assert SavedModel.open(run, open_folder(there / "model")).load().trm.config.tied


def test_a_run_refuses_another_model(folders, tmp_path):
    shutil.copytree(folders[0] / "model", tmp_path / "model")
    edit_json(tmp_path / "model/config.json", fingerprint="0" * 64)
    for path in (folders[0] / "train", folders[0] / "model"):
        with pytest.raises(CheckpointError, match=f"another backbone than the one in {tmp_path}"):
            SavedModel.open(path, open_folder(tmp_path / "model"))


def write_model(folder, content: str, **files: str) -> None:
    """What looks like a model folder, with these files."""
    with replacing(folder) as new:
        (new / "backbone").mkdir()
        (new / "backbone/weights").write_text(content)
        for name, text in files.items():
            (new / name).write_text(text)
        (new / "config.json").write_text('{"kind": "model", "format": 1}')


def contents(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


MODEL = {".lock": "", "config.json": '{"kind": "model", "format": 1}'}


def test_a_model_is_replaced_and_all_else_stays(tmp_path):
    """Evaluations lie in its folder, and a user's copies beside it; a model of an older format can be replaced, too."""
    folder = tmp_path / "model"
    write_model(folder, "old", trm="old")
    with pytest.raises(CheckpointError, match=r"format 1, .*: convert the model again"):
        read_config(folder)
    for place in (folder / "evaluation", tmp_path / "model.old", tmp_path / "model.partial"):
        place.mkdir()
        (place / "mine").write_text("hours of work")
    write_model(folder, "new", tokenizer="new")
    mine = {f"{place}/mine": "hours of work" for place in ("model/evaluation", "model.old", "model.partial")}
    model = MODEL | {"backbone/weights": "new", "tokenizer": "new"}
    assert contents(tmp_path) == mine | {f"model/{name}": text for name, text in model.items()}


@pytest.mark.parametrize("there", [True, False])
def test_a_conversion_that_fails_leaves_what_was_there(tmp_path, there):
    if there:
        write_model(tmp_path / "model", "old")
    before = contents(tmp_path)
    with contextlib.suppress(KeyboardInterrupt), replacing(tmp_path / "model") as new:
        (new / "config.json").touch()
        raise KeyboardInterrupt
    assert contents(tmp_path) == before
    assert (tmp_path / "model").exists() == there


@pytest.mark.parametrize("place", ["link", "link to nothing yet", "."])
def test_a_model_is_written_where_a_link_leads(tmp_path, monkeypatch, place):
    """As to a larger disk; where a disk is mounted, no folder can be renamed either."""
    target = tmp_path / "disk"
    if place != "link to nothing yet":
        target.mkdir()
    (tmp_path / "link").symlink_to(target)
    monkeypatch.chdir(target if place == "." else tmp_path)
    for content in ("old", "new"):
        write_model(pathlib.Path(place.split()[0]), content)
        assert contents(target) == MODEL | {"backbone/weights": content}
    assert (tmp_path / "link").is_symlink()


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="something else"):
        write_model(tmp_path, "new")
    assert contents(tmp_path) == {"thesis.tex": "years of work"}


def test_a_conversion_that_was_killed_is_done_again(tmp_path):
    """In the middle of the weights, and when the old model was away and the new one not there."""
    for left in (".converting/backbone", ".converting", ".replaced"):
        (tmp_path / "model" / left).mkdir(parents=True, exist_ok=True)
    write_model(tmp_path / "model", "new")
    assert contents(tmp_path / "model") == MODEL | {"backbone/weights": "new"}
    assert not (tmp_path / "model/.replaced").exists()


def test_what_a_run_was_trained_on_is_known_from_its_start(folders, tmp_path):
    """A relative path that leads nowhere any more looks like a name on the hub; former versions did not record it."""
    shutil.copytree(folders[0] / "train", tmp_path / "train")
    path, model = tmp_path / "train/config.json", open_folder(folders[0] / "model")
    data = json.loads(path.read_text())["data"]
    edit_json(path, data=data | {"sources": ["data/mine"]}, trained_on=["a local file"])
    assert SavedModel.open(tmp_path / "train", model).trained_on == ("a local file",)
    edit_json(path, data=data | {"sources": ["rows.csv"]}, trained_on=LEFT_OUT)
    assert SavedModel.open(tmp_path / "train", model).trained_on == ("a local file",)


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
