"""Models and training states on disk, through Orbax.

a model folder (convert_qwen.py)         a training folder (train.py)
  config.json  backbone, trm               config.json  model folder, trm, training
  backbone/    one Orbax folder a weight   checkpoints/ one Orbax folder a training state
  trm/, ema/   the same, where imported    metrics.jsonl, loss.png
  tokenizer/   Hugging Face files
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.model import QwenTRM, abstract_trm, new_trm
from trm_jax.qwen import Qwen, abstract_qwen
from trm_jax.trm import TRM
from trm_jax.weights import cast, named_weights, with_weights

HELD_OUT_LOSS = "held_out_loss"  # after each supervision step, nats a token, by the EMA weights; rated by the last


class CheckpointError(ValueError):
    """A folder that cannot be read as a model or a training run; the message says what to do."""


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to write into, which takes the place of `folder` once it is whole.

    Raises CheckpointError if `folder` holds something that is not a model folder.
    """
    if folder.exists() and not _is_model(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} holds something else than a model: give another --output, or remove it")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def write_config(folder: pathlib.Path, values: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The config.json of a model or training folder. Raises CheckpointError."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is neither a model folder nor a training folder: it has no config.json")
    values = json.loads(path.read_text())
    if values.get("kind") not in ("model", "training"):
        raise CheckpointError(f"{path} is not from trm_jax; a Hugging Face folder needs scripts/convert_qwen.py first")
    return values


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
    values = {"kind": "model", "backbone": backbone.to_json(), "trm": None if trm is None else trm.config.to_json()}
    _save_weights(folder / "backbone", backbone_weights)
    if trm is not None:
        _save_weights(folder / "trm", named_weights(trm).items())
        _save_weights(folder / "ema", named_weights(trm if ema is None else ema).items())
    write_config(folder, values)


def load_model(path: str | os.PathLike, dtype=None, use_ema: bool = True) -> QwenTRM:
    """A model from a folder of convert_qwen.py (its recursion untrained, unless one was imported) or of train.py.

    Args:
        path: the folder; of a training folder the newest checkpoint is taken, or the one whose own folder is given.
        dtype: of all weights and so of the computation; None keeps that of the stored backbone.
        use_ema: take the moving average of the recursion's weights instead of the raw ones.

    Raises CheckpointError or WeightsError.
    """
    folder = training_folder(path)
    values = read_config(folder)
    if values["kind"] == "model":
        backbone = load_backbone(folder, dtype)
        trm = _load_imported(folder, backbone, values["trm"], "ema" if use_ema else "trm")
    else:
        backbone = load_backbone(model_folder(folder), dtype)
        config = TRMConfig.from_json(values["trm"])
        trm = _load_trained(checkpoint_folder(path), backbone, config, "ema" if use_ema else "trm")
    return QwenTRM(backbone, cast(trm, backbone.embedding.dtype))


def load_backbone(folder: pathlib.Path, dtype=None) -> Qwen:
    """The backbone of a model folder."""
    abstract = abstract_qwen(QwenConfig.from_json(read_config(folder)["backbone"]))
    return _load_weights(folder / "backbone", abstract, dtype)


def load_tokenizer(path: str | os.PathLike):
    """The tokenizer that belongs to a model or training folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder(training_folder(path)) / "tokenizer", local_files_only=True)


def model_folder(folder: pathlib.Path) -> pathlib.Path:
    """The model folder that a training folder was made from, or the folder itself."""
    values = read_config(folder)
    if values["kind"] == "model":
        return folder
    for candidate in (folder / values["model_relative"], pathlib.Path(values["model"])):
        if _is_model(candidate):
            return candidate
    raise CheckpointError(f"{folder} was trained on the model in {values['model']}, which is not there any more")


def training_folder(path: str | os.PathLike) -> pathlib.Path:
    """The folder with the config: `path` itself, or two above it if it is one checkpoint of a training folder."""
    path = pathlib.Path(path)
    if path.parent.name == "checkpoints" and (path.parents[1] / "config.json").is_file():
        return path.parents[1]
    return path


def checkpoint_folder(path: str | os.PathLike) -> pathlib.Path:
    """The checkpoint that `path` names: itself, or the newest of a training folder. Raises CheckpointError."""
    path = pathlib.Path(path)
    if training_folder(path) != path:
        return path
    with Checkpoints(path) as checkpoints:
        if checkpoints.latest is None:
            raise CheckpointError(f"{path} has no checkpoint yet")
        return path / "checkpoints" / str(checkpoints.latest)


def describe(path: str | os.PathLike) -> str:
    """Which weights `path` names, in a word: a checkpoint's number, or `untrained` or `imported` of a model folder."""
    values = read_config(training_folder(path))
    if values["kind"] == "training":
        return checkpoint_folder(path).name
    return "untrained" if values["trm"] is None else "imported"


class Checkpoints:
    """The training states of a folder, numbered by the batches consumed.

    The newest `keep` stay, and the one with the lowest held-out loss. A state is copied to main memory, then written while
    training goes on; it counts only once it is whole.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[HELD_OUT_LOSS][-1],
            reverse=True,  # the lowest
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._checkpointer = ocp.training.Checkpointer(
            (folder / "checkpoints").absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,  # what a killed run was writing
        )
        self._folder = folder

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> int | None:
        """The one with the lowest held-out loss."""
        rated = {c.step: c.metrics[HELD_OUT_LOSS][-1] for c in self._checkpointer.checkpoints if c.metrics}
        return min(rated, key=rated.get) if rated else None

    def path(self, batches: int) -> pathlib.Path:
        return self._folder / "checkpoints" / str(batches)

    def save(self, batches: int, state: Any, metrics: Mapping[str, list[float]] | None = None) -> None:
        """Starts to write a state; waits first for the one before. The state may be donated at once.

        `metrics` may hold its HELD_OUT_LOSS.
        """
        self.wait()
        if self.latest != batches:
            self._checkpointer.save_async(batches, named_weights(state), force=True, metrics=metrics or None)

    def wait(self) -> None:
        """Until what was saved is on the disk. Raises what went wrong with it."""
        self._checkpointer.wait()

    def restore(self, state: Any) -> Any:
        """The newest state, in the shapes of `state`."""
        return with_weights(state, self._checkpointer.load(self.latest, named_weights(state)))


def _is_model(folder: pathlib.Path) -> bool:
    try:
        return read_config(folder)["kind"] == "model"
    except (CheckpointError, json.JSONDecodeError):
        return False


def _save_weights(folder: pathlib.Path, weights: Iterable[tuple[str, Any]]) -> None:
    # Orbax holds a second copy of all that it saves in one go; one folder a weight keeps that to one weight.
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False  # bfloat16 weights hardly shrink
    with context:
        for name, weight in weights:
            ocp.save((folder / name).absolute(), {"weight": weight})


def _load_weights(folder: pathlib.Path, abstract: Any, dtype=None) -> Any:
    def load(name, expected):
        found = ocp.metadata((folder / name).absolute()).metadata["weight"]
        target = _on_device(expected.shape, dtype or found.dtype)
        return ocp.load((folder / name).absolute(), {"weight": target})["weight"]

    return with_weights(abstract, {name: load(name, expected) for name, expected in named_weights(abstract).items()})


def _load_imported(folder: pathlib.Path, backbone: Qwen, config: dict | None, part: str) -> TRM:
    if config is None:
        return new_trm(backbone, TRMConfig.residual())
    return _load_weights(folder / part, abstract_trm(backbone, TRMConfig.from_json(config)), jnp.float32)


def _load_trained(folder: pathlib.Path, backbone: Qwen, config: TRMConfig, part: str) -> TRM:
    abstract = abstract_trm(backbone, config)
    wanted = {f"{part}.{name}": _on_device(w.shape, w.dtype) for name, w in named_weights(abstract).items()}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        found = ocp.load(folder.absolute(), wanted)
    return with_weights(abstract, {name.removeprefix(f"{part}."): leaf for name, leaf in found.items()})


def _on_device(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    """What Orbax is to load: onto the first device."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
