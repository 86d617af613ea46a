"""The likelihood of worked solutions: the numbers of the logits, intervals over questions, files that go on and compare."""

import json
import pathlib

import jax
import numpy as np
import pytest

from tests.support.command_line import run
from tests.support.models import random_tokens, tiny_model
from trm_jax import supervision_logits
from trm_jax.data import Example, question_rows
from trm_jax.evaluation import compare_losses, measure_solutions, read_losses, score_solutions, solution_loss
from trm_jax.evaluation.records import EvaluationError
from trm_jax.evaluation.statistics import loss_per_token
from trm_jax.model import QwenTRM, project
from trm_jax.publishing import open_checkpoint


def examples() -> list[Example]:
    """Eleven rows of unequal lengths, of two padded lengths, and prompts of unequal lengths."""
    return [Example(random_tokens(9 + 7 * (i % 9), seed=i), 3 + i % 4) for i in range(11)]


def nats(logits, example: Example) -> float:
    """Of a row's solution tokens, from the logits [S, V] of the whole row."""
    likely = jax.nn.log_softmax(logits[example.prompt_length - 1 : -1])
    return -float(sum(likely[place, token] for place, token in enumerate(example.tokens[example.prompt_length :])))


def test_they_are_those_of_the_logits_for_the_backbone_and_every_step_and_head():
    """Heads of another preset and of other loop counts in the same pass; the last batch is not full."""
    model, control = tiny_model("residual"), tiny_model("mathllm", supervision_steps=2)
    found = {
        n: rest for n, *rest in score_solutions(model.backbone, [model.trm, control.trm], examples(), batch_size=4)
    }
    assert sorted(found) == list(range(11))
    for number, example in enumerate(examples()):
        alone, steps = found[number]
        last = model.backbone(example.tokens[None])[0].last[0]
        assert alone == pytest.approx(nats(project(last, model.backbone.head), example), rel=1e-5)
        for head, own in zip((model.trm, control.trm), steps, strict=True):
            logits = supervision_logits(QwenTRM(model.backbone, head), example.tokens[None])[:, 0]
            assert own == pytest.approx([nats(one, example) for one in logits], rel=1e-5)


def test_an_interval_is_that_of_drawing_questions():
    """Questions of unequal length, whose tokens are alike: the interval would be too narrow if tokens were drawn."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 200, 300)
    losses = tokens * rng.normal(0.1, 0.5, 300)
    found = loss_per_token(losses, tokens)
    assert found.estimate == losses.sum() / tokens.sum()
    draws = rng.integers(0, 300, (4000, 300))
    low, high = np.quantile(losses[draws].sum(axis=1) / tokens[draws].sum(axis=1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.fixture(scope="module")
def measured(demo_model_folder, tmp_path_factory):
    """A function that measures the first eight questions of the demo with an untrained recursion, and its losses."""
    saved = open_checkpoint(demo_model_folder)
    model, rows = saved.load("float32"), question_rows("demo", "test", None, 8)

    def measure(path, **settings):
        return measure_solutions(rows, saved.tokenizer, model.backbone, model.trm, path, settings, batch_size=4)

    return measure, measure(tmp_path_factory.mktemp("whole") / "losses.jsonl")


def test_an_untrained_head_finds_solutions_as_likely_as_the_backbone_does(measured):
    for loss in measured[1]:
        assert loss.trm == pytest.approx([loss.backbone] * len(loss.trm), rel=1e-6)


def test_a_measurement_that_was_killed_goes_on(measured, tmp_path, monkeypatch):
    measure, whole = measured
    path, original = tmp_path / "losses.jsonl", solution_loss.append

    def killed(output, record, settings):
        if output.exists() and len(output.read_bytes().splitlines()) == 3:
            with output.open("a") as file:
                file.write('{"index": 7, "ques')
            raise KeyboardInterrupt
        original(output, record, settings)

    with monkeypatch.context() as patch:
        patch.setattr(solution_loss, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(path)
    kept = path.read_text().splitlines()[:3]
    assert [loss.question for loss in measure(path)] == [loss.question for loss in whole]
    assert path.read_text().splitlines()[:3] == kept
    assert len(read_losses(path).losses) == 8
    summary = json.loads(path.with_suffix(".json").read_text())
    assert (summary["questions"], summary["left_out"]) == (8, 0)
    with pytest.raises(EvaluationError, match="weights"):
        measure(path, weights="raw")
    longer = json.loads(path.read_text().splitlines()[0])
    write(path, longer | {"solution_tokens": longer["solution_tokens"] + 1})
    with pytest.raises(EvaluationError, match="other questions or solutions"):
        measure(path)


def test_a_loss_that_is_not_finite_is_refused_before_it_is_written(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(solution_loss, "score_solutions", lambda *_: iter([(0, 1.0, [[float("nan")]])]))
    with pytest.raises(EvaluationError, match="loss of question 1 is not finite"):
        measured[0](tmp_path / "losses.jsonl")
    assert not (tmp_path / "losses.jsonl").exists()


def test_solutions_are_measured_with_the_marks_that_they_were_trained_with(demo_model_folder, tmp_path):
    saved = open_checkpoint(demo_model_folder)
    rows = [{"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}]
    model, lengths = saved.load("float32"), []
    for keep in (False, True):
        to = tmp_path / f"{keep}.jsonl", {}, None, 4, keep
        (found,) = measure_solutions(rows, saved.tokenizer, model.backbone, model.trm, *to)
        lengths.append(found.solution_tokens)
    assert lengths[0] < lengths[1]


def record(question: str, tokens: int, backbone: float, *steps: float, **controls) -> dict:
    own = {"index": 0, "question": question, "solution_tokens": tokens}
    return own | {"backbone": backbone, "trm": steps, "controls": controls}


def write(path: pathlib.Path, *records: dict) -> pathlib.Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_files_are_compared_on_the_questions_that_all_have(tmp_path):
    rows = [record("p", 10, 12.0, 9.0, 8.0), record("q", 30, 20.0, 19.0, 18.0), record("r", 5, 1.0, 1.0, 1.0)]
    others = [record("q", 30, 20.0, 14.0, single=[17.0]), record("p", 10, 12.0, 8.0, single=[11.0])]
    files = [read_losses(write(tmp_path / f"{n}.jsonl", *own)) for n, own in (("a", rows), ("b", others))]
    first, other, control = compare_losses(files)
    assert first.questions == 2
    assert (first.loss.estimate, first.above_backbone.estimate) == pytest.approx((26 / 40, -6 / 40))
    assert first.above_first.estimate == 0
    assert (other.loss.estimate, other.above_first.estimate) == pytest.approx((22 / 40, -4 / 40))
    # By hand: differences 0 and -4 over 10 and 30 tokens, residuals 1 and -1, Student's t of one degree of freedom.
    assert other.above_first.high - other.above_first.estimate == pytest.approx(12.7062 * 2 / 40, rel=1e-4)
    assert control.name.endswith("b: single")
    assert control.above_backbone.estimate == pytest.approx(-4 / 40)
    assert len(compare_losses([files[0], files[0]])) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (record("q", 31, 1.0, 1.0), "different solutions to: q"),
        (record("z", 30, 1.0, 1.0), "one question is in all of"),
        (record("q", 30, -1.0, 1.0), "line 2 is no record of likelihood.py: backbone"),
        (record("q", 30, 1.0, 1.0, single=[1.0]), "line 2 has other controls than the first line"),
        ({"question": "q"}, "line 2 is no record of likelihood.py"),
    ],
)
def test_files_that_cannot_be_compared(tmp_path, content, message):
    shared, right = record("p", 10, 1.0, 1.0), record("q", 30, 1.0, 1.0)
    paths = [write(tmp_path / f"{i}.jsonl", shared, one) for i, one in enumerate((right, content))]
    with pytest.raises(EvaluationError, match=message):
        compare_losses(list(map(read_losses, paths)))


def test_the_script_measures_and_compare_takes_its_files(folders, tmp_path):
    root, _ = folders
    for name, options in {"ema": ["--controls", root / "train/checkpoints/2"], "raw": ["--weights", "raw"]}.items():
        options += ["--checkpoint", root / "train", "--output", tmp_path / f"{name}.jsonl", "--limit", 8]
        done = run("likelihood.py", *options)
        assert done.returncode == 0, done.stderr
        assert "backbone alone" in done.stdout
        assert ("checkpoints/2, step 2" in done.stdout) == (name == "ema")
    options = ["--checkpoint", root / "train", "--output", tmp_path / "ema.jsonl", "--limit", 8]
    assert run("likelihood.py", *options, "--controls", root / "train/checkpoints/2").returncode == 0  # all are there
    done = run("likelihood.py", *options)
    assert done.returncode == 2
    assert "is of another evaluation" in done.stderr
    done = run("compare.py", tmp_path / "ema.jsonl", tmp_path / "raw.jsonl", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "8 questions are in all files" in done.stdout
    assert len(json.loads((tmp_path / "out/comparison.json").read_text())) == 3
    assert (tmp_path / "out/comparison.png").read_bytes().startswith(b"\x89PNG")
    answers = write(tmp_path / "answers.jsonl", {"question": "q", "text": "1"})
    done = run("compare.py", answers, tmp_path / "raw.jsonl")
    assert done.returncode == 2
    assert "is no record of likelihood.py" in done.stderr
