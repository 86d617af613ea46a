"""Accuracy against the difficulty of questions that `write_task` wrote: of variants of an ablation, or of a sweep's ways."""

import collections
import operator
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from trm_jax.errors import UserError, listing
from trm_jax.evaluation import GradedAnswer, Interval, accuracy_of_runs, error_bars, read_evaluation
from trm_jax.files import read_lines, read_object

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
            seeds of a variant become one entry, with a run for each seed. Names have as much of a path as tells all apart.
        first_digit: grade the first digit of the answer alone; a sweep does not have it.

    Raises a UserError if a file is of other questions, or is named twice.
    """
    if twice := [path for path, count in collections.Counter(files).items() if count > 1]:
        raise DifficultyError(f"named twice: {listing(twice)}")
    found: dict[tuple[pathlib.Path, str], list[Sequence[bool]]] = collections.defaultdict(list)
    names = collections.defaultdict(set)  # of the files in the folders of seeds, by variant
    for path in files:
        names[path.parent.parent].add(path.name)
    for path in files:
        asked, runs = _read_sweep(path, first_digit) if path.suffix == ".json" else _read_answers(path, first_digit)
        if asked != list(questions[: len(asked)]):
            raise DifficultyError(f"{path} does not answer the first questions of --data")
        source = path.with_suffix("")
        if path.parent.name.isdigit():  # a seed; other files beside those of the same name are another way to answer
            variant = path.parent.parent
            source = variant if len(names[variant]) == 1 else variant / source.name
        for way, right in runs.items():
            found[source, way].append(right)
    named = dict(zip(_names(list(found)), found.values(), strict=True))
    for name, runs in named.items():
        if len({len(run) for run in runs}) > 1:
            raise DifficultyError(f"the runs of {name} do not answer the same questions of --data")
    return {name: np.array(runs) for name, runs in named.items()}


def _read_answers(path: pathlib.Path, first_digit: bool) -> tuple[list[str], dict[str, list[bool]]]:
    """The questions, and which are answered right."""
    answers = read_evaluation(path).answers
    graded = _first_digit_is_right if first_digit else operator.attrgetter("correct")
    return list(answers), {"": [graded(answer) for answer in answers.values()]}


def _read_sweep(path: pathlib.Path, first_digit: bool) -> tuple[list[str], dict[str, list[bool]]]:
    """The questions, and which are answered right in each way to decode."""
    if first_digit:
        raise DifficultyError(f"{path} of a sweep has no answers, only whether they are right")
    figures = read_object(path, DifficultyError)
    if not figures.keys() >= {"questions", "ways"}:
        raise DifficultyError(f"{path} is no file of sweep.py, or one of a former version")
    return figures["questions"], {way["name"]: way["right"] for way in figures["ways"]}


def _names(sources: Sequence[tuple[pathlib.Path, str]]) -> list[str]:
    """Of a variant's folder or a file, and the way of a sweep: as many last parts of the paths as tell all apart."""

    def name(path: pathlib.Path, way: str, parts: int) -> str:
        place = "/".join(path.parts[-parts:])
        return (way if parts == 1 else f"{place}: {way}") if way else place

    longest = max((len(path.parts) for path, _ in sources), default=1)
    tried = ([name(*source, parts) for source in sources] for parts in range(1, longest + 1))
    return next(names for names in tried if len(set(names)) == len(names))


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
