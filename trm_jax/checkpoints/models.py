"""Models on disk, through Orbax; where they lie is said in `folders`."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from trm_jax.checkpoints.folders import CheckpointError, model_folder, read_config, training_folder, write_config
from trm_jax.checkpoints.integrity import DamageError, Fingerprint, require_sealed, seal
from trm_jax.checkpoints.training import checkpoint_numbers, fault_of, newest_sound, require_same_weights
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.data.tokenizer import read_tokenizer
from trm_jax.errors import listing
from trm_jax.model.qwen import Qwen, abstract_qwen
from trm_jax.model.qwen_trm import QwenTRM, abstract_trm, new_trm
from trm_jax.model.trm import TRM
from trm_jax.model.weights import cast, check_weights, first_bad_weight, named_weights, with_weights


def save_model(
    folder: pathlib.Path,
    backbone: QwenConfig,
    backbone_weights: Iterable[tuple[str, Any]],
    trm: TRM | None = None,
    ema: TRM | None = None,
) -> None:
    """Writes config and weights of a model folder; weights may come one at a time, and only one is held.

    `ema` is the moving average of `trm`; without one, `trm` stands for both.
    """
    fingerprint = Fingerprint()
    _save_weights(folder / "backbone", fingerprint.of_passing(backbone_weights))
    if trm is not None:
        _save_weights(folder / "trm", named_weights(trm).items())
        _save_weights(folder / "ema", named_weights(trm if ema is None else ema).items())
    config = None if trm is None else trm.config.to_json()
    values = {"kind": "model", "backbone": backbone.to_json(), "fingerprint": str(fingerprint), "trm": config}
    write_config(folder, values)


def load_model(path: str | os.PathLike, dtype=None, use_ema: bool = True) -> QwenTRM:
    """A model from a folder of convert_qwen.py (its recursion untrained, unless one was imported) or of train.py.

    Args:
        path: the folder; of a training folder the newest checkpoint is taken, or the one whose own folder is given.
        dtype: of all weights and so of the computation; None keeps that of the stored backbone.
        use_ema: take the moving average of the recursion's weights instead of the raw ones.

    Raises CheckpointError or WeightsError.
    """
    return load_resolved(resolve(path), dtype, use_ema)


def load_resolved(path: pathlib.Path, dtype=None, use_ema: bool = True) -> QwenTRM:
    """`load_model` of a path that `resolve` gave, which has looked at its files already."""
    folder = training_folder(path)
    values = read_config(folder)
    if values["kind"] == "model":
        backbone = load_backbone(folder, dtype)
        trm = _load_imported(folder, backbone, values["trm"], "ema" if use_ema else "trm")
    else:
        backbone = load_backbone(model_folder(folder), dtype)
        config = TRMConfig.from_json(values["trm"])
        trm = _load_trained(path, backbone, config, "ema" if use_ema else "trm")
    if bad := first_bad_weight(trm):
        raise CheckpointError(f"{path} holds numbers that are not finite in {bad}")
    return QwenTRM(backbone, cast(trm, backbone.embedding.dtype))


def load_backbone(folder: pathlib.Path, dtype=None) -> Qwen:
    """The backbone of a model folder."""
    abstract = abstract_qwen(read_backbone_config(folder))
    backbone = _load_weights(folder / "backbone", abstract, dtype)
    if bad := first_bad_weight(backbone):
        raise CheckpointError(f"the backbone in {folder} holds numbers that are not finite in {bad}")
    return backbone


def read_backbone_config(folder: pathlib.Path) -> QwenConfig:
    """Of a model folder."""
    return QwenConfig.from_json(read_config(folder)["backbone"])


def load_tokenizer(path: str | os.PathLike):
    """The tokenizer that belongs to a model or training folder."""
    return read_tokenizer(model_folder(training_folder(path)) / "tokenizer")


def resolve(path: str | os.PathLike) -> pathlib.Path:
    """What `path` names: a model folder, a checkpoint, or the newest sound checkpoint of a training folder.

    Raises CheckpointError.
    """
    path = pathlib.Path(path)
    if training_folder(path) == path and read_config(path)["kind"] == "model":
        return path
    if training_folder(path) != path:
        if not path.is_dir():
            raise CheckpointError(
                f"there is no checkpoint {path}; there are {listing(checkpoint_numbers(path.parent)) or 'none'}"
            )
        if fault := fault_of(path):
            raise CheckpointError(fault)
        return path
    newest, _ = newest_sound(path / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{path} has no checkpoint yet")
    return path / "checkpoints" / str(newest)


def describe(path: pathlib.Path) -> str:
    """Which weights a resolved path names: a checkpoint's number, or `untrained` or `imported` of a model folder."""
    values = read_config(training_folder(path))
    if values["kind"] == "training":
        return path.name
    return "untrained" if values["trm"] is None else "imported"


def fingerprint(path: pathlib.Path, model: QwenTRM | None = None) -> str:
    """Of what a resolved path is evaluated as: its backbone alone, or with the recursion that was loaded from it."""
    backbone = read_config(model_folder(training_folder(path)))["fingerprint"]
    return backbone if model is None else f"{backbone} {Fingerprint.of(named_weights(model.trm).items())}"


def _save_weights(folder: pathlib.Path, weights: Iterable[tuple[str, Any]]) -> None:
    # Orbax holds a second copy of all that it saves in one go; one folder a weight keeps that to one weight.
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False  # bfloat16 weights hardly shrink
    with context:
        for name, weight in weights:
            ocp.save((folder / name).absolute(), {"weight": weight})
    seal(folder)


def _load_weights(folder: pathlib.Path, abstract: Any, dtype=None) -> Any:
    """Weights in the shapes of `abstract` and in `dtype`, or as they are stored. Raises CheckpointError."""
    try:
        require_sealed(folder)
    except DamageError as error:
        raise CheckpointError(f"{error}: convert the model again") from None
    found = {name: ocp.metadata((folder / name).absolute()).metadata["weight"] for name in named_weights(abstract)}
    check_weights(
        {name: weight.shape for name, weight in named_weights(abstract).items()},
        {name: weight.shape for name, weight in found.items()},
        where=f" in {folder}",
    )
    if others := [name for name, weight in found.items() if not jnp.issubdtype(weight.dtype, jnp.floating)]:
        raise CheckpointError(f"{folder} holds weights that are not floating-point numbers: {listing(others)}")

    def load(name, expected):
        target = _on_device(expected.shape, dtype or found[name].dtype)
        return ocp.load((folder / name).absolute(), {"weight": target})["weight"]

    return with_weights(abstract, {name: load(name, expected) for name, expected in named_weights(abstract).items()})


def _load_imported(folder: pathlib.Path, backbone: Qwen, config: dict | None, part: str) -> TRM:
    if config is None:
        return new_trm(backbone, TRMConfig.residual())
    return _load_weights(folder / part, abstract_trm(backbone, TRMConfig.from_json(config)), jnp.float32)


def _load_trained(folder: pathlib.Path, backbone: Qwen, config: TRMConfig, part: str) -> TRM:
    abstract = abstract_trm(backbone, config)
    wanted = {f"{part}.{name}": _on_device(w.shape, w.dtype) for name, w in named_weights(abstract).items()}
    require_same_weights(folder, wanted, subset=True)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        found = ocp.load(folder.absolute(), wanted)
    return with_weights(abstract, {name.removeprefix(f"{part}."): leaf for name, leaf in found.items()})


def _on_device(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    """What Orbax is to load: onto the first device."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
