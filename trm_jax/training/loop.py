"""A training run in a folder: batches through `train_batch`, checkpoints, metrics, held-out loss, a clean end."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from trm_jax.checkpoints.folders import CheckpointError, read_config, write_config
from trm_jax.checkpoints.training import HELD_OUT_LOSS, Checkpoints
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.data.datasets import DataConfig
from trm_jax.data.loader import Batch, Loader, StreamLoader
from trm_jax.errors import UserError, differences, listing
from trm_jax.files import locked, partial_of
from trm_jax.hardware.compilation import Programs
from trm_jax.hardware.devices import free_memory
from trm_jax.model.qwen import Qwen
from trm_jax.model.trm import TRM
from trm_jax.model.weights import count_bytes, count_weights
from trm_jax.training.loss import CHUNK
from trm_jax.training.metrics import METRICS, MetricsLog, NonFiniteError, plot_loss
from trm_jax.training.optimizer import make_optimizer, make_schedule, supervision_depths
from trm_jax.training.step import TrainState, fault_places, make_eval_batch, make_train_batch, new_state
from trm_jax.training.trackers import TrackerName, open_tracker


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What makes a run this run and no other; a folder resumes only the same."""

    model: pathlib.Path  # the model folder of the frozen backbone
    backbone: str  # the fingerprint of its weights
    data: DataConfig
    rows_fingerprint: str  # of those that are trained on
    held_out: int  # rows that are kept out of training, for the held-out loss
    num_batches: int
    trm: TRMConfig
    train: TrainConfig

    def to_json(self, folder: pathlib.Path) -> dict[str, Any]:
        values = dataclasses.asdict(self) | {
            "kind": "training",
            "model": str(self.model.absolute()),
            "model_relative": os.path.relpath(self.model.absolute(), folder.absolute()),
        }
        return json.loads(json.dumps(values))  # lists for tuples, as they come back from the file

    @property
    def depths(self) -> np.ndarray:
        """The supervision steps of each batch."""
        return supervision_depths(self.train, self.trm.supervision_steps, self.num_batches)

    @property
    def optimizer_steps(self) -> int:
        return int(self.depths.sum())


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run, or a part of it, ended."""

    state: TrainState
    best: int | None  # the checkpoint with the lowest held-out loss
    finished: bool  # False after SIGTERM


class TooLargeError(UserError):
    """A training that would not fit; the message says what to make smaller."""


@contextlib.contextmanager
def open_folder(folder: pathlib.Path, config: RunConfig) -> Iterator[None]:
    """Makes the folder of a new run, or checks that the one there is of the same run, and keeps other processes out.

    Raises CheckpointError, or BusyError if another process is at work in the folder. A new folder is removed again if its
    run ends in a UserError before its first batch.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give another --output")
    lock, values = folder / ".lock", config.to_json(folder)
    with locked(lock, folder):
        is_new = all(path in (lock, partial_of(folder / "config.json")) for path in folder.iterdir())
        if is_new:
            write_config(folder, values)
        found = read_config(folder)
        if others := differences(found | {"model": values["model"]}, values):  # the same model may lie elsewhere now
            raise CheckpointError(
                f"{folder} holds another run; give another --output, or the same options: {listing(others)}"
            )
        try:
            yield
        except UserError:
            if is_new and not (folder / METRICS).exists():
                shutil.rmtree(folder)
            raise


def fit(
    folder: pathlib.Path,
    config: RunConfig,
    backbone: Qwen,
    trm: TRM,
    loader: Loader | StreamLoader,
    held_out: Loader | None = None,
    save_every: int = 100,
    track: TrackerName = "none",
) -> Outcome:
    """Trains to the end of the run, from its newest checkpoint if it has one, or until SIGTERM.

    Args:
        folder: as `open_folder` holds it open; gets `checkpoints/`, `metrics.jsonl`, `timings.jsonl`, `loss.png`.
        backbone: in the type to compute in.
        trm: untrained, float32.
        held_out: what the loss is measured on at each checkpoint, with the EMA weights; the best checkpoint stays.
        save_every: batches between checkpoints; the last batch is always saved.

    Raises NonFiniteError where the numbers go bad; the checkpoints before stay.
    """
    optimizer, depths = make_optimizer(config.train, config.optimizer_steps), config.depths
    dtype = jnp.dtype(config.train.dtype)
    train_batch = Programs(make_train_batch(optimizer, config.train.ema_decay, dtype), _say, _describe_training)
    eval_batch = Programs(make_eval_batch(dtype), _say, _describe_held_out)
    varying = config.train.random_depth or config.train.depth_warmup > 0
    state = new_state(trm, optimizer)
    tracker = open_tracker(track, folder, config.to_json(folder))
    with Checkpoints(folder) as checkpoints, StopRequest() as stop:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
        start = int(state.batches)
        schedule = make_schedule(config.train, config.optimizer_steps)
        learning_rates = np.asarray(schedule(np.arange(config.optimizer_steps)))
        log = MetricsLog(folder, start, learning_rates, int(state.steps), fault_places(trm), tracker)
        bar = tqdm(range(start, config.num_batches), "training", config.num_batches, unit="batch", initial=start)
        for index in bar:
            batch, depth = loader[index], int(depths[index])
            depth_argument = (np.int32(depth),) if varying else ()
            state, metrics = train_batch(state, backbone, jax.device_put(batch), *depth_argument)
            number = index + 1
            try:
                log.add(number, batch, metrics, depth)
                due = number % save_every == 0 or number == config.num_batches
                if due or stop.requested:
                    log.read()  # nothing is saved before its numbers are known to be good
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; {_last_good(checkpoints)}") from None
            bar.set_postfix(log.shown, refresh=False)
            if due or stop.requested:
                # Not where SIGTERM fell: it should end soon, and the metrics are those of a run that nothing interrupted.
                is_rated = due and held_out is not None
                rated = held_out_loss(eval_batch, state.ema, backbone, held_out) if is_rated else {}
                log.write(**rated)
                checkpoints.save(number, state, rated)
                log.resume_clock()
            if stop.requested:
                break
        checkpoints.wait()
        best = checkpoints.best
    if tracker:
        tracker.close()
    plot_loss(folder)
    return Outcome(state, best, finished=int(state.batches) == config.num_batches)


def held_out_loss(eval_batch, ema: TRM, backbone: Qwen, held_out: Loader) -> dict[str, list[float]]:
    """`held_out_loss`: the loss after each supervision step over all held-out rows, nats a token."""
    sums = [eval_batch(ema, backbone, jax.device_put(held_out[i])) for i in range(held_out.batches_per_epoch)]
    losses, labels = (np.sum(jax.device_get(part), axis=0) for part in zip(*sums, strict=True))
    return {HELD_OUT_LOSS: (losses.astype(np.float64) / labels).tolist()}


class StopRequest:
    """SIGTERM, as long as this context is open, is noted instead of ending the process."""

    def __enter__(self):
        self.requested = False
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_) -> None:
        self.requested = True


def _last_good(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    if checkpoints.latest is None:
        return "there is no checkpoint before it"
    return f"the last good checkpoint is {checkpoints.path(checkpoints.latest)}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _describe_training(state: TrainState, backbone: Qwen, batch: Batch, *depth) -> str:
    return "training on {} x {} rows of {} tokens".format(*batch.tokens.shape)


def _describe_held_out(ema: TRM, backbone: Qwen, batch: Batch) -> str:
    return "held-out loss on {1} rows of {2} tokens".format(*batch.tokens.shape)


def require_memory(needed: int) -> None:
    """Raises TooLargeError if the device has less than `needed` bytes free."""
    if needed > (free := free_memory()):
        raise TooLargeError(
            f"training needs about {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free: a smaller --batch-size or "
            "--max-length needs less (--accumulation keeps the batch as large)"
        )


def expected_memory(backbone: Qwen, trm: TRM, config: RunConfig, loader: Loader | StreamLoader) -> int:
    """An estimate of the memory that training needs at its longest bucket, bytes.

    Weights, moments, EMA and gradients are counted; activations of the one differentiated pass are estimated. Backbone and
    recursion may be abstract.
    """
    size = jnp.dtype(config.train.dtype).itemsize
    weights = count_bytes(backbone)
    state = count_weights(trm) * (4 * 5 + size)  # masters, two moments, EMA, gradient; a copy to compute with
    width, tokens = backbone.config.width, config.train.batch_size * loader.buckets[-1].length
    hidden = tokens * config.train.accumulation * width * size * 7  # four levels, x, y, z of every micro-batch
    mlp_width = 4 * width
    activations = tokens * config.trm.calls * (8 * width + 3 * mlp_width) * size
    logits = 3 * CHUNK * backbone.config.vocab_size * 4
    return weights + state + hidden + activations + logits
