"""What a person reads: the held-out comparison of the backbone alone with backbone + TRM."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from trm_jax.decoding.generate import decode_config, generate_each
from trm_jax.evaluation.evaluate import evaluate, summarize
from trm_jax.evaluation.statistics import flips, paired_difference
from trm_jax.model.qwen_trm import QwenTRM

SAMPLES = 3


def compare_with_backbone(
    model: QwenTRM,
    tokenizer,
    rows: Sequence[dict[str, str]],
    folder: pathlib.Path,
    batch_size: int,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Grades the backbone alone and backbone + TRM on the same questions; prints a table and a few answers.

    Returns the summaries, which are also written to `folder/comparison.json`.
    """
    records = {}
    for head, label in (("backbone", "backbone alone"), ("trm", "backbone + TRM")):
        config = decode_config(model, head=head)
        answer = functools.partial(
            generate_each, model, config=config, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        progress = functools.partial(tqdm, desc=label, unit="question")
        records[head] = evaluate(rows, tokenizer, answer, progress=progress)
    summaries = {head: summarize(found) for head, found in records.items()}
    right = [[record["correct"] for record in records[head]] for head in ("trm", "backbone")]
    difference = paired_difference(*right)
    result = summaries | {"difference": vars(difference)}
    (folder / "comparison.json").write_text(json.dumps(result, indent=2) + "\n")
    print_samples(records["backbone"], records["trm"])
    print_table(summaries)
    gained, lost = flips(*right)
    print(f"difference      {difference.points()} points (paired, 95 %); {gained} questions gained, {lost} lost")
    print(f"                {verdict(difference)}")
    return result


def verdict(difference) -> str:
    """What the paired interval allows to say."""
    if difference.low > 0:
        return "backbone + TRM is better: the interval lies above zero"
    if difference.high < 0:
        return "backbone + TRM is worse: the interval lies below zero"
    return "no difference is shown: the interval contains zero"


def print_table(summaries: dict[str, dict[str, Any]]) -> None:
    print("                right            accuracy [95 %]         s/sample   tokens/s")
    for head, label in (("backbone", "backbone alone"), ("trm", "backbone + TRM")):
        row = summaries[head]
        interval = " ".join(f"{100 * row[name]:.1f}" for name in ("accuracy_low", "accuracy_high"))
        print(
            f"{label:<15} {row['correct']:>4} of {row['questions']:<6} {100 * row['accuracy']:>6.1f} % "
            f"[{interval.replace(' ', ', ')}] {row['seconds_per_sample']:>12.3f} {row['tokens_per_second']:>10,.0f}"
        )


def print_samples(backbone: list[dict[str, Any]], trm: list[dict[str, Any]]) -> None:
    for before, after in list(zip(backbone, trm, strict=True))[:SAMPLES]:
        print(f"\nquestion  {before['question']}\nexpected  {before['expected']}")
        for label, record in (("backbone", before), ("TRM", after)):
            text = " / ".join(record["text"].splitlines())
            print(f"{label:<9} {'right' if record['correct'] else 'wrong'}: {text}")
    print()
