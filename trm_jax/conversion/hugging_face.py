"""Hugging Face safetensors to the backbone and back, through one key table."""

import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping

import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
import safetensors.numpy

from trm_jax.checkpoints import all_finite
from trm_jax.config import ConfigError, QwenConfig
from trm_jax.conversion.hugging_face_config import read_config, to_hugging_face
from trm_jax.conversion.safetensors_files import DTYPES, StoredTensor, find_tensors
from trm_jax.data import HubModel
from trm_jax.model import Qwen, WeightsError, abstract_qwen, check_weights, named_weights

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOP_KEYS = {"embedding": EMBEDDING, "norm.scale": "model.norm.weight", "lm_head": LM_HEAD}
LAYER_KEYS = {
    "layers.attention_norm.scale": "input_layernorm.weight",
    "layers.attention.query.kernel": "self_attn.q_proj.weight",
    "layers.attention.query.bias": "self_attn.q_proj.bias",
    "layers.attention.key.kernel": "self_attn.k_proj.weight",
    "layers.attention.key.bias": "self_attn.k_proj.bias",
    "layers.attention.value.kernel": "self_attn.v_proj.weight",
    "layers.attention.value.bias": "self_attn.v_proj.bias",
    "layers.attention.output.kernel": "self_attn.o_proj.weight",
    "layers.mlp_norm.scale": "post_attention_layernorm.weight",
    "layers.mlp.gate.kernel": "mlp.gate_proj.weight",
    "layers.mlp.up.kernel": "mlp.up_proj.weight",
    "layers.mlp.down.kernel": "mlp.down_proj.weight",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def find_model(name: str, revision: str | None = None) -> pathlib.Path:
    """The folder of a model: `name` itself, or the model with this hub id, downloaded. Raises ConfigError or HubError.

    `revision` is a commit, branch or tag of the hub; None is the newest.

    Example: `find_model("Qwen/Qwen2.5-Math-1.5B-Instruct")`.
    """
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    if pathlib.Path(name).is_file():
        kind = "a GGUF file, made for llama.cpp" if name.endswith(".gguf") else "a file"
        raise ConfigError(f"{name} is {kind}: give the folder with config.json, tokenizer and safetensors files")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{name!r} is neither a folder nor a hub id such as Qwen/Qwen2.5-Math-1.5B-Instruct")
    return HubModel(name, revision).fetch(["*.json", "*.safetensors", "merges.txt", "*.jinja"])


def find_config(name: str) -> QwenConfig:
    """The backbone's config of a Hugging Face folder or hub id; no weights are downloaded. Raises ConfigError or HubError.

    Example: `find_config("Qwen/Qwen2.5-Math-1.5B-Instruct")`.
    """
    if pathlib.Path(name).is_dir():
        return read_config(pathlib.Path(name))
    return read_config(HubModel(name).fetch(["config.json"]))


def hugging_face_keys(config: QwenConfig) -> dict[str, list[str]]:
    """For each weight of the backbone, the Hugging Face tensors that it is made of: one, or one for each layer."""
    table = {name: [key] for name, key in TOP_KEYS.items() if not (config.tied_head and key == LM_HEAD)}
    for name, key in LAYER_KEYS.items():
        table[name] = [f"model.layers.{layer}.{key}" for layer in range(config.num_layers)]
    return table


def read_backbone(folder: pathlib.Path, config: QwenConfig, dtype) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of a Hugging Face folder, one after the other, by the backbone's names and in `dtype`.

    Tensors are read one at a time, straight into their place. Unless every tensor is used once and every weight is filled,
    raises WeightsError with all faults in one message, before the first tensor is read.
    """
    weights = named_weights(abstract_qwen(config))
    table = hugging_face_keys(config)
    assert table.keys() == weights.keys(), "the key table must name every weight of the backbone"
    tensors = find_tensors(folder)
    if config.tied_head and LM_HEAD in tensors:
        if EMBEDDING in tensors:
            _require_tied(tensors)
        tensors = {EMBEDDING: tensors[LM_HEAD]} | tensors  # either name will do
        del tensors[LM_HEAD]
    expected = {key: _tensor_shape(name, weights[name]) for name, keys in table.items() for key in keys}
    check_weights(expected, {key: tensor.shape for key, tensor in tensors.items()}, where=f" in {folder}")

    for name, keys in table.items():
        weight = np.empty(weights[name].shape, dtype)
        for layer, key in enumerate(keys):
            with tensors[key].read() as tensor:
                if not all_finite(tensor):
                    raise WeightsError(f"{key} in {tensors[key].path} holds numbers that are not finite")
                (weight[layer] if name in LAYER_KEYS else weight)[...] = tensor.T if name.endswith("kernel") else tensor
        yield name, weight


def stored_dtype(folder: pathlib.Path) -> str:
    """The type that holds all weights of a Hugging Face folder as they are: bfloat16 if all are, else float32."""
    found = {DTYPES[tensor.dtype] for tensor in find_tensors(folder).values()}
    return "bfloat16" if found == {"bfloat16"} else "float32"


def write_hugging_face(folder: pathlib.Path, backbone: Qwen, tokenizer_folder: pathlib.Path | None = None) -> None:
    """Writes a backbone as a folder that transformers and `read_backbone` load; the tokenizer's files are copied.

    Example: `write_hugging_face(folder, model.backbone, tokenizer_folder)`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    weights = named_weights(backbone)
    for name, keys in hugging_face_keys(backbone.config).items():
        values = np.asarray(weights[name])
        for layer, key in enumerate(keys):
            value = values[layer] if name in LAYER_KEYS else values
            tensors[key] = np.ascontiguousarray(value.T if name.endswith("kernel") else value)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    dtype = str(backbone.embedding.dtype)
    (folder / "config.json").write_text(
        json.dumps(to_hugging_face(backbone.config) | {"dtype": dtype}, indent=2) + "\n"
    )
    if tokenizer_folder is not None:
        copy_tokenizer(tokenizer_folder, folder)


def copy_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies whatever tokenizer files the source has, and removes those that only the target has.

    Example: `copy_tokenizer(source, folder / "tokenizer")`.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)


def _tensor_shape(name: str, weight: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape that one tensor of a weight has in the file: without the layers, kernels transposed."""
    shape = weight.shape[1:] if name in LAYER_KEYS else weight.shape
    return shape[::-1] if name.endswith("kernel") else shape


def _require_tied(tensors: Mapping[str, StoredTensor]) -> None:
    with tensors[LM_HEAD].read() as head, tensors[EMBEDDING].read() as embedding:
        if not np.array_equal(head, embedding):
            raise WeightsError("config.json ties the head to the embedding, but the file has two different ones")
