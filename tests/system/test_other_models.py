"""Models as other people publish them: converted, trained and evaluated by the scripts, they end their answers."""

import json

import pytest

from tests.support.command_line import ROOT, SMALL, run
from tests.support.fine_tunes import FORMATS, NO_END_TOKENS, base_like, deepseek_like
from trm_jax import load_tokenizer

GOOD = ROOT / "tests/data/cases/good.jsonl"
LONGEST = 48  # tokens of an answer in the demo


def evaluated(tmp_path, checkpoint, *options) -> tuple[list[dict], dict]:
    """Answers and summary."""
    output = tmp_path / "answers.jsonl"
    done = run("eval_gsm8k.py", "--checkpoint", checkpoint, "--output", output, "--max-new-tokens", LONGEST, *options)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    return answers, json.loads(output.with_suffix(".json").read_text())


@pytest.mark.parametrize("end_tokens", NO_END_TOKENS)
def test_a_base_model_ends_its_answers(tmp_path, end_tokens):
    """Each of the eight questions is one that the demo's backbone answers right, if it is let stop."""
    folder = base_like(tmp_path / "hf", NO_END_TOKENS[end_tokens])
    done = run("convert_qwen.py", "--model", folder, "--output", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    answers, summary = evaluated(tmp_path, tmp_path / "model", "--data", GOOD, "--head", "backbone")
    assert summary["correct"] == 8
    assert max(answer["tokens"] for answer in answers) < LONGEST


@pytest.mark.parametrize("template", FORMATS.values(), ids=FORMATS)
def test_a_fine_tune_with_a_format_of_its_own_trains_and_stops(tmp_path, template):
    folder = deepseek_like(tmp_path / "hf", template)
    done = run("convert_qwen.py", "--model", folder, "--output", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert "494" in done.stdout  # the end token that the config does not name
    tokenizer = load_tokenizer(tmp_path / "model")
    assert len(tokenizer) == 495  # transformers' own choice would add Qwen's <|endoftext|>
    options = ["--model", tmp_path / "model", "--output", tmp_path / "run", "--max-length", 128]
    inspected = run("train.py", *options, "--inspect")
    assert "<｜end▁of▁sentence｜>" in inspected.stdout, inspected.stderr
    assert "step by step" in inspected.stdout
    trained = run("train.py", *options, *SMALL, "--max-batches", 2)
    assert trained.returncode == 0, trained.stderr
    answers, _ = evaluated(tmp_path, tmp_path / "run", "--data", GOOD)
    assert sum(answer["tokens"] < LONGEST for answer in answers) >= 4  # the demo does not know this format well
    assert not any("｜" in answer["text"] for answer in answers)
