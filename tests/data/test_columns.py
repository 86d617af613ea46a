"""Question and worked solution under whatever names people have them, or a message that names the place."""

import math
from decimal import Decimal

import pytest

from trm_jax.data import DataError
from trm_jax.data.columns import PAIRS, to_row


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_columns_of_public_sets_are_recognised(pair):
    values = {pair[0]: "How many?", pair[1]: "#### 7", "level": 3}
    assert to_row(values, None, "here") == {"question": "How many?", "answer": "#### 7"}


TURNS = [("user", "How many?"), ("assistant", "no"), ("user", "Really?"), ("assistant", "#### 7")]


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [{"role": role, "content": text} for role, text in [("system", "x"), *TURNS]]},
        {
            "conversations": [
                {"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in TURNS
            ]
        },
        {
            "prompt": [{"role": role, "content": text} for role, text in TURNS[:3]],
            "completion": [{"role": role, "content": text} for role, text in TURNS[3:]],
        },
    ],
    ids=["messages", "conversations", "prompt and completion"],
)
def test_of_a_chat_the_last_turns_count(values):
    assert to_row(values, None, "here") == {"question": "Really?", "answer": "#### 7"}


@pytest.mark.parametrize("chat", ["text", [1], [{"role": "user", "content": "alone"}], []])
def test_a_chat_without_an_answer_is_named(chat):
    with pytest.raises(DataError, match="line 3"):
        to_row({"messages": chat}, None, "line 3")


def test_texts_of_a_turn_in_parts_are_joined_and_pictures_are_refused():
    parts = [{"type": "text", "text": "How many?", "image": None}, {"type": "text", "text": "Count."}]
    chat = [{"role": "user", "content": parts}, {"role": "Assistant", "content": [{"type": "text", "text": "#### 7"}]}]
    assert to_row({"messages": chat}, None, "here") == {"question": "How many?\nCount.", "answer": "#### 7"}
    assert to_row({"prompt": chat[:1], "response": chat[1:]}, None, "here")["question"] == "How many?\nCount."
    parts.append({"type": "image_url", "image_url": {"url": "a.png"}})
    with pytest.raises(DataError, match=r"line 3: .*'image_url'"):
        to_row({"messages": chat}, None, "line 3")


def test_columns_are_recognised_whatever_their_case():
    values = {"Question": "How many?", "ANSWER": "#### 7"}
    for columns in (None, ("question", "Answer")):
        assert to_row(values, columns, "here") == {"question": "How many?", "answer": "#### 7"}
    assert to_row(values | {"answer": "#### 8"}, None, "here")["answer"] == "#### 8"


def test_the_worked_solution_is_learned_where_a_bare_answer_stands_beside_it():
    """As in LIMO."""
    values = {"question": "q", "solution": "3 + 4 = 7\n\\boxed{7}", "answer": "7"}
    assert to_row(values, None, "here") == {"question": "q", "answer": values["solution"], "stated": "7"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(72.0, "72"), (1e16, "10000000000000000"), (0.1, "0.1"), (-2.5, "-2.5"), (1e-7, "0.0000001")],
        *[(100, "100"), (Decimal("18.00"), "18"), (Decimal("1E+2"), "100"), (Decimal("12.50"), "12.5")],
    ],
    ids=str,
)
def test_numbers_are_written_as_a_person_writes_them(value, text):
    assert to_row({"question": "q", "answer": value}, None, "here")["answer"] == text
    stated = to_row({"problem": "p", "solution": "so it is", "answer": value}, None, "here")["answer"]
    assert stated == f"so it is\n#### {text}"


@pytest.mark.parametrize("value", [True, math.nan, math.inf, Decimal("NaN")], ids=str)
def test_what_is_no_number_is_no_answer(value):
    with pytest.raises(DataError, match="'answer' must be a text"):
        to_row({"question": "q", "answer": value}, None, "here")


def test_an_answer_in_a_column_of_its_own_is_added_where_the_solution_states_none():
    """As in NuminaMath; a proof has none."""
    values = {"problem": "p", "solution": "Ann has all of them.", "answer": "7"}
    assert to_row(values, None, "here")["answer"] == "Ann has all of them.\n#### 7"
    assert to_row(values | {"answer": "proof"}, None, "here")["answer"] == "Ann has all of them."
    assert to_row(values | {"solution": "\\boxed{8}"}, None, "here")["answer"] == "\\boxed{8}"


def test_an_empty_answer_column_states_nothing():
    values = {"problem": "p", "solution": "so it is"}
    for nothing in (None, ["5"], ""):
        assert to_row(values | {"answer": nothing}, None, "here")["answer"] == "so it is"


def test_alpacas_input_belongs_to_the_question():
    values = {"instruction": "Solve it.", "input": "What is 2 + 3?", "output": "#### 5"}
    assert to_row(values, None, "here")["question"] == "Solve it.\n\nWhat is 2 + 3?"
    assert to_row(values | {"input": ""}, None, "here")["question"] == "Solve it."
    dolly = {"instruction": "Solve it.", "context": "What is 2 + 3?", "response": "#### 5"}
    assert to_row(dolly, None, "here")["question"] == "Solve it.\n\nWhat is 2 + 3?"
    with pytest.raises(DataError, match="'context' holds half a character"):
        to_row(dolly | {"context": "\ud83d"}, None, "here")


def test_what_belongs_to_a_question_is_asked_with_it():
    svamp = {"Body": "Paco had 26 cookies.", "Question": "How many are left?", "Answer": 9.0}
    assert to_row(svamp, None, "here")["question"] == "Paco had 26 cookies.\n\nHow many are left?"
    reading = {"question": "How many?", "context": "There are 3.", "answer": "3"}
    assert to_row(reading, None, "here")["question"] == "How many?\n\nThere are 3."


def test_a_question_without_its_choices_is_refused():
    """Unless its columns were named: then somebody has looked."""
    values = {"question": "Which is prime?", "choices": ["4", "5"], "answer": "B"}
    with pytest.raises(DataError, match="here: the choices are in 'choices'"):
        to_row(values, None, "here")
    assert to_row(values, ("question", "answer"), "here")["question"] == "Which is prime?"
    with pytest.raises(DataError, match="here: the choices are in 'options'"):
        to_row(values | {"choices": None, "options": {"text": ["4", "5"], "label": ["A", "B"]}}, None, "here")
    for nothing in (None, [], "", float("nan"), {"text": [], "label": []}):
        assert to_row(values | {"choices": nothing}, None, "here")["question"] == "Which is prime?"


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DataError, match=r"here: there is no column 'b'; there are \['answer', 'question'\]"):
        to_row({"question": "a", "answer": "1"}, ("question", "b"), "here")
