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
    config.__dict__.update(n_latent=2, T_recursion=2, N_supervision=3, backbone_dim=24)
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
    with pytest.raises(WeightsError, match=r"heads.lm_head.weight is \[61, 24\], expected \[70, 24\]"):
        original.read_trm_checkpoint(tmp_path / "trm_model.pt", tiny_qwen_config(vocab_size=70))


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
