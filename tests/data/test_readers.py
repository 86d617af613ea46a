"""Rows in whatever file and under whatever names people have them: the same rows, or a message that names the place."""

import csv
import decimal
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from trm_jax.data import DataError
from trm_jax.data.datasets import load_rows, question_rows

ROWS = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1\\n#### {n + 1}"} for n in range(3)]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder, name: str):
    """ROWS in a file of this name, in the format that it says."""
    path, kind = folder / name, name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        written = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), written)
        content = written.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        content = json.dumps(ROWS).encode() if kind == "json" else as_lines(ROWS)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


NAMES = ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.csv", "a.parquet", "a.parquet.gz", "A.JSONL"]


@pytest.mark.parametrize("name", NAMES)
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


def test_of_a_folder_with_several_sets_one_must_be_chosen(tmp_path):
    """As GSM8K is cloned from the hub: `main` and `socratic` are the same questions."""
    for name, row in (("main/train-0", 0), ("main/test-0", 1), ("socratic/train-0", 0), ("socratic/test-0", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_bytes(as_lines([ROWS[row]]))
    with pytest.raises(DataError, match=rf"'train', in main, socratic: .*, as {tmp_path}/socratic"):
        load_rows(str(tmp_path), "train")
    assert load_rows(str(tmp_path / "main"), "train") == [ROWS[0]]


def test_folders_below_that_of_a_split_are_one_set(tmp_path):
    """As MATH is packed: a folder for each subject, a file for each row."""
    for number, name in enumerate(("train/algebra", "train/geometry", "test/algebra")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.json").write_text(json.dumps(ROWS[number]))
    assert load_rows(str(tmp_path), "train") == ROWS[:2]


def test_a_folder_of_incorrect_solutions_is_left_out(tmp_path, caplog):
    """As OpenMathInstruct-1 is cloned from the hub."""
    for name, row in (("correct_solutions", 0), ("incorrect_solutions", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_bytes(as_lines([ROWS[row]]))
    assert load_rows(str(tmp_path), "train") == [ROWS[0]]
    assert "1 files in incorrect_solutions are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[("gsm8ktest", "test"), ("gsm8k_test", "test"), ("GSM8KTest", "test"), ("GSM8Ktrain", "train")],
        *[("latest", None), ("contest", None), ("fastest5k", None), ("constraint", None), ("greatest8kings", None)],
    ],
)
def test_a_file_is_of_the_split_that_is_a_word_of_its_name(tmp_path, name, split):
    (tmp_path / f"{name}.jsonl").write_bytes(as_lines(ROWS))
    for asked in ("train", "test"):
        if split in (asked, None):
            assert load_rows(str(tmp_path), asked) == ROWS
        else:
            with pytest.raises(DataError, match="no file for the split"):
                load_rows(str(tmp_path), asked)


def test_what_stands_beside_the_rows_of_a_folder_is_passed_over(tmp_path):
    write(tmp_path, "a.jsonl")
    for name in ("metadata", "config", "dataset_info", "dataset_infos", "dataset_dict", "state"):
        (tmp_path / f"{name}.json").write_text('{"splits": ["train"], "version": 1}')
    assert load_rows(str(tmp_path), "train") == ROWS


def test_a_json_file_may_hold_its_splits(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "train": ROWS[:1], "Test": ROWS[1:], "tags": ["easy"]}))
    (tmp_path / "b.json").write_text(json.dumps({"train": ROWS, "validation": ROWS, "test": []}))
    assert load_rows(str(tmp_path / "a.json"), "train") == ROWS[:1]
    assert load_rows(str(tmp_path / "a.json"), "test") == ROWS[1:]
    with pytest.raises(DataError, match="has no rows"):
        load_rows(str(tmp_path / "b.json"), "test")
    (tmp_path / "b.json").write_text(json.dumps({"train": ROWS, "validation": ROWS}))
    with pytest.raises(DataError, match="no rows for the split 'test', only for train, validation"):
        load_rows(str(tmp_path / "b.json"), "test")


@pytest.mark.parametrize("name", ["train", "Training", "dev"])
def test_a_json_file_of_one_split_is_no_other(tmp_path, name):
    """Rows that were trained on must not pass for a test."""
    (tmp_path / "a.json").write_text(json.dumps({name: ROWS, "notes": ROWS, "errors": []}))
    with pytest.raises(DataError, match="no rows for the split 'test', only for"):
        load_rows(str(tmp_path / "a.json"), "test")


def test_a_field_of_a_csv_file_may_be_long(tmp_path):
    long = "1 + 1 = 2\n" * 20_000
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), ("a", f"{long}#### 2")])
    assert load_rows(str(tmp_path / "a.csv"), "train") == [{"question": "a", "answer": f"{long}#### 2"}]


def test_numbers_of_a_parquet_file_are_answers(tmp_path):
    for name, value in (("a", decimal.Decimal("18.00")), ("b", 72.0), ("c", decimal.Decimal("2.50"))):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([{"question": "a", "answer": value}]), tmp_path / f"{name}.parquet"
        )
    assert [row["answer"] for row in load_rows(str(tmp_path), "train")] == ["18", "72", "2.5"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", b"no gzip", "damaged"),
        ("a.jsonl.gz", gzip.compress(as_lines(ROWS * 99))[:40] + b"\xff" * 99, "damaged"),
        ("a.parquet", b"no parquet", "no Parquet"),
        ("a.json", b"[1, 2]", "row 1"),
        ("a.json", b'[{"question"', "not JSON"),
        ("a.json", b" \n", "has no rows"),
        ("a.json", b'[\n{"question": "a", "answer": "1"},\n]', " is not JSON: .*line 3"),
        ("a.json", b'{"question": "a", "answer": "1"}\n{"question"\n', ", line 2 is not JSON"),
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


def test_a_json_file_may_hold_one_row_with_a_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0] | {"tags": ["easy"], "notes": []}))
    turns = [{"role": "user", "content": "Really?"}, {"role": "assistant", "content": "#### 7"}]
    (tmp_path / "b.json").write_text(json.dumps({"messages": turns}))
    (tmp_path / "c.json").write_text(json.dumps(ROWS[0] | {"alternatives": ROWS[1:], "train": ROWS[1:]}))
    for number, beside in enumerate(({"errors": []}, {"dev": []}, {"dev": ROWS[:1]})):
        (tmp_path / f"d{number}.json").write_text(json.dumps(beside | {"data": ROWS}))
        assert load_rows(str(tmp_path / f"d{number}.json"), "train") == ROWS
    assert load_rows(str(tmp_path / "c.json"), "train") == [ROWS[0]]
    with pytest.raises(DataError, match="no rows for the split 'test', only for validation"):
        load_rows(str(tmp_path / "d2.json"), "test")
    assert load_rows(str(tmp_path / "a.json"), "train") == [ROWS[0]]
    assert load_rows(str(tmp_path / "b.json"), "train") == [{"question": "Really?", "answer": "#### 7"}]


@pytest.mark.parametrize(
    "columns", ["question=frage,answer=antwort", "question=frage, answer=antwort", " answer=antwort , question=frage "]
)
def test_columns_may_stand_behind_each_source(tmp_path, columns):
    (tmp_path / "a.jsonl").write_bytes(as_lines([{"frage": "a", "antwort": "1"}]))
    assert load_rows(f"{tmp_path}/a.jsonl:{columns}", "train") == [{"question": "a", "answer": "1"}]


def test_a_question_whose_answer_nobody_can_read_is_named_or_left_out(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(as_lines([*ROWS, {"question": "a", "answer": "It is so."}]))
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"row 4: .*'It is so.'.* 1 of 4 rows"):
        question_rows(path, "test")
    assert question_rows(path, "test", limit=3) == ROWS
    assert question_rows(path, "test", skip_unreadable=True) == ROWS
    assert "row 4" in caplog.text
