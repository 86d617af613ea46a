"""One checkpoint decoded in several ways, on the same questions: accuracy, speed and memory side by side."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import jax

from trm_jax.data import Row, encode_prompts, reference_answer
from trm_jax.decoding import DecodeConfig, decode_config, generate_each
from trm_jax.evaluation import GradedText, Interval, accuracy, error_bars, paired_difference
from trm_jax.files import write_whole
from trm_jax.hardware import count_bytes
from trm_jax.model import QwenTRM


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of one way to decode, on all questions; differences are those to the first way of the sweep."""

    name: str
    right: Sequence[bool]  # by question
    difference: Interval  # paired
    answers_differ: float  # share of the questions whose completion differs
    tokens_differ: float  # share of the places; those that only one completion has differ
    steps: float  # supervision steps a token
    seconds_per_sample: float  # without compilation
    tokens_per_second: float
    cache_bytes_per_token: int  # of one row

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"accuracy": vars(accuracy(self.right))}


def sweep(
    model: QwenTRM,
    tokenizer,
    rows: Sequence[Row],
    configs: Mapping[str, DecodeConfig],
    batch_size: int,
    max_new_tokens: int,
) -> list[Measured]:
    """Answers the questions in every way, twice: once to compile, once timed. Every way is compared with the first.

    Example: `sweep(model, tokenizer, rows, depths(model, [1, 2, 4]), batch_size=64, max_new_tokens=512)`.
    """
    prompts = encode_prompts(tokenizer, [row["question"] for row in rows])
    found: list[Measured] = []
    first: list[list[int]] = []  # the tokens of the first way, by question
    for name, config in configs.items():
        for _ in range(2):
            start = time.perf_counter()
            completions = list(generate_each(model, prompts, max_new_tokens, config, batch_size))
            seconds = time.perf_counter() - start
        completions.sort(key=lambda completion: completion.prompt)
        texts = [tokenizer.decode(completion.tokens, skip_special_tokens=True) for completion in completions]
        graded = [GradedText.of(text, reference_answer(row["answer"])) for text, row in zip(texts, rows, strict=True)]
        right = [text.correct for text in graded]
        tokens = [completion.tokens for completion in completions]
        first = first or tokens
        places = [a != b for pair in zip(tokens, first, strict=True) for a, b in zip_longest(*pair)]
        steps = [step for completion in completions for step in completion.steps]
        found.append(
            Measured(
                name=name,
                right=right,
                difference=paired_difference(right, found[0].right if found else right),
                answers_differ=sum(a != b for a, b in zip(tokens, first, strict=True)) / len(tokens),
                tokens_differ=sum(places) / len(places),
                steps=sum(steps) / len(steps),
                seconds_per_sample=seconds / len(rows),
                tokens_per_second=len(steps) / seconds,
                cache_bytes_per_token=count_bytes(jax.eval_shape(lambda c=config: c.empty_caches(model, 1, 1))),
            )
        )
    return found


def depths(
    model: QwenTRM, supervision_steps: Sequence[int], recursions: Sequence[int] = (), own: int | None = None
) -> dict[str, DecodeConfig]:
    """Ways to decode: the backbone alone, then these numbers of supervision steps, then these of passes in a step.

    The number of supervision steps that the model was trained with, or `own` if given, is always one of them.

    Example: `sweep(model, tokenizer, rows, depths(model, [1, 2, 4]), 64, 512)`.
    """
    own = own or model.trm.config.supervision_steps
    found = {"0": decode_config(model, head="backbone")}
    found |= {str(depth): decode_config(model, depth) for depth in sorted({own, *supervision_steps})}
    others = [passes for passes in recursions if passes != model.trm.config.recursions]
    return found | {f"{own}, T={passes}": decode_config(model, own, recursions=passes) for passes in others}


def kv_caches(model: QwenTRM, supervision_steps: int | None = None) -> dict[str, DecodeConfig]:
    """Ways to decode: with a cache for each pass, and with the cache of the last pass for all passes.

    Example: `list(kv_caches(model))` is `["per_pass", "last_pass"]`.
    """
    policies = ("per_pass", "last_pass")
    return {policy: decode_config(model, supervision_steps, policy) for policy in policies}


def early_exits(
    model: QwenTRM, thresholds: Sequence[float], supervision_steps: int | None = None
) -> dict[str, DecodeConfig]:
    """Ways to decode: with all supervision steps, and with early exit at these thresholds, nats.

    Example: `early_exits(model, thresholds=[0.01, 0.1])`.
    """
    found = {"off": decode_config(model, supervision_steps)}
    for threshold in sorted(thresholds):
        found[f"{threshold:g}"] = decode_config(model, supervision_steps, early_exit=threshold)
    return found


def write_sweep(found: Sequence[Measured], rows: Sequence[Row], path: pathlib.Path, label: str) -> None:
    """Writes the table (.md), the figures and the questions (.json) and the plot (.png), with the `label` of its ways.

    Example: `write_sweep(found, rows, folder / "depth", "supervision steps")`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".md"), sweep_table(found) + "\n")
    figures = {"questions": [row["question"] for row in rows], "ways": [one.to_json() for one in found]}
    write_whole(path.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
    by_depth = sum(", T=" not in one.name for one in found)  # the other ways are no part of the curve
    plot(found, label, path.with_suffix(".png"), joined=by_depth)


def sweep_table(found: Sequence[Measured]) -> str:
    """A table, one way a row. Example: `print(sweep_table(found))`."""
    lines = [
        "| | right [95 %] | difference to the first, points | answers differ | tokens differ | steps a token | s/sample "
        "| tokens/s | cache, KB a token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        difference = "–" if one is found[0] else one.difference.points()
        lines.append(
            f"| {one.name} | {accuracy(one.right)} | {difference} | {100 * one.answers_differ:.1f} % "
            f"| {100 * one.tokens_differ:.1f} % | {one.steps:.2f} | {one.seconds_per_sample:.4f} "
            f"| {one.tokens_per_second:,.0f} | {one.cache_bytes_per_token / 1e3:.1f} |"
        )
    return "\n".join(lines)


def plot(found: Sequence[Measured], label: str, path: pathlib.Path, joined: int) -> None:
    """Accuracy with its interval, and seconds per sample, one way beside the other; lines join the first `joined`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    places, intervals = range(len(found)), [accuracy(one.right) for one in found]
    shares = [100 * interval.estimate for interval in intervals]
    axes.errorbar(places, shares, yerr=error_bars(intervals), fmt="o", capsize=3, color="tab:blue")
    axes.set(xlabel=label, ylabel="right, % (95 % interval)", ylim=(0, None))
    axes.set_xticks(places, [one.name for one in found])
    speed = axes.twinx()
    milliseconds = [1e3 * one.seconds_per_sample for one in found]
    speed.plot(places, milliseconds, "s", color="tab:orange")
    speed.set(ylabel="ms a sample (squares)", ylim=(0, None))
    axes.plot(places[:joined], shares[:joined], color="tab:blue")
    speed.plot(places[:joined], milliseconds[:joined], "--", color="tab:orange")
    figure.savefig(path, dpi=120)
