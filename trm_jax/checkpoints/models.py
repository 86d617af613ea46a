"""Saves and loads models through Orbax; `folders` describes how they lie on disk."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from trm_jax.checkpoints.folders import CheckpointError, ModelFolder, RunFolder, open_folder, write_config
from trm_jax.checkpoints.integrity import DamageError, Fingerprint, require_sealed, seal
from trm_jax.checkpoints.training import checkpoint_numbers, fault_of, newest_sound, require_same_weights
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.data import HubModel, encode_prompts
from trm_jax.errors import listing
from trm_jax.files import is_cached
from trm_jax.hardware import placements
from trm_jax.model import (
    TRM,
    Qwen,
    QwenTRM,
    abstract_qwen,
    abstract_trm,
    cast,
    check_weights,
    first_bad_weight,
    named_weights,
    new_trm,
    with_weights,
    without_layers,
)


def save_model(
    folder: pathlib.Path,
    backbone: QwenConfig,
    backbone_weights: Iterable[tuple[str, Any]],
    trm: TRM | None = None,
    ema: TRM | None = None,
    base_model: HubModel | None = None,
) -> None:
    """Writes config and weights of a model folder; only one of the `backbone_weights` is held in memory at a time.

    `ema` is the moving average of `trm`; without one, `trm` stands for both. `base_model` is the model of the hub that the
    backbone was, if it was one.

    Example: `save_model(folder, backbone.config, named_weights(backbone).items())`.
    """
    fingerprint = Fingerprint()
    _save_weights(folder / "backbone", fingerprint.of_passing(backbone_weights))
    if trm is not None:
        _save_weights(folder / "trm", named_weights(trm).items())
        _save_weights(folder / "ema", named_weights(trm if ema is None else ema).items())
    config = None if trm is None else trm.config.to_json()
    values = {"kind": "model", "backbone": backbone.to_json(), "fingerprint": str(fingerprint), "trm": config}
    write_config(folder, values | {"base_model": base_model and dataclasses.asdict(base_model)})


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What `--checkpoint` names: a model folder, or one checkpoint of a training folder.

    Example: `SavedModel.open("runs/train").load("bfloat16")`.
    """

    folder: ModelFolder | RunFolder
    checkpoint: pathlib.Path | None  # None for a model folder

    @classmethod
    def open(cls, path: str | os.PathLike, model: ModelFolder | None = None) -> Self:
        """Opens a model folder, the newest whole checkpoint of a training folder, or the folder of one checkpoint.

        `model` is the run's model folder, if it is known to be elsewhere than where the run says. Raises CheckpointError.
        """
        path = pathlib.Path(path)
        place = _folder_of(path)
        folder = open_folder(place, model)
        if place != path:
            if not path.is_dir():
                numbers = listing(checkpoint_numbers(path.parent)) or "none"
                raise CheckpointError(f"there is no checkpoint {path}; there are {numbers}")
            if fault := fault_of(path):
                raise CheckpointError(fault)
            return cls(folder, path)
        if isinstance(folder, ModelFolder):
            return cls(folder, None)
        newest, _ = newest_sound(path / "checkpoints")
        if newest is None:
            raise CheckpointError(f"{path} has no checkpoint yet")
        return cls(folder, path / "checkpoints" / str(newest))

    @property
    def label(self) -> str:
        """Which weights these are: a checkpoint's number, or for a model folder `untrained` or `imported`."""
        if self.checkpoint is not None:
            return self.checkpoint.name
        return "untrained" if self.folder.model.trm_config is None else "imported"

    @property
    def name(self) -> str:
        """What others may call the model: the name of its folder, without those above it."""
        return self.folder.path.resolve().name

    @property
    def tokenizer(self):
        """The tokenizer of the model folder."""
        return self.folder.model.tokenizer

    @property
    def trained_on(self) -> tuple[str, ...]:
        """What others may read about the data sets that it was trained on; nothing for a model folder."""
        return self.folder.trained_on if isinstance(self.folder, RunFolder) else ()

    @property
    def prompt_digest(self) -> str:
        """A digest of how it is asked and where its answers end; a fingerprint is of weights alone."""
        [prompt] = encode_prompts(self.tokenizer, ["1 + 1?"])
        said = prompt, self.folder.model.backbone_config.end_tokens
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    @property
    def keeps_annotations(self) -> bool:
        """Whether GSM8K's calculator marks stood in the solutions that the recursion was trained on, as far as is known."""
        return isinstance(self.folder, RunFolder) and self.folder.config.data.keep_annotations

    @property
    def path(self) -> pathlib.Path:
        """The folder of the checkpoint, or the model folder."""
        return self.checkpoint or self.folder.path

    @property
    def results(self) -> pathlib.Path:
        """The folder for results of it, such as evaluations."""
        return self.folder.path

    @property
    def trm_config(self) -> TRMConfig | None:
        """The recursion that was trained or imported, None if there is none."""
        return self.folder.config.trm if isinstance(self.folder, RunFolder) else self.folder.trm_config

    def load(self, dtype=None, use_ema: bool = True) -> QwenTRM:
        """The model.

        Args:
            dtype: the type of all weights, and so of the computation; None keeps that of the stored backbone.
            use_ema: take the moving average of the recursion's weights instead of the raw ones.

        Raises CheckpointError or WeightsError.
        """
        backbone = load_backbone(self.folder.model, dtype)
        trm = new_trm(backbone, TRMConfig.residual()) if self.trm_config is None else self.load_trm(use_ema)
        return QwenTRM(backbone, cast(trm, backbone.embedding.dtype))

    def load_trm(self, use_ema: bool = True) -> TRM:
        """The recursion alone, in float32. Raises CheckpointError, also if there is only an untrained one."""
        if self.trm_config is None:
            raise CheckpointError(f"{self.path} is a model whose recursion is not trained: give a folder of train.py")
        abstract = abstract_trm(abstract_qwen(self.folder.model.backbone_config), self.trm_config)
        part = "ema" if use_ema else "trm"
        if self.checkpoint is None:
            trm = _load_weights(self.path / part, abstract, jnp.float32)
        else:
            trm = _load_trained(self.checkpoint, abstract, part)
        if bad := first_bad_weight(trm):
            raise CheckpointError(f"{self.path} holds numbers that are not finite in {bad}")
        return trm

    def fingerprint(self, model: QwenTRM | None = None) -> str:
        """The fingerprint of the backbone, and with a `model` that was loaded from here also of its recursion."""
        own = self.folder.model.backbone_fingerprint
        return own if model is None else f"{own} {Fingerprint.of(named_weights(model.trm).items())}"


def load_backbone(folder: ModelFolder, dtype=None, layers: bool = True) -> Qwen:
    """The backbone of a model folder, in `dtype`, or as it is stored. Raises CheckpointError or WeightsError.

    Without its `layers` it is what `without_layers` leaves of it, and nothing else is read into memory.

    Example: `load_backbone(open_folder("runs/model").model, "bfloat16")`.
    """
    abstract = abstract_qwen(folder.backbone_config)
    backbone = _load_weights(folder.path / "backbone", abstract if layers else without_layers(abstract), dtype)
    if bad := first_bad_weight(backbone):
        raise CheckpointError(f"the backbone in {folder.path} holds numbers that are not finite in {bad}")
    return backbone


def backbone_dtype(folder: ModelFolder) -> str:
    """The type in which the backbone of a model folder is stored, bfloat16 or float32. Raises CheckpointError.

    Example: `backbone_dtype(open_folder("runs/model").model)`.
    """
    place = folder.path / "backbone" / "embedding"
    if not place.is_dir():
        raise CheckpointError(f"{place} is missing: {_made_again(folder.path)}")
    stored = ocp.metadata(place.absolute()).metadata["weight"]
    return str(stored.dtype)


def tokenizer_of(path: str | os.PathLike, model: str | os.PathLike | None = None):
    """The tokenizer that belongs to a model folder, a training folder, or one checkpoint of it, whose `model` may be named.

    Example: `tokenizer_of("runs/gsm8k").decode(tokens)`.
    """
    return open_folder(_folder_of(pathlib.Path(path)), model and open_folder(model).model).model.tokenizer


def _folder_of(path: pathlib.Path) -> pathlib.Path:
    """The folder with the config.json: `path` itself, or two above it if it is one checkpoint of a training folder."""
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    return run if (run / "config.json").is_file() else path


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
        raise CheckpointError(f"{error}: {_made_again(folder.parent)}") from None
    found = {name: ocp.metadata((folder / name).absolute()).metadata["weight"] for name in named_weights(abstract)}
    check_weights(
        {name: weight.shape for name, weight in named_weights(abstract).items()},
        {name: weight.shape for name, weight in found.items()},
        where=f" in {folder}",
    )
    if others := [name for name, weight in found.items() if not jnp.issubdtype(weight.dtype, jnp.floating)]:
        raise CheckpointError(f"{folder} holds weights that are not floating-point numbers: {listing(others)}")

    # Each weight goes straight to its place: on a mesh, no device and no process ever holds all of it.
    places = placements(named_weights(abstract))

    def load(name, expected):
        target = jax.ShapeDtypeStruct(expected.shape, dtype or found[name].dtype, sharding=places[name])
        return ocp.load((folder / name).absolute(), {"weight": target})["weight"]

    return with_weights(abstract, {name: load(name, expected) for name, expected in named_weights(abstract).items()})


def _made_again(folder: pathlib.Path) -> str:
    return f"remove {folder}, which is then made again" if is_cached(folder) else "convert the model again"


def _load_trained(folder: pathlib.Path, abstract: TRM, part: str) -> TRM:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is gone: a training that goes on keeps its newest and its best alone; start again"
        )
    places = placements(named_weights(abstract))
    wanted = {
        f"{part}.{name}": jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=places[name])
        for name, weight in named_weights(abstract).items()
    }
    require_same_weights(folder, wanted, subset=True)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        found = ocp.load(folder.absolute(), wanted)
    return with_weights(abstract, {name.removeprefix(f"{part}."): leaf for name, leaf in found.items()})
