"""One checkpoint decoded in several ways, on the same questions: accuracy, speed and memory side by side."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import jax

from trm_jax.decoding.generate import Answer, generate_each
from trm_jax.decoding.step import DecodeConfig
from trm_jax.evaluation.evaluate import evaluate
from trm_jax.evaluation.statistics import Interval, accuracy, paired_difference
from trm_jax.model.qwen_trm import QwenTRM
from trm_jax.model.weights import count_bytes


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way to decode, on all questions; what differs is counted against the first way of the sweep."""

    name: str
    right: Sequence[bool]  # by question
    difference: Interval  # paired
    answers_differ: float  # share
    tokens_differ: float  # share, place by place; what only one answer has differs
    steps: float  # supervision steps a token
    seconds_per_sample: float  # compiled before
    tokens_per_second: float
    cache_bytes_per_token: int  # of one row

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"accuracy": vars(accuracy(self.right))}


def sweep(
    model: QwenTRM,
    tokenizer,
    rows: Sequence[dict[str, str]],
    configs: Mapping[str, DecodeConfig],
    batch_size: int,
    max_new_tokens: int,
) -> list[Measured]:
    """Answers the questions in every way, twice: once to compile, once timed. The first way is the one compared with."""
    found: list[Measured] = []
    first: list[Answer] = []
    for name, config in configs.items():
        seconds, answers = 0.0, []

        def generate(prompts, config=config):
            nonlocal seconds, answers
            settings = prompts, max_new_tokens, config, batch_size
            list(generate_each(model, *settings))
            start = time.perf_counter()
            answers = list(generate_each(model, *settings))
            seconds = time.perf_counter() - start
            return iter(answers)

        records = evaluate(rows, tokenizer, generate)
        answers.sort(key=lambda answer: answer.prompt)
        first = first or answers
        right = [record["correct"] for record in records]
        steps = [step for answer in answers for step in answer.steps]
        pairs = [(a.tokens, b.tokens) for a, b in zip(answers, first, strict=True)]
        places = [a != b for pair in pairs for a, b in zip_longest(*pair)]
        found.append(
            Measured(
                name=name,
                right=right,
                difference=paired_difference(right, found[0].right if found else right),
                answers_differ=sum(a != b for a, b in pairs) / len(pairs),
                tokens_differ=sum(places) / len(places),
                steps=sum(steps) / len(steps),
                seconds_per_sample=seconds / len(rows),
                tokens_per_second=len(steps) / seconds,
                cache_bytes_per_token=count_bytes(jax.eval_shape(lambda c=config: c.empty_caches(model, 1, 1))),
            )
        )
    return found


def markdown(found: Sequence[Measured]) -> str:
    """A table, one way a row."""
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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    places, intervals = range(len(found)), [accuracy(one.right) for one in found]
    shares = [100 * interval.estimate for interval in intervals]
    bars = [
        [100 * (interval.estimate - interval.low) for interval in intervals],
        [100 * (interval.high - interval.estimate) for interval in intervals],
    ]
    axes.errorbar(places, shares, yerr=bars, fmt="o", capsize=3, color="tab:blue")
    axes.set(xlabel=label, ylabel="right, % (95 % interval)", ylim=(0, None))
    axes.set_xticks(places, [one.name for one in found])
    speed = axes.twinx()
    milliseconds = [1e3 * one.seconds_per_sample for one in found]
    speed.plot(places, milliseconds, "s", color="tab:orange")
    speed.set(ylabel="ms a sample (squares)", ylim=(0, None))
    axes.plot(places[:joined], shares[:joined], color="tab:blue")
    speed.plot(places[:joined], milliseconds[:joined], "--", color="tab:orange")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
