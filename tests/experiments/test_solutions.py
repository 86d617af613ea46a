"""The backbone's own right solutions: which are kept, and what is counted."""

import json

from trm_jax.evaluation import GradedAnswer, GradedText
from trm_jax.experiments.solutions import right_solutions, write_solutions


def answer(question: str, samples: list[GradedText]) -> GradedAnswer:
    own = {"index": 0, "question": question, "expected": "1", "tokens": 9, "steps": 0.0, "seconds": 0.5}
    return GradedAnswer(**vars(samples[0]), **own, samples=tuple(samples) if len(samples) > 1 else None)


def test_only_right_and_boxed_solutions_are_kept_once_each(tmp_path):
    texts = [("\\boxed{1}", True), ("so \\boxed{1}", True), ("\\boxed{1} ", True), ("1", False), ("a \\boxed{1}", True)]
    graded = answer("q", [GradedText(text, "1", "boxed", True, strict) for text, strict in texts])
    kept = list(right_solutions(graded, keep=2))
    assert kept == [{"question": "q", "answer": "\\boxed{1}"}, {"question": "q", "answer": "so \\boxed{1}"}]
    path, answers = tmp_path / "out.jsonl", [graded, answer("r", [GradedText("?", None, None, False, False)])]
    said = write_solutions(path, answers, keep=4, settings={"seed": 0})
    assert "3 different right solutions" in said
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "seed": 0,
        "questions": 2,
        "questions_without": 1,
        "samples": 6,
        "right": 5,
        "right_but_not_boxed": 1,
        "solutions": 3,
    }
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
