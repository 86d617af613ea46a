"""The PyTorch module that an export comes with computes what JAX computes; both read the files that were exported."""

import importlib.util
import pathlib

import numpy as np
import pytest

from tests.support.models import random_tokens
from tests.support.publishing import imported
from trm_jax import demo
from trm_jax.checkpoints import SavedModel
from trm_jax.conversion import convert
from trm_jax.model import supervision_logits
from trm_jax.publishing import export

torch = pytest.importorskip("torch", reason="PyTorch is in the extra `oracle` alone")


def from_folder(folder: pathlib.Path, backbone):
    """The model of an exported folder, by the module that lies in it."""
    spec = importlib.util.spec_from_file_location("modeling_trm", folder / "modeling_trm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TinyRecursiveModel.from_folder(folder, backbone)


def backbone_of(folder: pathlib.Path, dtype=torch.float32):
    from transformers import Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(folder / "backbone", dtype=dtype).eval()


def test_pytorch_computes_the_same_logits(exported):
    """Also that transformers loads the backbone's folder; the two rows are whole sequences."""
    model, folder = exported
    tokens = random_tokens((2, 13), high=490)
    found = from_folder(folder, backbone_of(folder))(torch.tensor(tokens, dtype=torch.int64))
    expected = np.asarray(supervision_logits(SavedModel.open(model).load("float32"), tokens))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert np.abs(expected[0] - expected[-1]).max() > 1e-2  # the supervision steps differ


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def stored(request, tmp_path_factory) -> tuple[str, pathlib.Path]:
    """The type in which a backbone is stored, and an export on it."""
    root = tmp_path_factory.mktemp(request.param)
    convert(demo.MODEL, root / "backbone", request.param)
    imported("residual", root / "backbone", root / "model")
    export(SavedModel.open(root / "model"), root / "export", backbone_too=True)
    return request.param, root / "export"


def test_its_own_backbone_is_taken_in_every_type_that_holds_its_weights(stored):
    dtype, folder = stored
    assert from_folder(folder, backbone_of(folder)).heads.alpha.dtype == torch.float32
    if dtype == "bfloat16":
        assert from_folder(folder, backbone_of(folder, torch.bfloat16)).heads.alpha.dtype == torch.bfloat16
    else:
        with pytest.raises(ValueError, match=r"rounded when it was loaded as torch\.bfloat16, which float32 avoids"):
            from_folder(folder, backbone_of(folder, torch.bfloat16))


@pytest.mark.parametrize("weight", ["embed_tokens.weight", "layers.1.self_attn.v_proj.bias", "norm.weight"])
def test_a_backbone_with_one_other_number_is_refused(stored, weight):
    """As a fine-tune is, whose shapes are the same."""
    _, folder = stored
    backbone = backbone_of(folder)
    backbone.model.get_parameter(weight).data.view(-1)[-1] += 0.125
    with pytest.raises(ValueError, match="it is another one than the recursion was trained on") as error:
        from_folder(folder, backbone)
    assert "\n" not in str(error.value)


def test_a_backbone_with_more_layers_is_refused(stored):
    _, folder = stored
    backbone = backbone_of(folder)
    backbone.model.layers.append(backbone.model.layers[0])
    with pytest.raises(ValueError, match="it is another one"):
        from_folder(folder, backbone)
