"""The PyTorch module that an export comes with computes what JAX computes; both read the files that were exported."""

import importlib.util

import numpy as np
import pytest

from tests.support.models import random_tokens
from trm_jax.checkpoints import SavedModel
from trm_jax.model import supervision_logits

torch = pytest.importorskip("torch", reason="PyTorch is in the extra `oracle` alone")


def test_pytorch_computes_the_same_logits(exported):
    """Also that transformers loads the backbone's folder; the two rows are whole sequences."""
    from transformers import Qwen2ForCausalLM

    model, folder = exported
    spec = importlib.util.spec_from_file_location("modeling_trm", folder / "modeling_trm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    backbone = Qwen2ForCausalLM.from_pretrained(folder / "backbone", dtype=torch.float32).eval()
    tokens = random_tokens((2, 13), high=490)
    found = module.TinyRecursiveModel.from_folder(folder, backbone)(torch.tensor(tokens, dtype=torch.int64))
    expected = np.asarray(supervision_logits(SavedModel.open(model).load("float32"), tokens))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert np.abs(expected[0] - expected[-1]).max() > 1e-2  # the supervision steps differ
