"""Evaluations paired by question: what flipped, what is refused, and the commands built on that."""

import json
import shutil

import pytest

from tests.conftest import run
from trm_jax.evaluation import compare
from trm_jax.evaluation import statistics as intervals
from trm_jax.evaluation.evaluate import EvaluationError
from trm_jax.experiments.ablation import report
from trm_jax.experiments.solutions import right_solutions, write_solutions


def record(question: str, right: bool, text: str = "\\boxed{1}", strict: bool | None = None) -> dict:
    strict = right if strict is None else strict
    own = {"question": question, "text": text, "extracted": "1", "expected": "1", "correct": right, "strict": strict}
    return own | {"seconds": 0.5, "index": 0}


def write(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_pairs_are_by_question_not_by_line(tmp_path):
    first = write(tmp_path / "a.jsonl", [record("p", True), record("q", False), record("r", False), record("s", True)])
    other = write(tmp_path / "b.jsonl", [record("s", False), record("r", True, strict=False), record("q", True)])
    evaluations = [compare.read_evaluation(path) for path in (first, other)]
    assert compare.shared_questions(evaluations) == ["q", "r", "s"]
    base, found = compare.compare(evaluations)
    assert base.accuracy.estimate == pytest.approx(1 / 3)
    assert found.accuracy.estimate == pytest.approx(2 / 3)
    assert found.strict == pytest.approx(1 / 3)
    assert (list(found.fixed), list(found.broken)) == (["q", "r"], ["s"])
    assert found.difference.estimate == pytest.approx(1 / 3)
    assert found.p == 1
    shown = compare.show_flips(evaluations, [base, found], 1)
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
        compare.read_evaluation(path)


def test_a_question_that_is_asked_twice_counts_twice(tmp_path):
    """In whatever order the two were answered."""
    asked = [record("q", right) | {"index": index} for index, right in enumerate((True, False))]
    evaluations = [
        compare.read_evaluation(write(tmp_path / f"{name}.jsonl", records))
        for name, records in {"a": asked, "b": asked[::-1]}.items()
    ]
    base, found = compare.compare(evaluations)
    assert base.accuracy.estimate == 0.5
    assert (list(found.fixed), list(found.broken)) == ([], [])


def test_other_expected_answers_are_no_pair(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", [record("q", True) | {"expected": name}]) for name in "12"]
    with pytest.raises(EvaluationError, match=r"expects '1' and .* '2' as the answer to: q"):
        compare.compare([compare.read_evaluation(path) for path in files])


def test_few_flips_do_not_look_certain(tmp_path):
    """The bootstrap of questions that did not flip is a point; of many that did, it is used."""
    right = [record(str(number), True) | {"index": number} for number in range(40)]
    half = [one | {"correct": number % 2 == 0} for number, one in enumerate(right)]
    same, other = (write(tmp_path / f"{name}.jsonl", records) for name, records in {"a": right, "b": half}.items())
    evaluations = [compare.read_evaluation(path) for path in (same, same, other)]
    _, unchanged, changed = compare.compare(evaluations)
    assert unchanged.difference == intervals.paired_difference([True] * 40, [True] * 40)
    assert unchanged.difference.low < 0 < unchanged.difference.high
    right, wrong = (one.right([str(number) for number in range(40)]) for one in evaluations[1:])
    assert changed.difference == intervals.bootstrap_difference(wrong, right)


def test_nothing_in_common_is_refused(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", [record(name, True)]) for name in "ab"]
    with pytest.raises(EvaluationError, match="no question is in all"):
        compare.compare([compare.read_evaluation(path) for path in files])


def test_math_verify_is_asked_about_every_answer(tmp_path):
    """One answer that it reads as we do, and one that was graded wrongly on purpose."""
    pytest.importorskip("math_verify")
    good, bad = record("q", True, "so \\boxed{1}"), record("r", True, "so \\boxed{2}")
    evaluation = compare.read_evaluation(write(tmp_path / "a.jsonl", [good, bad]))
    assert [one["question"] for one in compare.cross_check(evaluation)] == ["r"]


def test_only_right_and_boxed_solutions_are_kept_once_each(tmp_path):
    texts = [("\\boxed{1}", True), ("so \\boxed{1}", True), ("\\boxed{1} ", True), ("1", False), ("a \\boxed{1}", True)]
    samples = [{"text": text, "correct": True, "strict": strict} for text, strict in texts]
    kept = list(right_solutions({"question": "q", "samples": samples}, keep=2))
    assert kept == [{"question": "q", "answer": "\\boxed{1}"}, {"question": "q", "answer": "so \\boxed{1}"}]
    records = [{"question": "q", "samples": samples}, record("r", False)]
    counts = write_solutions(tmp_path / "out.jsonl", records, keep=4)
    assert counts == {
        "questions": 2,
        "questions_without": 1,
        "samples": 6,
        "right": 5,
        "right_but_not_boxed": 1,
        "solutions": 3,
    }
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_compare_prints_and_writes(folders, tmp_path):
    root, _ = folders
    for name, options in {"backbone": ["--head", "backbone"], "trm": []}.items():
        path = tmp_path / f"{name}.jsonl"
        done = run("eval_gsm8k.py", "--checkpoint", root / "train", "--output", path, "--limit", 8, *options)
        assert done.returncode == 0, done.stderr
    done = run("compare.py", tmp_path / "backbone.jsonl", tmp_path / "trm.jsonl", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "8 questions are in all files" in done.stdout
    assert "McNemar" in (tmp_path / "out/comparison.md").read_text()
    assert len(json.loads((tmp_path / "out/comparison.json").read_text())) == 2
    assert (tmp_path / "out/comparison.png").stat().st_size > 1000


def test_sampled_solutions_train_and_sampling_goes_on(folders, tmp_path):
    root, _ = folders
    path = tmp_path / "own.jsonl"
    options = ["--model", root / "model", "--output", path, "--samples", 3]
    done = run("sample_solutions.py", *options, "--limit", 40)
    assert done.returncode == 0, done.stderr
    samples = path.with_suffix(".samples.jsonl")
    before = samples.read_text()
    done = run("sample_solutions.py", *options, "--limit", 48)
    assert done.returncode == 0, done.stderr
    assert samples.read_text().startswith(before)
    assert len(samples.read_text().splitlines()) == 48
    counts = json.loads(path.with_suffix(".json").read_text())
    assert (counts["questions"], counts["samples"]) == (48, 144)
    assert counts["solutions"] == len(path.read_text().splitlines()) > 0
    done = run("train.py", "--model", root / "model", "--data", path, "--inspect")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ablation(folders, tmp_path_factory):
    """A finished ablation of two variants, one seed: its folder, its options, what it printed."""
    root, out = folders[0], tmp_path_factory.mktemp("ablation")
    variants = out / "variants.toml"
    variants.write_text(
        "max-batches = 2\nbatch-size = 8\nnum-samples = 64\nheld-out = 6\n[single]\npreset = 'single'\n"
        "[shallow]\nlatent-updates = 2\nrecursions = 2\nsupervision-steps = 1\n"
    )
    options = ["--model", root / "model", "--output", out, "--variants", variants, "--questions", 8, "--seeds", 0]
    options += ["--max-new-tokens", 12]
    done = run("ablate.py", *options)
    assert done.returncode == 0, done.stderr
    return out, options, done.stdout


def test_ablate_trains_and_compares(ablation):
    out, _, printed = ablation
    assert (out / "report.md").read_text().strip() in printed
    found = {row["name"]: row for row in json.loads((out / "report.json").read_text())["variants"]}
    assert found["single"]["block_calls"] == 2
    assert found["shallow"]["block_calls"] == 6
    assert found["single"]["optimizer_steps"] == found["shallow"]["optimizer_steps"] == 2
    assert found["single"]["flops"] < found["shallow"]["flops"]
    assert found["single"]["parameters"] == found["shallow"]["parameters"]
    assert found["single"]["over_control"] is None
    for answers in (out / "backbone.jsonl", *out.glob("*/0/answers.jsonl")):
        assert max(json.loads(line)["tokens"] for line in answers.read_text().splitlines()) == 12


def test_seeds_are_averaged_question_by_question(ablation, tmp_path):
    """Three runs, right on all of 8 questions, on none, on half: a half, each listed; their spread widens the interval."""
    out = ablation[0]
    runs = []
    for number, right in enumerate(([True] * 8, [False] * 8, [True, False] * 4)):
        runs.append(shutil.copytree(out / "single/0", tmp_path / "single" / str(number)))
        answers = runs[-1] / "answers.jsonl"
        records = [json.loads(line) for line in answers.read_text().splitlines()]
        write(answers, [one | {"correct": value} for one, value in zip(records, right, strict=True)])
    report(out / "backbone.jsonl", {"single": runs, "shallow": [out / "shallow/0"]}, "shallow", tmp_path)
    single, _ = json.loads((tmp_path / "report.json").read_text())["variants"]
    assert single["accuracy_of_each_run"] == [1, 0, 0.5]
    assert single["accuracy"]["estimate"] == 0.5
    assert (single["accuracy"]["low"], single["accuracy"]["high"]) == (0, 1)
    assert "| 100.0, 0.0, 50.0 |" in (tmp_path / "report.md").read_text()
    report(out / "backbone.jsonl", {"single": runs, "shallow": [out / "shallow/0"]}, "shallow", tmp_path, limit=4)
    assert "4 questions, 3 seeds" in (tmp_path / "report.md").read_text()


def test_ablate_goes_on(ablation):
    """A second call answers no question again."""
    out, options, _ = ablation
    written = {path: path.read_text() for path in out.glob("*/0/answers.jsonl")}
    report_before = (out / "report.md").read_text()
    again = run("ablate.py", *options)
    assert again.returncode == 0, again.stderr
    assert len(written) == 2
    assert all(path.read_text() == text for path, text in written.items())
    assert (out / "report.md").read_text() == report_before


def test_ablate_refuses_what_it_cannot_compare(tmp_path):
    done = run("ablate.py", "--against", "nothing", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert (
        done.stderr
        == "ablate.py: --against nothing is none of the variants ['layers', 'mathllm', 'residual', 'single']\n"
    )
