"""Opens whatever `--checkpoint` may name: our own folders, an exported folder, or an exported model on the hub."""

import dataclasses
import functools
import os
import pathlib
import shutil
from typing import Any

from trm_jax.checkpoints import (
    CheckpointError,
    Fingerprint,
    ModelFolder,
    SavedModel,
    open_folder,
    tokenizer_of,
)
from trm_jax.config import TRMConfig
from trm_jax.conversion import TOKENIZER_FILES, convert, find_model, read_recursion
from trm_jax.data import HubModel, read_tokenizer
from trm_jax.files import cache_folder, locked
from trm_jax.hardware import put_weights
from trm_jax.model import TRM, QwenTRM, named_weights
from trm_jax.publishing.export import BACKBONE, WEIGHTS
from trm_jax.publishing.export_config import NAME, ExportConfig, is_export, template_digest

RUNS = "runs"  # where the scripts write unless told otherwise; never a user of the hub


@dataclasses.dataclass(frozen=True)
class PublishedModel(SavedModel):
    """An exported model, with `folder` as the model folder that holds its backbone."""

    export: pathlib.Path
    config: ExportConfig
    source: HubModel | None  # None for a local folder

    @property
    def label(self) -> str:
        """That of the checkpoint that was exported."""
        return self.config.checkpoint

    @property
    def name(self) -> str:
        """The name on the hub, or that of the exported folder."""
        return self.export.resolve().name if self.source is None else self.source.id

    @functools.cached_property
    def tokenizer(self):
        """The tokenizer that was exported. Raises TokenizerError, or CheckpointError if its chat template is another."""
        return _tokenizer(self.export, self.config)

    @property
    def trained_on(self) -> tuple[str, ...]:
        return self.config.trained_on

    @property
    def keeps_annotations(self) -> bool:
        return self.config.keeps_annotations

    @property
    def path(self) -> pathlib.Path:
        return self.export

    @property
    def results(self) -> pathlib.Path:
        """An exported folder itself; for a model of the hub a folder in `runs`, because its files lie in the hub's cache."""
        return self.export if self.source is None else pathlib.Path(RUNS) / self.source.id.replace("/", "--")

    @property
    def trm_config(self) -> TRMConfig:
        return self.config.trm

    def load_trm(self, use_ema: bool = True) -> TRM:
        """The recursion alone, in float32. Raises CheckpointError, also if the raw weights are wanted, or WeightsError."""
        if not use_ema:
            raise CheckpointError(
                f"{self.export} is an exported model, which has the moving average of its weights alone"
            )
        trm = read_recursion(self.export / WEIGHTS, self.config.backbone, self.config.trm)
        if Fingerprint.of(named_weights(trm).items()) != self.config.trm_fingerprint:
            raise CheckpointError(
                f"{self.export / WEIGHTS} holds other weights than {NAME} says: fetch or export it again"
            )
        return put_weights(trm)


def open_checkpoint(name: str | os.PathLike, backbone: str | os.PathLike | None = None) -> SavedModel:
    """Opens a model folder, a training folder, one checkpoint of it, an exported folder, or a `user/name[@revision]`.

    A run needs the model folder that it was trained on, which is `backbone` if that is given, else where the run says. An
    exported model needs its backbone, which is looked for, in this order: in the model folder `backbone`, in the cache,
    in the exported folder, and on the hub under the name and revision that the export gives. From the latter two it is
    converted into the cache, once. Any other backbone is refused.

    Raises CheckpointError, HubError or another UserError.

    Example: `open_checkpoint("user/trm-gsm8k@main", backbone="runs/qwen-math-1.5b").load("bfloat16")`.
    """
    given = None if backbone is None else open_folder(backbone).model
    if (found := _find_export(name)) is None:
        return SavedModel.open(name, given)
    export, source = found
    config = ExportConfig.read(export)
    name = str(source or export)
    if given is not None:
        config.require_backbone(given, name)
        return PublishedModel(given, None, export, config, source)
    return PublishedModel(_find_backbone(export, config, source, name), None, export, config, source)


def load_model(
    path: str | os.PathLike, dtype: Any = None, use_ema: bool = True, backbone: str | os.PathLike | None = None
) -> QwenTRM:
    """A model of convert_qwen.py (its recursion untrained, unless one was imported), of train.py, or of export.py.

    Args:
        path: the model folder, a training folder (of which the newest checkpoint is loaded), the folder of one checkpoint,
            an exported folder, or `user/name[@revision]`, an exported model on the hub.
        dtype: the type of all weights, and so of the computation; None keeps that of the stored backbone.
        use_ema: take the moving average of the recursion's weights instead of the raw ones.
        backbone: the model folder that holds the backbone of a run or of an exported model; see `open_checkpoint`.

    Raises CheckpointError, WeightsError, HubError or another UserError.

    Example: `model = trm_jax.load_model("runs/gsm8k", dtype="bfloat16")`.
    """
    return open_checkpoint(path, backbone).load(dtype, use_ema)


def load_tokenizer(path: str | os.PathLike, backbone: str | os.PathLike | None = None):
    """The tokenizer that belongs to what `load_model` takes.

    Example: `trm_jax.load_tokenizer("runs/gsm8k").decode(tokens)`.
    """
    if (found := _find_export(path)) is None:
        return tokenizer_of(path, backbone)
    export, _ = found
    return _tokenizer(export, ExportConfig.read(export))


def _find_export(name: str | os.PathLike) -> tuple[pathlib.Path, HubModel | None] | None:
    """The folder of an exported model and, if it had to be fetched, where from; None if the name is of another folder."""
    path = pathlib.Path(name)
    if is_export(path):
        return path, None
    model = HubModel.named(str(name))
    first = path.parts[0] if path.parts else ""
    if model is None or path.exists() or first == RUNS or pathlib.Path(first).exists():
        return None
    export = model.fetch([WEIGHTS, NAME, *TOKENIZER_FILES])
    if not is_export(export):
        raise CheckpointError(f"{model} on the hub is not a model of export.py: it has no {NAME}")
    return export, model


def _find_backbone(export: pathlib.Path, config: ExportConfig, source: HubModel | None, name: str) -> ModelFolder:
    """The backbone in the cache, converted into it if it is not there. Raises CheckpointError if it is another one."""
    place = cache_folder() / "backbones" / config.backbone_name
    with locked(place.with_name(f"{place.name}.lock"), place, wait=True):
        if not (place / "config.json").is_file():
            convert(_backbone_source(export, config, source, name), place, config.backbone_dtype)
        folder = open_folder(place).model
        try:
            config.require_backbone(folder, name)
        except CheckpointError:
            shutil.rmtree(place)  # so that it is fetched again, once what is wrong there has been mended
            raise
    return folder


def _backbone_source(export: pathlib.Path, config: ExportConfig, source: HubModel | None, name: str) -> pathlib.Path:
    """The Hugging Face folder of the backbone: that of the export, or that of the base model at its revision."""
    if source is not None:  # at the commit that was fetched, wherever the branch is by now
        export = (HubModel.at(export) or source).fetch([f"{BACKBONE}/*"])
    if (export / BACKBONE / "config.json").is_file():
        return export / BACKBONE
    if config.base_model is None:
        raise CheckpointError(
            f"{name} names no base model on the hub, and its backbone is not in the cache: give the model folder that holds "
            "it, by --model, or as the argument `backbone` in Python"
        )
    return find_model(config.base_model.id, config.base_model.revision)


def _tokenizer(export: pathlib.Path, config: ExportConfig):
    tokenizer = read_tokenizer(export)
    if template_digest(tokenizer) != config.chat_template_sha256:
        raise CheckpointError(f"the tokenizer in {export} has another chat template than the model was trained with")
    return tokenizer
