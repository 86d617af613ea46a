"""What is published: the files and their sizes, an honest card, and nothing of the machine that it was made on."""

import getpass
import json
import pathlib
import shutil
import socket

import numpy as np
import pytest
import safetensors.numpy
import yaml

from tests.support.command_line import run
from tests.support.publishing import imported
from tests.support.world import edit_json
from trm_jax.checkpoints import SavedModel
from trm_jax.errors import UserError
from trm_jax.model import named_weights
from trm_jax.publishing import export, exported_files, open_checkpoint, push


def test_weights_have_the_originals_names(exported):
    """And its shapes: kernels are transposed."""
    model, folder = exported
    found = safetensors.numpy.load_file(folder / "trm.safetensors")
    trm = SavedModel.open(model).load_trm()
    assert len(found) == len(named_weights(trm))
    assert found["interface.y_init"].shape == (1, 1, 64)
    block = "engine.block" if trm.config.tied else "engine.blocks.1"
    up = (trm.block if trm.config.tied else trm.blocks[1]).mlp.up
    np.testing.assert_array_equal(found[f"{block}.mlp.up_proj.weight"], np.asarray(up.kernel).T)
    assert ("heads.lm_head.weight" in found) == (not trm.config.frozen_head)
    assert ("heads.alpha" in found) == (trm.config.readout == "residual")


@pytest.fixture
def a_run(folders, tmp_path) -> pathlib.Path:
    """A copy of a run, as of training on a file, beside its evaluations, and with what transformers writes of a machine."""
    for name in ("model", "train"):
        shutil.copytree(folders[0] / name, tmp_path / name)
    tokenizer = tmp_path / "model/tokenizer/tokenizer_config.json"
    edit_json(tokenizer, name_or_path=str(tmp_path), tokenizer_file=str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "train/config.json").read_text())
    config |= {"trained_on": ["a local file"]}
    config["data"]["sources"] = ["data/rows"]
    (tmp_path / "train/config.json").write_text(json.dumps(config))
    return tmp_path / "train"


def evaluated(saved: SavedModel, name: str, **changes) -> None:
    """Writes the summary of an evaluation of this model."""
    own = saved.fingerprint(saved.load("float32"))
    summary = {
        "data": str(saved.folder.path.parent / "rows.jsonl"),
        "head": "trm",
        "dtype": "float32",
        "fingerprint": own,
    }
    summary |= {"questions": 50, "correct": 20, "accuracy": 0.4, "accuracy_low": 0.27, "accuracy_high": 0.54}
    (saved.folder.path / "evaluation").mkdir(exist_ok=True)
    (saved.folder.path / f"evaluation/{name}.json").write_text(json.dumps(summary | changes))


def test_an_export_says_whether_calculator_marks_were_kept(a_run):
    """Solutions are measured with them by likelihood.py, then; exports of former versions say nothing, and have none."""
    export(SavedModel.open(a_run), a_run.parent / "without")
    data = json.loads((a_run / "config.json").read_text())["data"]
    edit_json(a_run / "config.json", data=data | {"keep_annotations": True})
    export(SavedModel.open(a_run), a_run.parent / "with")
    assert open_checkpoint(a_run.parent / "with", a_run.parent / "model").keeps_annotations
    former = a_run.parent / "without/trm_config.json"
    values = json.loads(former.read_text())
    assert values.pop("keeps_annotations") is False
    former.write_text(json.dumps(values))
    assert not open_checkpoint(a_run.parent / "without", a_run.parent / "model").keeps_annotations


def test_the_card_shows_evaluations_of_these_weights_alone(a_run):
    saved = SavedModel.open(a_run)
    evaluated(saved, "own")
    evaluated(saved, "backbone", head="backbone", data="gsm8k", fingerprint=saved.fingerprint(), correct=7)
    evaluated(saved, "other", fingerprint="of others", correct=49)
    evaluated(saved, "relative", data="data/rows", data_name="a local file", correct=21)
    evaluated(saved, "unfinished", accuracy=None, correct=48)
    (a_run / "evaluation/broken.json").write_text("{")
    export(saved, a_run.parent / "export")
    card = (a_run.parent / "export/README.md").read_text()
    assert "| a local file | backbone + TRM | dtype float32 | 20 of 50 | 40.0 % [27.0, 54.0] |" in card
    assert "| a local file | backbone + TRM | dtype float32 | 21 of 50 |" in card
    assert "data/rows" not in card
    assert "| gsm8k | backbone alone | dtype float32 | 7 of 50 |" in card
    assert "49 of 50" not in card
    assert "48 of 50" not in card
    assert "At the end of the training" in card
    assert "Paired difference" in card
    assert "There is no evaluation" not in card
    assert "trained on: a local file; 3 batches" in card
    assert "What is not shown" in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "trm_jax"
    assert not {"license", "base_model", "datasets"} & front.keys()  # nobody knows them


def test_an_earlier_checkpoint_does_not_take_the_figures_of_the_last(a_run):
    export(SavedModel.open(a_run / "checkpoints/2"), a_run.parent / "export")
    card = (a_run.parent / "export/README.md").read_text()
    assert "At the end of the training" not in card
    assert "There is no evaluation of exactly these weights" in card


def test_base_model_and_data_are_in_front_where_they_are_known(a_run):
    revision = "c" * 40
    edit_json(a_run.parent / "model/config.json", base_model={"id": "Qwen/Qwen2.5-0.5B", "revision": revision})
    config = json.loads((a_run / "config.json").read_text())
    config["trained_on"] = ["gsm8k", "ada/sums:main"]
    (a_run / "config.json").write_text(json.dumps(config))
    printed = export(SavedModel.open(a_run), a_run.parent / "export")
    assert printed.endswith(f"the backbone is Qwen/Qwen2.5-0.5B@{revision}")
    front = yaml.safe_load((a_run.parent / "export/README.md").read_text().split("---")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("Qwen/Qwen2.5-0.5B", "adapter")
    assert front["datasets"] == ["openai/gsm8k", "ada/sums"]


def test_nothing_of_this_machine_is_published(a_run, hub, monkeypatch):
    """Every byte is read: the temporary folder's path, the user's name and that of the host are nowhere.

    The names are set to some that cannot be met by chance, as `root` and `vm` can; real ones count if they are long.
    """
    real = [name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 5]
    monkeypatch.setenv("USER", "this-user")
    monkeypatch.setenv("LOGNAME", "this-user")
    monkeypatch.setattr(socket, "gethostname", lambda: "this-host")
    evaluated(SavedModel.open(a_run), "own")
    folder = a_run.parent / "export"
    export(SavedModel.open(a_run), folder, backbone_too=True)
    (folder / "notes.txt").write_text("mine")
    push(folder, exported_files(folder), "ada/trm")
    published = hub.root / "repositories/ada/trm"
    files = sorted(path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file())
    assert files == exported_files(folder)
    assert "notes.txt" not in files
    secrets = [str(a_run.parent), f"{pathlib.Path.home()}/", "this-user", "this-host", *real]
    for name in files:
        content = (published / name).read_bytes()
        assert [secret for secret in secrets if secret.encode() in content] == [], name


def test_the_size_of_a_trained_head_is_said(demo_model_folder, tmp_path):
    imported("mathllm", demo_model_folder, tmp_path / "model")
    done = run("export.py", "--checkpoint", tmp_path / "model", "--output", tmp_path / "export")
    assert done.returncode == 0, done.stderr
    assert "trm.safetensors, of which the trained output head is 126.7 kB" in done.stdout
    assert "31,680 (126.7 kB) are the trained output head" in (tmp_path / "export/README.md").read_text()
    assert "must be given with --model by whoever loads this" in done.stdout


def test_an_export_is_written_again_and_its_card_stays(a_run, tmp_path):
    saved, folder = SavedModel.open(a_run), a_run.parent / "export"
    export(saved, folder, backbone_too=True)
    (folder / "README.md").write_text("mine")
    (folder / "trm.safetensors").write_bytes(b"")
    assert "README.md, which was there and stays as it is" in export(saved, folder)
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "trm.safetensors").stat().st_size > 0
    assert not (folder / "backbone").exists()
    with pytest.raises(UserError, match="an export of other weights"):
        export(SavedModel.open(a_run / "checkpoints/2"), folder)
    with pytest.raises(UserError, match="something else than an exported model"):
        export(saved, a_run)


def test_a_folder_that_was_exported_works_without_a_network(a_run, tmp_path):
    """Evaluated, and trained further, with its backbone beside it."""
    folder = a_run.parent / "export"
    export(SavedModel.open(a_run), folder)
    local = ["--model", a_run.parent / "model"]
    for script, options in (
        ("eval_gsm8k.py", ["--checkpoint", folder, "--data", "demo", "--limit", 2, *local]),
        (
            "train.py",
            [
                "--init-from",
                folder,
                "--output",
                tmp_path / "next",
                "--data",
                "demo",
                "--num-samples",
                8,
                "--held-out",
                0,
            ]
            + ["--max-batches", 1, "--batch-size", 8, "--max-length", 96, "--eval-limit", 0, *local],
        ),
    ):
        done = run(script, *options, HF_HUB_OFFLINE="1", XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
    [summary] = (folder / "evaluation").glob("*.json")
    assert json.loads(summary.read_text())["checkpoint"] == "3"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--push", "nothing"], "no USER/NAME"),
        (["--public"], "--public goes with --push"),
        (["--push", "ada/trm"], "could not be uploaded"),
        (["--checkpoint", "{root}/model"], "whose recursion is not trained"),
        (["--output", "{root}/model"], "something else than an exported model"),
    ],
)
def test_mistakes_are_one_line(folders, tmp_path, options, says):
    options = [option.format(root=folders[0]) for option in options]
    given = [] if "--checkpoint" in options else ["--checkpoint", folders[0] / "train"]
    given += [] if "--output" in options else ["--output", tmp_path / "export"]
    done = run("export.py", *given, *options)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
