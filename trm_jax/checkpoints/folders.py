"""Folders on disk, each with a config.json that says what it is, opened once into a value.

a model folder (convert_qwen.py)         a training folder (train.py)
  config.json  backbone, trm, fingerprint  config.json  model folder, trm, training, the backbone's fingerprint
  backbone/    one Orbax folder a weight   checkpoints/ one Orbax folder a training state
  trm/, ema/   the same, where imported    metrics.jsonl, timings.jsonl, loss.png
  tokenizer/   Hugging Face files
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Self

from trm_jax.config import DataConfig, QwenConfig, TrainConfig, TRMConfig
from trm_jax.data import HubModel, read_tokenizer
from trm_jax.errors import UserError, differences, listing
from trm_jax.files import lock_beside, locked, read_object, write_whole

FORMAT = 2  # of the folders; a folder of another format is refused
NEEDED = {  # the fields that a config.json must have
    "model": ("backbone", "fingerprint", "trm"),
    "training": ("model", "model_relative", "backbone", "data", "held_out", "num_batches", "trm", "train"),
}
# Training settings that only former versions had, each with the one value that this version still supports.
RETIRED = {"decay": "all", "depth_warmup": 0.0}


class CheckpointError(UserError):
    """A folder that cannot be read as a model or a training run; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A model folder, which convert_qwen.py writes.

    Example: `open_folder("runs/model").model.backbone_config`.
    """

    path: pathlib.Path
    backbone_config: QwenConfig
    trm_config: TRMConfig | None  # None if no recursion was imported
    backbone_fingerprint: str
    base_model: HubModel | None  # that the backbone was converted from; None if that was a local folder

    @classmethod
    def of(cls, path: pathlib.Path, values: Mapping[str, Any]) -> Self:
        """Makes it from the contents of its config.json. Raises ConfigError or HubError."""
        trm_config = None if values["trm"] is None else TRMConfig.from_json(values["trm"])
        base_model = HubModel.from_json(values.get("base_model"))  # former versions did not record it
        return cls(path, QwenConfig.from_json(values["backbone"]), trm_config, values["fingerprint"], base_model)

    @property
    def model(self) -> "ModelFolder":
        """The folder itself; in a training folder this attribute is the model folder that it was made from."""
        return self

    @functools.cached_property
    def tokenizer(self):
        """The tokenizer, which is read on first use. Raises TokenizerError."""
        return read_tokenizer(self.path / "tokenizer")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All that defines a run. A training folder only resumes a run with the same config."""

    backbone_fingerprint: str
    data: DataConfig
    rows_fingerprint: str  # of the rows that are trained on
    held_out: int  # rows that are kept out of training, for the held-out loss
    num_batches: int
    trm: TRMConfig
    train: TrainConfig
    init: str | None = None  # fingerprint of the weights that it starts from, if another run has trained them

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with lists for tuples."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["backbone"] = values.pop("backbone_fingerprint")
        return json.loads(json.dumps(values, default=dataclasses.asdict))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Makes it from the config.json of a training folder, of this version or a former one. Raises ConfigError."""
        train = values["train"]
        if isinstance(train, Mapping):
            train = {name: value for name, value in train.items() if name not in RETIRED}
        return cls(
            backbone_fingerprint=values["backbone"],
            data=DataConfig.from_json(values["data"]),
            rows_fingerprint=values.get("rows_fingerprint", ""),
            held_out=values["held_out"],
            num_batches=values["num_batches"],
            trm=TRMConfig.from_json(values["trm"]),
            train=TrainConfig.from_json(train),
            init=values.get("init"),
        )

    def changes(self, there: Mapping[str, Any]) -> list[str]:
        """Describes each field in which `there`, the contents of a config.json, differs from this run."""
        here = self.to_json()
        train = there["train"] if isinstance(there["train"], Mapping) else {}
        here["train"] |= {name: value for name, value in RETIRED.items() if name in train}
        return differences(there, here)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A training folder, which train.py writes, and the model folder that it was made from."""

    path: pathlib.Path
    model: ModelFolder
    config: RunConfig

    @classmethod
    def of(cls, path: pathlib.Path, values: Mapping[str, Any]) -> Self:
        """Makes it from the contents of its config.json.

        Raises CheckpointError if the model folder is gone, or holds another backbone than it did.
        """
        config = RunConfig.from_json(values)
        # Resolved, because Orbax takes `..` for the parent in the name, also where the folder is a link to another.
        for place in ((path / values["model_relative"]).resolve(), pathlib.Path(values["model"])):
            if (model := _model_at(place)) is not None:
                if model.backbone_fingerprint != config.backbone_fingerprint:
                    raise CheckpointError(f"{path} was trained on another backbone than the one that is in {place} now")
                return cls(path, model, config)
        raise CheckpointError(f"{path} was trained on the model in {values['model']}, which is not there any more")


def open_folder(path: str | os.PathLike) -> ModelFolder | RunFolder:
    """Opens a model folder or a training folder; its config.json is read once, here. Raises CheckpointError or ConfigError.

    Example: `open_folder("runs/train").model.tokenizer`.
    """
    path = pathlib.Path(path)
    values = read_config(path)
    return (ModelFolder if values["kind"] == "model" else RunFolder).of(path, values)


def write_config(folder: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes the config.json of a model or training folder, and the number of the folders' format into it.

    Example: `write_config(folder, {"kind": "model", **values})`.
    """
    write_whole(folder / "config.json", json.dumps(values | {"format": FORMAT}, indent=2) + "\n")


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The config.json of a model or training folder. Raises CheckpointError if it is incomplete or of another format.

    Example: `read_config(folder)["kind"]` is `"model"`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is neither a model folder nor a training folder: it has no config.json. convert_qwen.py makes model "
            "folders, train.py training folders"
        )
    return _checked(path, read_object(path, CheckpointError))


def _checked(path: pathlib.Path, values: dict[str, Any]) -> dict[str, Any]:
    """What a config.json holds. Raises CheckpointError, as `read_config` does."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in NEEDED:
        raise CheckpointError(f"{path} is not from trm_jax; a Hugging Face folder needs scripts/convert_qwen.py first")
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {values.get('format')}, this version of trm_jax writes and reads format {FORMAT}: "
            f"{'convert the model' if kind == 'model' else 'train'} again, or use the version that wrote it"
        )
    if missing := [name for name in NEEDED[kind] if name not in values]:
        raise CheckpointError(f"{path} is not whole: it lacks {listing(missing)}")
    return values


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder to write into, which replaces `folder` if the context ends without an error.

    Raises CheckpointError if `folder` holds something that is not a model folder, BusyError if another process writes it.

    Example: `with replacing(folder) as partial: (partial / "config.json").write_text(text)`.
    """
    if folder.exists() and not is_model(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} holds something else than a model: give another --output, or remove it")
    partial, old = (folder.with_name(f"{folder.name}.{what}") for what in ("partial", "old"))
    with locked(lock_beside(folder), folder):
        if old.exists() and not folder.exists():  # killed between the two renames below
            os.replace(old, folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            if folder.exists():
                os.replace(folder, old)
            os.replace(partial, folder)
        finally:
            for left in (partial, old):
                shutil.rmtree(left, ignore_errors=True)


def is_model(folder: pathlib.Path) -> bool:
    """Whether this is a model folder, of this format or another."""
    return _model_values(folder) is not None


def _model_at(folder: pathlib.Path) -> ModelFolder | None:
    """The model folder at a place, None if there is none. Raises CheckpointError for one of another format."""
    values = _model_values(folder)
    return None if values is None else ModelFolder.of(folder, _checked(folder / "config.json", values))


def _model_values(folder: pathlib.Path) -> dict[str, Any] | None:
    try:
        values = read_object(folder / "config.json", CheckpointError)
    except (CheckpointError, OSError):
        return None
    return values if values.get("kind") == "model" else None
