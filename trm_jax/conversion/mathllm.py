"""Reads the checkpoint of the original MathLLM program, `trm_model.pt`. The only module that needs torch."""

import functools
import logging
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.conversion.recursion import from_original
from trm_jax.errors import listing
from trm_jax.model import NORM_EPS, TRM, WeightsError

COMPONENTS = ("interface", "engine", "heads")
HEAD = "heads.lm_head.weight"
# Rows that a head may lack, at most. The original has 151,936 for a 7B, too, which has 152,064: more than its tokenizer has
# tokens, so that none of these is ever written.
MOST_MISSING = 128
ROPE_THETA = 1e6  # the original's, unless it was set
COMPILED = "_orig_mod."  # what torch.compile puts into names
LOOP_COUNTS = {"latent_updates": "n_latent", "recursions": "T_recursion", "supervision_steps": "N_supervision"}

_log = logging.getLogger(__name__)


def read_trm_checkpoint(path: pathlib.Path, backbone: QwenConfig) -> tuple[TRM, TRM | None]:
    """The recursion in a `trm_model.pt` of the original, and its moving average if the file has one; float32.

    The file is unpickled by torch's weights-only loader; beside tensors it may hold the one config class of the original,
    from which the loop counts and the base of the rotary embedding are taken. Raises WeightsError, listing all kinds of
    faults, unless names and shapes are those of the preset `mathllm` on this backbone, but for a shorter vocabulary.
    """
    content = _load(path)
    settings = getattr(content.get("config"), "__dict__", {})
    abstract = nnx.eval_shape(functools.partial(_mathllm_trm, backbone, _config(settings, backbone, path)))
    weights = {
        f"{part}.{name}": tensor for part in COMPONENTS for name, tensor in _mapping(content, part, path).items()
    }
    averages = _mapping(_mapping(content, "ema", path), "shadow", path)
    raw, shadow = ({key.replace(COMPILED, ""): value for key, value in each.items()} for each in (weights, averages))
    return _fill(abstract, raw, path), _fill(abstract, raw | shadow, path) if shadow else None


def _config(settings: dict[str, Any], backbone: QwenConfig, path: pathlib.Path) -> TRMConfig:
    """The config that the original's settings are; what no weight's shape tells must be as ours has it."""
    fixed = {"num_heads": backbone.num_heads, "eps": NORM_EPS}
    others = [f"{name} is {settings[name]}, not {own}" for name, own in fixed.items() if settings.get(name, own) != own]
    if others:
        raise WeightsError(f"{path} does not fit this backbone: {listing(others)}")
    found = {ours: settings[theirs] for ours, theirs in LOOP_COUNTS.items() if theirs in settings}
    theta = settings.get("rope_theta", ROPE_THETA)
    return TRMConfig.mathllm(**found, rope_theta=None if theta == backbone.rope_theta else theta)


def _mapping(content: dict[str, Any], name: str, path: pathlib.Path) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is not a checkpoint of MathLLM: its {name!r} is no dictionary")
    return found


def _load(path: pathlib.Path) -> dict[str, Any]:
    _check_archive(path)
    try:
        import torch
    except ImportError:
        raise WeightsError("--trm-checkpoint reads a file of torch.save and needs torch: pip install torch") from None
    # An empty class under the name of the original's config class; the loader refuses every other class.
    stand_in = type("TRMConfig", (), {"__module__": "src.config"})
    try:
        with torch.serialization.safe_globals([stand_in]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any type: this is a file that other people made
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path} cannot be read, or was refused as unsafe: {reason}") from None
    if not isinstance(content, dict) or not set(COMPONENTS) <= content.keys():
        raise WeightsError(f"{path} is not a checkpoint of MathLLM: it lacks some of {COMPONENTS}")
    return content


def _check_archive(path: pathlib.Path) -> None:
    """Raises WeightsError unless the file is an archive as torch.save makes it, in which nothing is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path} is damaged, or no file of torch.save: {error}") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(f"{path} is refused: torch.save does not pack the members of its archives")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise WeightsError(f"{path} is damaged: its members would be larger than the file")


def _mathllm_trm(backbone: QwenConfig, config: TRMConfig) -> TRM:
    return TRM(backbone, config, nnx.Rngs(0), jnp.zeros((backbone.vocab_size, backbone.width)))


def _fill(abstract: TRM, tensors: dict[str, Any], path: pathlib.Path) -> TRM:
    if others := [name for name, tensor in tensors.items() if not _is_dense(tensor)]:
        raise WeightsError(f"{path} holds something else than dense floating-point tensors: {listing(others)}")
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    rows, *width = shapes.get(HEAD) or (0,)
    missing = abstract.head.shape[0] - rows
    is_shorter = rows > 0 and len(width) == 1 and 0 < missing <= MOST_MISSING
    if is_shorter:
        _log.info("%s has a head of %d tokens fewer than the backbone; its last row stands for them", path, missing)
        shapes[HEAD] = (rows + missing, *width)

    def read(key: str) -> np.ndarray:
        array = tensors[key].float().numpy()
        return np.pad(array, ((0, missing), (0, 0)), mode="edge") if is_shorter and key == HEAD else array

    return from_original(abstract, shapes, read, path)


def _is_dense(tensor: Any) -> bool:
    """Whether this is a tensor all of whose numbers are stored."""
    import torch

    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.is_floating_point()
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )
