"""The training loop: trains on batch after batch, logs and saves, until the run ends or is asked to stop."""

import dataclasses
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from trm_jax.checkpoints import HELD_OUT_LOSS, Checkpoints, RunConfig, read_config
from trm_jax.data import Batch, Loader, StreamLoader
from trm_jax.hardware import Programs, count_bytes, fetch, put_rows, put_weights
from trm_jax.model import TRM, Hidden, Qwen, without_layers
from trm_jax.processes import first_only, is_first, several, stop_at
from trm_jax.training.hidden_cache import HiddenCache
from trm_jax.training.hidden_states import Computed, put_hidden
from trm_jax.training.metrics import MetricsLog, NonFiniteError, TrainedBatch, plot_loss
from trm_jax.training.optimizer import make_optimizer, make_schedule, supervision_depths
from trm_jax.training.step import (
    ROWS_AT,
    TrainState,
    fault_places,
    make_eval_batch,
    make_train_batch,
    new_state,
)
from trm_jax.training.trackers import TrackerName, open_tracker

KEPT_BYTES = 4e9  # of held-out rows' hidden states in the host's memory: 128 rows of 512 tokens are 2.3 GB at 7B


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run, or a part of it, ended."""

    batches: int  # that were trained
    best: int | None  # the checkpoint with the lowest held-out loss
    finished: bool  # False after SIGTERM

    def describe(self, folder: pathlib.Path) -> str:
        """Tells the user how the run in this folder ended, and where its results are."""
        trained = f"{self.batches:,} batches"
        if not self.finished:
            return f"stopped and saved after {trained}; the same command goes on from there"
        lines = [f"trained {trained}; checkpoints, metrics.jsonl and loss.png are in {folder}"]
        if self.best is not None:
            lines.append(f"lowest held-out loss at batch {self.best}: {folder / 'checkpoints' / str(self.best)}")
        return "\n".join(lines)


def fit(
    folder: pathlib.Path,
    config: RunConfig,
    backbone: Qwen,
    trm: TRM,
    loader: Loader | StreamLoader,
    held_out: Loader | None = None,
    save_every: int = 100,
    track: TrackerName = "none",
    hidden: HiddenCache | None = None,
) -> tuple[Outcome, TrainState]:
    """Trains to the end of the run, from its newest checkpoint if it has one, or until SIGTERM.

    Args:
        folder: held by `hold_run`; `checkpoints/`, `metrics.jsonl`, `timings.jsonl` and `loss.png` are written into it.
        backbone: in the type to compute in.
        trm: untrained, float32.
        held_out: rows on which each checkpoint's loss is measured, with the EMA weights; the best checkpoint is kept.
        save_every: batches between checkpoints; the last batch is always saved.
        hidden: the backbone's hidden states on disk, of all rows; the backbone then needs no layers.

    Raises NonFiniteError if a loss, gradient or update is not finite; the checkpoints before it are kept.

    Example: `outcome, state = fit(folder, config, backbone, new_trm(backbone, config.trm), training_set.loader)`.
    """
    depths = supervision_depths(config.train, config.trm.supervision_steps, config.num_batches)
    optimizer_steps, dtype = int(depths.sum()), jnp.dtype(config.train.dtype)
    optimizer = make_optimizer(config.train, optimizer_steps)
    train_batch = Programs(make_train_batch(optimizer, config.train.ema_decay, dtype), _describe_training, _say)
    eval_batch = Programs(make_eval_batch(dtype), _describe_held_out, _say)
    # The learning rates of the whole run, in the host's memory: see MetricsLog.
    learning_rates = np.asarray(make_schedule(config.train, optimizer_steps)(np.arange(optimizer_steps)))
    state = put_weights(new_state(trm, optimizer))
    inputs = Inputs(backbone, trm, hidden)
    with (
        Checkpoints(folder) as checkpoints,
        StopRequest() as stop,
        open_tracker(track if is_first() else "none", folder, read_config(folder)) as tracker,
    ):
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
        start, num_batches = int(state.batches), config.num_batches
        if isinstance(loader, Loader):  # a stream does not tell which shapes will come
            depth = np.int32(0) if config.train.random_depth else None
            shapes = loader.of_each_shape(start, num_batches)
            train_batch.prepare((state, *one[:2], depth, one[2]) for one in inputs.prepare(loader, shapes))
        if held_out is not None and start < num_batches:
            shapes = held_out.of_each_shape(0, held_out.batches_per_epoch)
            eval_batch.prepare((state.ema, *one) for one in inputs.prepare(held_out, shapes))
        log = MetricsLog(folder, start, learning_rates, int(state.steps), fault_places(trm), tracker)
        bar = tqdm(
            range(start, num_batches), "training", num_batches, unit="batch", initial=start, disable=not is_first()
        )
        for index in bar:
            started, number, batch, depth = time.perf_counter(), index + 1, loader[index], int(depths[index])
            drawn = np.int32(depth) if config.train.random_depth else None
            readout, rows, states = inputs.of(loader, index, batch)
            state, metrics = train_batch(state, readout, rows, drawn, states)
            due = number % save_every == 0 or number == num_batches

            def rate(due=due, state=state):
                # A save because of SIGTERM is not rated: the metrics stay those of a run that was not interrupted.
                if not due or held_out is None:
                    return {}
                return held_out_loss(eval_batch, state.ema, inputs, held_out)

            try:
                log.add(TrainedBatch(number, batch, depth, metrics, started))
                stopping = stop.requested_at(number)
                if due or stopping:
                    # Nothing is saved before its numbers are known to be good.
                    checkpoints.save(number, state, log.flush(rate))
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; {_last_good(checkpoints)}") from None
            bar.set_postfix(log.shown, refresh=False)
            if stopping:
                break
        checkpoints.wait()
        best = checkpoints.best
    plot_loss(folder)
    batches = int(state.batches)
    return Outcome(batches, best, finished=batches == num_batches), state


class Inputs:
    """What the programs get of a batch, beside the weights that are trained."""

    def __init__(self, backbone: Qwen, trm: TRM, hidden: HiddenCache | None):
        self._readout, self._hidden = without_layers(backbone), hidden
        self._computed = None if hidden else Computed(backbone, trm, _say)
        self._kept: dict[int, Hidden] = {}

    def of(self, loader: Loader | StreamLoader, number: int, batch: Batch) -> tuple[Qwen, Batch, Hidden]:
        """The backbone's output head, the batch, and its hidden states: computed, or read from disk."""
        hidden = self._hidden.read(loader, number) if self._hidden else self._computed.of(batch)
        return self._readout, put_rows(batch, ROWS_AT), hidden

    def of_all(self, held_out: Loader) -> Iterator[tuple[Qwen, Batch, Hidden]]:
        """The same of all batches. What the backbone has computed once is kept in the host's memory, up to KEPT_BYTES."""
        for number in range(held_out.batches_per_epoch):
            batch = held_out[number]
            if number in self._kept:
                yield self._readout, put_rows(batch, ROWS_AT), put_hidden(self._kept[number])
                continue
            inputs = self.of(held_out, number, batch)
            if self._computed and not several() and count_bytes([*self._kept.values(), inputs[2]]) <= KEPT_BYTES:
                self._kept[number] = jax.device_get(inputs[2])
            yield inputs

    def prepare(self, loader: Loader, numbers: Sequence[int]) -> Iterator[tuple[Qwen, Batch, Hidden]]:
        """The same of several batches, one after the other, for all of which the programs are compiled first."""
        batches = [loader[number] for number in numbers]
        if self._computed:
            self._computed.prepare(batches)
        return (self.of(loader, number, batch) for number, batch in zip(numbers, batches, strict=True))


def held_out_loss(eval_batch, ema: TRM, inputs: Inputs, held_out: Loader) -> dict[str, list[float]]:
    """HELD_OUT_LOSS: the loss after each supervision step over all held-out rows, nats a token."""
    sums = [eval_batch(ema, *batch) for batch in inputs.of_all(held_out)]
    losses, labels = (np.sum([fetch(one) for one in part], axis=0) for part in zip(*sums, strict=True))
    return {HELD_OUT_LOSS: (losses.astype(np.float64) / labels).tolist()}


class StopRequest:
    """While this context is open, SIGTERM is a request to stop instead of the end of the process."""

    def __enter__(self):
        self._requested = False
        if not several():  # else the signal is caught from the moment that they have joined
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error) -> None:
        if not several():
            signal.signal(signal.SIGTERM, self._before)

    def requested_at(self, batch: int) -> bool:
        """Whether to stop behind this batch; of several processes all get the same answer, whichever got the signal."""
        return stop_at(batch) if several() else self._requested

    def _note(self, *_) -> None:
        self._requested = True


def _last_good(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    if checkpoints.latest is None:
        return "there is no checkpoint before it"
    return f"the last good checkpoint is {checkpoints.path(checkpoints.latest)}"


@first_only
def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _describe_training(state: TrainState, backbone: Qwen, batch: Batch, *others) -> str:
    return "training on {} x {} rows of {} tokens".format(*batch.tokens.shape)


def _describe_held_out(ema: TRM, backbone: Qwen, batch: Batch, *others) -> str:
    return "held-out loss on {1} rows of {2} tokens".format(*batch.tokens.shape)
