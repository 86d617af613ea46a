"""Accuracy against the difficulty of questions that `write_task` wrote: of variants of an ablation, or of a sweep's ways."""

import collections
import json
import operator
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from trm_jax.errors import UserError
from trm_jax.evaluation import GradedAnswer, Interval, accuracy_of_runs, read_evaluation
from trm_jax.files import read_lines

Right = Bool[np.ndarray, "R n"]  # by run and question


class DifficultyError(UserError):
    """A file that does not belong to questions with a difficulty."""


def read_difficulties(path: pathlib.Path) -> dict[str, int]:
    """k of each question of a test file, in its order. Raises DifficultyError."""
    found = {}
    for number, row in read_lines(path, DifficultyError):
        if not isinstance(row.get("question"), str) or not isinstance(row.get("k"), int):
            raise DifficultyError(
                f"{path}, line {number} has no question with a difficulty k: make_tasks.py writes such"
            )
        found[row["question"]] = row["k"]
    return found


def right_answers(
    files: Sequence[pathlib.Path], questions: Sequence[str], first_digit: bool = False
) -> dict[str, Right]:
    """Which of the first questions are right, by variant or by way to decode.

    Args:
        files: VARIANT/SEED/answers.jsonl of ablate.py, any other file of eval_gsm8k.py, or a .json file of sweep.py. The
            seeds of a variant become one entry, with a run for each seed.
        first_digit: grade the first digit of the answer alone; a sweep does not have it.

    Raises a UserError if a file is of other questions.
    """
    found: dict[str, list[Sequence[bool]]] = collections.defaultdict(list)
    for path in files:
        if path.suffix == ".json":
            if first_digit:
                raise DifficultyError(f"{path} of a sweep has no answers, only whether they are right")
            for way in json.loads(path.read_text()):
                found[way["name"]].append(way["right"])
            continue
        answers = read_evaluation(path).answers
        if list(answers) != list(questions[: len(answers)]):
            raise DifficultyError(f"{path} does not answer the first questions of --data")
        name = path.parent.parent.name if path.parent.name.isdigit() else path.stem
        graded = _first_digit_is_right if first_digit else operator.attrgetter("correct")
        found[name].append([graded(answer) for answer in answers.values()])
    for name, runs in found.items():
        if {len(run) for run in runs} != {len(runs[0])} or len(runs[0]) > len(questions):
            raise DifficultyError(f"the runs of {name} do not answer the same questions of --data")
    return {name: np.array(runs) for name, runs in found.items()}


def _first_digit_is_right(answer: GradedAnswer) -> bool:
    return (answer.extracted or " ")[0] == (answer.expected or "")[:1]


def by_difficulty(right: Right, difficulties: Sequence[int]) -> dict[int, Interval]:
    """The accuracy for each k, with its 95 % interval, over questions and runs.

    Example: `by_difficulty(np.array([[True, False]]), [1, 2])[1].estimate` is 1.
    """
    ks = np.array(difficulties)
    return {k: accuracy_of_runs(right[:, ks == k]) for k in sorted(set(difficulties))}


def difficulty_table(data: pathlib.Path, files: Sequence[pathlib.Path], first_digit: bool = False) -> str:
    """A Markdown table: the accuracy of each variant, or way to decode, for each k. Raises a UserError.

    With `first_digit` an answer is right if its first digit is: what a single token can do, before others help it.

    Example: `print(difficulty_table(test_file, sorted(pathlib.Path("runs/arrows").glob("*/*/answers.jsonl"))))`.
    """
    difficulties = read_difficulties(data)
    found = {
        name: by_difficulty(right, list(difficulties.values())[: right.shape[1]])
        for name, right in right_answers(files, list(difficulties), first_digit).items()
    }
    ks = sorted({k for each in found.values() for k in each})
    return "\n".join([f"| | {' | '.join(f'k = {k}' for k in ks)} |", "|---" * (len(ks) + 1) + "|", *_lines(found, ks)])


def _lines(found: Mapping[str, Mapping[int, Interval]], ks: Sequence[int]) -> list[str]:
    cells = {name: [str(each[k]) if k in each else "–" for k in ks] for name, each in found.items()}
    return [f"| {name} | {' | '.join(own)} |" for name, own in cells.items()]
