"""The benchmarks: real lengths, whose time is counted, and the command."""

import json

import jax.numpy as jnp
import pytest

from tests.test_scripts import run
from trm_jax.batches import Loader
from trm_jax.benchmark import measure
from trm_jax.benchmark.lengths import gsm8k_lengths, random_examples


def test_less_than_an_eighth_of_gsm8k_is_padding():
    examples = random_examples(gsm8k_lengths("train"), 1000)
    assert len(examples) == 7473
    for batch_size in (8, 32):
        assert Loader(examples, batch_size).waste() < 0.12


def test_the_slowest_of_three_runs_of_an_input_does_not_count(monkeypatch):
    durations = {"ours": iter([1, 2, 9, 2, 1, 2]), "theirs": iter([5, 5, 5, 90, 5, 5])}
    monkeypatch.setattr(measure, "seconds", lambda run, value: next(durations[run]))
    found = measure.time_in_turns({name: name for name in durations}, ["a", "b"], repeats=3)
    assert found == {"ours": 1 + 2, "theirs": 5 + 5}


def test_matmul_rate_is_a_rate():
    assert 1e9 < measure.matmul_rate(jnp.float32, repeats=1) < 1e15


@pytest.mark.parametrize("preset", ["residual", "mathllm"])
def test_training_benchmark_with_its_peers(tmp_path, preset):
    sizes = ["--latent-updates", 1, "--recursions", 2, "--supervision-steps", 2, "--batch-size", 2]
    options = ["--preset", preset, "--batches", 2, "--repeats", 1, "--peer", "torch", "--json", tmp_path / "found.json"]
    done = run("benchmark.py", "train", *sizes, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rows"] == 4
    assert found["settings"]["preset"] == preset
    assert found["flops"] > 0
    names = ["trm_jax", "PyTorch, equal shapes", "PyTorch, the original's recipe"]
    assert list(found["seconds"]) == names
    assert all(name in done.stdout for name in names)
    for run_ in found["seconds"].values():
        assert run_["samples_per_second"] == pytest.approx(found["rows"] / run_["seconds"])
        assert run_["ratio"] == pytest.approx(run_["seconds"] / found["seconds"]["trm_jax"]["seconds"])
