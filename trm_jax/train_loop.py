"""A training run in a folder: batches through `train_batch`, checkpoints, metrics, a progress bar, a plot."""

import dataclasses
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from trm_jax.checkpoint import CheckpointError, Checkpoints, read_config, write_config
from trm_jax.config import TRMConfig
from trm_jax.data import Batch, Loader
from trm_jax.loss import CHUNK
from trm_jax.qwen import Qwen
from trm_jax.train import Metrics, TrainConfig, TrainState, make_optimizer, make_schedule, make_train_batch, new_state
from trm_jax.trm import TRM
from trm_jax.weights import count_weights


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What makes a run this run and no other; a folder resumes only the same."""

    model: pathlib.Path  # the model folder of the frozen backbone
    data: str
    num_samples: int | None
    keep_annotations: bool
    num_batches: int
    trm: TRMConfig
    train: TrainConfig

    def to_json(self, folder: pathlib.Path) -> dict[str, Any]:
        return {
            "kind": "training",
            "model": str(self.model.absolute()),
            "model_relative": os.path.relpath(self.model.absolute(), folder.absolute()),
            "data": self.data,
            "num_samples": self.num_samples,
            "keep_annotations": self.keep_annotations,
            "num_batches": self.num_batches,
            "trm": self.trm.to_json(),
            "train": dataclasses.asdict(self.train),
        }

    @property
    def optimizer_steps(self) -> int:
        return self.num_batches * self.trm.supervision_steps


def open_folder(folder: pathlib.Path, config: RunConfig) -> None:
    """Makes the folder of a new run, or checks that the one there is of the same run. Raises CheckpointError."""
    values = config.to_json(folder)
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, values)
        return
    found = read_config(folder)
    differences = [
        f"{name}: {found.get(name)!r} there, {values[name]!r} now"
        for name in values
        if name != "model" and found.get(name) != values[name]
    ]
    if differences:
        raise CheckpointError(
            "\n  ".join([f"{folder} holds another run; give another --output, or the same options:", *differences])
        )


def fit(
    folder: pathlib.Path, config: RunConfig, backbone: Qwen, trm: TRM, loader: Loader, save_every: int
) -> TrainState:
    """Trains to the end of the run, from its newest checkpoint if it has one. Returns the last state.

    Args:
        folder: made by `open_folder`; gets `checkpoints/`, `metrics.jsonl`, `loss.png`.
        backbone: in the type to compute in.
        trm: untrained, float32.
        save_every: batches between checkpoints; the last batch is always saved.
    """
    optimizer = make_optimizer(config.train, config.optimizer_steps)
    schedule = make_schedule(config.train, config.optimizer_steps)
    train_batch = make_train_batch(optimizer, config.train.ema_decay, jnp.dtype(config.train.dtype))
    state = new_state(trm, optimizer)
    with Checkpoints(folder) as checkpoints:
        if checkpoints.latest is not None:
            state = checkpoints.restore(state)
        start = int(state.batches)
        log = MetricsLog(folder / "metrics.jsonl", start, schedule)
        bar = tqdm(
            range(start, config.num_batches), initial=start, total=config.num_batches, unit="batch", smoothing=0.1
        )
        for number in bar:
            batch = loader[number]
            state, metrics = train_batch(state, backbone, jax.device_put(batch))
            bar.set_postfix(log.add(number, batch, metrics), refresh=False)
            if (number + 1) % save_every == 0 or number + 1 == config.num_batches:
                log.flush()
                checkpoints.save(number + 1, state)
        log.flush()
    plot_loss(folder)
    return state


class MetricsLog:
    """One JSON line a batch. A batch is read only after the next one is under way, so that the device never waits."""

    def __init__(self, path: pathlib.Path, start: int, schedule):
        lines = path.read_text().splitlines() if path.exists() else []
        # A killed run may have logged batches after its last checkpoint; they come again.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["batch"] <= start]
        path.write_text("".join(line + "\n" for line in kept))
        self._path, self._schedule, self._pending = path, schedule, None
        self._shown: dict[str, str] = {}
        self._time = time.perf_counter()

    def add(self, number: int, batch: Batch, metrics: Metrics) -> dict[str, str]:
        """Takes a batch's metrics; returns what the progress bar shows, of the batch before."""
        self.flush()
        self._pending = (number, batch, metrics)
        return self._shown

    def flush(self) -> None:
        """Writes the batch that is pending."""
        if self._pending is None:
            return
        number, batch, metrics = self._pending
        self._pending = None
        loss, accuracy, grad_norm = (np.asarray(x, np.float64).tolist() for x in dataclasses.astuple(metrics))
        now = time.perf_counter()
        seconds, self._time = now - self._time, now
        record = {
            "batch": number + 1,
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": grad_norm,
            "learning_rate": float(self._schedule((number + 1) * len(loss) - 1)),
            "seconds": seconds,
            "tokens": batch.tokens.size,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._shown = {
            "loss": f"{loss[-1]:.4f}",
            "lr": f"{record['learning_rate']:.1e}",
            "tokens/s": f"{batch.tokens.size / seconds:,.0f}",
        }


def plot_loss(folder: pathlib.Path) -> None:
    """Draws `loss.png` from `metrics.jsonl`: the first and the last supervision step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    batches = [record["batch"] for record in records]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for step, label in ((0, "first"), (-1, "last")):
        axes.plot(batches, [record["loss"][step] for record in records], label=f"{label} supervision step", linewidth=1)
    axes.set(xlabel="batch", ylabel="loss, nats a token", yscale="log")
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120)
    pyplot.close(figure)


def expected_memory(backbone: Qwen, trm: TRM, config: RunConfig, loader: Loader) -> int:
    """An estimate of the memory that training needs at its longest bucket, bytes.

    Weights, moments, EMA and gradients are counted; activations of the one differentiated pass are estimated.
    """
    size = jnp.dtype(config.train.dtype).itemsize
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(backbone))
    state = count_weights(trm) * (4 * 5 + size)  # masters, two moments, EMA, gradient; a copy to compute with
    width, tokens = backbone.config.width, config.train.batch_size * loader.buckets[-1].length
    hidden = tokens * config.train.accumulation * width * size * 7  # four levels, x, y, z of every micro-batch
    mlp_width = 4 * width
    activations = tokens * config.trm.calls * (8 * width + 3 * mlp_width) * size
    logits = 3 * CHUNK * backbone.config.vocab_size * 4
    return weights + state + hidden + activations + logits
