"""The weights of a recursion under the names of the original MathLLM, and a safetensors file of them."""

import os
import pathlib
import re
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from trm_jax.checkpoints import all_finite
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.conversion.safetensors_files import tensors_in
from trm_jax.files import partial_of
from trm_jax.hardware import fetch
from trm_jax.model import TRM, WeightsError, abstract_qwen, abstract_trm, check_weights, named_weights, with_weights

# Component and name in the original's state dicts, for each weight of ours. Kernels are stored transposed.
KEYS = {
    "y_init": "interface.y_init",
    "block.norm1.scale": "engine.block.norm1.weight",
    "block.attention.query.kernel": "engine.block.attn.q_proj.weight",
    "block.attention.key.kernel": "engine.block.attn.k_proj.weight",
    "block.attention.value.kernel": "engine.block.attn.v_proj.weight",
    "block.attention.output.kernel": "engine.block.attn.o_proj.weight",
    "block.norm2.scale": "engine.block.norm2.weight",
    "block.mlp.gate.kernel": "engine.block.mlp.gate_proj.weight",
    "block.mlp.up.kernel": "engine.block.mlp.up_proj.weight",
    "block.mlp.down.kernel": "engine.block.mlp.down_proj.weight",
    "norm.scale": "heads.norm.weight",
    "head": "heads.lm_head.weight",
    # Of what the original does not have:
    "mix": "interface.mix",
    "alpha": "heads.alpha",
}


def key_of(name: str) -> str:
    """The original's name of a weight; blocks that are not tied are numbered: `engine.blocks.0.norm1.weight`."""
    if found := re.match(r"blocks\.(\d+)\.", name):
        tied = KEYS[f"block.{name[found.end() :]}"]
        return tied.replace("engine.block.", f"engine.blocks.{found[1]}.")
    return KEYS[name]


def from_original(
    abstract: TRM, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray], path: pathlib.Path
) -> TRM:
    """The recursion whose tensors `read` gives by the original's names, in float32.

    `shapes` has the shapes of all tensors that `path` holds. Raises WeightsError, all kinds of faults in one message, unless
    names and shapes are those of `abstract` and all numbers are finite.
    """
    wanted = named_weights(abstract)
    expected = {key_of(name): _original_shape(name, leaf.shape) for name, leaf in wanted.items()}
    check_weights(expected, shapes, where=f" in {path}")
    weights = {}
    for name, leaf in wanted.items():
        value = read(key_of(name))
        if not all_finite(value):
            raise WeightsError(f"{key_of(name)} in {path} holds numbers that are not finite")
        weights[name] = jnp.asarray(value.T if name.endswith("kernel") else value.reshape(leaf.shape))
    return with_weights(abstract, weights)


def write_recursion(path: pathlib.Path, trm: TRM) -> None:
    """Writes a recursion as a safetensors file, under the names and in the shapes of the original.

    Example: `write_recursion(folder / "trm.safetensors", model.trm)`.
    """
    tensors = {}
    for name, weight in named_weights(trm).items():
        value = fetch(weight)
        value = value.T if name.endswith("kernel") else value.reshape(_original_shape(name, value.shape))
        tensors[key_of(name)] = np.ascontiguousarray(value)
    safetensors.numpy.save_file(tensors, partial_of(path), metadata={"format": "pt"})
    os.replace(partial_of(path), path)


def read_recursion(path: pathlib.Path, backbone: QwenConfig, config: TRMConfig) -> TRM:
    """The recursion in a safetensors file of `write_recursion`. Raises WeightsError if the file is damaged or does not fit.

    Example: `read_recursion(folder / "trm.safetensors", model.backbone.config, model.trm.config)`.
    """
    tensors = tensors_in([path])
    if others := [key for key, tensor in tensors.items() if tensor.dtype != "F32"]:
        raise WeightsError(f"{path} holds other numbers than float32, as {others[0]}")

    def read(key: str) -> np.ndarray:
        with tensors[key].read() as tensor:
            return tensor

    abstract = abstract_trm(abstract_qwen(backbone), config)
    return from_original(abstract, {key: tensor.shape for key, tensor in tensors.items()}, read, path)


def _original_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name == "y_init":
        return (1, 1, *shape)
    return shape[::-1] if name.endswith("kernel") else shape
