"""The problems that take depth: right by brute force, as deep as they say, and no content in both training and test."""

import itertools
import json

import numpy as np
import pytest

from trm_jax import demo
from trm_jax.data import encode_examples, question_rows, read_tokenizer
from trm_jax.errors import UserError
from trm_jax.experiments import accuracy_by_difficulty, difficulty_table, task_rows, write_task

KS = {"permutations": (1, 2, 5, 9), "arrows": (1, 2, 4, 6), "sudoku": (1, 3, 5)}
VALUES = "1234"


def drawn(task: str, split: str, count: int, seed: int = 0) -> list[dict]:
    return [row for k in KS[task] for row in itertools.islice(task_rows(task, split, k, seed), count)]


def answer(row: dict) -> str:
    assert row["answer"].startswith("#### ")
    return row["answer"].removeprefix("#### ")


def content(task: str, row: dict) -> str | frozenset:
    """What decides whether a row is for training or for the test, read from the row."""
    if task == "sudoku":
        return answer(row)
    return frozenset(row["question"].split(";")[0].split(",")) if task == "arrows" else row["question"].split(":")[1]


def test_permutations_end_where_their_matrices_say():
    for row in drawn("permutations", "train", 20):
        thing, tables = row["question"].split(":")
        place = np.eye(5)[int(thing) - 1]
        for table in tables.split("."):
            assert sorted(table) == list("12345")
            place = place @ np.eye(5)[[int(new) - 1 for new in table]]
        assert place[int(answer(row)) - 1] == 1
        assert len(tables.split(".")) == row["k"]


def test_arrows_lead_where_one_walks():
    for row in drawn("arrows", "train", 20):
        pairs, asked = row["question"].split(";")
        arrows, starts = dict(pairs.split(",")), asked.lstrip(">")
        assert len(arrows) == 9
        assert len(set(starts)) == 3
        assert len(asked) - len(starts) == row["k"]
        for start, end in zip(starts, answer(row), strict=True):
            visited = [start]
            for _ in range(row["k"]):
                visited.append(arrows[visited[-1]])
            assert visited[-1] == end
            assert len(set(visited)) == row["k"] + 1  # a cycle would make the question shallower than it says


def solutions() -> list[str]:
    """All 4 x 4 grids that hold each value once in each row, column and box."""
    rows = ["".join(row) for row in itertools.permutations(VALUES)]
    columns = lambda rows: all(len(set(column)) == len(rows) for column in zip(*rows, strict=True))  # noqa: E731
    bands = [pair for pair in itertools.product(rows, rows) if columns(pair) and len({*pair[0][:2], *pair[1][:2]}) == 4]
    return ["".join(top + bottom) for top, bottom in itertools.product(bands, bands) if columns(top + bottom)]


def test_sudokus_have_one_solution_and_the_first_cell_takes_k_rounds():
    grids = solutions()
    assert len(grids) == 288
    for row in drawn("sudoku", "train", 8):
        clues = row["question"].replace("/", "")
        fitting = [grid for grid in grids if all(clue in (".", value) for clue, value in zip(clues, grid, strict=True))]
        assert fitting == [answer(row)]
        rounds = 0
        while clues[0] == ".":
            clues, rounds = filled(clues), rounds + 1
        assert rounds == row["k"]


def filled(clues: str) -> str:
    """The clues after one round: blanks get the value that alone is not in their row, column or box."""
    grid, after = np.array(list(clues)).reshape(4, 4), list(clues)
    for row, column in zip(*np.where(grid == "."), strict=True):
        top, left = row // 2 * 2, column // 2 * 2
        seen = {*grid[row], *grid[:, column], *grid[top : top + 2, left : left + 2].ravel()}
        if len(free := set(VALUES) - seen) == 1:
            after[4 * row + column] = free.pop()
    return "".join(after)


@pytest.mark.parametrize("task", KS)
def test_no_content_is_in_both_training_and_test_whatever_the_seeds(task):
    count = 12
    train, test = (
        {content(task, row) for seed in (0, 1) for row in drawn(task, split, count, seed)}
        for split in ("train", "test")
    )
    assert len(test) > 1
    assert not train & test


@pytest.mark.parametrize("task", KS)
def test_a_seed_makes_the_same_rows_again_and_another_makes_others(task):
    assert drawn(task, "train", 3) == drawn(task, "train", 3) != drawn(task, "train", 3, seed=1)


def test_the_files_are_read_with_answers_at_once_and_the_test_has_harder_questions(tmp_path):
    tokenizer = read_tokenizer(demo.MODEL)
    for task, digits in (("permutations", 1), ("arrows", 3), ("sudoku", 16)):
        said = write_task(task, tmp_path, train=8, test=2, train_k=(1, 2), test_k=(2, 3, 4))
        assert "train.jsonl: 8 rows of k = 1, 2" in said
        written = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
        assert [row["k"] for row in written] == [2, 3, 4, 2, 3, 4]
        rows = question_rows(str(tmp_path / "test.jsonl"), "test", None, None)
        assert [row["question"] for row in rows] == [row["question"] for row in written]
        examples, _ = encode_examples(rows, tokenizer, max_length=128)
        # \boxed, {, a token a digit, } and the end token
        assert {example.solution_length for example in examples} == {digits + 4}


def test_the_test_has_no_question_twice_and_says_where_there_are_too_few(tmp_path):
    asked = [row["question"] for row in itertools.islice(task_rows("arrows", "test", 1, 0), 300)]
    assert len(set(asked)) == 300
    with pytest.raises(UserError, match="--test-k 2 2: name each difficulty once"):
        write_task("arrows", tmp_path, train=1, test=1, test_k=(2, 2))
    with pytest.raises(UserError, match=r"no more than \d+ test questions of difficulty 1"):
        write_task("permutations", tmp_path / "new", train=1, test=601, test_k=(1,))
    assert not (tmp_path / "new").exists()  # neither of the two files, which belong together
    with pytest.raises(UserError, match="--test-k 7: arrows has the difficulties 1 to 6"):
        write_task("arrows", tmp_path, train=1, test=1, test_k=(7,))


def answers(path, rows, right, extracted=None) -> None:
    """A file as of eval_gsm8k.py."""
    own = {"text": "", "extracted": extracted, "form": None, "strict": False, "expected": "123"}
    own |= {"tokens": 1, "steps": 1.0, "seconds": 1.0}
    lines = [own | {"index": n, "question": row["question"], "correct": n in right} for n, row in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_table_counts_each_difficulty_by_itself(tmp_path):
    write_task("arrows", tmp_path, train=1, test=4, test_k=(1, 2))
    data = tmp_path / "test.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    files = [tmp_path / "single" / seed / "answers.jsonl" for seed in "01"]
    answers(files[0], rows, {0, 2, 4, 6})  # all of k = 1
    answers(files[1], rows, {0, 2, 1, 3})  # half of each
    sweep = tmp_path / "depth.json"
    ways = [{"name": "2", "right": [False, True] * 3}]
    sweep.write_text(json.dumps({"questions": [row["question"] for row in rows], "ways": ways}))
    head, _, single, depth = difficulty_table(accuracy_by_difficulty(data, [*files, sweep])).splitlines()
    assert head == "| | k = 1 | k = 2 |"
    estimates = [[cell.split(" [")[0] for cell in line.split("| ")[1:]] for line in (single, depth)]
    assert estimates == [["single ", "75.0 %", "25.0 %"], ["2 ", "0.0 %", "100.0 %"]]
    answers(files[0], rows[::-1], {0})
    with pytest.raises(UserError, match="does not answer the first questions"):
        accuracy_by_difficulty(data, files)


def test_what_has_one_name_in_two_folders_is_told_apart(tmp_path):
    """Two ablations with a variant of the same name, and two sweeps: as one entry they would look like seeds of one."""
    write_task("arrows", tmp_path, train=1, test=4, test_k=(1,))
    data = tmp_path / "test.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    files = [tmp_path / run / "single/0/answers.jsonl" for run in ("one", "two")]
    for file, right in zip(files, ({0, 1, 2, 3}, set()), strict=True):
        answers(file, rows, right)
        ways = [{"name": "2", "right": [n in right for n in range(4)]}]
        file.with_name("depth.json").write_text(
            json.dumps({"questions": [row["question"] for row in rows], "ways": ways})
        )
    files += [file.with_name("depth.json").rename(file.parents[2] / "depth.json") for file in files]
    found = {name: each[1].estimate for name, each in accuracy_by_difficulty(data, files).items()}
    assert found == {"one/single": 1, "two/single": 0, "one/depth: 2": 1, "two/depth: 2": 0}
    more = tmp_path / "one/single/0/more.jsonl"  # another evaluation of the same run, no other seed
    answers(more, rows, set())
    found = {name: each[1].estimate for name, each in accuracy_by_difficulty(data, [files[0], more]).items()}
    assert found == {"answers": 1, "more": 0}
    with pytest.raises(UserError, match="named twice"):
        accuracy_by_difficulty(data, [files[0], files[0]])


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"questions": 4, "correct": 2}', '{"questions": ["another"], "ways": []}'],
    ids=["cut off", "a former version", "empty", "a summary", "other questions"],
)
def test_a_file_that_is_no_sweep_of_these_questions_is_refused(tmp_path, content):
    write_task("arrows", tmp_path, train=1, test=1, test_k=(1,))
    (tmp_path / "depth.json").write_text(content)
    with pytest.raises(UserError, match=r"depth\.json"):
        accuracy_by_difficulty(tmp_path / "test.jsonl", [tmp_path / "depth.json"])


def test_the_first_digit_can_be_graded_alone(tmp_path):
    write_task("arrows", tmp_path, train=1, test=2, test_k=(1,))
    data, file = tmp_path / "test.jsonl", tmp_path / "answers.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for extracted, share in (("199", "100.0 %"), ("923", "0.0 %"), (None, "0.0 %")):
        answers(file, rows, {0}, extracted)
        assert f"| answers | {share} [" in difficulty_table(accuracy_by_difficulty(data, [file], first_digit=True))
    assert "| answers | 50.0 % [" in difficulty_table(accuracy_by_difficulty(data, [file]))
    sweep = tmp_path / "depth.json"
    sweep.write_text("{}")
    with pytest.raises(UserError, match="has no answers"):
        accuracy_by_difficulty(data, [sweep], first_digit=True)
