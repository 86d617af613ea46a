"""What a training run shows: metrics.jsonl, the progress bar, the loss plot, trackers."""

import dataclasses
import json
import pathlib
import time
from typing import Any

import numpy as np

from trm_jax.batches import Batch
from trm_jax.device import peak_memory
from trm_jax.track import Tracker, flatten
from trm_jax.train import Metrics


class NonFiniteError(ValueError):
    """A loss, gradient or update that is not a number any more."""


class MetricsLog:
    """One JSON line a batch. A batch is read only after the next one is under way, so that the device never waits."""

    def __init__(
        self,
        path: pathlib.Path,
        start: int,
        learning_rates: np.ndarray,
        first_step: int,
        tracker: Tracker | None = None,
    ):
        """`start` batches and `first_step` optimizer steps lie behind; lines of later batches are removed.

        `learning_rates`, one for each optimizer step of the run, are numbers of the host: to compute one on the device would
        wait for the batch that is under way there.
        """
        lines = path.read_text().splitlines() if path.exists() else []
        # A killed run may have logged batches after its last checkpoint; they come again.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["batch"] <= start]
        path.write_text("".join(line + "\n" for line in kept))
        self._path, self._learning_rates, self._tracker = path, learning_rates, tracker
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
        record: dict[str, Any] = {"batch": number}
        for field in dataclasses.fields(metrics):
            record[field.name] = np.asarray(getattr(metrics, field.name), np.float64)[:depth].tolist()
        self._require_finite(record)
        seconds = time.perf_counter() - self._time
        self.resume_clock()
        self._steps += depth
        self._record = record | {
            "learning_rate": float(self._learning_rates[self._steps - 1]),
            "seconds": seconds,
            "tokens_per_second": batch.filled / seconds,
            "padding": 1 - batch.filled / batch.tokens.size,
            "peak_memory": peak_memory(),
        }
        self.shown = {
            "loss": f"{record['loss'][-1]:.4f}",
            "lr": f"{self._record['learning_rate']:.1e}",
            "tokens/s": f"{self._record['tokens_per_second']:,.0f}",
        }

    def write(self, **more: Any) -> None:
        """Writes the batch that is pending, with what `more` there is to say of it. Raises NonFiniteError."""
        self.read()
        if self._record is None:
            return
        record, self._record = self._record | more, None
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._tracker:
            self._tracker.log(flatten(record), record["batch"])

    def resume_clock(self) -> None:
        """A batch's seconds are counted from here: from the end of the one before, or of other work in between."""
        self._time = time.perf_counter()

    def _require_finite(self, record: dict[str, Any]) -> None:
        for name in ("loss", "grad_norm", "update_norm"):
            bad = np.flatnonzero(~np.isfinite(record[name]))
            if bad.size:
                value = record[name][bad[0]]
                raise NonFiniteError(f"batch {record['batch']}: {name} is {value} at supervision step {bad[0] + 1}")


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a run's batches."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot_loss(folder: pathlib.Path) -> None:
    """Draws `loss.png` from `metrics.jsonl`: the first and the last supervision step, and the held-out loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trained = read_metrics(folder / "metrics.jsonl")
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
