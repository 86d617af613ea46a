"""A model that is converted again: what else its user has stays, whatever goes wrong."""

import contextlib
import itertools
import os
import pathlib

import pytest

from trm_jax.checkpoints import CheckpointError, read_config, replacing


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


@pytest.mark.parametrize("left", [".converting/backbone", ".replaced/backbone", "lost+found"])
def test_a_conversion_that_was_killed_is_done_again(tmp_path, left):
    """In the middle of the weights, or when the old model was away; and a disk that has just been mounted is empty."""
    (tmp_path / "model" / left).mkdir(parents=True)
    write_model(tmp_path / "model", "new")
    assert contents(tmp_path / "model") == MODEL | {"backbone/weights": "new"}
    assert not (tmp_path / "model/.replaced").exists()


@pytest.mark.parametrize("number", range(1, 8))
def test_an_error_while_folders_are_moved_puts_them_back(tmp_path, monkeypatch, number):
    """Whichever of the moves fails, three away and four into place."""
    write_model(tmp_path / "model", "old", trm="old")
    before, moves, move = contents(tmp_path), itertools.count(1), os.replace

    def fail_once(source, target):
        if next(moves) == number:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "model", "new", ema="new", tokenizer="new")
    monkeypatch.undo()
    assert contents(tmp_path) == before
    write_model(tmp_path / "model", "new")
    assert contents(tmp_path / "model") == MODEL | {"backbone/weights": "new"}
