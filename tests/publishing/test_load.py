"""Exported models, from a folder and from the hub: the weights bit for bit, on the backbone that they were trained on.

The hub is a stand-in at the level of `snapshot_download` and `HfApi` (tests/support/publishing.py), but in the last test.
"""

import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest
from huggingface_hub import constants

import trm_jax
from tests.support.command_line import ROOT
from tests.support.damage import flip_bit
from tests.support.publishing import FolderHub, imported
from tests.support.world import LEFT_OUT, edit_json
from trm_jax import demo, hardware
from trm_jax.checkpoints import SavedModel, open_folder
from trm_jax.conversion import convert, find_model
from trm_jax.data import HubModel
from trm_jax.errors import UserError
from trm_jax.model import named_weights
from trm_jax.publishing import export, exported_files, load_model, load_tokenizer, open_checkpoint, push


def assert_same(found, expected) -> None:
    found, expected = named_weights(found), named_weights(expected)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


def test_a_folder_gives_back_what_was_exported(exported, hub):
    """With the backbone that lies in it, converted into the cache, which the fixture `hub` has emptied."""
    model, folder = exported
    found, expected = load_model(folder), SavedModel.open(model).load()
    assert_same(found, expected)
    assert found.trm.config == expected.trm.config
    assert load_tokenizer(folder).chat_template == load_tokenizer(model).chat_template
    assert hub.fetched == []


@pytest.fixture(scope="module")
def template(demo_model_folder, tmp_path_factory) -> pathlib.Path:
    """A model folder, with an imported recursion on the hub's backbone `qwen/base`, and its export without the backbone."""
    root = tmp_path_factory.mktemp("template")
    imported("residual", demo_model_folder, root / "model", HubModel("qwen/base", FolderHub.commit("qwen/base")))
    export(SavedModel.open(root / "model"), root / "export")
    return root


@pytest.fixture
def published(hub, template, tmp_path) -> pathlib.Path:
    """A copy of the export, and a hub that has its backbone."""
    hub.put("qwen/base", demo.MODEL)
    return shutil.copytree(template / "export", tmp_path / "export")


def test_conversion_records_where_a_backbone_came_from(hub, tmp_path, demo_model_folder):
    hub.put("qwen/base", demo.MODEL)
    convert(find_model("qwen/base"), tmp_path / "model")
    assert open_folder(tmp_path / "model").model.base_model == HubModel("qwen/base", hub.commit("qwen/base"))
    assert open_folder(demo_model_folder).model.base_model is None  # a local folder
    edit_json(tmp_path / "model/config.json", base_model=LEFT_OUT)  # as of a version that did not record it
    assert open_folder(tmp_path / "model").model.base_model is None


def test_pushed_and_loaded_by_name(published, hub, template):
    """The head is fetched, then the backbone at its revision, which is converted once."""
    push(published, exported_files(published), "ada/trm")
    assert hub.public == {"ada/trm": False}
    expected = SavedModel.open(template / "model").load()
    for name in ("ada/trm", "ada/trm@main", f"ada/trm@{hub.commit('ada/trm')}"):
        assert_same(trm_jax.load_model(name), expected)
    assert trm_jax.load_tokenizer("ada/trm").chat_template
    assert hub.fetched.count("qwen/base/model.safetensors") == 1
    assert not [name for name in hub.fetched if name.endswith(".py")]
    saved = open_checkpoint("ada/trm")
    assert (saved.label, saved.results) == ("imported", pathlib.Path("runs/ada--trm"))


@pytest.fixture
def in_this_process(published, hub, tmp_path, monkeypatch):
    """Calls the `main` of a script with a pushed model and the stand-in for the hub; results are below `tmp_path`."""
    push(published, exported_files(published), "ada/trm")
    monkeypatch.setattr(hardware, "choose_mesh", lambda *sizes: None)  # of this process, in which other tests run
    monkeypatch.chdir(tmp_path)

    def call(name: str, **options) -> None:
        script = runpy.run_path(str(ROOT / "scripts" / name))
        script["main"](script["Options"](checkpoint="ada/trm@main", device="cpu", dtype="float32", **options))

    return call


def test_a_sweep_takes_a_name_of_the_hub(in_this_process, tmp_path, hub):
    """The hub's own cache is no place for results."""
    in_this_process("sweep.py", over="early_exit", thresholds=(1e9,), limit=2, batch_size=2, max_new_tokens=4)
    found = json.loads((tmp_path / "runs/ada--trm/sweeps/early_exit.json").read_text())["ways"]
    assert [one["name"] for one in found] == ["off", "1e+09"]
    assert found[0]["steps"] == 3 > found[1]["steps"]
    assert not list((hub.root / "cache").rglob("sweeps"))


def test_lm_eval_takes_a_name_of_the_hub(in_this_process, tmp_path, template):
    """And answers as the model that was exported."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    in_this_process("lm_eval.py", output=tmp_path / "found.json", data="demo", limit=2, max_new_tokens=8, batch_size=2)
    samples = json.loads((tmp_path / "found.json").read_text())["samples"]["trm_gsm8k_chat"]
    tokenizer = trm_jax.load_tokenizer(template / "model")
    prompts = [tokenizer(sample["arguments"][0][0], add_special_tokens=False)["input_ids"] for sample in samples]
    expected = trm_jax.generate(trm_jax.load_model(template / "model", "float32"), prompts, 8, batch_size=2)
    texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]
    assert [sample["resps"][0][0] for sample in samples] == texts


def test_a_backbone_that_is_here_already_is_not_fetched(published, hub, tmp_path, template, demo_model_folder):
    assert_same(load_model(published, backbone=demo_model_folder), SavedModel.open(template / "model").load())
    assert hub.fetched == []
    assert not (tmp_path / "cache/trm_jax/backbones").exists()


def test_a_backbone_beside_a_pushed_head_is_taken(exported, hub):
    model, folder = exported
    push(folder, exported_files(folder), "ada/whole")
    assert_same(load_model("ada/whole"), SavedModel.open(model).load())
    assert "ada/whole/backbone/model.safetensors" in hub.fetched
    push(folder, [name for name in exported_files(folder) if "/" not in name], "ada/whole")
    assert not list((hub.root / "repositories/ada/whole/backbone").iterdir())


def test_a_backbone_with_other_end_tokens_or_another_chat_format_is_kept_apart(published, hub, tmp_path):
    """Weights are not all: completions would end at the tokens of whichever export was opened first."""
    hub.put("qwen/other", demo.MODEL)
    edit_json(hub.root / "repositories/qwen/other/config.json", eos_token_id=[7])
    other = shutil.copytree(published, tmp_path / "other")
    config = json.loads((published / CONFIG).read_text())
    values = config["backbone"] | {"end_tokens": [7, *config["backbone"]["end_tokens"]]}
    base = {"id": "qwen/other", "revision": FolderHub.commit("qwen/other")}
    edit_json(other / CONFIG, backbone=values, base_model=base)
    for _ in range(2):
        first, second = (open_checkpoint(folder).folder.model for folder in (published, other))
        assert {7} == set(second.backbone_config.end_tokens) - set(first.backbone_config.end_tokens)
    edit_json(other / CONFIG, chat_template_sha256="0" * 64)
    assert open_checkpoint(other).folder.model.path != second.path
    assert hub.fetched.count("qwen/base/model.safetensors") == 1


def test_an_export_that_is_refused_leaves_the_backbones_of_others(published, hub, tmp_path):
    load_model(published)
    other = shutil.copytree(published, tmp_path / "other")
    edit_json(other / CONFIG, backbone=json.loads((other / CONFIG).read_text())["backbone"] | {"max_length": 77})
    with pytest.raises(UserError, match="configured otherwise: max_length 77 there"):
        load_model(other)
    shutil.rmtree(hub.root)
    load_model(published)


def test_files_of_an_earlier_export_do_not_stay(published, hub, tmp_path, template):
    """A chat format in a file of its own would count for the new one, too."""
    (published / "chat_template.jinja").write_text("{{ messages[0].content }}<|im_end|>")
    push(published, exported_files(published), "ada/trm")
    with pytest.raises(UserError, match="another chat template"):
        load_tokenizer("ada/trm")
    export(SavedModel.open(template / "model"), published)
    assert not (published / "chat_template.jinja").exists()
    push(published, exported_files(published), "ada/trm")
    shutil.rmtree(hub.root / "cache")
    assert load_tokenizer("ada/trm").chat_template == load_tokenizer(template / "model").chat_template


def test_a_model_of_the_hub_is_fetched_without_the_folders_in_it(hub, tmp_path):
    """Repositories of fine-tunes have their checkpoints there, each as large as the model."""
    source = shutil.copytree(demo.MODEL, tmp_path / "source")
    shutil.copytree(demo.MODEL, source / "checkpoint-500")
    hub.put("ada/tune", source)
    find_model("ada/tune")
    assert "ada/tune/model.safetensors" in hub.fetched
    assert not [name for name in hub.fetched if "checkpoint-500" in name]


def test_a_repository_that_everybody_can_read_needs_public(published, hub):
    push(published, exported_files(published), "ada/open", public=True)
    with pytest.raises(UserError, match="--public says"):
        push(published, exported_files(published), "ada/open")


def cut(folder: pathlib.Path) -> None:
    path = folder / "trm.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


CONFIG = "trm_config.json"
OF_THE_EXPORT = {
    "cut off": (cut, "trm.safetensors is damaged"),
    "a bit": (lambda folder: flip_bit(folder / "trm.safetensors"), "other weights than|not finite"),
    "no weights": (lambda folder: (folder / "trm.safetensors").unlink(), "trm.safetensors is damaged"),
    "another recursion": (
        lambda folder: edit_json(
            folder / CONFIG, trm=json.loads((folder / CONFIG).read_text())["trm"] | {"tied": False}
        ),
        "missing: engine.blocks.0",
    ),
    "another angle": (
        lambda folder: edit_json(
            folder / CONFIG, backbone=json.loads((folder / CONFIG).read_text())["backbone"] | {"rope_theta": 5.0}
        ),
        "configured otherwise: rope_theta 5.0 there",
    ),
    "a path as a fingerprint": (lambda folder: edit_json(folder / CONFIG, backbone_fingerprint="../x"), "no SHA-256"),
    "another format": (lambda folder: edit_json(folder / CONFIG, format=2), "format 2"),
    "not whole": (lambda folder: (folder / CONFIG).write_text('{"format": 1}'), "it lacks trm,"),
    "not JSON": (lambda folder: (folder / CONFIG).write_text("{"), "is not JSON"),
}
OF_THE_BASE_MODEL = {
    "no such model": (
        lambda folder: edit_json(folder / CONFIG, base_model={"id": "qwen/gone", "revision": "main"}),
        "'qwen/gone@main' is not a folder here and cannot be had",
    ),
    "no such revision": (
        lambda folder: edit_json(folder / CONFIG, base_model={"id": "qwen/base", "revision": "v9"}),
        "'qwen/base' has no revision 'v9'",
    ),
    "none": (lambda folder: edit_json(folder / CONFIG, base_model=None), "names no base model on the hub"),
    "not a model": (lambda folder: edit_json(folder / CONFIG, base_model="x"), "the base model is 'x'"),
    "another": (
        lambda folder: edit_json(folder / CONFIG, backbone_fingerprint="0" * 64),
        "another backbone",
    ),
}


@pytest.mark.parametrize(("harm", "says"), OF_THE_EXPORT.values(), ids=OF_THE_EXPORT.keys())
def test_a_damaged_export_is_one_line(published, demo_model_folder, harm, says):
    harm(published)
    with pytest.raises(UserError, match=says) as error:
        load_model(published, backbone=demo_model_folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("harm", "says"), OF_THE_BASE_MODEL.values(), ids=OF_THE_BASE_MODEL.keys())
def test_a_backbone_that_cannot_be_had_is_one_line(published, tmp_path, harm, says):
    """And nothing of it stays in the cache."""
    harm(published)
    with pytest.raises(UserError, match=says) as error:
        load_model(published)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_another_backbone_or_name_is_one_line(published, hub, tmp_path, template, demo_model_folder):
    push(published, exported_files(published), "ada/trm")
    shutil.copytree(demo_model_folder, tmp_path / "other")
    edit_json(tmp_path / "other/config.json", fingerprint="0" * 64)
    for name, backbone, says in (
        (published, tmp_path / "other", "another backbone than the one in .*: its fingerprint is"),
        (template / "model", tmp_path / "other", "another backbone than the one in"),
        ("ada/trm@v9", None, "'ada/trm' has no revision 'v9' on the hub"),
        ("ada/nothing", None, "cannot be had from the hub"),
        ("qwen/base", None, "is not a model of export.py"),
        ("runs/nothing", None, "no config.json"),
    ):
        with pytest.raises(UserError, match=says):
            load_model(name, backbone=backbone)


def test_the_raw_weights_and_another_chat_format_are_refused(published, demo_model_folder):
    with pytest.raises(UserError, match="moving average of its weights alone"):
        load_model(published, use_ema=False, backbone=demo_model_folder)
    edit_json(published / "tokenizer_config.json", chat_template="{{ messages[0].content }}<|im_end|>")
    with pytest.raises(UserError, match="another chat template"):
        load_tokenizer(published)


def test_offline_a_converted_backbone_suffices(published, hub):
    """By its fingerprint in the cache, also where the hub has nothing any more."""
    load_model(published)
    shutil.rmtree(hub.root)
    load_model(published)


def test_the_real_library_finds_offline_what_was_fetched(template, tmp_path, monkeypatch):
    """Without a stand-in: huggingface_hub itself, on a cache of its own that holds the export and its backbone."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, folder in (("qwen/base", demo.MODEL), ("ada/trm", template / "export")):
        place = tmp_path / f"hub/models--{name.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / FolderHub.commit(name))
        (place / "refs").mkdir()
        (place / "refs/main").write_text(FolderHub.commit(name))
    assert_same(load_model("ada/trm"), SavedModel.open(template / "model").load())
    for name in ("ada/trm@v3", "ada/nothing"):
        with pytest.raises(UserError, match=f"'{name}' is not a folder here and cannot be had from the hub"):
            load_model(name)
