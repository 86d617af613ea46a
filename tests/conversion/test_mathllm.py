"""Checkpoints of the original: imported whole, faults named, no code run."""

import pathlib
import sys

import jax
import numpy as np
import pytest

from tests.support.models import tiny_model, tiny_qwen_config
from trm_jax.conversion import mathllm as original
from trm_jax.model.weights import WeightsError, named_weights

torch = pytest.importorskip("torch")

from tests.support.oracle import save_original


class FakeConfig:
    """Pickles under the name of the original's config class."""


FakeConfig.__module__, FakeConfig.__qualname__ = "src.config", "TRMConfig"


@pytest.fixture
def pickled_config(monkeypatch):
    """The original's config object; its module exists only while it is pickled."""
    import types

    module = types.ModuleType("src.config")
    module.TRMConfig = FakeConfig
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.config", module)
    config = FakeConfig()
    config.__dict__.update(n_latent=2, T_recursion=2, N_supervision=3, rope_theta=500.0, num_heads=4, eps=1e-6)
    return config


def test_import_of_the_originals_checkpoint(tmp_path, pickled_config, monkeypatch):
    model = tiny_model("mathllm")
    ema = jax.tree.map(lambda weight: weight + 1, model.trm)
    save_original(tmp_path / "trm_model.pt", model.trm, ema=ema, config=pickled_config)
    monkeypatch.delitem(sys.modules, "src.config")
    trm, shadow = original.read_trm_checkpoint(tmp_path / "trm_model.pt", model.backbone.config)
    assert trm.config == model.trm.config
    for found, expected in ((trm, model.trm), (shadow, ema)):
        for name, weight in named_weights(expected).items():
            np.testing.assert_array_equal(named_weights(found)[name], weight, err_msg=name)


def test_faults_of_an_original_checkpoint_are_named(tmp_path):
    model = tiny_model("mathllm")
    save_original(tmp_path / "trm_model.pt", model.trm)
    with pytest.raises(WeightsError, match=r"heads.lm_head.weight is \[61, 24\], expected \[700, 24\]"):
        original.read_trm_checkpoint(tmp_path / "trm_model.pt", tiny_qwen_config(vocab_size=700))


@pytest.mark.parametrize("head", [None, torch.tensor(1.0), torch.ones(61), torch.ones(0, 24)])
def test_a_head_of_another_shape_is_named(tmp_path, head):
    path = tmp_path / "trm_model.pt"
    save_original(path, tiny_model("mathllm").trm)
    content = torch.load(path)
    content["heads"] |= {"lm_head.weight": head}
    if head is None:
        del content["heads"]["lm_head.weight"]
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"heads\.lm_head\.weight"):
        original.read_trm_checkpoint(path, tiny_qwen_config(vocab_size=70))


def test_the_base_of_the_rotation_is_the_backbones_where_the_original_had_the_same(tmp_path, pickled_config):
    config, path = tiny_qwen_config(), tmp_path / "trm_model.pt"
    pickled_config.rope_theta = config.rope_theta
    save_original(path, tiny_model("mathllm").trm, config=pickled_config)
    assert original.read_trm_checkpoint(path, config)[0].config.rope_theta is None
    save_original(path, tiny_model("mathllm").trm)  # without a config: as its defaults are
    assert original.read_trm_checkpoint(path, config)[0].config.rope_theta == 1e6


@pytest.mark.parametrize(("name", "value"), [("num_heads", 2), ("eps", 1e-5)])
def test_what_no_shape_tells_must_be_as_ours_has_it(tmp_path, pickled_config, name, value):
    """With half the heads, twice as wide, the weights would fit and compute something else."""
    setattr(pickled_config, name, value)
    save_original(tmp_path / "trm_model.pt", tiny_model("mathllm").trm, config=pickled_config)
    with pytest.raises(WeightsError, match=f"{name} is {value}, not"):
        original.read_trm_checkpoint(tmp_path / "trm_model.pt", tiny_qwen_config())


def test_a_head_may_lack_the_rows_that_are_no_tokens(tmp_path):
    """The original has 151,936 of a 7B's 152,064. No row that stands for others is ever ahead of the one it repeats."""
    model = tiny_model("mathllm")
    save_original(tmp_path / "trm_model.pt", model.trm)
    trm, _ = original.read_trm_checkpoint(tmp_path / "trm_model.pt", tiny_qwen_config(vocab_size=70))
    np.testing.assert_array_equal(trm.head[:61], model.trm.head[...])
    np.testing.assert_array_equal(trm.head[61:], np.repeat(model.trm.head[60:], 9, axis=0))


def test_names_that_torch_compile_has_changed_are_read(tmp_path):
    model, path = tiny_model("mathllm"), tmp_path / "trm_model.pt"
    save_original(path, model.trm, ema=model.trm)
    content = torch.load(path)
    content["engine"] = {f"_orig_mod.{key}": tensor for key, tensor in content["engine"].items()}
    shadow = content["ema"]["shadow"]
    content["ema"]["shadow"] = {key.replace("engine.", "engine._orig_mod."): shadow[key] for key in shadow}
    torch.save(content, path)
    for found in original.read_trm_checkpoint(path, tiny_qwen_config()):
        for name, weight in named_weights(model.trm).items():
            np.testing.assert_array_equal(named_weights(found)[name], weight, err_msg=name)


class Evil:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("evil"),))


def test_a_pickle_cannot_run_code(tmp_path, monkeypatch):
    """A plain unpickle would create the file."""
    monkeypatch.chdir(tmp_path)
    torch.save({"interface": {}, "engine": {}, "heads": {}, "config": Evil()}, "trm_model.pt")
    with pytest.raises(WeightsError, match="refused"):
        original.read_trm_checkpoint(pathlib.Path("trm_model.pt"), tiny_qwen_config())
    assert not pathlib.Path("evil").exists()
