"""Grading, statistics, and continuing where a run stopped."""

import json

import pytest

from trm_jax.decoding import Completion
from trm_jax.evaluation.evaluate import evaluate, summarize
from trm_jax.evaluation.records import EvaluationError, GradedAnswer
from trm_jax.evaluation.settings import file_name, require_same_settings

ROWS = [{"question": f"{i} + 1 = ?", "answer": f"#### {i + 1}"} for i in range(7)]


class Echo:
    """A tokenizer whose ids are code points."""

    added_tokens_decoder, all_special_tokens = {}, ()

    def apply_chat_template(self, chat, **_):
        return "\n".join(turn["content"] for turn in reversed(chat))  # the question first

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(c) for c in text] for text in texts]}

    def decode(self, tokens, **_):
        return "".join(map(chr, tokens))


def solve(prompts):
    """Right for even numbers, wrong for odd ones; the last prompt ends first."""
    for index, prompt in reversed(list(enumerate(prompts))):
        n = int(chr(prompt[0]))
        yield answer(index, f"\\boxed{{{n + 1 + n % 2}}}")


def answer(prompt: int, text: str, sample: int = 0, steps=()) -> Completion:
    return Completion(prompt, sample, [ord(c) for c in text], list(steps) or [3] * len(text), True)


def test_records_are_graded_and_in_order(tmp_path):
    records = evaluate(ROWS, Echo(), solve, tmp_path / "out.jsonl")
    assert [record.correct for record in records] == [True, False, True, False, True, False, True]
    assert records[1].to_json() | {"seconds": 0} == {
        "index": 1,
        "question": "1 + 1 = ?",
        "text": "\\boxed{3}",
        "extracted": "3",
        "expected": "2",
        "form": "boxed",
        "correct": False,
        "strict": False,
        "cut": False,
        "tokens": 9,
        "steps": 3.0,
        "seconds": 0,
    }
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 7
    summary = summarize(records)
    assert (summary["correct"], summary["questions"], summary["forms"]) == (4, 7, {"boxed": 7})


def test_a_right_number_outside_a_box_counts_apart():
    texts = ["\\boxed{1}", "#### 2", "it is 3", "\\boxed{5}", "nothing"]
    records = evaluate(ROWS[:5], Echo(), lambda prompts: (answer(i, text) for i, text in enumerate(texts)))
    assert [record.correct for record in records] == [True, True, True, False, False]
    summary = summarize(records)
    assert (summary["correct"], summary["strict"]) == (3, 1)
    assert summary["forms"] == {"boxed": 2, "marked": 1, "number": 1, "none": 1}


def test_an_interrupted_run_continues_where_it_stopped(tmp_path):
    """Killed in the middle of a line: whole lines count, the cut one is done again."""
    path, calls = tmp_path / "out.jsonl", []
    evaluate(ROWS[:4], Echo(), solve, path)
    path.write_text(path.read_text() + '{"index": 4, "quest')

    def counted(prompts):
        calls.extend(prompts)
        return solve(prompts)

    records = evaluate(ROWS, Echo(), counted, path)
    assert len(calls) == 3
    assert len(records) == len(path.read_text().splitlines()) == 7


def test_asking_fewer_questions_leaves_the_summary_of_all(tmp_path):
    """An export publishes the summary: it must not say three of three where seven were asked."""
    path = tmp_path / "out.jsonl"
    evaluate(ROWS, Echo(), solve, path)
    whole = path.with_suffix(".json").read_text()
    assert len(evaluate(ROWS[:3], Echo(), solve, path)) == 3
    assert path.with_suffix(".json").read_text() == whole
    assert len(path.read_text().splitlines()) == json.loads(whole)["questions"] == 7


def test_fewer_questions_have_a_summary_where_that_of_all_is_not_written_yet(tmp_path):
    """The longest questions are answered first, so that those of an interrupted evaluation can lie anywhere."""
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(ROWS, Echo(), lambda prompts: interrupted(list(solve(prompts))[::-1][:2]), path)
    evaluate(ROWS[:3], Echo(), solve, path)
    assert json.loads(path.with_suffix(".json").read_text())["questions"] == 3
    evaluate(ROWS, Echo(), solve, path)
    assert json.loads(path.with_suffix(".json").read_text())["questions"] == 7


def interrupted(completions):
    yield from completions
    raise KeyboardInterrupt


def test_the_majority_of_the_samples_counts():
    """Samples come in any order; equal numbers written differently vote together, no answer has no vote."""
    texts = ["?", "\\boxed{5}", "\\boxed{1}", "\\boxed{1.0}"]

    def sampled(prompts):
        yield answer(0, texts[3], 3)
        for index in (0, 1):
            for sample in (2, 1, 0) if index == 0 else range(4):
                yield answer(index, texts[sample], sample)

    first, second = evaluate(ROWS[:2], Echo(), sampled, samples=4)
    assert (first.extracted, first.correct) == ("1", True)
    assert [sample.text for sample in first.samples] == texts
    assert [sample.correct for sample in first.samples] == [False, False, True, True]
    assert (second.extracted, second.correct) == ("1", False)
    assert first.tokens == sum(map(len, texts))
    assert summarize([first, second])["sample_accuracy"] == 2 / 8


def test_steps_are_recorded_where_they_differ():
    solve_early = lambda prompts: [answer(0, "\\boxed{1}", steps=[3, 1, 2, 2, 2, 2, 2, 2, 2])]  # noqa: E731
    (record,) = evaluate(ROWS[:1], Echo(), solve_early)
    assert (record.steps, record.token_steps[:3]) == (2.0, (3, 1, 2))
    assert "token_steps" not in evaluate(ROWS[:1], Echo(), solve)[0].to_json()


def test_answers_to_other_questions_are_refused(tmp_path):
    evaluate(ROWS[:4], Echo(), solve, tmp_path / "out.jsonl")
    with pytest.raises(EvaluationError, match="other questions"):
        evaluate(ROWS[::-1], Echo(), solve, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("line", "message"), [('{"index": 0, "question": "3?"}', "line 5 lacks"), ("broken", "line 5")]
)
def test_a_line_that_is_no_answer_is_refused(tmp_path, line, message):
    path = tmp_path / "out.jsonl"
    evaluate(ROWS[:4], Echo(), solve, path)
    before = path.read_text() + line + "\n"
    path.write_text(before)
    with pytest.raises(EvaluationError, match=message):
        evaluate(ROWS, Echo(), solve, path)
    assert path.read_text() == before


def test_a_file_whose_settings_are_not_known_is_refused(tmp_path):
    """Answers of another model that were copied without their summary would pass for those of this one."""
    path = tmp_path / "out.jsonl"
    evaluate(ROWS[:4], Echo(), solve, path, {"head": "trm"})
    summary = path.with_suffix(".json")
    text = summary.read_text()
    summary.unlink()
    with pytest.raises(EvaluationError, match=r"not out\.json beside it"):
        evaluate(ROWS[:4], Echo(), solve, path, {"head": "trm"})
    path.unlink()
    summary.write_text(text)
    with pytest.raises(EvaluationError, match=r"out\.json is of another evaluation"):
        evaluate(ROWS[:4], Echo(), solve, path, {"head": "backbone"})


def test_other_settings_are_refused_and_get_another_file_by_themselves(tmp_path):
    path = tmp_path / "out.jsonl"
    require_same_settings(path, {"head": "trm"})
    evaluate(ROWS[:4], Echo(), solve, path, {"head": "trm"})
    with pytest.raises(EvaluationError, match="head 'trm' there, 'backbone' now"):
        require_same_settings(path, {"head": "backbone"})


@pytest.mark.parametrize("setting", [{"temperature": 0.7}, {"early_exit": 0.1}, {"control_heads": [["a", "12"]]}])
def test_a_setting_that_is_not_in_use_any_more_is_another_setting(tmp_path, setting):
    """Answers that were drawn would pass for greedy ones."""
    path = tmp_path / "out.jsonl"
    evaluate(ROWS[:4], Echo(), solve, path, {"head": "trm"} | setting)
    require_same_settings(path, {"head": "trm"} | setting)
    with pytest.raises(EvaluationError, match=r"there, None now"):
        require_same_settings(path, {"head": "trm"})


def test_a_digest_counts_where_it_was_recorded(tmp_path):
    path = tmp_path / "out.jsonl"
    evaluate(ROWS[:4], Echo(), solve, path, {"head": "trm"})
    require_same_settings(path, {"head": "trm", "prompt_digest": "1"})  # of a former version, which had none
    evaluate(ROWS[:4], Echo(), solve, tmp_path / "new.jsonl", {"head": "trm", "prompt_digest": "1"})
    with pytest.raises(EvaluationError, match="prompt_digest '1' there, '2' now"):
        require_same_settings(tmp_path / "new.jsonl", {"head": "trm", "prompt_digest": "2"})


def test_each_setting_is_a_part_of_the_name():
    usual = {"data": "gsm8k", "head": "trm", "early_exit": 0.01, "control_heads": [["runs/a", "1"], ["runs/b", "2"]]}
    names = [file_name(usual)]
    for change in ({"early_exit": 0.5}, {"control_heads": [["runs/c", "1"], ["runs/b", "2"]]}, {"head": "backbone"}):
        names.append(file_name(usual | change))
    names += [file_name(usual | {"data": f"tasks/{task}/test.jsonl"}) for task in ("arrows", "sudoku")]
    assert len(set(names)) == len(names)
    assert names[0] == "gsm8k-trm-0.01-runs_a-runs_b.jsonl"
    assert not any("/" in name for name in names)
    assert file_name(usual) == file_name(usual | {"fingerprint": "another", "prompt_digest": "another"})


def test_other_expected_answers_are_refused(tmp_path):
    evaluate(ROWS[:4], Echo(), solve, tmp_path / "out.jsonl")
    mended = [row | {"answer": "#### 99"} for row in ROWS[:4]]
    with pytest.raises(EvaluationError, match="other questions"):
        evaluate(mended, Echo(), solve, tmp_path / "out.jsonl")


def test_answers_do_not_lie_where_their_summary_goes(tmp_path):
    with pytest.raises(EvaluationError, match=r"must end in \.jsonl"):
        require_same_settings(tmp_path / "out.json", {})


def test_a_line_is_read_back_as_it_was_written():
    """Also with samples and steps, which most lines do not have."""
    drawn = lambda prompts: (answer(0, text, i, [1 + i] * len(text)) for i, text in enumerate(["\\boxed{1}", "2"]))  # noqa: E731
    for graded in (*evaluate(ROWS[:2], Echo(), solve), *evaluate(ROWS[:1], Echo(), drawn, samples=2)):
        assert GradedAnswer.from_json(json.loads(json.dumps(graded.to_json())), "here") == graded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": -1}, "-1 as index"),
        ({"correct": "no"}, "'no' as correct"),
        ({"samples": 3}, "3 as samples"),
    ],
)
def test_a_line_that_is_none_is_named(change, message):
    (graded,) = evaluate(ROWS[:1], Echo(), solve)
    with pytest.raises(EvaluationError, match=f"line 4 has {message}"):
        GradedAnswer.from_json(graded.to_json() | change, "line 4")


@pytest.mark.parametrize(("too_long", "graded", "right"), [("wrong", 7, 3), ("left_out", 6, 3)])
def test_a_question_that_does_not_fit_is_named_and_counted(tmp_path, caplog, too_long, graded, right):
    """It ended the whole evaluation; the others are asked all the same, also if the evaluation goes on."""
    rows = [*ROWS[:6], {"question": "6 + 1 = " + "?" * 400, "answer": "#### 7"}]
    fits = {"longest_prompt": 300, "too_long": too_long}
    for _ in range(2):
        answers = evaluate(rows, Echo(), solve, tmp_path / "out.jsonl", **fits)
        summary = summarize(answers, len(rows))
        assert (summary["questions"], summary["correct"]) == (graded, right)
        assert summary.get("too_long" if too_long == "wrong" else "left_out") == 1
    assert "question 7 of " in caplog.text


@pytest.mark.parametrize("too_long", ["wrong", "left_out"])
@pytest.mark.parametrize(("longest", "left"), [(3, 3), (-5, 0)])
def test_an_evaluation_that_can_ask_nothing_is_refused(tmp_path, too_long, longest, left):
    """Its 0 % would look as if it had been measured."""
    path = tmp_path / "out.jsonl"
    with pytest.raises(EvaluationError, match=f"none of 7 questions fits into the {left} tokens"):
        evaluate(ROWS, Echo(), solve, path, longest_prompt=longest, too_long=too_long)
    assert not path.exists()
