"""Folders on disk, each with a config.json that says what it is.

a model folder (convert_qwen.py)         a training folder (train.py)
  config.json  backbone, trm, fingerprint  config.json  model folder, trm, training, the backbone's fingerprint
  backbone/    one Orbax folder a weight   checkpoints/ one Orbax folder a training state
  trm/, ema/   the same, where imported    metrics.jsonl, timings.jsonl, loss.png
  tokenizer/   Hugging Face files
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from trm_jax.errors import UserError, listing
from trm_jax.files import lock_beside, locked, read_object, write_whole

FORMAT = 2  # of the folders; a folder of another format is refused
NEEDED = {  # in a config.json
    "model": ("backbone", "fingerprint", "trm"),
    "training": ("model", "model_relative", "backbone", "data", "held_out", "num_batches", "trm", "train"),
}


class CheckpointError(UserError):
    """A folder that cannot be read as a model or a training run; the message says what to do."""


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to write into, which takes the place of `folder` once it is whole.

    Raises CheckpointError if `folder` holds something that is not a model folder, BusyError if another process writes it.
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


def write_config(folder: pathlib.Path, values: dict[str, Any]) -> None:
    write_whole(folder / "config.json", json.dumps(values | {"format": FORMAT}, indent=2) + "\n")


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The config.json of a model or training folder. Raises CheckpointError."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is neither a model folder nor a training folder: it has no config.json")
    values = read_object(path, CheckpointError)
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


def model_folder(folder: pathlib.Path) -> pathlib.Path:
    """The model folder that a training folder was made from, or the folder itself.

    Raises CheckpointError if it is gone, or holds another backbone than it did.
    """
    values = read_config(folder)
    if values["kind"] == "model":
        return folder
    for candidate in (folder / values["model_relative"], pathlib.Path(values["model"])):
        if is_model(candidate):
            if read_config(candidate)["fingerprint"] != values["backbone"]:
                raise CheckpointError(
                    f"{folder} was trained on another backbone than the one that is in {candidate} now"
                )
            return candidate
    raise CheckpointError(f"{folder} was trained on the model in {values['model']}, which is not there any more")


def training_folder(path: str | os.PathLike) -> pathlib.Path:
    """The folder with the config: `path` itself, or two above it if it is one checkpoint of a training folder."""
    path = pathlib.Path(path)
    if path.parent.name == "checkpoints" and (path.parents[1] / "config.json").is_file():
        return path.parents[1]
    return path


def is_model(folder: pathlib.Path) -> bool:
    """Whether this is a model folder, be it of another format."""
    try:
        return read_object(folder / "config.json", CheckpointError).get("kind") == "model"
    except (CheckpointError, OSError):
        return False
