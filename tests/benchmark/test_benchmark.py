"""The benchmarks: real lengths, whose time is counted, and the command."""

import importlib.util
import json

import jax.numpy as jnp
import pytest

from tests.conftest import run, tiny_model
from trm_jax.benchmark import measure
from trm_jax.benchmark.decoding import Decoding, random_prompts
from trm_jax.benchmark.lengths import gsm8k_lengths, random_examples
from trm_jax.data.loader import Loader
from trm_jax.decoding.generate import decode_config

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the peer is PyTorch")


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


@needs_torch
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


@needs_torch
@pytest.mark.parametrize(("head", "peer"), [("trm", "PyTorch"), ("backbone", "transformers")])
def test_decoding_benchmark_with_its_peers(tmp_path, head, peer):
    sizes = ["--latent-updates", 1, "--recursions", 1, "--supervision-steps", 2, "--batch-size", 2]
    lengths = ["--prompt-length", 20, "--new-tokens", 5, "--questions", 3]
    options = ["--head", head, "--repeats", 1, "--peer", "torch", "--json", tmp_path / "found.json"]
    done = run("benchmark.py", "decode", *sizes, *lengths, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["seconds"]) == ["trm_jax", peer]
    assert found["same_tokens"] == {peer: 1.0}
    assert (found["batch_size"], found["prompt_length"], found["new_tokens"]) == (2, 20, 5)
    for run_ in found["seconds"].values():
        assert run_["tokens_per_second"] == pytest.approx(2 * 5 / run_["seconds"])
    assert found["step_seconds"] == pytest.approx(
        (found["seconds"]["trm_jax"]["seconds"] - found["prefill_seconds"]) / 4
    )
    assert set(found["batching"]["seconds"]) == {"continuous", "static"}
    assert all(word in done.stdout for word in (peer, "token step", "prefill", "of a copy here", "3 questions"))


def test_the_bytes_of_a_step_by_hand():
    """Weights once, the block's once a call, the head once, and half of the answer in the caches."""
    model = tiny_model("mathllm")  # float32; D 24, 4 query heads of 6, 2 key/value heads, V 61, 3 layers, F 40
    prompts = random_prompts([10] * 2, 61)
    qwen, trm = model.backbone.config, model.trm.config
    layers = 3 * (2 * 24 * 24 + 2 * 24 * 12 + 24 + 2 * 12 + 3 * 24 * 40 + 2 * 24) + 24
    block = 4 * 24 * 24 + 3 * 24 * 4 * 24 + 2 * 24
    backbone_cache = 2 * 3 * 2 * qwen.num_kv_heads * qwen.head_size * 14  # 10 of the prompt, half of 8
    pass_cache = trm.calls * 2 * 2 * qwen.num_heads * qwen.head_size * 14
    expected = layers + 61 * 24 + trm.passes * (trm.calls * block + pass_cache) + backbone_cache
    for kv_cache in ("last_pass", "per_pass"):
        config = decode_config(model, kv_cache=kv_cache)
        assert Decoding(model, config, prompts, 8).bytes_per_step() == 4 * expected


def test_the_flops_of_a_step_by_hand():
    """Every weight matrix once a row and call, attention over a row's whole room of 32, and the new token's own score."""
    model = tiny_model("mathllm")
    prompts, passes = random_prompts([10] * 2, 61), model.trm.config.passes
    layers = 3 * (2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40)
    block = 4 * 24 * 24 + 3 * 24 * 4 * 24
    attention = 24 * (2 * 32 + 1)
    calls = passes * model.trm.config.calls
    expected = layers + 61 * 24 + calls * block + (3 + calls) * attention
    assert Decoding(model, decode_config(model), prompts, 8).flops_per_step() == 2 * 2 * expected
