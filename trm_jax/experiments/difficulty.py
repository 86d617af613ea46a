"""Accuracy against the difficulty of questions that `write_task` wrote: of variants of an ablation, or of a sweep's ways."""

import collections
import json
import operator
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from trm_jax.errors import UserError
from trm_jax.evaluation import GradedAnswer, Interval, accuracy_of_runs, error_bars, read_evaluation
from trm_jax.files import read_lines

Right = Bool[np.ndarray, "R n"]  # by run and question
ByDifficulty = Mapping[str, Mapping[int, Interval]]  # accuracies with their 95 % intervals, by variant and k


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


def accuracy_by_difficulty(
    data: pathlib.Path, files: Sequence[pathlib.Path], first_digit: bool = False
) -> ByDifficulty:
    """The accuracy of each variant, or way to decode, for each k, over questions and runs. Raises a UserError.

    With `first_digit` an answer is right if its first digit is: what a single token can do, before others help it.

    Example: `accuracy_by_difficulty(test_file, sorted(folder.glob("*/*/answers.jsonl")))["single"][1].estimate`.
    """
    difficulties = read_difficulties(data)
    ks = np.array(list(difficulties.values()))

    def by_k(right: Right) -> dict[int, Interval]:
        asked = ks[: right.shape[1]]
        return {k: accuracy_of_runs(right[:, asked == k]) for k in sorted(set(asked.tolist()))}

    found = right_answers(files, list(difficulties), first_digit)
    return {name: by_k(right) for name, right in found.items()}


def difficulty_table(found: ByDifficulty) -> str:
    """A Markdown table, a variant a row. Example: `print(difficulty_table(accuracy_by_difficulty(test_file, files)))`."""
    ks = sorted({k for each in found.values() for k in each})
    lines = [f"| | {' | '.join(f'k = {k}' for k in ks)} |", "|---" * (len(ks) + 1) + "|"]
    for name, each in found.items():
        lines.append(f"| {name} | {' | '.join(str(each[k]) if k in each else '–' for k in ks)} |")
    return "\n".join(lines)


def plot_difficulty(found: ByDifficulty, path: pathlib.Path) -> None:
    """A line for each variant, with the intervals. Example: `plot_difficulty(found, folder / "difficulty.png")`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for place, (name, each) in enumerate(found.items()):
        shift = 0.06 * (place - (len(found) - 1) / 2)  # so that intervals do not hide one another
        shares = [100 * interval.estimate for interval in each.values()]
        bars = error_bars(list(each.values()))
        axes.errorbar([k + shift for k in each], shares, yerr=bars, fmt="o-", capsize=3, label=name)
    axes.set(xlabel="difficulty k", ylabel="right, % (95 % interval)", ylim=(0, None))
    axes.set_xticks(sorted({k for each in found.values() for k in each}))
    axes.legend()
    figure.savefig(path, dpi=120)
