"""The backbone against transformers, and what the architecture promises."""

import json

import jax
import numpy as np
import pytest
import transformers

from tests.support.models import max_error, random_tokens
from trm_jax.checkpoints import load_backbone, open_folder, replacing, save_model
from trm_jax.conversion import hugging_face, hugging_face_config
from trm_jax.model.qwen import project

torch = pytest.importorskip("torch", reason="transformers computes with PyTorch")


def hugging_face_model(folder, *, kv_heads: int, tied: bool, shards: bool = False) -> transformers.PreTrainedModel:
    """A random Qwen2 of transformers, saved in `folder`; biases and norms are random too."""
    config = transformers.Qwen2Config(
        vocab_size=71,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 500.0, "rope_type": "default"},
        tie_word_embeddings=tied,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
    return model


def convert_folder(source, target):
    config = hugging_face_config.read_config(source)
    with replacing(target) as partial:
        save_model(partial, config, hugging_face.read_backbone(source, config, "float32"))
    return load_backbone(open_folder(target).model)


@pytest.mark.parametrize(
    ("kv_heads", "tied", "shards"), [(2, False, False), (2, True, False), (4, False, True), (1, True, True)]
)
def test_logits_agree_with_transformers(tmp_path, kv_heads, tied, shards):
    """Grouped heads, tied and untied, one file and many."""
    model = hugging_face_model(tmp_path / "hf", kv_heads=kv_heads, tied=tied, shards=shards)
    assert (tmp_path / "hf/model.safetensors.index.json").exists() == shards
    backbone = convert_folder(tmp_path / "hf", tmp_path / "ours")
    tokens = random_tokens((2, 17), high=71)
    with torch.no_grad():
        output = model(torch.tensor(tokens), output_hidden_states=True)
    hidden, _ = backbone(tokens)
    assert max_error(project(hidden.last, backbone.head), output.logits.numpy()) < 1e-4
    for level, layers in zip(hidden.levels[:3], (0, 1, 2), strict=True):
        assert max_error(level, output.hidden_states[layers].numpy()) < 1e-4


def test_export_is_read_back_by_transformers(tmp_path):
    """Conversion there and back gives every tensor and every logit unchanged."""
    model = hugging_face_model(tmp_path / "hf", kv_heads=2, tied=False)
    backbone = convert_folder(tmp_path / "hf", tmp_path / "ours")
    hugging_face.write_hugging_face(tmp_path / "back", backbone)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert back.config.rope_parameters["rope_theta"] == 500.0
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
    assert json.loads((tmp_path / "back/config.json").read_text())["eos_token_id"] == [3]


def test_no_token_sees_a_later_one(model):
    """A leak would make training easy and generation wrong."""

    def feature(embedding, position):
        backbone = model.backbone
        replaced = jax.tree.map(lambda w: w, backbone)
        replaced.embedding = type(backbone.embedding)(embedding)
        return replaced(np.arange(6)[None])[0].last[0, position].sum()

    gradient = jax.grad(feature)(model.backbone.embedding[...], 3)
    touched = np.flatnonzero(np.abs(gradient).sum(axis=1))
    assert touched.tolist() == [0, 1, 2, 3]
