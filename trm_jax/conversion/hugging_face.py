"""Hugging Face safetensors to the backbone and back, through one key table."""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
import safetensors
import safetensors.numpy

from trm_jax.checkpoints import all_finite
from trm_jax.config import ConfigError, QwenConfig
from trm_jax.conversion.hugging_face_config import to_hugging_face
from trm_jax.data import HubError, require_hub
from trm_jax.errors import listing
from trm_jax.files import read_object
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
DTYPES = ("F32", "BF16", "F16")
UNUSED = "rotary_emb.inv_freq"  # old checkpoints carry the rotary frequencies, which the config gives
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


def find_model(name: str) -> pathlib.Path:
    """The folder of a model: `name` itself, or the model with this hub id, downloaded. Raises ConfigError or HubError.

    Example: `find_model("Qwen/Qwen2.5-Math-1.5B-Instruct")`.
    """
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{name!r} is neither a folder nor a hub id such as Qwen/Qwen2.5-Math-1.5B-Instruct")
    import huggingface_hub

    require_hub(name)
    try:
        files = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise HubError(f"{name!r} is not a folder here and cannot be had from the hub: {error}") from None


def find_config(name: str) -> QwenConfig:
    """The backbone's config of a Hugging Face folder or hub id; no weights are downloaded. Raises ConfigError or HubError.

    Example: `find_config("Qwen/Qwen2.5-Math-1.5B-Instruct")`.
    """
    if pathlib.Path(name).is_dir():
        return read_config(pathlib.Path(name))
    import huggingface_hub

    require_hub(name)
    try:
        return read_config(pathlib.Path(huggingface_hub.hf_hub_download(name, "config.json")).parent)
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise HubError(f"{name!r} is not a folder here and cannot be had from the hub: {error}") from None


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
    files, shapes = _find_tensors(folder)
    if config.tied_head and LM_HEAD in shapes:
        _require_tied(files)
        del shapes[LM_HEAD]
    expected = {key: _tensor_shape(name, weights[name]) for name, keys in table.items() for key in keys}
    check_weights(expected, shapes, where=f" in {folder}")

    for name, keys in table.items():
        weight = np.empty(weights[name].shape, dtype)
        for layer, key in enumerate(keys):
            with _tensor(files[key], key) as tensor:
                if not all_finite(tensor):
                    raise WeightsError(f"{key} in {files[key]} holds numbers that are not finite")
                (weight[layer] if name in LAYER_KEYS else weight)[...] = tensor.T if name.endswith("kernel") else tensor
        yield name, weight


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
    """Copies whatever tokenizer files the source has."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _find_tensors(folder: pathlib.Path) -> tuple[dict[str, pathlib.Path], dict[str, tuple[int, ...]]]:
    """The file that each tensor of the folder is in, and its shape. Raises WeightsError."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise WeightsError(
                f"{folder} has no weights: neither model.safetensors nor model.safetensors.index.json is there "
                "(pickled weights, pytorch_model.bin, are not read)"
            )
        return _tensors([folder / "model.safetensors"])
    places = read_object(index, WeightsError).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files")
    names = sorted(set(places.values()))
    if outside := [name for name in names if pathlib.PurePath(name).name != name or "\0" in name]:
        raise WeightsError(f"{index} names files outside its folder: {listing(outside)}")
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise WeightsError(f"{index} names files that are not there: {listing(lost)}")
    files, shapes = _tensors([folder / name for name in names])
    if lost := [key for key in places if files.get(key) != folder / places[key] and not key.endswith(UNUSED)]:
        raise WeightsError(f"{index} names tensors that are not in their files: {listing(lost)}")
    return files, shapes


def _tensors(paths: Sequence[pathlib.Path]) -> tuple[dict[str, pathlib.Path], dict[str, tuple[int, ...]]]:
    """The tensors of several files, all of them of a type that a weight can have: their files and shapes."""
    files: dict[str, pathlib.Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                if key.endswith(UNUSED):
                    continue
                if key in files:
                    raise WeightsError(f"{key} is in two files, {files[key].name} and {path.name}")
                tensor = file.get_slice(key)
                if (dtype := tensor.get_dtype()) not in DTYPES:
                    raise WeightsError(f"{key} in {path} is of type {dtype}, none of {DTYPES}: is the model quantised?")
                files[key], shapes[key] = path, tuple(tensor.get_shape())
    return files, shapes


@contextlib.contextmanager
def _tensor(path: pathlib.Path, key: str) -> Iterator[np.ndarray]:
    """One tensor. The file is opened for it alone, so that its pages leave the memory when the file is closed."""
    with _opened(path) as file:
        yield file.get_tensor(key)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[safetensors.safe_open]:
    """Opens a safetensors file; the library compares its header with its size. Raises WeightsError."""
    try:
        file = safetensors.safe_open(path, "np")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged, or no safetensors file: {error}") from None
    with file:
        yield file


def _tensor_shape(name: str, weight: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape that one tensor of a weight has in the file: without the layers, kernels transposed."""
    shape = weight.shape[1:] if name in LAYER_KEYS else weight.shape
    return shape[::-1] if name.endswith("kernel") else shape


def _require_tied(files: Mapping[str, pathlib.Path]) -> None:
    with _tensor(files[LM_HEAD], LM_HEAD) as head, _tensor(files[EMBEDDING], EMBEDDING) as embedding:
        if not np.array_equal(head, embedding):
            raise WeightsError("config.json ties the head to the embedding, but the file has two different ones")
