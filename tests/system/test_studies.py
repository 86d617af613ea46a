"""The scripts that compare, sample and ablate, as a user runs them on a run of the demo."""

import dataclasses
import json
import shutil

import pytest

from tests.support.command_line import run
from trm_jax.errors import UserError
from trm_jax.experiments import Ablation, read_variants
from trm_jax.experiments.ablation import arguments
from trm_jax.experiments.ablation_report import report


def write_lines(path, records) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


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
    done = run("sample_solutions.py", *options, "--limit", 12)
    assert done.returncode == 0, done.stderr
    samples = path.with_suffix(".samples.jsonl")
    before = samples.read_text()
    done = run("sample_solutions.py", *options, "--limit", 16)
    assert done.returncode == 0, done.stderr
    assert samples.read_text().startswith(before)
    assert len(samples.read_text().splitlines()) == 16
    counts = json.loads(path.with_suffix(".json").read_text())
    assert (counts["questions"], counts["drawn"]) == (16, 48)
    assert counts["solutions"] == len(path.read_text().splitlines()) > 0
    done = run("train.py", "--model", root / "model", "--data", path, "--inspect")
    assert done.returncode == 0, done.stderr


def test_a_model_answers_problems_that_take_depth_and_a_table_has_each_difficulty(folders, tmp_path):
    done = run("make_tasks.py", "--task", "arrows", "--output", tmp_path, "--train", 4, "--test", 2, "--test-k", 1, 5)
    assert done.returncode == 0, done.stderr
    data, answers = tmp_path / "test.jsonl", tmp_path / "answers.jsonl"
    options = ["--head", "backbone", "--max-new-tokens", 4]
    done = run("eval_gsm8k.py", "--checkpoint", folders[0] / "model", "--data", data, "--output", answers, *options)
    assert done.returncode == 0, done.stderr
    plot = tmp_path / "difficulty.png"
    done = run("difficulty.py", answers, "--data", data, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| | k = 1 | k = 5 |")
    assert "\n| answers | 0.0 % [" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    done = run("difficulty.py", answers, "--data", tmp_path / "train.jsonl")
    assert done.returncode == 2
    assert "does not answer the first questions of --data" in done.stderr


def run_to_its_end(script: str, *options) -> None:
    """What ablate.py does in processes that start from nothing."""
    done = run(script, *options)
    if done.returncode:
        raise UserError(done.stderr)


@pytest.fixture(scope="module")
def ablation(folders, tmp_path_factory):
    """A finished ablation of two variants, one seed, and its report."""
    root, out = folders[0], tmp_path_factory.mktemp("ablation")
    variants = out / "variants.toml"
    variants.write_text(
        "max-batches = 2\nbatch-size = 8\nnum-samples = 20\nheld-out = 2\n[single]\npreset = 'single'\n"
        "[shallow]\nlatent-updates = 2\nrecursions = 2\nsupervision-steps = 1\n"
    )
    own = {"model": root / "model", "output": out, "variants": read_variants(variants), "data": "demo"}
    ablation = Ablation(**own, seeds=(0,), against="single", questions=8, max_new_tokens=12)
    return ablation, ablation.compare(run_to_its_end)


def test_ablate_trains_and_compares(ablation):
    out, returned = ablation[0].output, ablation[1]
    assert (out / "report.md").read_text().strip() in returned
    found = {row["name"]: row for row in json.loads((out / "report.json").read_text())["variants"]}
    assert found["single"]["block_calls"] == 2
    assert found["shallow"]["block_calls"] == 6
    assert found["single"]["optimizer_steps"] == found["shallow"]["optimizer_steps"] == 2
    assert found["single"]["flops"] < found["shallow"]["flops"]
    assert found["single"]["parameters"] == found["shallow"]["parameters"]
    assert found["single"]["over_control"] is None
    for answers in (out / "backbone.jsonl", *out.glob("*/0/answers.jsonl")):
        assert max(json.loads(line)["tokens"] for line in answers.read_text().splitlines()) == 12


def test_a_training_that_was_stopped_is_not_evaluated(ablation, tmp_path):
    """SIGTERM to a run alone ends it as if it had come to its end."""
    out = tmp_path / "ablation"
    shutil.copytree(ablation[0].output, out)
    shutil.rmtree(out / "single/0/checkpoints/2")
    ran = []
    with pytest.raises(UserError, match="stopped after 0 of 2 batches: start again"):
        dataclasses.replace(ablation[0], output=out).compare(lambda script, *options: ran.append(script))
    assert ran == ["eval_gsm8k.py", "train.py"]


def test_answers_are_computed_as_the_training_was(ablation):
    """Also those of the backbone, where all variants are alike in that."""

    def options_of(variants) -> list[list]:
        ran = []

        def run(script, *options):
            ran.append([script, *options])
            if len(ran) == 3:
                raise UserError("enough")

        with pytest.raises(UserError, match="enough"):
            dataclasses.replace(ablation[0], variants=variants, against="single").compare(run)
        return ran

    own, other = {"preset": "single", "dtype": "bfloat16", "device": "cpu"}, {"dtype": "float32", "device": "cpu"}
    backbone, _, answers = options_of({"single": own})
    assert backbone[-4:] == answers[-4:] == ["--dtype", "bfloat16", "--device", "cpu"]
    backbone, _, answers = options_of({"single": own, "shallow": other})
    assert "--dtype" not in backbone
    assert answers[-4:] == ["--dtype", "bfloat16", "--device", "cpu"]


def test_seeds_are_averaged_question_by_question(ablation, tmp_path):
    """Three runs, right on all of 8 questions, on none, on half: a half, each listed; their spread widens the interval."""
    out = ablation[0].output
    runs = []
    for number, right in enumerate(([True] * 8, [False] * 8, [True, False] * 4)):
        runs.append(shutil.copytree(out / "single/0", tmp_path / "single" / str(number)))
        answers = runs[-1] / "answers.jsonl"
        records = [json.loads(line) for line in answers.read_text().splitlines()]
        write_lines(answers, [one | {"correct": value} for one, value in zip(records, right, strict=True)])
    report(out / "backbone.jsonl", {"single": runs, "shallow": [out / "shallow/0"]}, "shallow", tmp_path)
    single, _ = json.loads((tmp_path / "report.json").read_text())["variants"]
    assert single["accuracy_of_each_run"] == [1, 0, 0.5]
    assert single["accuracy"]["estimate"] == 0.5
    assert (single["accuracy"]["low"], single["accuracy"]["high"]) == (0, 1)
    assert "| 100.0, 0.0, 50.0 |" in (tmp_path / "report.md").read_text()
    metrics = runs[0] / "metrics.jsonl"  # of a run without held-out rows
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    write_lines(metrics, [{name: one[name] for name in one.keys() - {"held_out_loss"}} for one in lines])
    report(out / "backbone.jsonl", {"single": runs, "shallow": [out / "shallow/0"]}, "shallow", tmp_path, limit=4)
    assert "4 questions, 3 seeds" in (tmp_path / "report.md").read_text()
    single, shallow = json.loads((tmp_path / "report.json").read_text())["variants"]
    assert single["loss"] is None
    assert shallow["loss"] > 0


def test_ablate_goes_on(ablation):
    """The command, in processes that start from nothing: it answers no question again, and prints the same report."""
    ablation, before = ablation
    written = {path: path.read_text() for path in ablation.output.glob("*/0/answers.jsonl")}
    options = ["--model", ablation.model, "--output", ablation.output, "--variants", ablation.output / "variants.toml"]
    again = run("ablate.py", *options, "--questions", 8, "--seeds", 0, "--max-new-tokens", 12)
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith(before + "\n")
    assert len(written) == 2
    assert all(path.read_text() == text for path, text in written.items())


def test_ablate_says_which_of_its_scripts_failed(tmp_path):
    """In a process of its own, which says why before."""
    done = run("ablate.py", "--model", tmp_path / "nothing", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "ablate.py: eval_gsm8k.py ended with status 2" in done.stderr.splitlines()[-1]


def test_ablate_refuses_what_it_cannot_compare(tmp_path):
    done = run("ablate.py", "--against", "nothing", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert (
        done.stderr
        == "ablate.py: --against nothing is none of the variants ['layers', 'mathllm', 'residual', 'single']\n"
    )


def test_a_variant_may_set_a_flag_and_an_option_that_is_true_or_false():
    """And train.py takes them."""
    words = arguments({"freeze-head": True, "random-depth": True, "batch-size": 8})
    assert words == ["--freeze-head", "True", "--random-depth", "--batch-size", "8"]
    found = run("train.py", *words, *arguments({"streaming": False, "freeze-head": False, "num-samples": 0}))
    assert "--num-samples is 0" in found.stderr  # the first fault that there is


@pytest.mark.parametrize(
    ("seeds", "data", "message"),
    [
        ((), "demo", "--seeds names none"),
        ((0, 0), "demo", "--seeds 0, 0: name at least one, and each once"),
        # Whose rows would be trained on and asked.
        ((0,), "rows.jsonl:question=q,answer=a", "--eval-data"),
        ((0,), "folder", "--eval-data"),
    ],
)
def test_an_ablation_that_would_mislead_is_refused(tmp_path, seeds, data, message):
    with pytest.raises(UserError, match=message):
        Ablation(tmp_path, tmp_path, read_variants(None), seeds, "single", data)


@pytest.mark.parametrize("cached", [False, True])
def test_all_trainings_of_an_ablation_share_the_hidden_states_if_asked(tmp_path, cached):
    commands = []

    def stop_at_training(*words):
        commands.append(words)
        if words[0] == "train.py":
            raise UserError("enough")

    ablation = Ablation(
        tmp_path / "model", tmp_path / "out", read_variants(None), (0,), "single", "demo", cache_hidden=cached
    )
    with pytest.raises(UserError, match="enough"):
        ablation.compare(stop_at_training)
    assert ("--cache-hidden" in commands[-1]) == cached
