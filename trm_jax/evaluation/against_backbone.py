"""The end of a training: the backbone alone against backbone + TRM, on the same held-out questions."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from trm_jax.data import Row
from trm_jax.decoding import decode_config, generate_each
from trm_jax.evaluation.evaluate import evaluate, summarize
from trm_jax.evaluation.records import GradedAnswer
from trm_jax.evaluation.statistics import Interval, flips, paired_difference
from trm_jax.files import write_whole
from trm_jax.model import QwenTRM, for_decoding

SAMPLES = 3


def compare_with_backbone(
    model: QwenTRM,
    tokenizer,
    rows: Sequence[Row],
    folder: pathlib.Path,
    max_new_tokens: int,
) -> str:
    """Grades the backbone alone and backbone + TRM on the same questions. The model is given up, see `for_decoding`.

    Returns a text with a few completions and a table; the figures are written to `folder/comparison.json`. Raises
    NoRoomError, before anything is graded, if not even one row of backbone + TRM fits into the device's memory, and
    EvaluationError if no question fits into the backbone's length.

    Example: `print(compare_with_backbone(model, tokenizer, rows, folder, max_new_tokens=512))`.
    """
    model, answers = for_decoding(model, donate=True), {}
    # The recursion first, which needs more memory: if that is not there, no time is lost.
    for head, label in (("trm", "backbone + TRM"), ("backbone", "backbone alone")):
        config = decode_config(model, head=head)
        generate = functools.partial(generate_each, model, config=config, max_new_tokens=max_new_tokens)
        longest = model.backbone.config.max_length - max_new_tokens
        answers[head] = evaluate(rows, tokenizer, generate, label=label, longest_prompt=longest)
    summaries = {head: summarize(answers[head]) for head in ("backbone", "trm")}
    right = [[answer.correct for answer in answers[head]] for head in ("trm", "backbone")]
    difference, (gained, lost) = paired_difference(*right), flips(*right)
    comparison = summaries | {"difference": vars(difference)}
    write_whole(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    return "\n".join(
        [
            _show_samples(answers["backbone"], answers["trm"]),
            _show_table(summaries),
            f"difference      {difference.points()} points (paired, 95 %); {gained} questions gained, {lost} lost",
            f"                {verdict(difference)}",
        ]
    )


def verdict(difference: Interval) -> str:
    """Says in words what the interval of the paired difference shows."""
    if difference.low > 0:
        return "backbone + TRM is better: the interval lies above zero"
    if difference.high < 0:
        return "backbone + TRM is worse: the interval lies below zero"
    return "no difference is shown: the interval contains zero"


def _show_table(summaries: dict[str, dict[str, Any]]) -> str:
    lines = ["                right            accuracy [95 %]         s/sample   tokens/s"]
    for head, label in (("backbone", "backbone alone"), ("trm", "backbone + TRM")):
        row = summaries[head]
        low, high = (f"{100 * row[name]:.1f}" for name in ("accuracy_low", "accuracy_high"))
        lines.append(
            f"{label:<15} {row['correct']:>4} of {row['questions']:<6} {100 * row['accuracy']:>6.1f} % "
            f"[{low}, {high}] {row['seconds_per_sample']:>12.3f} {row['tokens_per_second']:>10,.0f}"
        )
    return "\n".join(lines)


def _show_samples(backbone: Sequence[GradedAnswer], trm: Sequence[GradedAnswer]) -> str:
    lines = []
    for before, after in list(zip(backbone, trm, strict=True))[:SAMPLES]:
        lines.append(f"\nquestion  {before.question}\nexpected  {before.expected}")
        for label, answer in (("backbone", before), ("TRM", after)):
            text = " / ".join(answer.text.splitlines())
            lines.append(f"{label:<9} {'right' if answer.correct else 'wrong'}: {text}")
    return "\n".join(lines) + "\n"
