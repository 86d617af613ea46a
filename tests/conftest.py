"""What tests share: tiny models with every weight random, the scripts as a user runs them, a run of theirs on the demo."""

import os
import pathlib

from tests.command_line import ROOT, run

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is compilation, of programs that other tests, workers and scripts need too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import subprocess
import sys
import time

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.model.qwen import Qwen
from trm_jax.model.qwen_trm import QwenTRM, new_trm

hypothesis.settings.register_profile("shared", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("shared")

PRESETS = ("mathllm", "residual")


def randomize(module, seed: int, scale: float = 0.1):
    """The module with noise on every weight, so that no scale is one and no bias zero."""
    leaves, structure = jax.tree.flatten(module)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def tiny_qwen_config(**changes) -> QwenConfig:
    values = dict(
        vocab_size=61,
        width=24,
        mlp_width=40,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        rope_theta=1000.0,
        norm_eps=1e-6,
        tied_head=False,
        max_length=1024,
        end_tokens=(60,),
    )
    return QwenConfig(**(values | changes))


def tiny_model(preset: str, *, trained: bool = True, **changes) -> QwenTRM:
    """A model of random weights; unless `trained`, its recursion is as a new run starts it."""
    backbone = randomize(Qwen(tiny_qwen_config(), nnx.Rngs(0)), seed=1)
    config = TRMConfig.preset(preset, **(dict(latent_updates=2, recursions=2, supervision_steps=3) | changes))
    trm = new_trm(backbone, config, seed=2)
    return QwenTRM(backbone, randomize(trm, seed=3) if trained else trm)


@pytest.fixture(scope="session", params=PRESETS)
def model(request) -> QwenTRM:
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def demo_model_folder(tmp_path_factory) -> pathlib.Path:
    """The embedded demo model, converted to float32."""
    from trm_jax import demo
    from trm_jax.checkpoints import folders
    from trm_jax.checkpoints import models as checkpoint
    from trm_jax.conversion import hugging_face as convert

    folder = tmp_path_factory.mktemp("demo") / "model"
    config = convert.read_config(demo.MODEL)
    with folders.replacing(folder) as partial:
        checkpoint.save_model(partial, config, convert.read_backbone(demo.MODEL, config, "float32"))
        convert.copy_tokenizer(demo.MODEL, partial / "tokenizer")
    return folder


def random_tokens(shape, seed: int = 0, high: int = 60) -> np.ndarray:
    """Token ids below the tiny model's end token."""
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int32)


def max_error(found, expected) -> float:
    return float(jnp.max(jnp.abs(jnp.asarray(found) - jnp.asarray(expected))))


def flip_bit(path: pathlib.Path) -> None:
    """Damage that no size shows."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest_data(folder: pathlib.Path) -> pathlib.Path:
    """The file in which Orbax keeps most of a folder's numbers."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A converted demo model and a run of three batches that was killed after its second and resumed."""
    root = tmp_path_factory.mktemp("runs")
    converted = run("convert_qwen.py", "--output", root / "model")
    assert converted.returncode == 0, converted.stderr
    options = ["--model", root / "model", "--output", root / "train", "--max-batches", 3, "--batch-size", 8]
    options += ["--num-samples", 64, "--save-every", 1, "--eval-limit", 8, "--max-length", 96]
    command = [sys.executable, str(ROOT / "scripts/train.py"), *map(str, options)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not (root / "train/checkpoints/2").is_dir() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    resumed = run("train.py", *options)
    assert resumed.returncode == 0, resumed.stderr
    return root, resumed
