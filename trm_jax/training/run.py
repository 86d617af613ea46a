"""A training run: what it consists of, what it needs, and the folder that it holds."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from trm_jax.checkpoints import (
    CheckpointError,
    Fingerprint,
    ModelFolder,
    RunConfig,
    kind_of,
    load_backbone,
    read_config,
    write_config,
)
from trm_jax.config import DataConfig, TrainConfig, TRMConfig
from trm_jax.data import DataError, TrainingSet, public_name
from trm_jax.errors import UserError, listing
from trm_jax.files import locked, partial_of
from trm_jax.hardware import (
    count_weights,
    describe_device,
    describe_mesh,
    filling_memory,
    require_memory,
    require_rows,
    row_parts,
    training_memory,
    weight_parts,
)
from trm_jax.model import (
    TRM,
    Qwen,
    QwenTRM,
    abstract_qwen,
    abstract_trm,
    cast,
    named_weights,
    new_trm,
    with_weights,
    without_layers,
)
from trm_jax.processes import first_says, is_first
from trm_jax.training.hidden_cache import HiddenCache
from trm_jax.training.hidden_states import early_states
from trm_jax.training.loop import Outcome, fit
from trm_jax.training.loss import CHUNK
from trm_jax.training.metrics import METRICS
from trm_jax.training.optimizer import supervision_depths
from trm_jax.training.trackers import TrackerName

# Seconds after which a host sees what another has written: a network disk keeps what it knows for a while.
APPEARS = 40.0


@dataclasses.dataclass(frozen=True)
class Run:
    """A training that can start: `make_run` has checked its rows and its memory."""

    model: ModelFolder
    config: RunConfig
    training_set: TrainingSet
    backbone: Qwen  # with shapes in place of arrays
    memory: dict[str, int]  # bytes that it is expected to need, by part
    init: TRM | None = None  # what it starts from, if not from new weights; the training donates them
    hidden: HiddenCache | None = None  # the backbone's hidden states, if they are kept on disk

    def describe(self, recursion: str) -> str:
        """Tells the user what follows from the options; `recursion` is the preset's name, or where it comes from."""
        trm, train, training_set = self.config.trm, self.config.train, self.training_set
        held_out = 0 if training_set.held_out is None else len(training_set.held_out.examples)
        steps = int(supervision_depths(train, trm.supervision_steps, self.config.num_batches).sum())
        mesh = describe_mesh({"backbone": self.backbone, "trm": abstract_trm(self.backbone, trm)})
        hidden = self.hidden and self.hidden.describe()
        return (
            f"device        {describe_device()}, computing in {train.dtype}\n"
            + (f"mesh          {mesh}\n" if mesh else "")
            + f"weights       {count_weights(abstract_trm(self.backbone, trm)):,} trained, "
            f"{count_weights(self.backbone):,} frozen\n"
            f"memory        about {sum(self.memory.values()) / 2**30:.2f} GiB expected{' on each device' if mesh else ''}\n"
            + (f"hidden states {hidden}\n" if hidden else "")
            + f"recursion     {recursion}: n={trm.latent_updates}, T={trm.recursions}, N_sup={trm.supervision_steps}, "
            f"{trm.passes * trm.calls} block calls a token\n"
            f"data          {training_set.describe(train.max_length)}, {held_out} rows held out\n"
            f"training      {self.config.num_batches:,} batches of {train.accumulation} x {train.batch_size} rows, "
            f"{steps:,} optimizer steps"
        )

    def train(
        self, folder: pathlib.Path, save_every: int = 100, track: TrackerName = "none"
    ) -> tuple[Outcome, Callable[[], QwenTRM]]:
        """Trains in a folder that `hold_run` holds; see `fit`.

        Returns also a function that gives the model, with the averaged weights. It reads the backbone where the training
        did without its layers. Nothing else of the training stays in memory.
        """
        train, rows, cached = self.config.train, self.training_set, self.hidden is not None
        if cached and self.hidden.missing_bytes:
            self.hidden.fill(load_backbone(self.model, train.dtype))
        backbone = load_backbone(self.model, train.dtype, layers=not cached)
        trm = new_trm(backbone, self.config.trm, train.seed) if self.init is None else self.init
        loaders = rows.loader, rows.held_out
        outcome, state = fit(folder, self.config, backbone, trm, *loaders, save_every, track, self.hidden)
        ema = cast(state.ema, train.dtype)

        def model() -> QwenTRM:
            return QwenTRM(load_backbone(self.model, train.dtype) if cached else backbone, ema)

        return outcome, model


def make_run(
    model: ModelFolder,
    data: DataConfig,
    trm: TRMConfig,
    train: TrainConfig,
    training_set: TrainingSet,
    held_out: int,
    max_batches: int | None = None,
    init: TRM | None = None,
    cache_hidden: bool = False,
) -> Run:
    """The run on a training set, for all its epochs or at most `max_batches`; the backbone is not read yet.

    It starts from the weights of `init`, or from new ones. With `cache_hidden` the backbone's hidden states are kept on
    disk, and it trains without the backbone's layers; the results are the same.

    Raises a UserError if the device has too little memory, or the disk too little room, if rows are longer than the backbone
    was trained for, or if the weights of `init` are not those of a recursion like `trm`.

    Example: `run = make_run(model, data, trm, train, training_set, held_out=128)`.
    """
    longest = training_set.loader.buckets[-1].length
    if longest > model.backbone_config.max_length:
        raise DataError(
            f"rows of {longest:,} tokens are longer than the backbone's {model.backbone_config.max_length:,}: lower "
            "--max-length"
        )
    backbone = jax.eval_shape(lambda weights: cast(weights, train.dtype), abstract_qwen(model.backbone_config))
    trained = abstract_trm(backbone, trm)
    if init is not None:
        init = with_weights(trained, named_weights(init))
    require_rows(train.batch_size)
    config = RunConfig(
        backbone_fingerprint=model.backbone_fingerprint,
        data=data,
        rows_fingerprint=training_set.fingerprint,
        held_out=held_out,
        num_batches=training_set.count_batches(train.epochs, max_batches),
        trm=trm,
        train=train,
        init=None if init is None else Fingerprint.of(named_weights(init).items()),
    )
    parts = dict(row_parts=row_parts(), weight_parts=weight_parts())
    hidden = HiddenCache.of(model, trm, train, training_set, config.num_batches) if cache_hidden else None
    resident = without_layers(backbone) if hidden else backbone
    early = early_states(trm.context == "mix", train.accumulation, cached=cache_hidden)
    memory = training_memory(
        resident, trained, model.backbone_config, trm, train, longest, CHUNK, **parts, early_states=early
    )
    needed = sum(memory.values())
    if hidden and hidden.missing_bytes:
        hidden.require_disk()
        needed = max(needed, filling_memory(backbone, model.backbone_config, train, longest, **parts))
    require_memory(needed)
    return Run(model, config, training_set, backbone, memory, init, hidden)


@contextlib.contextmanager
def hold_run(
    folder: pathlib.Path, config: RunConfig, model: pathlib.Path, init_from: str | None = None
) -> Iterator[None]:
    """Makes the folder of a new run, or checks that the one there is of the same run, and keeps other processes out.

    `model` is the model folder; `init_from` says, for the record, whose weights the run starts from. A new folder is removed
    again if its run ends in a UserError before its first batch. Of several processes it is process 0 that holds the folder.
    Raises CheckpointError, or BusyError if another process is at work in the folder.

    Example: `with hold_run(folder, run.config, model.path): run.train(folder)`.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give another --output")
    # Where the model lies is no part of the run, which has its fingerprint: each of the two folders can have been moved.
    place = {"model": str(model.absolute()), "model_relative": os.path.relpath(model.absolute(), folder.absolute())}
    record = {"kind": "training", "init_from": init_from, "trained_on": list(map(public_name, config.data.sources))}
    with _held(folder, config, place, record) if is_first() else contextlib.nullcontext():
        _require_shared(folder)
        found = read_config(folder)
        if found["kind"] != "training":
            raise CheckpointError(f"{folder} holds a model, not a run: give another --output")
        if others := config.changes(found):
            raise CheckpointError(
                f"{folder} holds another run; give another --output, or the same options: {listing(others)}"
            )
        yield


@contextlib.contextmanager
def _held(folder: pathlib.Path, config: RunConfig, place: dict[str, str], record: dict[str, Any]) -> Iterator[None]:
    """The folder, locked. It gets a config.json if it was empty; the one of the same run learns where the model lies now."""
    lock, path = folder / ".lock", folder / "config.json"
    strange = [one.name for one in folder.iterdir() if one not in (lock, partial_of(path))] if folder.exists() else []
    if strange and not path.exists():
        raise CheckpointError(f"{folder} holds something else than a run ({listing(strange)}): give another --output")
    with locked(lock, folder):
        is_new = not path.exists()
        if is_new:
            write_config(folder, record | place | config.to_json())
        elif kind_of(folder) == "training":
            found = read_config(folder)
            # Hosts may have a shared disk under several names: a path that leads to a model is left as it is.
            moved = (
                found["model_relative"] != place["model_relative"] or kind_of(pathlib.Path(found["model"])) != "model"
            )
            now = {"trained_on": record["trained_on"]} | found | (place if moved else {})
            if now != found and not config.changes(found):
                write_config(folder, now)
        try:
            yield
        except UserError:
            if is_new and not (folder / METRICS).exists():
                with contextlib.suppress(OSError):  # such as of a network disk, where the lock stays while it is held
                    _remove(folder)
            raise


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder with all that is in it; of a link to one the link and the empty folder stay."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not folder.is_symlink():
        folder.rmdir()


def _require_shared(folder: pathlib.Path) -> None:
    """Raises CheckpointError unless this process sees the very config.json that process 0 does."""
    path = folder / "config.json"
    there, deadline = first_says(_stamp(path)), time.monotonic() + APPEARS
    while _stamp(path) != there:
        if time.monotonic() < deadline:
            time.sleep(0.5)
            continue
        raise CheckpointError(
            f"{path.absolute()} is not the file that process 0 sees there: give an --output on a disk that all hosts share"
        )


def _stamp(path: pathlib.Path) -> str | None:
    """Which of several files of the same name and content this is: a disk that is shared has one, other disks one each."""
    return str(path.stat().st_mtime_ns) if path.exists() else None
