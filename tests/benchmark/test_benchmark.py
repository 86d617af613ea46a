"""The benchmarks: real lengths, whose time is counted, and the command."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.command_line import run
from tests.support.models import PRESETS, tiny_model, tiny_qwen_config
from trm_jax.benchmark import DecodingBenchmark, TrainingBenchmark, decoding, measure, training
from trm_jax.benchmark.decoding import Decoding
from trm_jax.benchmark.lengths import gsm8k_lengths, median_lengths, random_examples, random_prompts
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.data import Loader
from trm_jax.decoding import decode_config

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


@pytest.fixture
def timing():
    """The module of the peers. PyTorch keeps to one thread: several, and those of other tests, would wait for each other."""
    torch = pytest.importorskip("torch", reason="the peer is PyTorch")
    from tests.reference import timing

    torch.set_num_threads(1)
    return timing


@pytest.fixture
def quick_device(monkeypatch):
    """A device of which is known what it can do at most."""
    for module in (training, decoding):
        monkeypatch.setattr(module, "matmul_rate", lambda dtype: 2e12)
    monkeypatch.setattr(decoding, "copy_bandwidth", lambda: 3e9)


def check_training(found: dict, text: str, rows: int) -> None:
    """The figures of a training of that many rows, and what is printed of them."""
    assert found["rows"] == rows
    assert found["flops"] > 0
    names = ["trm_jax", "PyTorch, equal shapes", "PyTorch, the original's recipe"]
    assert list(found["seconds"]) == names
    assert all(name in text for name in names)
    for run_ in found["seconds"].values():
        assert run_["samples_per_second"] == pytest.approx(rows / run_["seconds"])
        assert run_["ratio"] == pytest.approx(run_["seconds"] / found["seconds"]["trm_jax"]["seconds"])


@pytest.mark.parametrize("preset", PRESETS)
def test_training_benchmark_with_its_peers(timing, quick_device, preset):
    trm_config = TRMConfig.preset(preset, latent_updates=1, recursions=1, supervision_steps=2)
    train_config = TrainConfig(batch_size=2, dtype="float32")
    benchmark = TrainingBenchmark(tiny_qwen_config(), trm_config, train_config, batches=2, repeats=1)
    speed = benchmark.measure(timing.make_training_peers)
    text = speed.describe(f"tiny, {preset}")
    check_training(speed.to_json(), text, rows=4)
    assert text.startswith(f"training tiny, {preset}, n=1, T=1, N_sup=2, float32, on ")
    assert "% of the 2 measured here" in text


@needs_torch
def test_the_command_for_training_as_a_whole(tmp_path):
    """With the loop counts that train.py has without options, which are the preset's."""
    sizes = ["--batch-size", 2, "--batches", 1, "--repeats", 1]
    done = run("benchmark.py", "train", *sizes, "--peer", "torch", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"]["preset"] == "residual"
    assert found["settings"]["supervision_steps"] == 2
    assert "training demo, residual, n=1, T=1, N_sup=2" in done.stdout
    check_training(found, done.stdout, rows=2)


def check_decoding(found: dict, text: str, peer: str, prompt_length: int, new_tokens: int) -> None:
    """The figures of two prompts that were completed, and what is printed of them."""
    assert list(found["seconds"]) == ["trm_jax", peer]
    assert found["same_tokens"] == {peer: 1.0}
    assert (found["batch_size"], found["prompt_length"], found["new_tokens"]) == (2, prompt_length, new_tokens)
    for run_ in found["seconds"].values():
        assert run_["tokens_per_second"] == pytest.approx(2 * new_tokens / run_["seconds"])
    spent = found["seconds"]["trm_jax"]["seconds"] - found["prefill_seconds"]
    assert found["step_seconds"] == pytest.approx(spent / (new_tokens - 1))
    assert all(word in text for word in (peer, "token step", "prefill", "of a copy here"))


@pytest.mark.parametrize(("head", "peer"), [("trm", "PyTorch"), ("backbone", "transformers")])
def test_decoding_benchmark_with_its_peers(timing, quick_device, head, peer):
    trm_config = TRMConfig.residual(latent_updates=1, recursions=1, supervision_steps=2)
    sizes = {"batch_size": 2, "prompt_length": 20, "new_tokens": 5, "repeats": 1}
    benchmark = DecodingBenchmark(tiny_qwen_config(), trm_config, "float32", head=head, **sizes)
    speed = benchmark.measure(timing.make_decoding_peers)
    text = speed.describe("tiny, residual")
    check_decoding(speed.to_json(), text, peer, prompt_length=20, new_tokens=5)
    assert text.startswith(f"decoding tiny, residual, n=1, T=1, N_sup=2, {head}, per_pass, float32, on ")
    questions = 3 if head == "backbone" else 1  # which compiles less
    batching = benchmark.measure_batching(questions)
    assert set(batching.to_json()["seconds"]) == {"continuous", "static"}
    assert batching.describe().startswith(f"{questions} questions with GSM8K's lengths: ")


@needs_torch
def test_the_command_for_decoding_as_a_whole(tmp_path):
    model = ["--preset", "mathllm", "--head", "backbone", "--latent-updates", 1, "--recursions", 1]
    sizes = ["--batch-size", 2, "--prompt-length", 8, "--new-tokens", 3, "--questions", 1, "--repeats", 1]
    done = run("benchmark.py", "decode", *model, *sizes, "--peer", "torch", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["settings"]["preset"], found["settings"]["head"]) == ("mathllm", "backbone")
    assert "decoding demo, mathllm, n=1, T=1, N_sup=16, backbone, last_pass" in done.stdout
    assert set(found["batching"]["seconds"]) == {"continuous", "static"}
    assert "1 questions" in done.stdout
    check_decoding(found, done.stdout, "transformers", prompt_length=8, new_tokens=3)


def test_the_median_question_of_gsm8k_is_decoded_unless_said_otherwise():
    benchmark = DecodingBenchmark(tiny_qwen_config(), TRMConfig.residual(), "float32", new_tokens=7)
    assert benchmark.lengths == (median_lengths()[0], 7)
    assert median_lengths() == tuple(np.median(gsm8k_lengths("test"), axis=0).astype(int))


@pytest.fixture(scope="module")
def mathllm():
    """float32; D 24, 4 query heads of 6, 2 key/value heads, V 61, 3 layers, F 40."""
    return tiny_model("mathllm")


def test_the_bytes_of_a_step_by_hand(mathllm):
    """Weights once, the block's once a call, the head once, and half of the answer in the caches."""
    model, prompts = mathllm, random_prompts([10] * 2, 61)
    qwen, trm = model.backbone.config, model.trm.config
    layers = 3 * (2 * 24 * 24 + 2 * 24 * 12 + 24 + 2 * 12 + 3 * 24 * 40 + 2 * 24) + 24
    block = 4 * 24 * 24 + 3 * 24 * 4 * 24 + 2 * 24
    backbone_cache = 2 * 3 * 2 * qwen.num_kv_heads * qwen.head_size * 14  # 10 of the prompt, half of 8
    pass_cache = trm.calls * 2 * 2 * qwen.num_heads * qwen.head_size * 14
    expected = layers + 61 * 24 + trm.passes * (trm.calls * block + pass_cache) + backbone_cache
    for kv_cache in ("last_pass", "per_pass"):
        config = decode_config(model, kv_cache=kv_cache)
        assert Decoding(model, config, prompts, 8).bytes_per_step() == 4 * expected


def test_the_flops_of_a_step_by_hand(mathllm):
    """Every weight matrix once a row and call, attention over a row's whole room of 32, and the new token's own score."""
    model = mathllm
    prompts, passes = random_prompts([10] * 2, 61), model.trm.config.passes
    layers = 3 * (2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40)
    block = 4 * 24 * 24 + 3 * 24 * 4 * 24
    attention = 24 * (2 * 32 + 1)
    calls = passes * model.trm.config.calls
    expected = layers + 61 * 24 + calls * block + (3 + calls) * attention
    assert Decoding(model, decode_config(model), prompts, 8).flops_per_step() == 2 * 2 * expected
