"""The report of an ablation: accuracy and cost of its variants, each trained with several seeds, on the same questions."""

import collections
import dataclasses
import functools
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.checkpoints import RunFolder, open_folder, read_config
from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data import Batch, make_training_set
from trm_jax.errors import UserError, listing
from trm_jax.evaluation import (
    Evaluation,
    Interval,
    accuracy_of_runs,
    difference_of_runs,
    error_bars,
    read_evaluation,
    shared_questions,
)
from trm_jax.files import write_whole
from trm_jax.hardware import count_flops, count_weights
from trm_jax.model import Qwen, abstract_qwen, abstract_trm, cast
from trm_jax.training import (
    METRICS,
    TIMINGS,
    make_optimizer,
    make_train_batch,
    new_state,
    read_metrics,
    supervision_depths,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The cost of one training and of its recursion, and the loss that it reached."""

    batches: int
    optimizer_steps: int
    parameters: int  # trained
    block_calls: int  # for a token
    flops: int  # of the whole training, matrix products only
    seconds: float  # of the whole training at its median batch: neither compilation nor evaluation
    loss: float | None  # held out, nats a token, after the last supervision step; None where no rows were held out


def read_run(path: pathlib.Path) -> Run:
    """Reads the figures of a finished run from its training folder."""
    folder = open_folder(path)
    config, model = folder.config, folder.model
    if others := config.changes(read_config(path)):  # it was trained with settings that are retired
        raise UserError(f"{path} cannot be reported on by this version: {listing(others)}")
    depths = supervision_depths(config.train, config.trm.supervision_steps, config.num_batches)
    backbone = jax.eval_shape(lambda weights: cast(weights, config.train.dtype), abstract_qwen(model.backbone_config))
    metrics, timings = read_metrics(path / METRICS), read_metrics(path / TIMINGS)
    return Run(
        batches=len(metrics),
        optimizer_steps=int(depths.sum()),
        parameters=count_weights(abstract_trm(backbone, config.trm)),
        block_calls=config.trm.passes * config.trm.calls,
        flops=training_flops(folder, backbone, depths),
        seconds=len(timings) * statistics.median(record["seconds"] for record in timings),
        loss=next((record["held_out_loss"][-1] for record in reversed(metrics) if "held_out_loss" in record), None),
    )


def training_flops(folder: RunFolder, backbone: Qwen, depths: np.ndarray) -> int:
    """The FLOPs of a run's matrix products, counted for each shape and depth that its batches had."""
    trm, train = folder.config.trm, folder.config.train
    shapes = batch_shapes(folder.model.path, folder.config.data, train, folder.config.held_out, len(depths))
    kinds = collections.Counter((*shape, int(depth)) for shape, depth in zip(shapes, depths, strict=True))
    optimizer, total = make_optimizer(train, int(depths.sum())), 0
    for (tokens, labels, depth), count in kinds.items():
        recursion = abstract_trm(backbone, dataclasses.replace(trm, supervision_steps=depth))
        state = jax.eval_shape(functools.partial(new_state, optimizer=optimizer), recursion)
        batch = Batch(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in (tokens, labels, labels)))
        train_batch = make_train_batch(optimizer, train.ema_decay, jnp.dtype(train.dtype))
        total += count * count_flops(train_batch, state, backbone, batch)
    return total


@functools.cache  # reading the rows again for each variant would take most of a report's time
def batch_shapes(
    model: pathlib.Path, data: DataConfig, train: TrainConfig, held_out: int, count: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of the tokens and of the labels in each of a run's `count` batches."""
    loader = make_training_set(data, train, open_folder(model).model.tokenizer, held_out).loader
    batches = (loader[number] for number in range(count))
    return [(batch.tokens.shape, batch.labels.shape) for batch in batches]


@dataclasses.dataclass(frozen=True)
class Variant:
    """The runs of one variant, one for each seed, on the questions that all runs answered."""

    name: str
    runs: Sequence[Run]
    right: np.ndarray  # bool[R, n]
    seconds_per_sample: float  # of the evaluation

    def mean(self, field: str) -> float | None:
        values = [getattr(run, field) for run in self.runs]
        return None if None in values else statistics.mean(values)


def report(
    backbone: pathlib.Path,
    runs: Mapping[str, Sequence[pathlib.Path]],
    against: str,
    folder: pathlib.Path,
    limit: int | None = None,
) -> str:
    """Writes `report.md`, `report.json` and `report.png` to the folder and returns the Markdown.

    Args:
        backbone: the answers of the backbone alone.
        runs: the training folders of each variant, with the answers in `answers.jsonl`.
        against: the variant that the others are compared with, beside the backbone.
        limit: only the first so many questions.
    """
    base = read_evaluation(backbone)
    answers = {name: [read_evaluation(run / "answers.jsonl") for run in folders] for name, folders in runs.items()}
    questions = shared_questions([base, *(one for each in answers.values() for one in each)])[:limit]
    baseline = base.right(questions)[None]
    variants = [
        Variant(
            name=name,
            runs=[read_run(run) for run in runs[name]],
            right=np.stack([one.right(questions) for one in each]),
            seconds_per_sample=statistics.mean(_seconds(one, questions) for one in each),
        )
        for name, each in answers.items()
    ]
    control = next(variant for variant in variants if variant.name == against)
    rows = [_row(variant, baseline, control) for variant in variants]
    text = _markdown(rows, against, base, baseline)
    write_whole(folder / "report.md", text + "\n")
    summary = {"questions": len(questions), "backbone": float(baseline.mean()), "variants": rows}
    write_whole(folder / "report.json", json.dumps(summary, indent=1, default=dataclasses.asdict) + "\n")
    _plot(variants, baseline, folder / "report.png")
    return text


def _seconds(evaluation: Evaluation, questions: Sequence[str]) -> float:
    return statistics.mean(evaluation.answers[question].seconds for question in questions)


def _row(variant: Variant, baseline: np.ndarray, control: Variant) -> dict[str, Any]:
    means = {field.name: variant.mean(field.name) for field in dataclasses.fields(Run)}
    return means | {
        "name": variant.name,
        "accuracy_of_each_run": variant.right.mean(axis=1).tolist(),
        "accuracy": accuracy_of_runs(variant.right),
        "over_backbone": difference_of_runs(variant.right, baseline),
        "over_control": None if variant is control else difference_of_runs(variant.right, control.right),
        "seconds_per_sample": variant.seconds_per_sample,
    }


def _markdown(rows: Sequence[dict[str, Any]], against: str, base: Evaluation, baseline: np.ndarray) -> str:
    lines = [
        f"{baseline.size} questions, {len(rows[0]['accuracy_of_each_run'])} seeds; intervals of 95 %, over questions and "
        "seeds; differences in points, paired.",
        "",
        f"| | right | each seed, % | over the backbone | over {against} | held-out loss | trained weights | block calls "
        "a token | training, TFLOP | training, s | optimizer steps | answering, s/sample |",
        "|" + "---|" * 12,
        f"| backbone | {100 * baseline.mean():.1f} % | – | – | – | – | 0 | 0 | 0 | 0 | 0 "
        f"| {_seconds(base, list(base.answers)):.3f} |",
    ]
    for row in rows:
        seeds = ", ".join(f"{100 * share:.1f}" for share in row["accuracy_of_each_run"])
        over: Interval | None = row["over_control"]
        loss = "–" if row["loss"] is None else f"{row['loss']:.4f}"
        lines.append(
            f"| {row['name']} | {row['accuracy']} | {seeds} | {row['over_backbone'].points()} "
            f"| {over.points() if over else '–'} | {loss} | {row['parameters']:,.0f} "
            f"| {row['block_calls']:.0f} | {row['flops'] / 1e12:.3g} | {row['seconds']:.0f} "
            f"| {row['optimizer_steps']:,.0f} | {row['seconds_per_sample']:.3f} |"
        )
    return "\n".join(lines)


def _plot(variants: Sequence[Variant], baseline: np.ndarray, path: pathlib.Path) -> None:
    """Each seed's accuracy beside the mean with its interval, and the backbone's as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 1.1 * len(variants), 4), layout="constrained")
    axes = figure.subplots()
    for place, variant in enumerate(variants):
        axes.plot([place] * len(variant.right), 100 * variant.right.mean(axis=1), "o", color="tab:orange", alpha=0.6)
        interval = accuracy_of_runs(variant.right)
        axes.errorbar(place, 100 * interval.estimate, yerr=error_bars([interval]), fmt="_", capsize=4, color="tab:blue")
    axes.axhline(100 * baseline.mean(), color="grey", linestyle="--", label="backbone alone")
    axes.set_xticks(range(len(variants)), [variant.name for variant in variants], rotation=30, ha="right")
    axes.set(ylabel="right, % (each seed; mean, 95 % interval)", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
