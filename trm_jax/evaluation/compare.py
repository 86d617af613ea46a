"""Evaluations of the same questions, paired: which answers flipped, and what that allows to say."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trm_jax.errors import listing
from trm_jax.evaluation.evaluate import EvaluationError
from trm_jax.evaluation.statistics import Interval, accuracy, bootstrap_difference, flips, mcnemar, paired_difference
from trm_jax.files import read_lines

FEW_FLIPS = 10  # below this, resampling the same few questions looks surer than it is
NEEDED = ("index", "question", "text", "extracted", "expected", "correct", "strict", "seconds")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The records of one evaluation, as `evaluate.grade` makes them, by question."""

    name: str
    records: dict[str, dict[str, Any]]

    def right(self, questions: Sequence[str], grade: str = "correct") -> np.ndarray:
        """bool[n], by `grade`: "correct" or "strict"."""
        return np.array([self.records[question][grade] for question in questions])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One evaluation against the first of them, on the questions that all of them have."""

    name: str
    accuracy: Interval
    strict: float  # share of the questions that are right and boxed
    seconds_per_sample: float
    difference: Interval  # paired: bootstrap, or Agresti and Min's where few questions flipped
    fixed: Sequence[str]  # questions that are right here and wrong in the first
    broken: Sequence[str]
    p: float  # McNemar's


def read_evaluation(path: pathlib.Path) -> Evaluation:
    """A file of eval_gsm8k.py, in the order of its data set. Raises EvaluationError, naming the line."""
    found = []
    for number, record in read_lines(path, EvaluationError):
        if missing := [name for name in NEEDED if name not in record]:
            raise EvaluationError(f"{path}, line {number} lacks {listing(missing)}: it is no record of eval_gsm8k.py")
        found.append(record)
    if not found:
        raise EvaluationError(f"{path} holds no answers")
    asked, records = collections.Counter(), {}
    for record in sorted(found, key=lambda record: record["index"]):
        question = record["question"]
        asked[question] += 1
        records[question if asked[question] == 1 else f"{question} ({asked[question]})"] = record
    return Evaluation(str(path.parent / path.stem), records)


def shared_questions(evaluations: Sequence[Evaluation]) -> list[str]:
    """The questions that all have, in the order of the first.

    Raises EvaluationError if there are none, or if one is expected to have different answers.
    """
    first, *others = evaluations
    shared = [q for q in first.records if all(q in other.records for other in others)]
    if not shared:
        raise EvaluationError(f"no question is in all of {', '.join(one.name for one in evaluations)}")
    for question in shared:
        expected = first.records[question]["expected"]
        for other in others:
            if (own := other.records[question]["expected"]) != expected:
                raise EvaluationError(
                    f"{first.name} expects {expected!r} and {other.name} {own!r} as the answer to: {question}"
                )
    return shared


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Each evaluation against the first, the first against itself."""
    questions = shared_questions(evaluations)
    baseline, found = evaluations[0].right(questions), []
    for one in evaluations:
        right = one.right(questions)
        fixed, broken = flips(right.tolist(), baseline.tolist())
        found.append(
            Comparison(
                name=one.name,
                accuracy=accuracy(right.tolist()),
                strict=float(one.right(questions, "strict").mean()),
                seconds_per_sample=float(np.mean([one.records[question]["seconds"] for question in questions])),
                difference=bootstrap_difference(right, baseline)
                if fixed + broken >= FEW_FLIPS
                else paired_difference(right.tolist(), baseline.tolist()),
                fixed=[q for q, now, before in zip(questions, right, baseline, strict=True) if now and not before],
                broken=[q for q, now, before in zip(questions, right, baseline, strict=True) if before and not now],
                p=mcnemar(fixed, broken),
            )
        )
    return found


def markdown(found: Sequence[Comparison]) -> str:
    """A table, one evaluation a row."""
    lines = [
        "| | right [95 %] | boxed and right | difference to the first, points | fixed | broken | McNemar's p | s/sample |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(found):
        paired = "– | – | – | –"
        if number:
            paired = f"{one.difference.points()} | {len(one.fixed)} | {len(one.broken)} | {one.p:.2g}"
        strict = f"{100 * one.strict:.1f} %"
        lines.append(f"| {one.name} | {one.accuracy} | {strict} | {paired} | {one.seconds_per_sample:.3f} |")
    return "\n".join(lines)


def show_flips(evaluations: Sequence[Evaluation], found: Sequence[Comparison], limit: int | None = None) -> str:
    """The questions that flipped, with both answers; the first `limit` fixed and broken ones of each evaluation."""
    lines = []
    for one, result in zip(evaluations[1:], found[1:], strict=True):
        for kind, questions in (("fixed", result.fixed), ("broken", result.broken)):
            lines.append(f"\n{one.name}: {len(questions)} {kind}")
            for question in questions[:limit]:
                before, now = (each.records[question] for each in (evaluations[0], one))
                lines.append(f"- {question}")
                lines.append(f"  {before['extracted']} → {now['extracted']}, expected {now['expected']}")
    return "\n".join(lines).lstrip("\n")


def plot(found: Sequence[Comparison], path: pathlib.Path) -> None:
    """Accuracies, and differences to the first, with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.4 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, intervals in ((left, [one.accuracy for one in found]), (right, [one.difference for one in found])):
        for place, interval in enumerate(intervals):
            ends = [100 * (interval.estimate - interval.low)], [100 * (interval.high - interval.estimate)]
            axes.errorbar(100 * interval.estimate, place, xerr=ends, fmt="o", capsize=3, color="tab:blue")
    left.set_yticks(range(len(found)), [one.name for one in found])
    left.invert_yaxis()
    left.set(xlabel="right, % (95 % interval)")
    right.axvline(0, color="grey", linewidth=1)
    right.set(xlabel="difference to the first, points")
    figure.savefig(path, dpi=120)


def cross_check(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The records that math-verify grades otherwise. Raises EvaluationError where it is not installed."""
    try:
        import math_verify
    except ImportError:
        raise EvaluationError("math-verify is not installed: pip install -e '.[verify]'") from None

    def agrees(record):
        expected = math_verify.parse(f"\\boxed{{{record['expected']}}}")
        return math_verify.verify(expected, math_verify.parse(record["text"])) == record["correct"]

    return [record for record in evaluation.records.values() if not agrees(record)]
