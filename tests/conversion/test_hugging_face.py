"""Conversion: every fault named at once, nothing used twice, little memory."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tests.support.models import randomize, tiny_model, tiny_qwen_config
from tests.support.world import edit_json
from trm_jax import demo, load_model
from trm_jax.checkpoints import open_folder, replacing, save_model
from trm_jax.config import ConfigError
from trm_jax.conversion import convert as convert_model
from trm_jax.conversion import hugging_face as convert
from trm_jax.conversion import hugging_face_config
from trm_jax.model.qwen import Qwen
from trm_jax.model.weights import WeightsError, named_weights


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A tiny model in Hugging Face's format."""
    backbone = randomize(Qwen(tiny_qwen_config(), nnx.Rngs(0)), seed=5)
    convert.write_hugging_face(tmp_path / "hf", backbone)
    return tmp_path / "hf"


def read(folder):
    return dict(convert.read_backbone(folder, hugging_face_config.read_config(folder), np.float32))


def change(folder, edit) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    edit(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def test_every_weight_is_filled_with_its_own_tensor(folder):
    """Random weights are all different, so one that is swapped, skipped or transposed shows."""
    expected = named_weights(randomize(Qwen(tiny_qwen_config(), nnx.Rngs(0)), seed=5))
    found = read(folder)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


def test_all_faults_come_in_one_message(folder):
    def spoil(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
        tensors["model.norm.weight"] = np.zeros(5, np.float32)

    change(folder, spoil)
    with pytest.raises(WeightsError) as error:
        read(folder)
    assert "missing: model.layers.1.mlp.up_proj.weight" in str(error.value)
    assert "not used: model.layers.7.mlp.up_proj.weight" in str(error.value)
    assert "of another shape: model.norm.weight is [5], expected [24]" in str(error.value)


def test_a_tied_model_may_carry_its_head_but_not_another(folder):
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="two different"):
        read(folder)
    change(folder, lambda tensors: tensors.update({convert.LM_HEAD: tensors[convert.EMBEDDING]}))
    assert "lm_head" not in read(folder)


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {convert.EMBEDDING: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-00001-of-00002"):
        read(folder)


def test_rotary_frequencies_of_old_checkpoints_are_passed_over(folder):
    """In the file and in its index, with an end token of the generation config that is null."""
    change(
        folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)})
    )
    keys = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(keys, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "generation_config.json").write_text('{"eos_token_id": null}')
    assert read(folder).keys() == named_weights(Qwen(tiny_qwen_config(), nnx.Rngs(0))).keys()


def test_converting_needs_no_torch(tmp_path):
    """Importing trm_jax and converting must work where torch is not installed."""
    script = (
        "import sys, runpy\n"
        "class WithoutTorch:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def __getattr__(self, name): return getattr(self.finder, name)\n"
        "    def find_spec(self, name, *args):\n"
        "        return None if name.partition('.')[0] == 'torch' else self.finder.find_spec(name, *args)\n"
        "sys.meta_path[:] = map(WithoutTorch, sys.meta_path)\n"
        f"sys.argv = ['convert_qwen.py', '--model', {str(demo.MODEL)!r}, '--output', {str(tmp_path / 'out')!r}]\n"
        "runpy.run_path('scripts/convert_qwen.py', run_name='__main__')"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/config.json").exists()


def test_imported_checkpoint_is_in_the_model_folder(tmp_path, folder):
    """The folder gives back the raw weights or the moving average, as asked."""
    model = tiny_model("mathllm")
    ema = jax.tree.map(lambda weight: weight + 1, model.trm)
    config = hugging_face_config.read_config(folder)
    with replacing(tmp_path / "ours") as partial:
        save_model(partial, config, convert.read_backbone(folder, config, "float32"), model.trm, ema)
    for use_ema, expected in ((True, ema), (False, model.trm)):
        found = load_model(tmp_path / "ours", use_ema=use_ema).trm
        assert found.config == model.trm.config
        for name, weight in named_weights(expected).items():
            np.testing.assert_array_equal(named_weights(found)[name], weight, err_msg=name)


def rename(folder, new_name) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    renamed = {new_name(key): tensor for key, tensor in tensors.items()}
    safetensors.numpy.save_file(renamed, folder / "model.safetensors")


@pytest.mark.parametrize(
    "new_name",
    [
        lambda key: key.removeprefix("model."),
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module.{key}",
        lambda key: key.replace("model.", "model.language_model."),
    ],
    ids=["none", "compiled", "wrapped", "nested"],
)
def test_other_prefixes_are_recognised_and_said(folder, new_name, caplog):
    """As torch.compile, a wrapper, or saving the decoder alone leave them."""
    expected = read(folder)
    rename(folder, new_name)
    with caplog.at_level("INFO"):
        found = read(folder)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert "is read as" in caplog.text


def test_two_models_in_one_folder_are_not_guessed_at(folder):
    change(folder, lambda tensors: tensors.update({f"other.{key}": value for key, value in list(tensors.items())}))
    with pytest.raises(WeightsError, match=r"not used: .*other\.model"):
        read(folder)


def test_a_whole_file_wins_over_an_index_that_was_left_behind(folder):
    """As in transformers."""
    expected = read(folder)
    index = {"weight_map": {convert.EMBEDDING: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    jax.tree.map(np.testing.assert_array_equal, read(folder), expected)


@pytest.mark.parametrize("kept", [convert.EMBEDDING, convert.LM_HEAD])
def test_a_tied_model_may_store_either_name(folder, kept):
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    table = safetensors.numpy.load_file(folder / "model.safetensors")[kept]
    left = ({convert.EMBEDDING, convert.LM_HEAD} - {kept}).pop()
    change(folder, lambda tensors: tensors.pop(left))
    np.testing.assert_array_equal(read(folder)["embedding"], table)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32"], "float32"),
        (["bfloat16"], "bfloat16"),
        (["float16"], "float32"),
        (["bfloat16", "float32"], "float32"),
    ],
)
def test_weights_keep_the_type_that_they_are_stored_in(folder, dtypes, expected):
    """Float32 weights were rounded in silence."""

    def store(tensors):
        for number, key in enumerate(tensors):
            tensors[key] = tensors[key].astype(dtypes[number % len(dtypes)])

    change(folder, store)
    assert convert.stored_dtype(folder) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", '{"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}', "adapter of Qwen/Qwen2.5-0.5B"),
        ("model-q4.gguf", "GGUF", "GGUF"),
    ],
)
def test_other_kinds_of_folders_are_named_as_what_they_are(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=words):
        hugging_face_config.read_config(tmp_path)
    with pytest.raises(ConfigError, match="give the folder with"):
        convert.find_model(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adapter_model.safetensors", "merge"),
        ("model.gguf", "GGUF"),
        ("pytorch_model.bin", "Pickled"),
        ("x.txt", "no wei"),
    ],
)
def test_what_lies_in_place_of_the_weights_is_named(folder, name, words):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(WeightsError, match=words):
        read(folder)


@pytest.mark.parametrize("kind", ["Qwen2ForSequenceClassification", "Qwen2ForTokenClassification"])
def test_a_classifier_is_refused_by_its_name(folder, kind):
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [kind]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=kind):
        hugging_face_config.read_config(folder)


@pytest.mark.parametrize(
    ("change_config", "expected"),
    [
        ({"eos_token_id": 0}, (0, 494)),
        ({"eos_token_id": None}, (494,)),
        ({}, (494,)),
        ({"eos_token_id": [0, 1]}, (0, 1, 494)),
    ],
    ids=["another", "null", "missing", "several"],
)
def test_a_completion_also_ends_where_the_chat_format_ends_an_answer(tmp_path, change_config, expected):
    """A base model's configs name only the end of a text, which a trained answer does not end with: it would never stop."""
    shutil.copytree(demo.MODEL, tmp_path / "hf")
    values = json.loads((tmp_path / "hf/config.json").read_text())
    values.pop("eos_token_id")
    (tmp_path / "hf/config.json").write_text(json.dumps(values | change_config))
    (tmp_path / "hf/generation_config.json").unlink(missing_ok=True)
    convert_model(tmp_path / "hf", tmp_path / "model")
    assert open_folder(tmp_path / "model").model.backbone_config.end_tokens == expected


def test_the_config_alone_of_a_hugging_face_folder_can_be_read(folder):
    """What plan.py --model needs."""
    assert convert.find_config(str(folder)) == tiny_qwen_config()


@pytest.mark.parametrize(
    "scaling", [None, {}, {"type": None}, {"rope_type": "default"}, {"rope_type": None, "type": None}]
)
def test_no_scaling_may_be_written_in_many_ways(folder, scaling):
    edit_json(folder / "config.json", rope_scaling=scaling)
    assert hugging_face_config.read_config(folder) == tiny_qwen_config()


@pytest.mark.parametrize(
    "scaling", [{"type": "linear"}, {"rope_type": None, "type": "yarn"}, {"rope_type": "dynamic"}, "yarn"]
)
@pytest.mark.parametrize("parameters", [None, {"rope_type": "default"}])
def test_a_scaling_is_refused_also_beside_parameters_that_have_none(folder, scaling, parameters):
    """People add `rope_scaling` for longer texts, as Qwen's model cards tell them to; transformers 5 follows it."""
    edit_json(folder / "config.json", rope_scaling=scaling, rope_parameters=parameters)
    with pytest.raises(ConfigError, match=r"rope_scaling|rotary embedding of type"):
        hugging_face_config.read_config(folder)
