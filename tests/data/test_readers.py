"""Rows in whatever file and under whatever names people have them: the same rows, or a message that names the place."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from trm_jax.data.columns import PAIRS, to_row
from trm_jax.data.datasets import load_rows, question_rows
from trm_jax.data.readers import DataError

ROWS = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1\\n#### {n + 1}"} for n in range(3)]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder, name: str):
    """ROWS in a file of this name, in the format that it says."""
    path, kind = folder / name, name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        content = json.dumps(ROWS).encode() if kind == "json" else as_lines(ROWS)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.csv", "a.parquet", "A.JSONL"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    assert load_rows(write(tmp_path, name), "train") == ROWS


def test_json_may_be_lines_or_have_its_list_inside(tmp_path):
    (tmp_path / "a.json").write_bytes(as_lines(ROWS))
    (tmp_path / "b.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    assert load_rows(str(tmp_path / "a.json"), "train") == load_rows(str(tmp_path / "b.json"), "train") == ROWS


def test_a_folder_is_all_of_its_files(tmp_path):
    write(tmp_path, "a.csv")
    write(tmp_path, "b.parquet")
    (tmp_path / "README.md").write_text("no rows")
    assert load_rows(str(tmp_path), "train") == ROWS * 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file of rows"):
        load_rows(str(tmp_path / "empty"), "train")


def test_of_a_folder_with_splits_one_is_read(tmp_path, caplog):
    """As data sets lie on the hub: a test question must not be trained on."""
    (tmp_path / "data/train").mkdir(parents=True)
    for name, row in (("train/0.jsonl", 0), ("test-00000-of-00001.jsonl", 1), ("gsm_validation.jsonl", 2)):
        (tmp_path / "data" / name).write_bytes(as_lines([ROWS[row]]))
    (tmp_path / "dataset_infos.json").write_text('{"default": {"splits": []}}')
    (tmp_path / "._train.jsonl").write_bytes(b"\0 of a Mac")
    for name in ("testing.jsonl", "gsmTest2.jsonl", "held_out.jsonl"):
        (tmp_path / "data" / name).write_bytes(as_lines([ROWS[1]]))
    caplog.set_level("INFO")
    assert load_rows(str(tmp_path), "train") == [ROWS[0]]
    assert load_rows(str(tmp_path), "test") == [ROWS[1]] * 3
    assert "the split 'test' is gsmTest2.jsonl, test-00000-of-00001.jsonl, testing.jsonl" in caplog.text
    for file in (tmp_path / "data").glob("*est*.jsonl"):
        file.unlink()
    with pytest.raises(DataError, match="no file for the split 'test'"):
        load_rows(str(tmp_path), "test")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", b"no gzip", "damaged"),
        ("a.jsonl.gz", gzip.compress(as_lines(ROWS * 99))[:40] + b"\xff" * 99, "damaged"),
        ("a.parquet", b"no parquet", "no Parquet"),
        ("a.json", b"[1, 2]", "row 1"),
        ("a.json", b'[{"question"', "not JSON"),
        ("a.csv", b"question,answer\nonly one\n", "line 2"),
        ("a.csv", b'question,answer\n"open,2\n', "no CSV"),
        ("a.csv", b"question,answer\n\xff,2\n", "not UTF-8"),
        ("a.jsonl", b'{"question": "a", "answer": "\\ud83d"}', "line 1.*half a character"),
        ("a.jsonl", b'{"question": "\\udc00?", "answer": "1"}', "line 1.*half a character"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_place(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){name}.*{says}"):
        load_rows(str(tmp_path / name), "train")


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


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DataError, match=r"here: there is no column 'b'; there are \['answer', 'question'\]"):
        to_row(ROWS[0], ("question", "b"), "here")


def test_a_json_file_may_hold_one_row_with_a_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0] | {"tags": ["easy"]}))
    (tmp_path / "b.json").write_text(json.dumps({"messages": [{"role": r, "content": t} for r, t in TURNS]}))
    assert load_rows(str(tmp_path / "a.json"), "train") == [ROWS[0]]
    assert load_rows(str(tmp_path / "b.json"), "train") == [{"question": "Really?", "answer": "#### 7"}]


def test_columns_may_stand_behind_each_source(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines([{"frage": "a", "antwort": "1"}]))
    assert load_rows(f"{tmp_path}/a.jsonl:question=frage,answer=antwort", "train") == [{"question": "a", "answer": "1"}]


def test_a_question_whose_answer_nobody_can_read_is_named_or_left_out(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(as_lines([*ROWS, {"question": "a", "answer": "It is so."}]))
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"row 4: .*'It is so.'.* 1 of 4 rows"):
        question_rows(path, "test")
    assert question_rows(path, "test", limit=3) == ROWS
    assert question_rows(path, "test", skip_unreadable=True) == ROWS
    assert "row 4" in caplog.text
