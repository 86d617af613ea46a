"""Functions that the task files name. lm-eval loads this file by its path."""

import datasets

from trm_jax.data import load_rows, reference_answer
from trm_jax.evaluation import GradedText


def load(data: str = "gsm8k", **_) -> dict[str, datasets.Dataset]:
    """The questions that `data` names, as `load_rows` takes it."""
    return {"test": datasets.Dataset.from_list(load_rows(data, "test"))}


def graded(texts, rows) -> list[list[str]]:
    """A filter: the reference where eval_gsm8k.py would grade the text as correct, so that exact_match finds it equal."""
    return [
        [row["answer"] if GradedText.of(text, reference_answer(row["answer"])).correct else "[invalid]" for text in own]
        for own, row in zip(texts, rows, strict=True)
    ]
