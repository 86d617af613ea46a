"""Folders on disk, each with a config.json that says what it is, opened once into a value.

a model folder (convert_qwen.py)         a training folder (train.py)
  config.json  backbone, trm, fingerprint  config.json  model folder, trm, training, the backbone's fingerprint
  backbone/    one Orbax folder a weight   checkpoints/ one Orbax folder a training state
  trm/, ema/   the same, where imported    metrics.jsonl, timings.jsonl, loss.png
  tokenizer/   Hugging Face files
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

from trm_jax.config import DataConfig, QwenConfig, TrainConfig, TRMConfig
from trm_jax.data import HubModel, public_name, read_tokenizer
from trm_jax.errors import UserError, differences, listing
from trm_jax.files import is_cached, read_object, write_whole

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
    # What may be published about the rows: the names of public sets; of a file only that it is one.
    trained_on: tuple[str, ...]

    @classmethod
    def of(cls, path: pathlib.Path, values: Mapping[str, Any], model: ModelFolder | None = None) -> Self:
        """Makes it from the contents of its config.json, and of the `model` folder if that is known to be elsewhere now.

        Raises CheckpointError if the model folder is gone, or holds another backbone than it did.
        """
        config = RunConfig.from_json(values)
        names = values.get("trained_on")  # former versions did not record it
        names = names if isinstance(names, list) else map(public_name, config.data.sources)
        return cls(path, model or _model_of(path, values), config, tuple(names))


def open_folder(path: str | os.PathLike, model: ModelFolder | None = None) -> ModelFolder | RunFolder:
    """Opens a model folder or a training folder; its config.json is read once, here.

    `model` is the model folder of a run, if it is known to be elsewhere than where the run says. Raises CheckpointError,
    also if that is another model, or ConfigError.

    Example: `open_folder("runs/train").model.tokenizer`.
    """
    path = pathlib.Path(path)
    values = read_config(path)
    if model is not None and model.backbone_fingerprint != _fingerprint(values):
        raise CheckpointError(f"{path} is of another backbone than the one in {model.path}")
    return RunFolder.of(path, values, model) if values["kind"] == "training" else ModelFolder.of(path, values)


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


def kind_of(folder: pathlib.Path) -> str | None:
    """`model` or `training` for a folder of this package, of this format or another; None for any other place.

    Example: `kind_of(pathlib.Path("runs/model"))` is `"model"`.
    """
    kind = _values(folder).get("kind")
    return kind if isinstance(kind, str) and kind in NEEDED else None


def _fingerprint(values: Mapping[str, Any]) -> str:
    """That of the backbone, of what a config.json holds."""
    return values["fingerprint" if values["kind"] == "model" else "backbone"]


def _model_of(run: pathlib.Path, values: Mapping[str, Any]) -> ModelFolder:
    """The model folder of a run, by what its config.json holds. Raises CheckpointError, or another UserError.

    Both folders may have been moved, or one of them, or the run may be a link to another disk.
    """
    beside, troubles = run.absolute() / values["model_relative"], []
    for place in dict.fromkeys(
        (beside.resolve(), pathlib.Path(os.path.normpath(beside)), pathlib.Path(values["model"]))
    ):
        try:
            found = _model_at(place)
        except UserError as error:  # another folder may still be the right one
            troubles.append(error)
            continue
        if found and found.backbone_fingerprint == _fingerprint(values):
            return found
        if found:
            troubles.append(
                CheckpointError(f"{run} was trained on another backbone than the one that is in {place} now")
            )
    if troubles:
        raise troubles[0]
    place = pathlib.Path(values["model"])
    back = "repeat the command of train.py, which makes it again" if is_cached(place) else "move it back"
    raise CheckpointError(
        f"{run} was trained on the model in {place}, which is not there any more: {back}, or say where it is (--model)"
    )


def _model_at(folder: pathlib.Path) -> ModelFolder | None:
    """The model folder at a place, None if there is none. Raises CheckpointError for one of another format."""
    values = _values(folder)
    return ModelFolder.of(folder, _checked(folder / "config.json", values)) if values.get("kind") == "model" else None


def _values(folder: pathlib.Path) -> dict[str, Any]:
    """What the config.json of any place holds; nothing if there is none."""
    try:
        return read_object(folder / "config.json", CheckpointError)
    except (CheckpointError, OSError):
        return {}
