"""Rows from files, from the demo, from the hub (a stand-in), and mixtures of them."""

import itertools
import json
import pathlib
import re

import pytest

from trm_jax.config import ConfigError, DataConfig
from trm_jax.data import DataError, HubError, reference_answer
from trm_jax.data import datasets as sources
from trm_jax.data import examples as data
from trm_jax.demo import problems


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="no data set 'nothing'"):
        sources.load_rows("nothing", "train")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "a"}\n')
    with pytest.raises(DataError, match="line 2"):
        sources.load_rows(str(path), "train")
    path.write_text("")
    with pytest.raises(DataError, match="no rows"):
        sources.load_rows(str(path), "train")


def jsonl(path: pathlib.Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_columns_are_found_or_named(tmp_path):
    """MATH and NuminaMath call them problem and solution; other sets anything."""
    numina = jsonl(
        tmp_path / "a.jsonl", [{"source": "x", "problem": " 1+1? ", "solution": "\\boxed{2}", "messages": []}]
    )
    assert sources.load_rows(numina, "train") == [{"question": "1+1?", "answer": "\\boxed{2}"}]
    other = jsonl(tmp_path / "b.jsonl", [{"q": "1+1?", "a": "2"}, {"q": "1+2?", "a": None}])
    with pytest.raises(DataError, match="--question-column"):
        sources.load_rows(other, "train")
    with pytest.raises(DataError, match="line 2"):
        sources.load_rows(other, "train", ("q", "a"))
    with pytest.raises(ConfigError, match="go together"):
        DataConfig(("x.jsonl",), question_column="q")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_this_folder(name, tmp_path, monkeypatch):
    jsonl(tmp_path / "a.jsonl", [{"question": "a", "answer": "1"}])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="name of a data set is empty"):
        sources.load_rows(name, "train")
    with pytest.raises(DataError, match="name of a data set is empty"):
        sources.evaluation_rows(DataConfig(("demo",)), name, 8)


def test_rows_that_say_that_they_are_wrong_are_left_out_and_counted(tmp_path, caplog):
    """As OpenMathInstruct-1 has them, also in CSV."""
    marks = {"a": True, "b": False, "c": "False", "d": None, "e": "true", "f": 0, "g": 0.0, "h": "No"}
    rows = [{"question": name, "generated_solution": "1", "is_correct": mark} for name, mark in marks.items()]
    found = sources.load_rows(jsonl(tmp_path / "a.jsonl", rows), "train")
    assert [row["question"] for row in found] == ["a", "d", "e"]
    assert "5 of 8 rows say that they are not correct, and are left out" in caplog.text
    with pytest.raises(DataError, match="has no rows"):
        sources.load_rows(jsonl(tmp_path / "a.jsonl", rows[1:3]), "train")
    with pytest.raises(DataError, match="has no rows"):
        next(sources.stream_rows(DataConfig((str(tmp_path / "a.jsonl"),), streaming=True)))


@pytest.mark.parametrize(
    ("stated", "reference"),
    [
        *[("8", "8"), (8.0, "8"), ("\\frac{1}{2}", "\\frac{1}{2}"), ("\\boxed{8}", "8"), ("Evelyn", "Evelyn")],
        *[
            ("4 + 4 = 8\n#### 8", "8"),
            ("7.0", "7"),
            ("$7$", "7"),
            (None, "7"),
            ("proof", "7"),
            ("3 + 4 = 8\nand so on", "7"),
        ],
    ],
)
def test_the_column_of_the_answer_counts_over_a_box_that_contradicts_it(tmp_path, caplog, stated, reference):
    """In an evaluation; what is learned stays as it is. Of a text in that column the answer that it states counts."""
    path = jsonl(tmp_path / "a.jsonl", [{"problem": "p", "solution": "So \\boxed{7}.", "answer": stated}])
    [row] = sources.question_rows(path, "test")
    assert reference_answer(row["answer"]) == reference
    assert ("1 of 1 solutions contradict" in caplog.text) == (reference != "7")
    assert sources.load_rows(path, "train")[0]["answer"] == "So \\boxed{7}."
    [named] = sources.question_rows(path, "test", ("problem", "solution"))
    assert named == {"question": "p", "answer": "So \\boxed{7}."}


def numbered(path: pathlib.Path, name: str, count: int) -> str:
    return jsonl(path / f"{name}.jsonl", [{"question": f"{name}{i}", "answer": str(i)} for i in range(count)])


def test_a_mixture_keeps_its_shares(tmp_path):
    files = numbered(tmp_path, "a", 30), numbered(tmp_path, "b", 10)
    sets = sources.training_sets(DataConfig(files, weights=(1, 3)), seed=0)
    names = [row["question"] for row in sources.mix(sets, (1, 3), 40)]
    first = [name[0] for name in names]
    assert (first.count("a"), first.count("b")) == (10, 30)
    assert all(abs(first[:n].count("b") - 0.75 * n) <= 1 for n in range(40))
    assert {name for name in names if name[0] == "b"} == {f"b{i}" for i in range(10)}
    assert names != sorted(names)
    with pytest.raises(ConfigError, match="one share above zero"):
        DataConfig(files, weights=(1,))


def test_shares_are_whole_and_add_up():
    assert sources.split_in_shares(5, 2) == [3, 2]
    assert sources.split_in_shares(128, 2, (1000, 1)) == [128, 0]
    for total in range(30):
        for weights in ((), (1, 2, 4), (0.3, 0.3, 0.4)):
            counts = sources.split_in_shares(total, 3, weights)
            assert sum(counts) == total
            share = [weight * total / sum(weights or (1, 1, 1)) for weight in weights or (1, 1, 1)]
            assert all(abs(count - exact) < 1 for count, exact in zip(counts, share, strict=True))


@pytest.mark.parametrize("streaming", [False, True])
def test_the_first_rows_of_a_mixture_are_counted_together(tmp_path, streaming):
    files = numbered(tmp_path, "a", 30), numbered(tmp_path, "b", 30)
    config = DataConfig(files, weights=(1, 3), num_samples=8, streaming=streaming)
    if streaming:
        rows = itertools.islice(sources.stream_rows(config), 80)
    else:
        rows = itertools.chain(*sources.training_sets(config, seed=0))
    names = {row["question"] for row in rows}
    assert (sum(name[0] == "a" for name in names), sum(name[0] == "b" for name in names)) == (2, 6)


def test_a_stream_starts_again_and_is_read_as_it_is_needed(tmp_path):
    """A line that cannot be read does no harm before it is reached: the file is not held."""
    path = tmp_path / "a.jsonl"
    numbered(tmp_path, "a", 3)
    rows = sources.stream_rows(DataConfig((str(path),), streaming=True))
    assert [next(rows)["question"] for _ in range(7)] == ["a0", "a1", "a2", "a0", "a1", "a2", "a0"]
    path.write_text(path.read_text() + "broken\n")
    rows = sources.stream_rows(DataConfig((str(path),), streaming=True))
    assert [next(rows)["question"] for _ in range(3)] == ["a0", "a1", "a2"]
    with pytest.raises(DataError, match="line 4"):
        next(rows)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("gsm8k", ("openai/gsm8k", "main")),
        ("AI-MO/NuminaMath-CoT", ("AI-MO/NuminaMath-CoT", None)),
        ("AI-MO/NuminaMath-1.5", ("AI-MO/NuminaMath-1.5", None)),
        ("user/set:v1.1", ("user/set", "v1.1")),
        ("EleutherAI/hendrycks_math:algebra", ("EleutherAI/hendrycks_math", "algebra")),
    ],
)
def test_the_hub_is_asked_for_the_right_set(monkeypatch, source, expected):
    """A stand-in for the hub, which tests cannot reach."""
    import datasets

    asked = []

    def load_dataset(name, configuration, split, streaming):
        asked.append((name, configuration, split, streaming))
        return [{"problem": "1+1?", "solution": "2"}]

    monkeypatch.setattr(sources, "require_hub", lambda source: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert sources.load_rows(source, "test") == [{"question": "1+1?", "answer": "2"}]
    assert asked == [(*expected, "test", False)]


def test_a_set_that_the_hub_cannot_give_is_named(monkeypatch):
    """At once, or when it is streamed, row by row."""
    import datasets

    def broken(*args, **kwargs):
        yield {"problem": "1+1?", "solution": "2"}
        raise datasets.exceptions.DatasetGenerationCastError("all files must have the same columns")

    monkeypatch.setattr(sources, "require_hub", lambda source: None)
    monkeypatch.setattr(datasets, "load_dataset", broken)
    for streaming in (False, True):
        rows = sources.iterate_rows("user/set", "train", streaming=streaming)
        assert next(rows) == {"question": "1+1?", "answer": "2"}
        with pytest.raises(HubError, match=r"'user/set' cannot be had from the hub; .* the same columns"):
            next(rows)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("gsm8k", "gsm8k"),
        ("AI-MO/NuminaMath-1.5", "AI-MO/NuminaMath-1.5"),
        ("EleutherAI/hendrycks_math:algebra", "EleutherAI/hendrycks_math:algebra"),
        ("user/set:question=q,answer=a", "user/set"),
        ("data/private.jsonl", "a local file"),
        ("data/private.jsonl:question=q,answer=a", "a local file"),
        ("data/mine:question=q,answer=a", "a local file"),
        ("data/rows.tsv", "a local file"),
        ("/home/me/rows", "a local file"),
    ],
)
def test_what_others_may_read_of_a_source(tmp_path, monkeypatch, source, name):
    (tmp_path / "data/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert sources.public_name(source) == name


def test_demo_problems_are_right_disjoint_and_repeatable():
    test, train = problems.split("test"), problems.split("train")
    assert test == problems.split("test")
    assert not {row["question"] for row in test} & {row["question"] for row in train}
    for row in test:
        require_right(row, steps=2, largest=9)


@pytest.mark.parametrize(("steps", "largest"), [(3, 9), (2, 60)])
def test_problems_of_more_steps_and_larger_numbers(steps, largest):
    rows = list(itertools.islice(problems.problems(0, steps, largest), 200))
    assert len({row["question"] for row in rows}) == 200
    numbers = [number for row in rows for number in require_right(row, steps, largest)]
    assert max(numbers) > largest - 3


def require_right(row, steps, largest):
    """Every line follows from the one before and from the question; the numbers of the question."""
    *lines, final = row["answer"].splitlines()
    numbers = [int(number) for number in re.findall(r"\d+", row["question"])]
    assert max(numbers) <= largest + 3
    assert len(lines) == len(numbers) - 1 == steps
    total = numbers[0]
    for line, number in zip(lines, numbers[1:], strict=True):
        sum_, result = line.split("<<")[1].split(">>")[0].split("=")
        assert re.fullmatch(rf"{total}[-+*]{number}", sum_)
        assert eval(sum_) == (total := int(result)) > 0
    assert final == f"#### {total}"
    return numbers


GSM8K = pathlib.Path(__file__).parents[3] / "shared" / "gsm8k"


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the real GSM8K files are not beside the checkout")
def test_real_rows_parse():
    from trm_jax.data.plain_numbers import parse_number

    for name, count in (("train", 7473), ("test", 1319)):
        rows = sources.load_rows(str(GSM8K / f"{name}.jsonl"), name)
        assert len(rows) == count
        for row in rows:
            solution = data.boxed_solution(row["answer"])
            assert "<<" not in solution
            assert parse_number(reference_answer(solution)) is not None
