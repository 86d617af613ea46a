"""Reads the checkpoint of the original MathLLM program, `trm_model.pt`. The one room that needs torch."""

import functools
import pathlib
import pickle
from typing import Any

import jax.numpy as jnp
from flax import nnx

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.trm import TRM
from trm_jax.weights import WeightsError, check_weights, named_weights, with_weights

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
}
COMPONENTS = ("interface", "engine", "heads")
LOOP_COUNTS = {"latent_updates": "n_latent", "recursions": "T_recursion", "supervision_steps": "N_supervision"}


def read_trm_checkpoint(path: pathlib.Path, backbone: QwenConfig) -> tuple[TRM, TRM | None]:
    """The recursion in a `trm_model.pt` of the original, and its moving average if the file has one; float32.

    The file is unpickled by torch's weights-only loader; beside tensors it may hold the one config class of the original,
    of which the loop counts are taken. Raises WeightsError, all faults in one message, if names or shapes differ from what
    the contract gives this backbone.
    """
    content = _load(path)
    raw = {f"{part}.{name}": tensor for part in COMPONENTS for name, tensor in content.get(part, {}).items()}
    settings = vars(content["config"]) if "config" in content else {}
    counts = {ours: settings[theirs] for ours, theirs in LOOP_COUNTS.items() if theirs in settings}
    abstract = nnx.eval_shape(functools.partial(_mathllm_trm, backbone, TRMConfig.mathllm(**counts)))
    shadow = content.get("ema", {}).get("shadow")
    return _fill(abstract, raw, path), _fill(abstract, raw | shadow, path) if shadow else None


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise WeightsError("--trm-checkpoint reads a file of torch.save and needs torch: pip install torch") from None
    # A stand-in under the name that the pickle asks for; the loader refuses every other class.
    stand_in = type("TRMConfig", (), {"__module__": "src.config"})
    try:
        with torch.serialization.safe_globals([stand_in]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path} cannot be read, or was refused as unsafe: {error}") from None
    if not isinstance(content, dict) or not set(COMPONENTS) <= content.keys():
        raise WeightsError(f"{path} is not a checkpoint of MathLLM: it lacks some of {COMPONENTS}")
    return content


def _mathllm_trm(backbone: QwenConfig, config: TRMConfig) -> TRM:
    return TRM(backbone, config, nnx.Rngs(0), jnp.zeros((backbone.vocab_size, backbone.width)))


def _fill(abstract: TRM, tensors: dict[str, Any], path: pathlib.Path) -> TRM:
    expected = {KEYS[name]: _original_shape(name, leaf.shape) for name, leaf in named_weights(abstract).items()}
    check_weights(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where=f" in {path}")
    weights = {}
    for name, leaf in named_weights(abstract).items():
        value = tensors[KEYS[name]].float().numpy()
        weights[name] = jnp.asarray(value.T if name.endswith("kernel") else value.reshape(leaf.shape))
    return with_weights(abstract, weights)


def _original_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name == "y_init":
        return (1, 1, *shape)
    return shape[::-1] if name.endswith("kernel") else shape
