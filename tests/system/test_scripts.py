"""The three scripts as a user runs them, on the embedded demo: convert, train, stop, resume, evaluate."""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support.command_line import ROOT, run
from trm_jax import evaluation, hardware, load_model, training
from trm_jax.demo import problems
from trm_jax.errors import UserError
from trm_jax.model import named_weights

GOOD = ROOT / "tests/data/cases/good.jsonl"
room = importlib.import_module("trm_jax.decoding.room")


def test_training_says_what_it_derived_and_ends_in_a_comparison(folders):
    root, resumed = folders
    for word in ("device", "trained", "frozen", "GiB expected", "3 batches", "6 optimizer steps", "backbone alone"):
        assert word in resumed, word
    assert "question  " in resumed
    assert "points (paired, 95 %)" in resumed
    assert json.loads((root / "train/comparison.json").read_text())["trm"]["questions"] == 8
    batches = [json.loads(line)["batch"] for line in (root / "train/metrics.jsonl").read_text().splitlines()]
    assert batches == [1, 2, 3]


def test_a_finished_run_goes_straight_to_its_evaluation(folders):
    root, _ = folders
    before = (root / "train/metrics.jsonl").read_text()
    options = ["--max-batches", 3, "--batch-size", 8, "--num-samples", 16, "--max-length", 96, "--eval-limit", 0]
    again = run("train.py", "--model", root / "model", "--output", root / "train", *options)
    assert again.returncode == 0, again.stderr
    assert "evaluated" not in again.stdout
    assert (root / "train/metrics.jsonl").read_text() == before


def test_an_evaluation_that_does_not_fit_is_said_and_the_run_ends_well(folders, monkeypatch, capsys):
    """After hours of training nobody wants an error. The memory is simulated, hence in this process."""
    root, _ = folders
    train = runpy.run_path(str(ROOT / "scripts/train.py"))
    small = {"max_batches": 3, "batch_size": 8, "num_samples": 16, "max_length": 96, "eval_limit": 8}
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    monkeypatch.setattr(hardware, "choose_mesh", lambda *sizes: None)  # of this process, in which other tests run
    train["main"](train["Options"](model=root / "model", output=root / "train", device="cpu", **small))
    printed = capsys.readouterr().out
    assert "trained 3 batches" in printed
    assert "the evaluation does not fit" in printed
    assert "1 rows of" in printed


@pytest.mark.parametrize(("questions", "longest"), [(None, 48), ("demo", 48), (str(GOOD), 256)])
def test_the_questions_and_not_the_training_say_how_long_an_answer_may_be(folders, monkeypatch, questions, longest):
    """The demo's answers are short; others take half of what its backbone reads."""
    root, _ = folders
    train, asked = runpy.run_path(str(ROOT / "scripts/train.py")), []
    small = {"max_batches": 3, "batch_size": 8, "num_samples": 16, "max_length": 96, "eval_limit": 8}
    monkeypatch.setattr(evaluation, "compare_with_backbone", lambda *given: asked.append(given[-1]))
    monkeypatch.setattr(hardware, "choose_mesh", lambda *sizes: None)  # of this process, in which other tests run
    own = {"model": root / "model", "output": root / "train", "device": "cpu", "eval_data": questions}
    train["main"](train["Options"](**own, **small))
    assert asked == [longest]


@pytest.mark.parametrize(
    ("options", "batches"), [({}, 600), ({"epochs": 2}, None), ({"epochs": 2, "max_batches": 9}, 9)]
)
def test_the_demo_is_trained_for_as_many_epochs_as_are_asked_for(folders, monkeypatch, options, batches):
    train, found = runpy.run_path(str(ROOT / "scripts/train.py")), []

    def make_run(model, data, trm, config, training_set, held_out, max_batches, *others):
        found.append(max_batches)
        raise UserError("enough")

    monkeypatch.setattr(training, "make_run", make_run)
    monkeypatch.setattr(hardware, "choose_mesh", lambda *sizes: None)  # of this process, in which other tests run
    with pytest.raises(UserError, match="enough"):
        train["main"](train["Options"](model=folders[0] / "model", device="cpu", num_samples=60, **options))
    assert found == [batches]


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_run_starts_from_the_weights_of_another(folders, tmp_path, weights):
    """With a learning rate of nothing they stay as they were; another depth, other rows and a new schedule do not matter."""
    source = folders[0] / "train/checkpoints/3"
    options = ["--init-from", source, "--init-weights", weights, "--output", tmp_path / "run", "--data", GOOD]
    options += ["--supervision-steps", 1, "--num-samples", 8, "--held-out", 0, "--batch-size", 8]
    options += ["--learning-rate", "1e-30", "--epochs", 2]
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    assert "not evaluated" in done.stdout  # a file has no test split that could be known
    assert f"recursion     {weights} weights of {source}: n=1, T=1, N_sup=1" in done.stdout
    expected = named_weights(load_model(source, use_ema=weights == "ema").trm)
    for name, weight in named_weights(load_model(tmp_path / "run", use_ema=False).trm).items():
        np.testing.assert_array_equal(weight, expected[name], err_msg=name)
    assert str(source) in json.loads((tmp_path / "run/config.json").read_text())["init_from"]
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2
    assert run("train.py", *options).returncode == 0  # it is the same run
    options[options.index(weights)] = {"ema": "raw", "raw": "ema"}[weights]
    other = run("train.py", *options)
    assert other.returncode == 2
    assert "init '" in other.stderr


@pytest.mark.parametrize("options", [("--head", "trm"), ("--head", "backbone"), ("--weights", "raw")])
def test_evaluation_writes_a_line_a_question_and_a_summary(folders, tmp_path, options):
    root, _ = folders
    path = tmp_path / "out.jsonl"
    done = run("eval_gsm8k.py", "--checkpoint", root / "train", "--output", path, "--limit", 10, *options)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(record["index"] for record in records) == list(range(10))
    summary = json.loads(path.with_suffix(".json").read_text())
    assert summary["correct"] == sum(record["correct"] for record in records)
    assert "accuracy" in done.stdout


def test_evaluation_draws_samples_and_exits_early(folders, tmp_path):
    root, _ = folders
    drawing = ["--samples", 3, "--temperature", 0.7, "--top-p", 0.9, "--seed", 5]
    options = [*drawing, "--early-exit", 1e9, "--supervision-steps", 4, "--limit", 6, "--batch-size", 7]
    path = tmp_path / "out.jsonl"
    done = run("eval_gsm8k.py", "--checkpoint", root / "train", "--output", path, *options)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(record["samples"]) for record in records] == [3] * 6
    summary = json.loads(path.with_suffix(".json").read_text())
    assert (summary["samples"], summary["temperature"], summary["early_exit"]) == (3, 0.7, 1e9)
    assert 2 <= summary["steps_per_token"] < 4
    assert "supervision steps a token" in done.stdout
    assert "rows of 112 tokens: " in done.stderr


@pytest.mark.parametrize(
    ("over", "options", "names"),
    [
        ("depth", ["--depths", 1, 3, "--recursions", 1, 2], ["0", "1", "2", "3", "2, T=2"]),
        ("kv_cache", [], ["per_pass", "last_pass"]),
        ("early_exit", ["--supervision-steps", 4, "--thresholds", 0, 1e9], ["off", "0", "1e+09"]),
    ],
)
def test_a_sweep_compares_ways_to_decode(folders, tmp_path, over, options, names):
    root, _ = folders
    options = ["--checkpoint", root / "train", "--limit", 8, "--output", tmp_path, *options]
    done = run("sweep.py", over, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"{over}.json").read_text())["ways"]
    assert [one["name"] for one in found] == names
    assert all(f"| {name} |" in (tmp_path / f"{over}.md").read_text() for name in names)
    assert (tmp_path / f"{over}.png").stat().st_size > 1000
    assert found[0]["tokens_differ"] == found[0]["difference"]["estimate"] == 0
    if over == "kv_cache":
        own = [one["cache_bytes_per_token"] for one in found]
        assert own[0] > own[1]
    elif over == "depth":
        assert [one["steps"] for one in found] == [0, 1, 2, 3, 2]
        sizes = [one["cache_bytes_per_token"] for one in found]
        assert sizes == sorted(set(sizes))  # 0, 1, 2, 3 and 4 passes
    else:
        assert found[1]["tokens_differ"] == 0
        assert found[1]["steps"] == 4
        assert found[2]["steps"] < 4


def test_an_untrained_recursion_answers_as_the_backbone(folders, tmp_path):
    root, _ = folders
    texts = {}
    for head in ("trm", "backbone"):
        path = tmp_path / f"{head}.jsonl"
        steps = ["--supervision-steps", 2] if head == "trm" else []
        options = ["--data", "demo", "--limit", 12, "--head", head, *steps]
        done = run("eval_gsm8k.py", "--checkpoint", root / "model", "--output", path, *options)
        assert done.returncode == 0, done.stderr
        texts[head] = {r["index"]: r["text"] for r in map(json.loads, path.read_text().splitlines())}
    assert texts["trm"] == texts["backbone"]


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("convert_qwen.py", ["--model", "nowhere"], "neither a folder nor a hub id"),
        ("train.py", ["--model", "nowhere"], "no config.json"),
        ("eval_gsm8k.py", ["--checkpoint", "nowhere"], "no config.json"),
        ("train.py", ["--device", "cuda"], "cuda"),
        ("sweep.py", ["kv_cache", "--checkpoint", "nowhere"], "no config.json"),
    ],
)
def test_a_users_mistake_is_one_message_without_a_traceback(script, options, message):
    done = run(script, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gpu_that_jax_does_not_see_stops_the_run(tmp_path):
    """A fake nvidia-smi on the path stands for the GPU; training for days on the CPU by mistake is worse than an error."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run("train.py", "--model", "nowhere", PATH=path)
    assert "NVIDIA GPU, but JAX sees only the CPU" in done.stderr
    done = run("train.py", "--model", "nowhere", "--device", "cpu", PATH=path)
    assert "no config.json" in done.stderr


@pytest.mark.parametrize("script", ["convert_qwen.py", "train.py", "eval_gsm8k.py", "sweep.py", "make_demo.py"])
def test_help_does_not_load_jax(script):
    """--help answers within a second because nothing heavy is imported."""
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'jax', 'torch', 'transformers', 'datasets', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "heavy: []" in done.stdout, done.stdout + done.stderr


def test_help_into_a_closed_pipe_ends_without_a_traceback():
    """As of `train.py --help | head`."""
    command = [sys.executable, ROOT / "scripts/train.py", "--help"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_into_a_closed_pipe_ends_in_silence(unbuffered):
    """As of `plan.py | head`: the fault comes with the first line, or when all of them are written at the end."""
    command = [sys.executable, ROOT / "scripts/plan.py", "train", "--config", "qwen2.5-math-1.5b", "--gpu", "h100"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": unbuffered}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=environment) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_run_killed_while_it_saves_ends_bit_for_bit_as_one_left_alone():
    """One kill; docs/reliability.md has the count of all phases."""
    done = run("kill_runs.py", "--phases", "saving", "--kills", 1, "--max-batches", 12)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "saving: SIGKILL" in done.stdout
    assert "1 kills; 0 faults" in done.stdout


def test_a_question_is_answered_as_an_evaluation_does(demo_model_folder, tmp_path):
    question = problems.split("test")[0]["question"]
    common = ["--checkpoint", demo_model_folder, "--head", "backbone", "--max-new-tokens", 48]
    output = tmp_path / "answers.jsonl"
    evaluated = run("eval_gsm8k.py", *common, "--data", "demo", "--limit", 1, "--output", output)
    assert evaluated.returncode == 0, evaluated.stderr
    text = json.loads(output.read_text())["text"]
    asked, as_json = run("ask.py", question, *common), run("ask.py", question, *common, "--json")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, text + "\n", "")
    answer = json.loads(as_json.stdout)["backbone"]
    assert answer["text"] == "".join(answer["pieces"]) == text
    assert answer["tokens"] == len(answer["pieces"]) == len(answer["steps"])
    short = run("ask.py", question, *common[:-2])  # the backbone has 512 tokens for prompt and answer
    assert short.stdout == text + "\n", short.stderr
    for words, says in (
        (["", *common], "empty"),
        (["--json", *common], "--json needs a question"),
        (["\udcff", *common], "not UTF-8"),
    ):
        refused = run("ask.py", *words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert says in refused.stderr
