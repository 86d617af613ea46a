"""Records and shows a training run: metrics.jsonl, timings.jsonl, the progress bar, the loss plot, trackers."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trm_jax.data import Batch
from trm_jax.errors import UserError
from trm_jax.files import read_lines, write_whole
from trm_jax.hardware import fetch, peak_memory
from trm_jax.processes import first_only
from trm_jax.training.step import NO_FAULT, Metrics
from trm_jax.training.trackers import Tracker, flatten

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"


class NonFiniteError(UserError):
    """A loss, gradient or update that is not a number any more."""


class MetricsError(UserError):
    """A file that does not hold metrics; the message names the line."""


@dataclasses.dataclass(frozen=True)
class TrainedBatch:
    """A batch that the device was given to train on, and may still be computing."""

    number: int  # counted from one
    batch: Batch
    depth: int  # supervision steps
    metrics: Metrics
    started: float  # when it was given to the device, by `time.perf_counter`


class MetricsLog:
    """Writes a JSON line for each batch: to METRICS the numbers that were computed, to TIMINGS the time and memory used.

    A line is written once the next batch is under way, so that the device never waits for the host. The same seed gives the
    same METRICS.

    Example: `log.add(TrainedBatch(1, batch, depth, metrics, started))`, and `log.flush()` before a checkpoint.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        start: int,
        learning_rates: np.ndarray,
        first_step: int,
        places: Sequence[str],
        tracker: Tracker | None = None,
    ):
        """Continues after `start` batches and `first_step` optimizer steps; lines of later batches are removed.

        Args:
            learning_rates: one for each optimizer step of the run, in the host's memory: to compute one on the device would
                mean to wait for the batch that is under way there.
            places: the `fault_places`, to which `Metrics.fault` holds indices.
        """
        for name in (METRICS, TIMINGS):
            _keep_batches(folder / name, start)
        self._folder, self._learning_rates, self._places, self._tracker = folder, learning_rates, places, tracker
        self._steps = first_step
        self._pending: TrainedBatch | None = None
        self._read_at = 0.0  # when the batch before the pending one was done
        self.shown: dict[str, str] = {}  # what the progress bar shows, of the last batch that was written

    def add(self, trained: TrainedBatch) -> None:
        """Takes a batch, and writes the one before. Raises NonFiniteError if the one before has a fault."""
        self.flush()
        self._pending = trained

    def flush(self, measure: Callable[[], dict[str, Any]] = dict) -> dict[str, Any]:
        """Waits for the batch that is pending, and writes it.

        `measure` is called once the numbers of the batch are known to be good; what it returns is written with them, and
        returned. Raises NonFiniteError.
        """
        if self._pending is None:
            return {}
        trained, self._pending = self._pending, None
        found = {name: fetch(values)[: trained.depth] for name, values in vars(trained.metrics).items()}
        self._require_finite(trained, found.pop("fault"))
        now = time.perf_counter()
        # The device began with this batch when it got it, or later, when it was done with the one before.
        seconds, self._read_at = now - max(trained.started, self._read_at), now
        self._steps += trained.depth
        record = {
            "batch": trained.number,
            **{name: values.astype(np.float64).tolist() for name, values in found.items()},
            "learning_rate": float(self._learning_rates[self._steps - 1]),
            "padding": 1 - trained.batch.filled / trained.batch.tokens.size,
        }
        timing = {
            "batch": trained.number,
            "seconds": seconds,
            "tokens_per_second": trained.batch.filled / seconds,
            "peak_memory": peak_memory(),
        }
        measured = measure()
        self._write(record | measured, timing)
        return measured

    @first_only
    def _write(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        for name, values in ((METRICS, record), (TIMINGS, timing)):
            with (self._folder / name).open("a") as file:
                file.write(json.dumps(values) + "\n")
        if self._tracker:
            self._tracker.log(flatten(record | timing), record["batch"])
        self.shown = {
            "loss": f"{record['loss'][-1]:.4f}",
            "lr": f"{record['learning_rate']:.1e}",
            "tokens/s": f"{timing['tokens_per_second']:,.0f}",
        }

    def _require_finite(self, trained: TrainedBatch, faults: np.ndarray) -> None:
        bad = np.flatnonzero(faults != NO_FAULT)
        if bad.size:
            place = self._places[faults[bad[0]]]
            raise NonFiniteError(
                f"batch {trained.number}, supervision step {bad[0] + 1}, rows of {trained.batch.tokens.shape[-1]} tokens: "
                f"numbers that are not finite in {place}"
            )


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a run's batches in METRICS or TIMINGS. Raises MetricsError, naming the line.

    Example: `[record["loss"][-1] for record in read_metrics(folder / METRICS)]`.
    """
    return [record for _, record in read_lines(path, MetricsError)]


@first_only
def _keep_batches(path: pathlib.Path, last: int) -> None:
    """Removes an unfinished line, and the lines of batches after `last`: a resumed run trains on those again."""
    if not path.exists():
        return
    whole = path.read_bytes()
    write_whole(path, whole[: whole.rfind(b"\n") + 1])
    kept = [record for record in read_metrics(path) if record["batch"] <= last]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


@first_only
def plot_loss(folder: pathlib.Path) -> None:
    """Draws `loss.png` from `metrics.jsonl`: the first and the last supervision step, and the held-out loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trained = read_metrics(folder / METRICS)
    held_out = [record for record in trained if "held_out_loss" in record]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for step, label in ((0, "first"), (-1, "last")):
        losses = [record["loss"][step] for record in trained]
        axes.plot([r["batch"] for r in trained], losses, label=f"{label} supervision step", linewidth=1)
    if held_out:
        losses = [record["held_out_loss"][-1] for record in held_out]
        axes.plot([r["batch"] for r in held_out], losses, "o-", label="held out, last step", markersize=3)
    axes.set(xlabel="batch", ylabel="loss, nats a token", yscale="log")
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120)
    pyplot.close(figure)
