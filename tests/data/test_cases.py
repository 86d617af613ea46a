"""Small data sets after public reports of other people's troubles: each is read right, or refused by name."""

import json
import pathlib

import pytest

from trm_jax import demo
from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data import (
    DataError,
    load_rows,
    make_training_set,
    question_rows,
    read_tokenizer,
    reference_answer,
    same_answer,
)
from trm_jax.data.answers import find_answer
from trm_jax.data.examples import boxed_solution

CASES = pathlib.Path(__file__).parent / "cases"


def case(name: str) -> str:
    return str(CASES / name)


ANSWERS = [json.loads(line) for line in (CASES / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row["text"])
def test_a_text_is_graded_as_a_person_would(row):
    found = find_answer(row["text"])
    assert same_answer(found and found.text, reference_answer(row["solution"])) is row["right"]


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(demo.MODEL)


def expected_answers() -> list[str]:
    return [reference_answer(row["answer"]) for row in load_rows(case("good.jsonl"), "test")]


@pytest.mark.parametrize("name", ["bare.jsonl", "half.jsonl", "math500.jsonl"])
def test_a_bare_number_is_the_answer(name):
    found = [reference_answer(row["answer"]) for row in question_rows(case(name), "test")]
    assert len(found) == 8
    assert all(map(same_answer, found, expected_answers()))


@pytest.mark.parametrize("name", ["the-answer-is.jsonl", "heading.jsonl"])
def test_an_answer_is_read_or_refused_but_never_another(name):
    """A heading that begins with #### is no answer, and would be wrong in silence."""
    rows = load_rows(case(name), "test")
    found = [reference_answer(row["answer"]) for row in rows]
    if None in found:
        with pytest.raises(DataError, match=f"{name}, row {found.index(None) + 1}"):
            question_rows(case(name), "test")
    assert all(same_answer(one, other) for one, other in zip(found, expected_answers(), strict=True) if one is not None)


@pytest.mark.parametrize(
    "name", ["metamath.jsonl", "trailing.jsonl", "endtoken.jsonl", "messages.jsonl", "numina15.jsonl"]
)
def test_what_is_trained_has_its_answer_in_one_box(name, tokenizer):
    rows = load_rows(case(name), "train")
    made = make_training_set(DataConfig((case(name),)), TrainConfig(batch_size=4), tokenizer, 0)
    assert len(made.examples) == len(rows)
    for example in made.examples:
        text = tokenizer.decode(example.tokens[example.prompt_length :])
        assert text.count("boxed{") == 1, text
        assert "####" not in text
        assert text.count("<|im_end|>") == 1
        assert text.endswith("<|im_end|>")
    if name != "trailing.jsonl":
        assert all(boxed_solution(row["answer"].replace("<|im_end|>", "")).endswith("}") for row in rows)


def test_solutions_without_an_answer_that_can_be_graded_are_trained(tokenizer, caplog):
    made = make_training_set(DataConfig((case("orca.jsonl"),)), TrainConfig(batch_size=4), tokenizer, 0)
    assert len(made.examples) == len(load_rows(case("orca.jsonl"), "train"))
    assert "state no final answer" in caplog.text


def test_half_a_character_is_named_by_its_line():
    with pytest.raises(DataError, match=r"surrogate-q\.jsonl, line \d+.*half a character"):
        load_rows(case("surrogate-q.jsonl"), "train")


def test_parquet_is_read_as_json_lines_are():
    expected = load_rows(case("endtoken.jsonl"), "test")
    expected = [row | {"answer": row["answer"].removesuffix("<|im_end|>")} for row in expected]
    assert load_rows(case("rows.parquet"), "test") == expected
