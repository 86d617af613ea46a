"""Evaluations paired by question: what flipped, what is refused, and the commands built on that."""

import json

import pytest

from trm_jax.evaluation.compare import compare, cross_check, read_evaluation, shared_questions, show_flips
from trm_jax.evaluation.records import EvaluationError
from trm_jax.evaluation.statistics import bootstrap_difference, paired_difference


def record(question: str, right: bool, text: str = "\\boxed{1}", strict: bool | None = None) -> dict:
    strict = right if strict is None else strict
    own = {"question": question, "text": text, "extracted": "1", "expected": "1", "correct": right, "strict": strict}
    return own | {"form": "boxed", "tokens": 9, "steps": 2.0, "seconds": 0.5, "index": 0}


def write(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_pairs_are_by_question_not_by_line(tmp_path):
    first = write(tmp_path / "a.jsonl", [record("p", True), record("q", False), record("r", False), record("s", True)])
    other = write(tmp_path / "b.jsonl", [record("s", False), record("r", True, strict=False), record("q", True)])
    evaluations = [read_evaluation(path) for path in (first, other)]
    assert shared_questions(evaluations) == ["q", "r", "s"]
    base, found = compare(evaluations)
    assert base.accuracy.estimate == pytest.approx(1 / 3)
    assert found.accuracy.estimate == pytest.approx(2 / 3)
    assert found.strict == pytest.approx(1 / 3)
    assert (list(found.fixed), list(found.broken)) == (["q", "r"], ["s"])
    assert found.difference.estimate == pytest.approx(1 / 3)
    assert found.p == 1
    shown = show_flips(evaluations, [base, found], 1)
    assert "2 fixed\n- q\n  1 → 1, expected 1\n" in shown
    assert "- r" not in shown


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no answers"),
        ('{"question": "q"}\n', "line 1 lacks"),
        (json.dumps(record("q", True)) + "\n{\n", "line 2 is not JSON"),
        ("7\n", "line 1 is not a JSON object"),
    ],
)
def test_files_that_are_no_evaluations(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_evaluation(path)


def test_a_question_that_is_asked_twice_counts_twice(tmp_path):
    """In whatever order the two were answered."""
    asked = [record("q", right) | {"index": index} for index, right in enumerate((True, False))]
    evaluations = [
        read_evaluation(write(tmp_path / f"{name}.jsonl", records))
        for name, records in {"a": asked, "b": asked[::-1]}.items()
    ]
    base, found = compare(evaluations)
    assert base.accuracy.estimate == 0.5
    assert (list(found.fixed), list(found.broken)) == ([], [])


def test_other_expected_answers_are_no_pair(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", [record("q", True) | {"expected": name}]) for name in "12"]
    with pytest.raises(EvaluationError, match=r"expects '1' and .* '2' as the answer to: q"):
        compare([read_evaluation(path) for path in files])


def test_few_flips_do_not_look_certain(tmp_path):
    """The bootstrap of questions that did not flip is a point; of many that did, it is used."""
    right = [record(str(number), True) | {"index": number} for number in range(40)]
    half = [one | {"correct": number % 2 == 0} for number, one in enumerate(right)]
    same, other = (write(tmp_path / f"{name}.jsonl", records) for name, records in {"a": right, "b": half}.items())
    evaluations = [read_evaluation(path) for path in (same, same, other)]
    _, unchanged, changed = compare(evaluations)
    assert unchanged.difference == paired_difference([True] * 40, [True] * 40)
    assert unchanged.difference.low < 0 < unchanged.difference.high
    right, wrong = (one.right([str(number) for number in range(40)]) for one in evaluations[1:])
    assert changed.difference == bootstrap_difference(wrong, right)
    none = write(tmp_path / "c.jsonl", [one | {"correct": False} for one in half])
    _, all_broken = compare([read_evaluation(same), read_evaluation(none)])
    assert all_broken.difference == paired_difference([False] * 40, [True] * 40)
    assert all_broken.difference.high > -0.95


def test_nothing_in_common_is_refused(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", [record(name, True)]) for name in "ab"]
    with pytest.raises(EvaluationError, match="no question is in all"):
        compare([read_evaluation(path) for path in files])


def test_math_verify_is_asked_about_every_answer(tmp_path):
    """One answer that it reads as we do, and one that was graded wrongly on purpose."""
    good, bad = record("q", True, "so \\boxed{1}"), record("r", True, "so \\boxed{2}")
    evaluation = read_evaluation(write(tmp_path / "a.jsonl", [good, bad]))
    assert [one.question for one in cross_check(evaluation)] == ["r"]
