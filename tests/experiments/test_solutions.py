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
    said = write_solutions(path, answers, keep=4, settings={"samples": 5})
    assert "3 different right solutions" in said
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "samples": 5,
        "questions": 2,
        "questions_without": 1,
        "drawn": 6,
        "right": 5,
        "right_but_not_boxed": 1,
        "right_but_cut": 0,
        "solutions": 3,
    }
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert "stays as it is, with solutions of 2 questions" in write_solutions(path, answers[:1], keep=4, settings={})
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_what_comes_behind_the_answer_is_not_learned(tmp_path):
    """A base model goes on with another question; a sample of as many tokens as there may be ends anywhere."""
    on, wordy = "so \\boxed{1}.\n\nQuestion: 1 + 1? \\boxed{2}", "\\boxed{1}. However, we should"
    samples = [GradedText.of(text, "1", cut) for text, cut in ((wordy, True), (on, True), (wordy, False))]
    graded = answer("q", samples)
    assert [sample.strict for sample in samples] == [True] * 3
    assert [row["answer"] for row in right_solutions(graded, keep=4)] == ["so \\boxed{1}.", wordy]
    thought = "<think>\nSo \\boxed{4}? No.\nProblem: 3 + 4.\n</think>\nSo \\boxed{7}"
    assert [row["answer"] for row in right_solutions(answer("q", [GradedText.of(thought, "7")]), keep=1)] == [thought]
    write_solutions(tmp_path / "out.jsonl", [graded], keep=4, settings={})
    assert json.loads((tmp_path / "out.json").read_text())["right_but_cut"] == 1
