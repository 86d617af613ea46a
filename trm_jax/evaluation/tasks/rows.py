"""Functions that the task files name. lm-eval loads this file by its path."""

import datasets

from trm_jax.data import boxed_solution, load_rows, reference_answer
from trm_jax.evaluation import GradedText


def load(data: str = "gsm8k", **_) -> dict[str, datasets.Dataset]:
    """The questions that `data` names, as `load_rows` takes it, and the training rows, from which examples are drawn."""
    found = {"test": datasets.Dataset.from_list(load_rows(data, "test"))}
    if data in ("gsm8k", "demo"):
        found["train"] = datasets.Dataset.from_list(load_rows(data, "train"))
    return found


def solution(row: dict[str, str]) -> str:
    """A worked solution as the model has learned to write it."""
    return boxed_solution(row["answer"])


def graded(texts, rows) -> list[list[str]]:
    """A filter: the reference where eval_gsm8k.py would grade the text as correct, so that exact_match finds it equal."""
    return [
        [row["answer"] if GradedText.of(text, reference_answer(row["answer"])).correct else "[invalid]" for text in own]
        for own, row in zip(texts, rows, strict=True)
    ]
