"""What a training run shows: metrics.jsonl, timings.jsonl, the progress bar, the loss plot, trackers."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from trm_jax.data.loader import Batch
from trm_jax.errors import UserError
from trm_jax.files import read_lines, write_whole
from trm_jax.hardware.devices import peak_memory
from trm_jax.training.step import Metrics
from trm_jax.training.trackers import Tracker, flatten

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"


class NonFiniteError(UserError):
    """A loss, gradient or update that is not a number any more."""


class MetricsError(UserError):
    """A file of metrics that is none; the message names the line."""


class MetricsLog:
    """One JSON line a batch. A batch is read only after the next one is under way, so that the device never waits.

    METRICS gets what was computed, the same for the same seed; TIMINGS gets what the machine took for it.
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
        """`start` batches and `first_step` optimizer steps lie behind; lines of later batches are removed.

        Args:
            learning_rates: one for each optimizer step of the run, numbers of the host: to compute one on the device would
                wait for the batch that is under way there.
            places: names for the `fault` of the metrics.
        """
        for name in (METRICS, TIMINGS):
            _keep_batches(folder / name, start)
        self._folder, self._learning_rates, self._places, self._tracker = folder, learning_rates, places, tracker
        self._steps = first_step
        self._pending: tuple[int, Batch, Metrics, int] | None = None
        self._record: dict[str, Any] | None = None
        self.resume_clock()
        self.shown: dict[str, str] = {}  # what the progress bar shows, of the last batch that was read

    def add(self, batch_number: int, batch: Batch, metrics: Metrics, depth: int) -> None:
        """Takes the metrics of a batch (counted from one) of `depth` supervision steps, and writes the one before."""
        self.write()
        self._pending = (batch_number, batch, metrics, depth)

    def read(self) -> None:
        """Waits for the batch that is pending. Raises NonFiniteError if one of its numbers is none."""
        if self._pending is None:
            return
        (number, batch, metrics, depth), self._pending = self._pending, None
        found = {field.name: np.asarray(getattr(metrics, field.name))[:depth] for field in dataclasses.fields(metrics)}
        self._require_finite(number, found.pop("fault"))
        seconds = time.perf_counter() - self._time
        self.resume_clock()
        self._steps += depth
        self._record = {
            "batch": number,
            **{name: values.astype(np.float64).tolist() for name, values in found.items()},
            "learning_rate": float(self._learning_rates[self._steps - 1]),
            "padding": 1 - batch.filled / batch.tokens.size,
        }
        self._timing = {
            "batch": number,
            "seconds": seconds,
            "tokens_per_second": batch.filled / seconds,
            "peak_memory": peak_memory(),
        }
        self.shown = {
            "loss": f"{self._record['loss'][-1]:.4f}",
            "lr": f"{self._record['learning_rate']:.1e}",
            "tokens/s": f"{self._timing['tokens_per_second']:,.0f}",
        }

    def write(self, **more: Any) -> None:
        """Writes the batch that is pending, with what `more` there is to say of it. Raises NonFiniteError."""
        self.read()
        if self._record is None:
            return
        record, self._record = self._record | more, None
        for name, values in ((METRICS, record), (TIMINGS, self._timing)):
            with (self._folder / name).open("a") as file:
                file.write(json.dumps(values) + "\n")
        if self._tracker:
            self._tracker.log(flatten(record | self._timing), record["batch"])

    def resume_clock(self) -> None:
        """A batch's seconds are counted from here: from the end of the one before, or of other work in between."""
        self._time = time.perf_counter()

    def _require_finite(self, number: int, faults: np.ndarray) -> None:
        bad = np.flatnonzero(faults >= 0)
        if bad.size:
            place = self._places[int(faults[bad[0]])]
            raise NonFiniteError(
                f"batch {number}, supervision step {bad[0] + 1}: numbers that are not finite in {place}"
            )


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a run's batches, of either file. Raises MetricsError, naming the line."""
    return [record for _, record in read_lines(path, MetricsError)]


def _keep_batches(path: pathlib.Path, last: int) -> None:
    """Removes what a killed run logged after its last checkpoint, for it comes again, and a line that it left unfinished."""
    if not path.exists():
        return
    whole = path.read_bytes()
    write_whole(path, whole[: whole.rfind(b"\n") + 1])
    kept = [record for record in read_metrics(path) if record["batch"] <= last]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


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
