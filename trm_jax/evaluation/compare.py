"""Compares evaluations of the same questions: which questions flipped, and how sure the difference is."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from trm_jax.evaluation.plots import plot_against_first
from trm_jax.evaluation.records import EvaluationError, GradedAnswer, read_answers
from trm_jax.evaluation.statistics import Interval, accuracy, bootstrap_difference, flips, mcnemar, paired_difference
from trm_jax.files import write_whole

FEW_FLIPS = 10  # with fewer, the interval of the bootstrap would be too narrow


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The answers of one evaluation, by question."""

    name: str
    answers: dict[str, GradedAnswer]

    def right(self, questions: Sequence[str], grade: str = "correct") -> np.ndarray:
        """Which questions are right, bool[n]; `grade` is "correct", or "strict" for those right in a box."""
        return np.array([getattr(self.answers[question], grade) for question in questions])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One evaluation compared with the first of several, on the questions that all of them have."""

    name: str
    accuracy: Interval
    strict: float  # share of the questions that are right and boxed
    seconds_per_sample: float
    difference: Interval  # paired: bootstrap, or Agresti and Min's where few questions flipped
    fixed: Sequence[str]  # questions that are right here and wrong in the first
    broken: Sequence[str]
    p: float  # McNemar's
    questions: int


def read_evaluation(path: pathlib.Path) -> Evaluation:
    """Reads a file of eval_gsm8k.py, in the order of its data set. Raises EvaluationError, naming the line.

    Example: `read_evaluation(pathlib.Path("answers.jsonl")).right(questions).mean()`.
    """
    found = [answer for _, answer in read_answers(path)]
    if not found:
        raise EvaluationError(f"{path} holds no answers")
    asked, answers = collections.Counter(), {}
    for answer in sorted(found, key=lambda answer: answer.index):
        asked[answer.question] += 1
        count = asked[answer.question]
        answers[answer.question if count == 1 else f"{answer.question} ({count})"] = answer
    return Evaluation(str(path.parent / path.stem), answers)


def shared_questions(evaluations: Sequence[Evaluation]) -> list[str]:
    """The questions that all evaluations have, in the order of the first.

    Raises EvaluationError if there are none, or if evaluations differ in the answer that they expect to one.

    Example: `shared_questions([first, second])[0]`.
    """
    first, *others = evaluations
    shared = [q for q in first.answers if all(q in other.answers for other in others)]
    if not shared:
        raise EvaluationError(f"no question is in all of {', '.join(one.name for one in evaluations)}")
    for question in shared:
        expected = first.answers[question].expected
        for other in others:
            if (own := other.answers[question].expected) != expected:
                raise EvaluationError(
                    f"{first.name} expects {expected!r} and {other.name} {own!r} as the answer to: {question}"
                )
    return shared


def compare(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Compares each evaluation with the first, and the first with itself. Raises EvaluationError: see `shared_questions`.

    Example: `compare([read_evaluation(path) for path in paths])`.
    """
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
                seconds_per_sample=float(np.mean([one.answers[question].seconds for question in questions])),
                # Where all flip to the same side nothing is left to draw from.
                difference=bootstrap_difference(right, baseline)
                if fixed + broken >= FEW_FLIPS and max(fixed, broken) < len(questions)
                else paired_difference(right.tolist(), baseline.tolist()),
                fixed=[q for q, now, before in zip(questions, right, baseline, strict=True) if now and not before],
                broken=[q for q, now, before in zip(questions, right, baseline, strict=True) if before and not now],
                p=mcnemar(fixed, broken),
                questions=len(questions),
            )
        )
    return found


def comparison_table(found: Sequence[Comparison]) -> str:
    """A table, one evaluation a row. Example: `print(comparison_table(compare(evaluations)))`."""
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
    """The questions that flipped, with both answers; the first `limit` fixed and broken ones of each evaluation.

    Example: `print(show_flips(evaluations, compare(evaluations), limit=3))`.
    """
    lines = []
    for one, result in zip(evaluations[1:], found[1:], strict=True):
        for kind, questions in (("fixed", result.fixed), ("broken", result.broken)):
            lines.append(f"\n{one.name}: {len(questions)} {kind}")
            for question in questions[:limit]:
                before, now = (each.answers[question] for each in (evaluations[0], one))
                lines.append(f"- {question}")
                lines.append(f"  {before.extracted} → {now.extracted}, expected {now.expected}")
    return "\n".join(lines).lstrip("\n")


def write_comparison(evaluations: Sequence[Evaluation], found: Sequence[Comparison], folder: pathlib.Path) -> None:
    """Writes the table with all questions that flipped (comparison.md), the figures (.json) and a plot (.png).

    Example: `write_comparison(evaluations, compare(evaluations), folder)`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "comparison"
    write_whole(path.with_suffix(".md"), f"{comparison_table(found)}\n\n{show_flips(evaluations, found)}\n")
    write_whole(path.with_suffix(".json"), json.dumps([dataclasses.asdict(one) for one in found], indent=1) + "\n")
    accuracies = "right, % (95 % interval)", [one.accuracy for one in found]
    differences = "difference to the first, points", [one.difference for one in found]
    plot_against_first([one.name for one in found], accuracies, differences, path.with_suffix(".png"), unit=0.01)


def cross_check(evaluation: Evaluation) -> list[GradedAnswer]:
    """The answers that the library math-verify, asked alone, grades otherwise.

    Example: `len(cross_check(read_evaluation(path)))`.
    """
    import math_verify

    def agrees(answer: GradedAnswer) -> bool:
        expected = math_verify.parse(f"\\boxed{{{answer.expected}}}")
        return math_verify.verify(expected, math_verify.parse(answer.text)) == answer.correct

    return [answer for answer in evaluation.answers.values() if not agrees(answer)]
