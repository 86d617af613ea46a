"""The tensors in the safetensors files of a Hugging Face folder, by the names that Qwen2 gives them."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import safetensors

from trm_jax.errors import listing
from trm_jax.files import is_pointer, read_object
from trm_jax.model import WeightsError

# Types that a weight can be stored in, and the type of ours that holds all of its numbers.
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float32"}
UNUSED = "rotary_emb.inv_freq"  # old checkpoints carry the rotary frequencies, which the config gives

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is."""

    path: pathlib.Path
    key: str  # its name in the file
    shape: tuple[int, ...]
    dtype: str  # a key of DTYPES

    @contextlib.contextmanager
    def read(self) -> Iterator[np.ndarray]:
        """The tensor. The file is opened for it alone, so that its pages leave the memory when the file is closed."""
        with _opened(self.path) as file:
            yield file.get_tensor(self.key)


def find_tensors(folder: pathlib.Path) -> dict[str, StoredTensor]:
    """The tensors of a Hugging Face folder, by Qwen2's names.

    Names that carry another prefix, as `torch.compile` and wrappers of a model leave it, are recognised, and that is logged.
    Raises WeightsError.
    """
    tensors = tensors_in(_files(folder))
    renamed = _without_prefixes(tensors)
    if renamed.keys() != tensors.keys():
        old, new = next((old, new) for old, new in zip(tensors, renamed, strict=True) if old != new)
        _log.info("%s names its tensors otherwise than Qwen2: %s is read as %s, and so on", folder, old, new)
    return renamed


def _without_prefixes(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of one model by Qwen2's names: `model.` before those of the decoder, nothing before the head."""
    norms = [key.removesuffix("norm.weight") for key in tensors if _is_last_norm(key)]
    heads = [key.removesuffix("lm_head.weight") for key in tensors if key.endswith("lm_head.weight")]
    if len(norms) != 1 or len(heads) > 1:
        return dict(tensors)
    [decoder], found = norms, {}
    for key, tensor in tensors.items():
        if heads and key == f"{heads[0]}lm_head.weight":
            key = "lm_head.weight"
        elif key.startswith(decoder):
            key = f"model.{key.removeprefix(decoder)}"
        found[key] = tensor
    return found if len(found) == len(tensors) else dict(tensors)


def _is_last_norm(key: str) -> bool:
    """Whether this is the norm behind all layers, whose prefix is that of all of the decoder."""
    return (key == "norm.weight" or key.endswith(".norm.weight")) and "layers." not in key


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files: model.safetensors, whatever index was left beside it, as in transformers; else the index's."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise WeightsError(
            f"{folder} has no weights: neither model.safetensors nor model.safetensors.index.json is there{_others(folder)}"
        )
    places = read_object(index, WeightsError).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files")
    names = sorted(set(places.values()))
    if outside := [name for name in names if pathlib.PurePath(name).name != name or "\0" in name]:
        raise WeightsError(f"{index} names files outside its folder: {listing(outside)}")
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise WeightsError(f"{index} names files that are not there: {listing(lost)}")
    tensors = tensors_in([folder / name for name in names])
    places = {key: folder / name for key, name in places.items() if not key.endswith(UNUSED)}
    if lost := [key for key, place in places.items() if key not in tensors or tensors[key].path != place]:
        raise WeightsError(f"{index} names tensors that are not in their files: {listing(lost)}")
    return [folder / name for name in names]


def _others(folder: pathlib.Path) -> str:
    """What lies in a folder in place of the weights, and what to do then."""
    if (folder / "adapter_model.safetensors").is_file() or (folder / "adapter_config.json").is_file():
        return ". It holds a PEFT adapter: merge it into its model (merge_and_unload) and convert the result"
    if any(folder.glob("*.gguf")):
        return ". It holds a GGUF file, made for llama.cpp: convert the safetensors model that it was made from"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return ". Pickled weights are not read: load them with transformers and save_pretrained them as safetensors"
    return ""


def tensors_in(paths: Sequence[pathlib.Path]) -> dict[str, StoredTensor]:
    """The tensors of several files, all of them of a type that a weight can have."""
    found: dict[str, StoredTensor] = {}
    for path in paths:
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                if key.endswith(UNUSED):
                    continue
                if key in found:
                    raise WeightsError(f"{key} is in two files, {found[key].path.name} and {path.name}")
                tensor = file.get_slice(key)
                if (dtype := tensor.get_dtype()) not in DTYPES:
                    advice = "save the model in one of them" if dtype == "F64" else "is the model quantised?"
                    raise WeightsError(f"{key} in {path} is of type {dtype}, none of {[*DTYPES]}: {advice}")
                found[key] = StoredTensor(path, key, tuple(tensor.get_shape()), dtype)
    return found


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[safetensors.safe_open]:
    """Opens a safetensors file; the library compares its header with its size. Raises WeightsError."""
    try:
        file = safetensors.safe_open(path, "np")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        if path.is_file() and is_pointer(path):
            raise WeightsError(
                f"{path} is a pointer of Git LFS, not the file itself: git lfs pull fetches it"
            ) from None
        raise WeightsError(f"{path} is damaged, or no safetensors file: {error}") from None
    with file:
        yield file
